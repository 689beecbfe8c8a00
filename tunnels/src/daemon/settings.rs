//! The configuration of `tunneld`: read, checked, and the last good one kept.

use crate::bfd::{Role, Settings as BfdSettings, SettingsError};
use crate::wireguard::{KeyError, PrivateKey};
use holdfast_api::Reason;
use holdfast_api::tunnel::{EdgeCandidate, Pages, TunnelKind, TunnelsConfig};
use ipnet::IpNet;
use netd::Ipv6;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A configuration that can be relied on.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Generation of the ledger that it was made from.
    pub(super) generation: u64,
    /// The node's key.
    pub(super) private_key: PrivateKey,
    /// UDP port of the first slot, the next one for the next; 0 lets the kernel choose.
    pub(super) listen_port: u16,
    /// Kinds of tunnels by preference; at least one.
    pub(super) kinds: Vec<TunnelKind>,
    /// The pages that packets of userspace devices are in.
    pub(super) packet_pages: Pages,
    /// The node's address inside all of its tunnels.
    pub(super) overlay: IpAddr,
    /// Whether packets that arrive through tunnels are for others behind this node.
    pub(super) forwards: bool,
    /// What is behind this node: never reached through a tunnel.
    pub(super) own_prefixes: Vec<IpNet>,
    /// What is reached through the tunnels, without host bits, each once.
    pub(super) routes: BTreeSet<IpNet>,
    /// The edges to choose from; names, keys and overlay addresses are unique.
    pub(super) candidates: Vec<EdgeCandidate>,
    /// Timers.
    pub(super) bfd: BfdSettings,
    /// How many tunnels to hold, 1 to 3.
    pub(super) want: usize,
    /// What the machine has; not of the file.
    pub(super) ipv6: Ipv6,
}

