//! `serve`: the server, until SIGTERM or SIGINT.

use super::failure::Failure;
use crate::fleet::FleetSettings;
use crate::http::{Server, Settings};
use holdfast_api::paths::Root;
use ipnet::IpNet;
use jiff::SignedDuration;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where everything is kept; made when missing
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    data: PathBuf,
    /// Address and port to listen on; port 0 for any (written to DIR/address)
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:6443")]
    listen: SocketAddr,
    /// DNS names and IP addresses by which nodes and operators reach this server
    #[arg(long = "name", value_name = "NAME", num_args = 1.., value_hint = clap::ValueHint::Hostname)]
    names: Vec<String>,
    /// Pool of the nodes' addresses in the tunnels [default: 100.64.0.0/11]
    #[arg(long, value_name = "PREFIX")]
    node_overlay: Option<IpNet>,
    /// Pool of the edges' addresses in the tunnels [default: 100.127.0.0/16]
    #[arg(long, value_name = "PREFIX")]
    edge_overlay: Option<IpNet>,
    /// Pool of the sites' prefixes, IPv4 or IPv6 [default: 10.128.0.0/9]
    #[arg(long, value_name = "PREFIX")]
    site_pool: Option<IpNet>,
    /// Length of a site's prefix, in bits [default: 24]
    #[arg(long, value_name = "BITS")]
    site_prefix_bits: Option<u8>,
    /// Life of the certificates of nodes and edges [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    certificate_life: Option<SignedDuration>,
    /// Silence after which a site counts as offline [default: 3m]
    #[arg(long, value_name = "TIME", value_parser = super::duration)]
    offline_after: Option<SignedDuration>,
}

impl Arguments {
    fn fleet(&self) -> FleetSettings {
        let default = FleetSettings::default();
        let net = |given: Option<IpNet>, default| given.map_or(default, |net| net.trunc());
        FleetSettings {
            node_overlay: net(self.node_overlay, default.node_overlay),
            edge_overlay: net(self.edge_overlay, default.edge_overlay),
            site_pool: net(self.site_pool, default.site_pool),
            site_prefix_bits: self.site_prefix_bits.unwrap_or(default.site_prefix_bits),
            certificate_life: self.certificate_life.unwrap_or(default.certificate_life),
            offline_after: self.offline_after.unwrap_or(default.offline_after),
        }
    }
}

/// Pools that would give out what nodes and edges refuse.
fn check_pools(fleet: &FleetSettings) -> Result<(), Failure> {
    let (nodes, edges, sites) = (fleet.node_overlay, fleet.edge_overlay, fleet.site_pool);
    if nodes.addr().is_ipv4() != edges.addr().is_ipv4() {
        let why = format!("{edges} is not of the family of --node-overlay {nodes}");
        return Err(Failure::argument("--edge-overlay", why));
    }
    for (argument, pool, other, of) in [
        ("--edge-overlay", edges, nodes, "--node-overlay"),
        ("--site-pool", sites, nodes, "--node-overlay"),
        ("--site-pool", sites, edges, "--edge-overlay"),
    ] {
        if crate::rules::overlap(&pool, &other) {
            return Err(Failure::argument(argument, format!("{pool} overlaps {of} {other}")));
        }
    }
    let bits = fleet.site_prefix_bits;
    if (sites.prefix_len()..=sites.max_prefix_len()).contains(&bits) {
        return Ok(());
    }
    let why = format!("{sites} has no prefixes of {bits} bits");
    Err(Failure::argument("--site-prefix-bits", why))
}

pub(super) async fn run(arguments: Arguments, root: &Root) -> Result<(), Failure> {
    let fleet = arguments.fleet();
    check_pools(&fleet)?;
    for name in &arguments.names {
        if ServerName::try_from(name.as_str()).is_err() {
            let why = format!("{name:?} is neither a DNS name nor an IP address");
            return Err(Failure::argument("--name", why));
        }
    }
    let data = super::place(root, &arguments.data);
    std::fs::create_dir_all(&data)
        .map_err(|source| Failure::Make { path: data.clone(), source })?;
    let wait = |kind| {
        signal(kind).map_err(|source| Failure::System { attempt: "wait for signals", source })
    };
    let (mut term, mut interrupt) =
        (wait(SignalKind::terminate())?, wait(SignalKind::interrupt())?);
    let server = Server::start(Settings {
        data,
        listen: arguments.listen,
        names: arguments.names,
        fleet,
        history: crate::store::HISTORY,
        clock: crate::system_clock(),
    })
    .await?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    server.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn pools_fit_each_other() {
        let check = |more: &[&str]| {
            let line = [&["x", "--data", "/d"], more].concat();
            check_pools(&Line::parse_from(line).arguments.fleet())
        };
        check(&[]).unwrap();
        check(&["--site-pool", "fd00::/40", "--site-prefix-bits", "64"]).unwrap();
        check(&["--node-overlay", "fd00:1::/64", "--edge-overlay", "fd00:2::/64"]).unwrap();
        for (line, argument) in [
            (&["--edge-overlay", "fd00:2::/64"][..], "--edge-overlay"),
            (&["--edge-overlay", "100.64.1.0/24"], "--edge-overlay"),
            (&["--site-pool", "100.0.0.0/8"], "--site-pool"),
            (&["--site-pool", "10.0.0.0/25"], "--site-prefix-bits"),
            (&["--site-pool", "fd00::/64"], "--site-prefix-bits"),
        ] {
            let error = check(line).unwrap_err();
            assert!(
                matches!(&error, Failure::Argument { argument: a, .. } if *a == argument),
                "{error}"
            );
        }
    }

    /// The defaults stand in two places: in the help and in the code.
    #[test]
    fn help_tells_the_defaults() {
        use clap::CommandFactory;
        let help = Line::command().render_help().to_string();
        let default = FleetSettings::default();
        for value in [
            default.node_overlay.to_string(),
            default.edge_overlay.to_string(),
            default.site_pool.to_string(),
            default.site_prefix_bits.to_string(),
        ] {
            assert!(help.contains(&format!("[default: {value}]")), "{value}: {help}");
        }
        assert_eq!(default.certificate_life, super::super::duration("24h").unwrap());
        assert_eq!(default.offline_after, super::super::duration("3m").unwrap());
    }
}
