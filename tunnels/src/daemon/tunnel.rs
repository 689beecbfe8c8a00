//! One tunnel that stands: its device, its BFD sockets, what is known about it.

use super::settings::Settings;
use super::want::{self, Wanted};
use crate::bfd::{LinkId, State};
use crate::names;
use crate::wireguard::{
    Device, DeviceError, LinkEnd, Options, PeerConfig, PeerStatus, Tuning, uapi,
};
use holdfast_api::Reason;
use holdfast_api::tunnel::{EdgeCandidate, TunnelKind};
use netd::tuntap;
use std::path::Path;
use std::time::Instant;

/// Handshakes that a node expects from strangers: none.
const HANDSHAKES_PER_SECOND: u64 = 50;

/// Names one tunnel for as long as it stands. A slot is used again, a serial number never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TunnelId {
    /// Counts up.
    pub(super) serial: u32,
    /// Its slot.
    pub(super) slot: u8,
}

/// Why a tunnel could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    /// No TUN device.
    #[error("no TUN device for the tunnel to {edge}")]
    Tun {
        /// The edge.
        edge: String,
        /// Why.
        #[source]
        source: tuntap::TunError,
    },
    /// No engine.
    #[error("no WireGuard engine for the tunnel to {edge}")]
    Engine {
        /// The edge.
        edge: String,
        /// Why.
        #[source]
        source: DeviceError,
    },
}

impl TunnelError {
    /// The reason code.
    pub(super) fn reason(&self) -> Reason {
        Reason::TunnelEngineFailed
    }
}

/// A tunnel.
pub(super) struct Tunnel {
    /// Its name here.
    pub(super) id: TunnelId,
    /// The edge at its other end.
    pub(super) edge: EdgeCandidate,
    /// How it is made.
    pub(super) kind: TunnelKind,
    /// The device; none when the kernel has it.
    pub(super) device: Option<Device>,
    /// For wg(8). It must go before the device.
    pub(super) uapi: Option<uapi::Listener>,
    /// Where BFD's packets come in, once the link has its address.
    pub(super) bfd_link: Option<LinkId>,
    /// The kernel's number of the link when BFD was opened on it.
    pub(super) bfd_index: Option<u32>,
    /// BFD's state as it was last told.
    pub(super) state: State,
    /// Since when.
    pub(super) since: Instant,
    /// The largest packet that passes, when that is less than usual.
    pub(super) path_mtu: Option<u16>,
    /// What the device said last.
    status: Option<PeerStatus>,
}

impl Tunnel {
    /// Makes the device and starts the handshake. Its link has no address yet.
    ///
    /// # Errors
    /// No TUN device or no socket.
    pub(super) fn make(
        id: TunnelId,
        edge: &EdgeCandidate,
        kind: TunnelKind,
        settings: &Settings,
        uapi_dir: &Path,
        now: Instant,
    ) -> Result<Self, TunnelError> {
        let (device, uapi) = match kind {
            TunnelKind::WireguardKernel => (None, None),
            TunnelKind::WireguardUserspace => {
                let device = open_device(id.slot, edge, settings)?;
                // Without the socket wg(8) sees nothing and packets pass all the same.
                let uapi = uapi::Listener::open(uapi_dir, &device).inspect_err(|error| {
                    tracing::warn!(error = chain(error), "wg(8) will not see the tunnel")
                });
                (Some(device), uapi.ok())
            }
        };
        Ok(Self::on(id, edge, kind, device, uapi, now))
    }

    /// One over a device that is there, or that the kernel will have.
    pub(super) fn on(
        id: TunnelId,
        edge: &EdgeCandidate,
        kind: TunnelKind,
        device: Option<Device>,
        uapi: Option<uapi::Listener>,
        now: Instant,
    ) -> Self {
        Tunnel {
            id,
            edge: edge.clone(),
            kind,
            device,
            uapi,
            bfd_link: None,
            bfd_index: None,
            state: State::Down,
            since: now,
            path_mtu: None,
            status: None,
        }
    }

