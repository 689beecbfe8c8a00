//! The manager: the one daemon that makes a box a Holdfast node.
//!
//! It owns the order of things: snapshot the inputs, plan every domain, apply in order, verify,
//! report, decide when to wake ([`pass`]). Around that loop ([`manager`]) stand the machine of the
//! node's life ([`lifecycle`]), the desired state on disk ([`desired`], [`ledger`]), the talk with the controller
//! ([`uplink`]), the tunnel daemon ([`tunnel_daemon`]) and the local API ([`local_api`]).
//!
//! It may be killed between any two steps: everything it knows is in the ledger, in the identity
//! directory and in the machine itself, and the next start carries on. Traffic does not need it.

pub mod cluster;
pub(crate) mod contact;
pub mod desired;
pub mod hardware;
pub mod inputs;
pub mod intent;
pub mod leases;
pub mod ledger;
pub mod lifecycle;
pub mod local_api;
pub mod manager;
pub mod metrics;
pub mod pass;
pub mod releases;
pub mod report;
pub mod settings;
pub mod supervisor;
pub mod tunnel_daemon;
pub mod uplink;

use crate::tunnel_daemon::TunnelDaemon;
use anyhow::Context;
use holdfast_api::paths::Root;
use std::sync::Arc;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// Requests of local clients that wait for the loop; more wait at the socket.
const REQUESTS: usize = 16;

/// Runs the manager until SIGTERM or SIGINT.
///
/// # Errors
/// Nothing can be done at all: settings that never were good, no socket.
pub async fn run(root: Root) -> anyhow::Result<()> {
    let started = Instant::now();
    let (settings, problem) = settings::load_or_last_good(&root);
    if let Some(problem) = &problem {
        error!(reason = %problem.reason, message = problem.message, "settings");
    }
    info!(version = env!("CARGO_PKG_VERSION"), root = %root.dir().display(), "holdfastd starts");
    let listener = local_api::bind(&root.manager_socket()).context("local API socket")?;
    let (requests, inbox) = mpsc::channel(REQUESTS);
    let tunnels = TunnelDaemon::new(root.clone(), settings.tunneld.clone());
    let (manager, report) =
        manager::Manager::new(root.clone(), (Arc::new(settings), problem), inbox);
    let api = local_api::router(local_api::Handle {
        report: report.clone(),
        requests,
        started,
        tunnels,
        cluster: manager.cluster(),
    });
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, api).await {
            warn!(%error, "local API ended");
        }
    });
    let supervisor = supervisor::Supervisor::start(report);
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        () = manager.run() => {}
        _ = terminate.recv() => info!("SIGTERM"),
        _ = interrupt.recv() => info!("SIGINT"),
    }
    supervisor.stopping();
    server.abort();
    // Nothing is taken down: the next manager finds the machine as it is, and traffic flows.
    Ok(())
}
