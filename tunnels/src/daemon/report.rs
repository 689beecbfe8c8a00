//! What `tunneld` says about itself.

use super::control::{Control, Trouble};
use super::tunnel::{Tunnel, TunnelId};
use super::want;
use crate::bfd::State;
use crate::path_mtu::Phase;
use holdfast_api::tunnel::{
    CandidateState, LastFailover, Pages, TunnelKind, TunnelState, TunnelsState,
};
use holdfast_api::{Reason, Severity};
use netd::WgKey;
use std::time::{Duration, Instant, SystemTime};

/// Bytes and handshake of a tunnel, whoever makes it.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    rx_bytes: u64,
    tx_bytes: u64,
    handshake_age: Option<Duration>,
}

/// What of the state is worth telling at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    generation: u64,
    /// Edge, whether it passes data, whether traffic uses it.
    tunnels: Vec<(String, State, bool)>,
    failovers: u64,
    troubles: Vec<Trouble>,
    pending: Vec<String>,
}

impl Control {
    /// What is worth telling at once, as it is now.
    pub(super) fn news(&self) -> News {
        let active = self.liveness.active();
        let state = |tunnel: &Tunnel| {
            self.bfd.status(&tunnel.id).map_or(tunnel.state, |status| status.state)
        };
        News {
            generation: self.settings.as_ref().map_or(0, |settings| settings.generation),
            tunnels: self
                .tunnels
                .values()
                .map(|tunnel| (tunnel.edge.name.clone(), state(tunnel), active == Some(tunnel.id)))
                .collect(),
            failovers: self.liveness.switches().0,
            troubles: self
                .troubles
                .iter()
                .chain(&self.config_trouble)
                .cloned()
                .chain(self.ipv6_trouble())
                .collect(),
            pending: self.pending.clone(),
        }
    }

    /// All tunnels as they are.
    pub(super) fn state(&mut self, now: Instant) -> TunnelsState {
        // In this order: a session changes before traffic moves because of it.
        let active = self.liveness.active();
        let traffic: Vec<Traffic> = self.traffic();
        let mut tunnels: Vec<TunnelState> = self
            .tunnels
            .values()
            .zip(traffic)
            .map(|(tunnel, traffic)| self.tunnel_state(tunnel, traffic, active, now))
            .collect();
        let rank =
            |state: &TunnelState| self.choice.edges.iter().position(|edge| *edge == state.edge);
        tunnels.sort_by_key(|state| (!state.active, rank(state).unwrap_or(usize::MAX)));

        let (failovers, last) = self.liveness.switches();
        let troubles = self.troubles(&tunnels);
        // The worst first; among equals the first that was found.
        let worst = troubles
            .iter()
            .max_by_key(|(reason, _)| (reason.severity(), std::cmp::Reverse(*reason)));
        TunnelsState {
            generation: self.settings.as_ref().map_or(0, |settings| settings.generation),
            candidates: self.candidate_states(),
            failovers,
            last_failover: last.map(|last| LastFailover {
                from: last.switch.from.and_then(|id| self.edge_of(id)),
                to: last.switch.to.and_then(|id| self.edge_of(id)),
                switch_us: micros(last.took),
                age_secs: now.saturating_duration_since(last.at).as_secs(),
            }),
            pending: self.pending.clone(),
            reason: worst.map(|(reason, _)| *reason),
            message: troubles.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; "),
            tunnels,
        }
    }

    fn tunnel_state(
        &self,
        tunnel: &Tunnel,
        traffic: Traffic,
        active: Option<TunnelId>,
        now: Instant,
    ) -> TunnelState {
        let session = self.bfd.status(&tunnel.id).map(|status| (status.state, status.since));
        let (state, since) = session.unwrap_or((tunnel.state, tunnel.since));
        let since = now.saturating_duration_since(since);
        TunnelState {
            edge: tunnel.edge.name.clone(),
            link: tunnel.link(),
            kind: tunnel.kind,
            state,
            active: active == Some(tunnel.id),
            rtt_us: self.rtt_us(&tunnel.edge.name),
            rx_bytes: traffic.rx_bytes,
            tx_bytes: traffic.tx_bytes,
            handshake_age_secs: traffic.handshake_age.map(|age| age.as_secs()),
            path_mtu: self.path_mtu(tunnel.id),
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            reason: (state != State::Up).then_some(Reason::TunnelNoData),
        }
    }

    /// None while it is not known, and over a device of the kernel.
    fn path_mtu(&self, id: TunnelId) -> Option<u32> {
        match self.bfd.path_mtu(&id)? {
            (Phase::Complete, mtu) => Some(mtu.unwrap_or(want::MOST_MTU).into()),
            (Phase::Disabled | Phase::Base | Phase::Searching | Phase::Error, mtu) => {
                mtu.map(u32::from)
            }
        }
    }

