//! The file `etc/holdfast/edge.toml`: what a person writes, and what the program may rely on.
//!
//! A misspelt key is an error. What is not given has a default or is a reason not to start.

use holdfast_api::Reason;
use holdfast_api::meta::is_dns_subdomain;
use holdfast_api::paths::Root;
use holdfast_api::token::{Envelope, TokenError};
use holdfast_api::tunnel::{Pages, TunnelKind};
use holdfast_client::Endpoint;
use ipnet::IpNet;
use serde::Deserialize;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// As the file says it; see `docs/reference/regional-edge.md`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    controller: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    name: Option<String>,
    region: Option<String>,
    place: Option<String>,
    failure_domain: Option<String>,
    endpoint: Option<SocketAddr>,
    probe: Option<SocketAddr>,
    backbone: Option<SocketAddr>,
    overlay: Option<IpAddr>,
    routes: Option<Vec<IpNet>>,
    capacity: Option<u32>,
    listen: Option<SocketAddr>,
    listen_probe: Option<SocketAddr>,
    listen_backbone: Option<SocketAddr>,
    kinds: Option<Vec<TunnelKind>>,
    mtu: Option<u32>,
    packet_pages: Option<Pages>,
    heartbeat_ms: Option<u32>,
}

/// What the program relies on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The controller.
    pub controller: Endpoint,
    /// The right to register; not needed any more once there is a certificate.
    pub token: Option<Envelope>,
    /// Name that this edge asks for.
    pub name: String,
    /// Region, such as `eu-central`.
    pub region: String,
    /// Address or description for people.
    pub place: String,
    /// Edges of one domain go down together.
    pub failure_domain: String,
    /// Where nodes send WireGuard datagrams.
    pub endpoint: SocketAddr,
    /// Where nodes send probes.
    pub probe: SocketAddr,
    /// Where the other edges reach this one; no backbone when absent.
    pub backbone: Option<SocketAddr>,
    /// Address inside the tunnels that is asked for; the controller chooses when absent.
    pub overlay: Option<IpAddr>,
    /// What sites reach through this edge.
    pub routes: Vec<IpNet>,
    /// Sites it should serve at the most; 0 for no limit.
    pub capacity: u32,
    /// UDP port of WireGuard.
    pub listen_port: u16,
    /// Where probes are answered.
    pub listen_probe: SocketAddr,
    /// Where other edges are listened for.
    pub listen_backbone: Option<SocketAddr>,
    /// How tunnels are made, by preference.
    pub kinds: Vec<TunnelKind>,
    /// Bytes of the largest packet inside the tunnels.
    pub mtu: u32,
    /// The pages that packets are in where tunnels are in userspace.
    pub packet_pages: Pages,
    /// How often edges assure each other that they are there.
    pub heartbeat: Duration,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("cannot use {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line and cause.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A setting that is needed is not given.
    #[error("{} does not say `{key}`", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
    },
    /// A setting cannot be.
    #[error("{}: `{key}`: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The setting.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The token cannot be.
    #[error("{}: the token", path.display())]
    Token {
        /// The file that holds it.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TokenError,
    },
}

impl SettingsError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            SettingsError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Reason::ConfigMissing
            }
            SettingsError::Read { .. }
            | SettingsError::Parse { .. }
            | SettingsError::Invalid { .. } => Reason::ConfigInvalid,
            SettingsError::Missing { .. } => Reason::ConfigMissing,
            SettingsError::Token { source, .. } => source.reason(),
        }
    }
}

impl Settings {
    /// The settings below `root`.
    ///
    /// # Errors
    /// The file, or the token file that it names, is missing or cannot be used.
    pub fn load(root: &Root) -> Result<Self, SettingsError> {
        let path = root.join("etc/holdfast/edge.toml");
        let text = read(&path)?;
        parse(root, &path, &text)
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Read { path: path.into(), source })
}

