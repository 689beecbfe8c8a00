//! What one configuration file may say.

use holdfast_api::resources::{LinkIntent, RouteIntent};
use serde::Deserialize;

/// One file. Every key is optional; an unknown one is an error.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fragment {
    /// Address of the controller, `https://host:port`.
    pub controller: Option<String>,
    /// Name of a hardware profile to use whatever the hardware says.
    pub profile: Option<String>,
    /// Name of the device for itself; the host name when absent.
    pub hostname: Option<String>,
    /// Seconds between polls of the controller while it does not push, 1 to 86,400.
    pub poll_secs: Option<u64>,
    /// Seconds between passes when nothing happens, 1 to 3,600.
    pub pass_secs: Option<u64>,
    /// The host's network until the controller says otherwise.
    pub network: Option<NetworkFragment>,
    /// The tunnel daemon.
    pub tunneld: Option<TunneldFragment>,
}

/// Ports, virtual links and routes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFragment {
    /// Links, in the form of [`LinkIntent`].
    #[serde(default)]
    pub links: Vec<LinkIntent>,
    /// Static routes.
    #[serde(default)]
    pub routes: Vec<RouteIntent>,
}

/// How the tunnel daemon is started.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunneldFragment {
    /// `auto`, `systemd`, `child` or `external`.
    pub start: Option<String>,
    /// Program to start as a child; found beside `holdfastd` when absent.
    pub program: Option<std::path::PathBuf>,
}
