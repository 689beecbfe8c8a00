//! `serve`: the server, until SIGTERM or SIGINT.

use crate::fleet::FleetSettings;
use crate::http::{Server, Settings};
use anyhow::Context;
use holdfast_api::paths::Root;
use ipnet::IpNet;
use jiff::SignedDuration;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where everything is kept; made when missing.
    #[arg(long)]
    data: PathBuf,
    /// Address and port to listen on; port 0 for any (written to DATA/address).
    #[arg(long, default_value = "[::]:6443")]
    listen: SocketAddr,
    /// DNS names and IP addresses by which nodes and operators reach this server.
    #[arg(long = "name", num_args = 1..)]
    names: Vec<String>,
    /// Pool of the nodes' addresses in the tunnels.
    #[arg(long)]
    node_overlay: Option<IpNet>,
    /// Pool of the edges' addresses in the tunnels.
    #[arg(long)]
    edge_overlay: Option<IpNet>,
    /// Pool of the sites' prefixes.
    #[arg(long)]
    site_pool: Option<IpNet>,
    /// Length of a site's prefix, in bits.
    #[arg(long)]
    site_prefix_bits: Option<u8>,
    /// Life of the certificates of nodes and edges, such as 24h.
    #[arg(long, value_parser = super::duration)]
    certificate_life: Option<SignedDuration>,
    /// Silence after which a site counts as offline, such as 3m.
    #[arg(long, value_parser = super::duration)]
    offline_after: Option<SignedDuration>,
}

pub(super) async fn run(arguments: Arguments, root: &Root) -> anyhow::Result<()> {
    let data = super::place(root, &arguments.data);
    std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
    let default = FleetSettings::default();
    let fleet = FleetSettings {
        node_overlay: arguments.node_overlay.unwrap_or(default.node_overlay),
        edge_overlay: arguments.edge_overlay.unwrap_or(default.edge_overlay),
        site_pool: arguments.site_pool.unwrap_or(default.site_pool),
        site_prefix_bits: arguments.site_prefix_bits.unwrap_or(default.site_prefix_bits),
        certificate_life: arguments.certificate_life.unwrap_or(default.certificate_life),
        offline_after: arguments.offline_after.unwrap_or(default.offline_after),
    };
    let bits = fleet.site_prefix_bits;
    anyhow::ensure!(
        (fleet.site_pool.prefix_len()..=fleet.site_pool.max_prefix_len()).contains(&bits),
        "--site-prefix-bits: {} has no prefixes of {bits} bits",
        fleet.site_pool,
    );
    let mut term = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let server = Server::start(Settings {
        data,
        listen: arguments.listen,
        names: arguments.names,
        fleet,
        history: crate::store::HISTORY,
        clock: crate::system_clock(),
    })
    .await
    .map_err(|error| anyhow::Error::new(error).context("cannot start"))?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    server.stop().await;
    Ok(())
}