fn parse(root: &Root, path: &Path, text: &str) -> Result<Settings, SettingsError> {
    let file: File = toml::from_str(text)
        .map_err(|source| SettingsError::Parse { path: path.into(), source: Box::new(source) })?;
    let missing = |key| SettingsError::Missing { path: path.into(), key };
    let invalid = |key, why: String| SettingsError::Invalid { path: path.into(), key, why };
    let number = |key, value: u32, range: std::ops::RangeInclusive<u32>| match range
        .contains(&value)
    {
        true => Ok(value),
        false => Err(invalid(key, format!("{value} is not {} to {}", range.start(), range.end()))),
    };

    let name = file.name.ok_or_else(|| missing("name"))?;
    if !is_dns_subdomain(&name) {
        return Err(invalid("name", format!("{name:?} is no DNS name")));
    }
    let controller = file.controller.ok_or_else(|| missing("controller"))?;
    let controller: Endpoint = controller
        .parse()
        .map_err(|error: holdfast_client::ClientError| invalid("controller", error.to_string()))?;
    let endpoint = file.endpoint.ok_or_else(|| missing("endpoint"))?;
    if endpoint.port() == 0 || endpoint.ip().is_unspecified() {
        return Err(invalid("endpoint", format!("nodes cannot send to {endpoint}")));
    }
    let next = endpoint.port().checked_add(1).unwrap_or(1);
    let probe = file.probe.unwrap_or(SocketAddr::new(endpoint.ip(), next));
    let listen = file.listen.unwrap_or(endpoint);
    if file.backbone.is_some_and(|at| at.port() == 0 || at.ip().is_unspecified()) {
        return Err(invalid("backbone", "other edges cannot connect to it".into()));
    }
    let kinds = file
        .kinds
        .unwrap_or_else(|| vec![TunnelKind::WireguardKernel, TunnelKind::WireguardUserspace]);
    if kinds.is_empty() {
        return Err(invalid("kinds", "it is empty".into()));
    }
    Ok(Settings {
        controller,
        token: token(root, path, file.token.as_deref(), file.token_file.as_deref())?,
        region: file.region.unwrap_or_default(),
        place: file.place.unwrap_or_default(),
        // An edge that says nothing shares its fate with nobody.
        failure_domain: file.failure_domain.unwrap_or_else(|| name.clone()),
        name,
        endpoint,
        probe,
        backbone: file.backbone,
        overlay: file.overlay,
        routes: file.routes.unwrap_or_default(),
        capacity: file.capacity.unwrap_or(0),
        listen_port: listen.port(),
        listen_probe: file.listen_probe.unwrap_or(SocketAddr::new(any(probe.ip()), probe.port())),
        listen_backbone: file.listen_backbone.or(file.backbone),
        kinds,
        mtu: number("mtu", file.mtu.unwrap_or(tunnels::wireguard::DEFAULT_MTU), 1280..=65_475)?,
        packet_pages: file.packet_pages.unwrap_or_default(),
        heartbeat: Duration::from_millis(
            number("heartbeat_ms", file.heartbeat_ms.unwrap_or(300), 50..=10_000)?.into(),
        ),
    })
}

fn token(
    root: &Root,
    path: &Path,
    typed: Option<&str>,
    file: Option<&Path>,
) -> Result<Option<Envelope>, SettingsError> {
    let (text, path) = match (typed, file) {
        (Some(_), Some(_)) => {
            let why = "it is given beside `token`".into();
            return Err(SettingsError::Invalid { path: path.into(), key: "token_file", why });
        }
        (Some(text), None) => (text.to_string(), path.to_path_buf()),
        (None, Some(file)) => {
            let file = root.join(file);
            // The token may be wiped once it has been used.
            match read(&file) {
                Ok(text) => (text, file),
                Err(SettingsError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        (None, None) => return Ok(None),
    };
    Envelope::parse(&text).map(Some).map_err(|source| SettingsError::Token { path, source })
}

fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str =
        "controller = 'https://c.example:6443'\nname = 're-1'\nendpoint = '192.0.2.1:51820'\n";

    fn settings(more: &str) -> Result<Settings, SettingsError> {
        parse(&Root::new("/nowhere"), Path::new("edge.toml"), &format!("{LEAST}{more}"))
    }

    #[test]
    fn little_is_needed() {
        let settings = settings("").unwrap();
        assert_eq!(settings.probe, "192.0.2.1:51821".parse().unwrap());
        assert_eq!(settings.listen_probe, "0.0.0.0:51821".parse().unwrap());
        assert_eq!((settings.listen_port, settings.mtu), (51820, 1420));
        assert_eq!(settings.failure_domain, "re-1");
        assert_eq!(settings.packet_pages, Pages::Usual);
        assert!(settings.backbone.is_none() && settings.token.is_none());
    }

    #[test]
    fn pages_are_chosen_by_their_size() {
        for (name, want) in [("usual", Pages::Usual), ("2M", Pages::Huge2M), ("1G", Pages::Huge1G)]
        {
            let settings = settings(&format!("packet_pages = '{name}'")).unwrap();
            assert_eq!(settings.packet_pages, want);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (more, want) in [
            ("regoin = 'x'", "regoin"),
            ("backbone = '10.0.0.1:0'", "other edges"),
            ("mtu = 100", "100 is not 1280"),
            ("heartbeat_ms = 1", "1 is not 50"),
            ("kinds = []", "empty"),
            ("kinds = ['carrier-pigeon']", "carrier-pigeon"),
            ("packet_pages = '4k'", "4k"),
            ("token = 'a'\ntoken_file = 'b'", "beside"),
            ("token = '0456C-00000'", "group 1"),
        ] {
            let error = settings(more).unwrap_err();
            let text = holdfast_api::chain(&error);
            assert!(text.contains(want), "{more}: {text}");
            assert!(
                matches!(error.reason(), Reason::ConfigInvalid | Reason::TokenMistypedGroup),
                "{more}: {:?}",
                error.reason()
            );
        }
        for key in ["controller", "name", "endpoint"] {
            let text: String =
                LEAST.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
            let error = parse(&Root::new("/nowhere"), Path::new("edge.toml"), &text).unwrap_err();
            assert!(matches!(error, SettingsError::Missing { key: k, .. } if k == key), "{error}");
        }
        let error = Settings::load(&Root::new("/nowhere")).unwrap_err();
        assert_eq!(error.reason(), Reason::ConfigMissing);
    }
}