    /// What the kernel shall have for it.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            slot: self.id.slot,
            kind: self.kind,
            peer: self.edge.overlay_address,
            public_key: self.edge.public_key,
            endpoint: self.edge.endpoint,
            mtu: self.path_mtu.unwrap_or(want::MOST_MTU).into(),
            refused: false,
        }
    }

    /// Whether it can go on under what the configuration now says about its edge.
    pub(super) fn is_still(&self, edge: &EdgeCandidate) -> bool {
        self.edge.public_key == edge.public_key && self.edge.overlay_address == edge.overlay_address
    }

    /// Takes over what may change without an interruption. True when the kernel has the device
    /// and must be told to forget where the peer was ([`want::renewal`]).
    pub(super) fn update(&mut self, edge: &EdgeCandidate, settings: &Settings) -> bool {
        let renew = self.device.is_none() && edge.endpoint != self.edge.endpoint;
        if let Some(device) = &self.device {
            device.set_private_key(settings.private_key.clone());
            // Only a change of the configuration moves the endpoint: the peer may have roamed.
            let endpoint = (edge.endpoint != self.edge.endpoint).then_some(edge.endpoint);
            device.set_peer(edge.public_key, PeerConfig { endpoint, ..peer_config(edge) });
        }
        self.edge = edge.clone();
        renew
    }

    /// Its device's thread ended, as it does when its link is deleted.
    pub(super) fn is_dead(&self) -> bool {
        self.device.as_ref().is_some_and(|device| !device.is_alive())
    }

    /// Its link is not there any more, even when there is another of the same name. A userspace
    /// device may live on without: its link was renamed, or moved to another namespace.
    pub(super) fn lost_its_link(&self) -> bool {
        self.bfd_index.is_some_and(|index| self.index() != Some(index))
    }

    /// The kernel's number of its link, now.
    pub(super) fn index(&self) -> Option<u32> {
        nix::net::if_::if_nametoindex(self.link().as_str()).ok()
    }

    /// Shakes hands anew, as no data passes; a device of the kernel is told by
    /// [`want::renewal`].
    pub(super) fn renew(&self) {
        if let Some(device) = &self.device {
            device.renew(&self.edge.public_key);
        }
    }

    /// Bytes and age of the handshake, of a userspace device; of one that stands still what it said
    /// last, so that nobody has to wait for it.
    pub(super) fn peer_status(&mut self) -> Option<&PeerStatus> {
        let seen = self.device.as_ref()?.glance(&self.edge.public_key);
        self.status = seen.or(self.status.take());
        self.status.as_ref()
    }

    /// The name of its link.
    pub(super) fn link(&self) -> String {
        names::link(self.id.slot)
    }
}

/// What the device of a tunnel to `edge` is told of it.
pub(super) fn peer_config(edge: &EdgeCandidate) -> PeerConfig {
    PeerConfig {
        endpoint: Some(edge.endpoint),
        allowed_ips: want::everything().into(),
        eager: true,
        ..PeerConfig::default()
    }
}

fn open_device(slot: u8, edge: &EdgeCandidate, settings: &Settings) -> Result<Device, TunnelError> {
    let name = want::link_name(slot);
    let link = LinkEnd::open(&name)
        .map_err(|source| TunnelError::Tun { edge: edge.name.clone(), source })?;
    let options = Options {
        name: name.to_string(),
        private_key: settings.private_key.clone(),
        listen_port: want::listen_port(settings, slot).unwrap_or(0),
        fwmark: names::FWMARK,
        handshakes_per_second: HANDSHAKES_PER_SECOND,
        tuning: Tuning { pages: settings.packet_pages, ..Tuning::default() },
    };
    let device = Device::start(link, options)
        .map_err(|source| TunnelError::Engine { edge: edge.name.clone(), source })?;
    device.set_peer(edge.public_key, peer_config(edge));
    Ok(device)
}

/// An error with all its causes, for the log and the state.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