impl Settings {
    /// Routes that no way leads to because IPv6 is off.
    pub(super) fn left_out(&self) -> impl Iterator<Item = &IpNet> {
        let is_off = self.ipv6 != Ipv6::On;
        self.routes.iter().filter(move |prefix| is_off && prefix.addr().is_ipv6())
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsProblem {
    /// The file.
    #[error("cannot read the configuration at {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Its form.
    #[error("{} is no tunnel configuration", path.display())]
    Parse {
        /// Its path.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The key.
    #[error("the node has no WireGuard key")]
    Key(#[source] KeyError),
    /// The liveness timers.
    #[error("the liveness timers cannot be used")]
    Timers(#[source] SettingsError),
    /// A value.
    #[error("{field}: {why}")]
    Value {
        /// Where, as a path in the file.
        field: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl SettingsProblem {
    /// The reason code.
    pub(super) fn reason(&self) -> Reason {
        Reason::TunnelConfigInvalid
    }

    /// The same file may be of use later: it could not be read, or the key that it names.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, SettingsProblem::Read { .. } | SettingsProblem::Key(_))
    }

    /// The file is simply not there.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, SettingsProblem::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads and checks the file at `path`; also gives its bytes, to be kept as last good.
///
/// # Errors
/// It is not there, is no configuration, or says something impossible.
pub(super) fn read(path: &Path) -> Result<(Settings, Vec<u8>), SettingsProblem> {
    let bytes = std::fs::read(path)
        .map_err(|source| SettingsProblem::Read { path: path.to_path_buf(), source })?;
    let config: TunnelsConfig = serde_json::from_slice(&bytes)
        .map_err(|source| SettingsProblem::Parse { path: path.to_path_buf(), source })?;
    let private_key = PrivateKey::read(&config.private_key).map_err(SettingsProblem::Key)?;
    Ok((check(config, private_key)?, bytes))
}

fn check(config: TunnelsConfig, private_key: PrivateKey) -> Result<Settings, SettingsProblem> {
    let wrong = |field: String, why| Err(SettingsProblem::Value { field, why });
    let intent = config.intent;
    if config.kinds.is_empty() {
        return wrong("kinds".into(), "name at least one kind of tunnel");
    }
    if !(1..=3).contains(&intent.want) {
        return wrong("intent.want".into(), "1 to 3 tunnels can be held");
    }
    if config.listen_port > u16::MAX - u16::from(crate::names::SLOTS) {
        return wrong(
            "listenPort".into(),
            "the tunnels after the first one need the ports behind it",
        );
    }
    let overlay = intent.overlay_address;
    if overlay.is_unspecified() || overlay.is_multicast() || overlay.is_loopback() {
        return wrong("intent.overlayAddress".into(), "this address cannot be a host's");
    }
    let (mut names, mut keys, mut overlays) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (n, edge) in intent.candidates.iter().enumerate() {
        let field = |name: &str| format!("intent.candidates[{n}].{name}");
        if !names.insert(&edge.name) {
            return wrong(field("name"), "another candidate has the same name");
        }
        if !keys.insert(edge.public_key) {
            return wrong(field("publicKey"), "another candidate has the same key");
        }
        if edge.public_key == private_key.public() {
            return wrong(field("publicKey"), "this is the node's own key");
        }
        if edge.overlay_address == overlay || !overlays.insert(edge.overlay_address) {
            return wrong(
                field("overlayAddress"),
                "it is taken by the node or by another candidate",
            );
        }
        if edge.overlay_address.is_ipv4() != overlay.is_ipv4() {
            return wrong(field("overlayAddress"), "it is of another family than the node's");
        }
        for (name, address) in [("endpoint", edge.endpoint), ("probe", edge.probe)] {
            if address.port() == 0 || address.ip().is_unspecified() {
                return wrong(field(name), "nothing can be sent there");
            }
        }
    }
    Ok(Settings {
        generation: config.generation,
        private_key,
        listen_port: config.listen_port,
        kinds: config.kinds,
        packet_pages: config.packet_pages,
        overlay,
        forwards: !intent.site_prefixes.is_empty(),
        own_prefixes: intent.site_prefixes.iter().map(IpNet::trunc).collect(),
        routes: intent.routes.iter().map(IpNet::trunc).collect(),
        candidates: intent.candidates,
        bfd: BfdSettings::new(intent.bfd, Role::Active).map_err(SettingsProblem::Timers)?,
        want: usize::from(intent.want),
        ipv6: Ipv6::On,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use holdfast_api::tunnel::{BfdTimers, PublicKey, TunnelIntent};

    pub(in crate::daemon) fn edge(n: u8) -> EdgeCandidate {
        EdgeCandidate {
            name: format!("re-{n}"),
            failure_domain: format!("domain-{n}"),
            endpoint: ([192, 0, 2, n], 51820).into(),
            probe: ([192, 0, 2, n], 7000).into(),
            public_key: PublicKey([n; 32]),
            overlay_address: [100, 64, 0, n].into(),
        }
    }

    pub(in crate::daemon) fn config() -> TunnelsConfig {
        TunnelsConfig {
            generation: 7,
            private_key: "/nowhere".into(),
            listen_port: 0,
            kinds: vec![TunnelKind::WireguardUserspace],
            packet_pages: Pages::Usual,
            intent: TunnelIntent {
                overlay_address: [100, 64, 1, 1].into(),
                site_prefixes: Vec::new(),
                routes: vec!["10.0.0.1/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
                candidates: vec![edge(1), edge(2), edge(3)],
                bfd: BfdTimers::default(),
                want: 2,
            },
        }
    }

    pub(in crate::daemon) fn settings() -> Settings {
        check(config(), PrivateKey::generate().unwrap()).unwrap()
    }

    fn problem(spoil: impl FnOnce(&mut TunnelsConfig)) -> String {
        let mut config = config();
        spoil(&mut config);
        check(config, PrivateKey::from_bytes([1; 32])).unwrap_err().to_string()
    }

    #[test]
    fn a_good_one_is_tidied() {
        assert_eq!(settings().routes.len(), 1);
    }

    #[test]
    fn each_impossible_value_is_named() {
        let own = PrivateKey::from_bytes([1; 32]).public();
        assert!(problem(|c| c.kinds.clear()).starts_with("kinds:"));
        assert!(problem(|c| c.intent.want = 4).starts_with("intent.want:"));
        assert!(problem(|c| c.listen_port = 65_535).starts_with("listenPort:"));
        assert!(
            problem(|c| c.intent.overlay_address = [0; 4].into())
                .starts_with("intent.overlayAddress:")
        );
        let of = |n: usize, field: &str| format!("intent.candidates[{n}].{field}:");
        let candidate = |n: usize, change: fn(&mut EdgeCandidate)| {
            problem(|c| change(&mut c.intent.candidates[n]))
        };
        assert!(candidate(1, |c| c.name = "re-1".into()).starts_with(&of(1, "name")));
        assert!(
            candidate(2, |c| c.public_key = PublicKey([1; 32])).starts_with(&of(2, "publicKey"))
        );
        assert!(
            problem(|c| c.intent.candidates[0].public_key = own).starts_with(&of(0, "publicKey"))
        );
        assert!(
            candidate(0, |c| c.overlay_address = [100, 64, 1, 1].into())
                .starts_with(&of(0, "overlayAddress"))
        );
        assert!(
            candidate(0, |c| c.overlay_address = "fd00::1".parse().unwrap())
                .starts_with(&of(0, "overlayAddress"))
        );
        assert!(candidate(0, |c| c.endpoint.set_port(0)).starts_with(&of(0, "endpoint")));
        assert!(matches!(
            check(
                {
                    let mut c = config();
                    c.intent.bfd.interval_ms = 5;
                    c
                },
                PrivateKey::from_bytes([1; 32])
            ),
            Err(SettingsProblem::Timers(SettingsError::Interval(5)))
        ));
    }

    #[test]
    fn a_file_that_is_cut_short_is_told_from_one_that_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tunnels.json");
        assert!(read(&path).unwrap_err().is_missing());
        holdfast_durable::write(&path, b"{\"generation\": 7, \"priv", 0o600).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, SettingsProblem::Parse { .. }) && !error.is_missing());
        let mut config = config();
        config.private_key = dir.path().join("key");
        holdfast_durable::write(&path, &serde_json::to_vec(&config).unwrap(), 0o600).unwrap();
        assert!(matches!(read(&path), Err(SettingsProblem::Key(KeyError::Read { .. }))));
        let key = PrivateKey::generate().unwrap();
        holdfast_durable::write(&config.private_key, key.to_base64().as_bytes(), 0o600).unwrap();
        assert_eq!(read(&path).unwrap().0.generation, 7);
    }
}