    fn traffic(&mut self) -> Vec<Traffic> {
        let mut all = Vec::new();
        let asked: Vec<_> = self
            .tunnels
            .values_mut()
            .map(|tunnel| {
                let (kind, slot, key) = (tunnel.kind, tunnel.id.slot, tunnel.edge.public_key);
                (kind, tunnel.peer_status().cloned(), slot, key)
            })
            .collect();
        for (kind, status, slot, key) in asked {
            all.push(match (kind, status) {
                (TunnelKind::WireguardUserspace, Some(status)) => Traffic {
                    rx_bytes: status.rx_bytes,
                    tx_bytes: status.tx_bytes,
                    handshake_age: status.handshake_age,
                },
                (TunnelKind::WireguardUserspace, None) => Traffic::default(),
                (TunnelKind::WireguardKernel, _) => {
                    let peers = self
                        .kernel
                        .wireguard_peers(&super::want::link_name(slot))
                        .unwrap_or_default();
                    let age = |at: SystemTime| SystemTime::now().duration_since(at).ok();
                    peers.get(&WgKey(key.0)).map_or_else(Traffic::default, |peer| Traffic {
                        rx_bytes: peer.rx_bytes,
                        tx_bytes: peer.tx_bytes,
                        handshake_age: peer.last_handshake.and_then(age),
                    })
                }
            });
        }
        all
    }

    fn candidate_states(&self) -> Vec<CandidateState> {
        let candidates = self.settings.iter().flat_map(|settings| &settings.candidates);
        let mut states: Vec<CandidateState> = candidates
            .map(|edge| CandidateState {
                edge: edge.name.clone(),
                rtt_us: self.rtt_us(&edge.name),
                chosen: self.choice.edges.contains(&edge.name),
            })
            .collect();
        states.sort_by(|a, b| {
            let far = |state: &CandidateState| state.rtt_us.unwrap_or(u64::MAX);
            (far(a), &a.edge).cmp(&(far(b), &b.edge))
        });
        states
    }

    /// Everything that there is to say, in the order in which people should look at it.
    fn troubles(&self, tunnels: &[TunnelState]) -> Vec<Trouble> {
        let mut all: Vec<Trouble> = self.config_trouble.iter().cloned().collect();
        let Some(settings) = &self.settings else {
            if all.is_empty() {
                all.push((Reason::TunnelNoCandidates, "no tunnel configuration yet".into()));
            }
            return all;
        };
        all.extend(self.troubles.iter().cloned());
        if settings.candidates.is_empty() {
            all.push((
                Reason::TunnelNoCandidates,
                "the configuration names no regional edge".into(),
            ));
            return all;
        }
        let answers =
            settings.candidates.iter().filter(|edge| self.rtt_us(&edge.name).is_some()).count();
        let up: Vec<&str> =
            tunnels.iter().filter(|t| t.state == State::Up).map(|t| t.edge.as_str()).collect();
        let down: Vec<&str> =
            tunnels.iter().filter(|t| t.state != State::Up).map(|t| t.edge.as_str()).collect();
        let count = settings.candidates.len();
        match (up.len(), answers) {
            (0, 0) if !self.prober.settled() => {
                all.push((Reason::TunnelProbing, format!("measuring {count} regional edges")));
            }
            (0, 0) => all.push((
                Reason::TunnelNoEdgeAnswers,
                format!("none of {count} regional edges answers"),
            )),
            (0, _) if tunnels.is_empty() => {
                all.push((
                    Reason::TunnelProbing,
                    format!("{answers} of {count} regional edges answered so far"),
                ));
            }
            (0, _) => {
                all.push((Reason::TunnelNoData, format!("no data passes to {}", down.join(", "))))
            }
            (1, _) if settings.want > 1 => {
                let missing = if down.is_empty() {
                    "there is no second edge".into()
                } else {
                    format!("down: {}", down.join(", "))
                };
                all.push((Reason::TunnelSingle, format!("only {} passes data; {missing}", up[0])));
            }
            _ => {}
        }
        if let Some(link) = self.in_usual_pages(settings.packet_pages) {
            all.push((
                Reason::TunnelUsualPages,
                format!(
                    "packets of {link} are in the usual pages, not of {}",
                    settings.packet_pages
                ),
            ));
        }
        all.extend(self.ipv6_trouble());
        if let Some(domain) = &self.choice.shared_domain {
            all.push((
                Reason::TunnelSharedDomain,
                format!("two tunnels lead into the failure domain {domain}"),
            ));
        }
        all
    }

    fn ipv6_trouble(&self) -> Option<Trouble> {
        let left_out = self.settings.as_ref()?.left_out();
        Some((Reason::NetIpv6Off, crate::ipv6::told(left_out)?))
    }

    /// The links whose packets are in the usual pages though others are asked for.
    fn in_usual_pages(&self, asked: Pages) -> Option<String> {
        let other = |tunnel: &&Tunnel| {
            tunnel.device.as_ref().is_some_and(|device| device.pages() == Pages::Usual)
        };
        let links: Vec<String> = self.tunnels.values().filter(other).map(Tunnel::link).collect();
        (asked != Pages::Usual && !links.is_empty()).then(|| links.join(" and "))
    }

    pub(super) fn rtt_us(&self, edge: &str) -> Option<u64> {
        self.prober.measured(edge)?.rtt.map(micros)
    }

    fn edge_of(&self, id: TunnelId) -> Option<String> {
        self.edges.get(&id).cloned()
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Whether it is worth a person's attention.
pub(super) fn is_bad(reason: Reason) -> bool {
    reason.severity() >= Severity::Warning
}
