//! What all files say together, and what the program may rely on.

use super::fragment::LinkFragment;
use super::{Fragment, SettingsError};
use holdfast_api::resources::NetworkIntent;
use std::path::PathBuf;
use std::time::Duration;

/// Known systems poll every five minutes; a push comes at once while connected.
const POLL: Duration = Duration::from_secs(300);
/// Drift that no watcher sees (hosts, hugepages) is found within this time.
const PASS: Duration = Duration::from_secs(15);

/// Where k3s' own installer puts it.
const K3S: &str = "/usr/local/bin/k3s";

/// All files together, later keys over earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Merged(Fragment);

/// What the program may rely on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address of the controller, when configured.
    pub controller: Option<String>,
    /// Profile to use whatever the hardware says.
    pub profile: Option<String>,
    /// Name of the device for itself.
    pub hostname: Option<String>,
    /// Between polls of the controller.
    pub poll: Duration,
    /// Between passes when nothing happens.
    pub pass: Duration,
    /// The host's network until the controller says otherwise.
    pub network: NetworkIntent,
    /// How `tunneld` is started.
    pub tunneld: TunneldStart,
    /// The pages that packets of tunnels in userspace are in.
    pub packet_pages: holdfast_api::tunnel::Pages,
    /// How Kubernetes is started.
    pub kubernetes: KubernetesSettings,
}

/// How Kubernetes is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// By whom.
    pub start: KubernetesStart,
    /// The distribution's program, when the controller names no version.
    pub program: PathBuf,
    /// Where other machines of the site can ask for the reboot lock.
    pub fleet_lock: Option<std::net::SocketAddr>,
}

/// By whom Kubernetes is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KubernetesStart {
    /// As a unit where systemd is PID 1, else as a child.
    Auto,
    /// Always as a unit.
    Systemd,
    /// Always as a child in a session of its own, which survives us.
    Child,
    /// Not at all.
    Off,
}

/// How `tunneld` is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunneldStart {
    /// `systemctl start tunneld.service` where systemd is PID 1, else as a child.
    Auto(Option<PathBuf>),
    /// Always by systemd.
    Systemd,
    /// Always as a child in a session of its own, which survives us.
    Child(Option<PathBuf>),
    /// Somebody else does.
    External,
}

/// Later fragments win; links of the same name or role replace each other, others add up.
pub fn merge(fragments: impl IntoIterator<Item = Fragment>) -> Merged {
    Merged(fragments.into_iter().fold(Fragment::default(), |mut all, one| {
        all.controller = one.controller.or(all.controller);
        all.profile = one.profile.or(all.profile);
        all.hostname = one.hostname.or(all.hostname);
        all.poll_secs = one.poll_secs.or(all.poll_secs);
        all.pass_secs = one.pass_secs.or(all.pass_secs);
        if let Some(network) = one.network {
            let into = all.network.get_or_insert_default();
            for link in network.links {
                into.links.retain(|have| !same_link(have, &link));
                into.links.push(link);
            }
            into.routes.retain(|have| !network.routes.iter().any(|new| new.prefix == have.prefix));
            into.routes.extend(network.routes);
        }
        if let Some(tunneld) = one.tunneld {
            let into = all.tunneld.get_or_insert_default();
            into.start = tunneld.start.or(into.start.take());
            into.program = tunneld.program.or(into.program.take());
            into.packet_pages = tunneld.packet_pages.or(into.packet_pages);
        }
        if let Some(kubernetes) = one.kubernetes {
            let into = all.kubernetes.get_or_insert_default();
            into.start = kubernetes.start.or(into.start.take());
            into.program = kubernetes.program.or(into.program.take());
            into.fleet_lock = kubernetes.fleet_lock.or(into.fleet_lock);
        }
        all
    }))
}

fn same_link(a: &LinkFragment, b: &LinkFragment) -> bool {
    a.name == b.name && a.role == b.role
}

/// Checks every value.
///
/// # Errors
/// The first value that is impossible, with its key.
pub fn validate(Merged(all): Merged) -> Result<Settings, SettingsError> {
    let bad = |key: &str, message: &str| SettingsError::Value {
        key: key.into(),
        message: message.into(),
    };
    if all.controller.as_deref().is_some_and(|url| !url.starts_with("https://") || url.len() < 9) {
        return Err(bad("controller", "must be https://host:port"));
    }
    let seconds = |key: &str, value: Option<u64>, default: Duration, most: u64| match value {
        None => Ok(default),
        Some(secs) if (1..=most).contains(&secs) => Ok(Duration::from_secs(secs)),
        Some(_) => Err(bad(key, &format!("must be 1 to {most} seconds"))),
    };
    let tunneld = all.tunneld.unwrap_or_default();
    let packet_pages = tunneld.packet_pages.unwrap_or_default();
    let tunneld = match tunneld.start.as_deref() {
        None | Some("auto") => TunneldStart::Auto(tunneld.program),
        Some("systemd") => TunneldStart::Systemd,
        Some("child") => TunneldStart::Child(tunneld.program),
        Some("external") => TunneldStart::External,
        Some(_) => return Err(bad("tunneld.start", "must be auto, systemd, child or external")),
    };
    let kubernetes = all.kubernetes.unwrap_or_default();
    let start = match kubernetes.start.as_deref() {
        None | Some("auto") => KubernetesStart::Auto,
        Some("systemd") => KubernetesStart::Systemd,
        Some("child") => KubernetesStart::Child,
        Some("off") => KubernetesStart::Off,
        Some(_) => return Err(bad("kubernetes.start", "must be auto, systemd, child or off")),
    };
    let program = kubernetes.program.unwrap_or_else(|| K3S.into());
    if !program.is_absolute() {
        return Err(bad("kubernetes.program", "must be an absolute path"));
    }
    let network = all.network.unwrap_or_default();
    if network.links.iter().any(|link| link.name.is_empty() == link.role.is_none()) {
        return Err(bad("network.links", "each link needs either a name or a role"));
    }
    Ok(Settings {
        controller: all.controller,
        profile: all.profile,
        hostname: all.hostname,
        poll: seconds("poll_secs", all.poll_secs, POLL, 86_400)?,
        pass: seconds("pass_secs", all.pass_secs, PASS, 3_600)?,
        network: NetworkIntent {
            links: network.links.into_iter().map(Into::into).collect(),
            routes: network.routes.into_iter().map(Into::into).collect(),
        },
        tunneld,
        packet_pages,
        kubernetes: KubernetesSettings { start, program, fleet_lock: kubernetes.fleet_lock },
    })
}
