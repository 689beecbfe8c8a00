//! The kernel's side: devices, the network around them, liveness on them, and their end.

use super::control::Control;
use super::kernel::KernelNetwork;
use super::liveness::Group;
use super::mend::{Refused, mend};
use super::settings::Settings;
use super::tunnel::{Tunnel, TunnelId, chain};
use super::want;
use crate::bfd::{Service, State};
use holdfast_api::Reason;
use netd::{LinkName, Network, Ownership};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// First pause after a failure of the kernel or of a device; doubles up to the last.
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Names of past tunnels that are remembered, to tell what the last failover was about.
const REMEMBERED: usize = 16;

impl Control {
    /// Makes the devices of slots that have none. One that cannot be made is tried again later.
    pub(super) fn make_missing(&mut self, now: Instant) {
        let Some(settings) = &self.settings else { return };
        self.troubles.retain(|(reason, _)| *reason != Reason::TunnelEngineFailed);
        let Some(kind) = self.kind else {
            let why = "the kernel has no WireGuard, and no other kind of tunnel is allowed";
            self.troubles.push((Reason::TunnelEngineFailed, why.into()));
            return;
        };
        let missing: Vec<(u8, String)> = self
            .slots
            .iter()
            .filter(|(_, held)| !self.tunnels.contains_key(&held.edge))
            .map(|(slot, held)| (slot, held.edge.clone()))
            .collect();
        for (slot, name) in missing {
            let Some(edge) = settings.candidates.iter().find(|edge| edge.name == name) else {
                continue;
            };
            self.serial += 1;
            let id = TunnelId { serial: self.serial, slot };
            match Tunnel::make(id, edge, kind, settings, &self.root.wireguard_dir(), now) {
                Ok(tunnel) => {
                    tracing::info!(edge = name, link = tunnel.link(), ?kind, "tunnel made");
                    self.edges.insert(id, name.clone());
                    while self.edges.len() > REMEMBERED {
                        self.edges.pop_first();
                    }
                    self.tunnels.insert(name, tunnel);
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "a tunnel cannot be made");
                    self.troubles.push((error.reason(), chain(&error)));
                }
            }
        }
    }

    /// Ends a tunnel: traffic leaves it, its edge is told, its device goes. What is left in the
    /// kernel goes with the next look.
    pub(super) fn dismantle(&mut self, edge: &str, now: Instant) {
        let Some(mut tunnel) = self.tunnels.remove(edge) else { return };
        // Traffic leaves first: what is not in `tunnels` is not preferred.
        self.prefer(now);
        close_bfd(&self.bfd, &mut tunnel);
        drop(tunnel.uapi.take());
        tracing::info!(edge, link = tunnel.link(), "tunnel taken down");
        self.look = true;
    }

    /// Compares the kernel with what should be, and mends it. What is known to be refused is left alone
    /// until it is time to try it again.
    pub(super) fn reconcile(&mut self, now: Instant) {
        let Some(settings) = &mut self.settings else { return };
        let had = std::mem::replace(&mut settings.ipv6, self.kernel.ipv6());
        if had != settings.ipv6 {
            tracing::warn!(?had, has = ?settings.ipv6, "IPv6 of this machine");
        }
        // With a reason of our own to look, what is to be done is ours as well; and after a failure
        // it is our own tries that change the network.
        let is_free = std::mem::take(&mut self.look_for_drift) && !self.look;
        let mut known = std::mem::take(&mut self.refused);
        if self.look || self.retry.is_none_or(|(at, _)| now >= at) {
            known.clear();
        }
        // Without what is known to be refused none of it is our own doing.
        let foreign = is_free && (self.retry.is_none() || !known.is_empty());
        self.look = false;
        self.drifted |= foreign && known.is_empty();
        let writes = self.liveness.writes();
        let wanted = self.tunnels.values().map(Tunnel::wanted).collect();
        let outcome = mend(self.kernel.as_mut(), settings, wanted, known, &mut self.pending);
        self.troubles.retain(|(reason, _)| *reason == Reason::TunnelEngineFailed);
        match outcome {
            Ok(mut mended) => {
                self.troubles.extend(mended.refused.values().cloned());
                self.suspend(&mended.stranded, now);
                self.open_bfd(&mended.refused, now);
                match self.liveness.assert_group(mended.group.as_ref(), writes) {
                    Ok(Group::Right) => {}
                    Ok(Group::Mended) => {
                        mended.steps.push("point the group at the active tunnel".into());
                    }
                    // Traffic moved while we looked, and not by somebody else.
                    Ok(Group::Stale) if foreign => self.look_for_drift = true,
                    Ok(Group::Stale) => self.look = true,
                    Err(error) => self.fail(now, Reason::NetApplyFailed, chain(&error)),
                }
                let drifted = self.drifted || foreign;
                // What is refused now is mended by a later look.
                self.drifted &= mended.steps.is_empty() && !mended.refused.is_empty();
                if drifted && !mended.steps.is_empty() {
                    self.mended += 1;
                    tracing::warn!(steps = ?mended.steps, "the network was changed by somebody and put back");
                }
                self.refused = mended.refused;
                if self.troubles.is_empty() {
                    self.retry = None;
                }
                self.report_all(now);
            }
            Err((reason, message)) => self.fail(now, reason, message),
        }
        if !self.troubles.is_empty() && self.retry.is_none_or(|(at, _)| now >= at) {
            self.plan_retry(now);
        }
    }

    /// Notes a failure of the kernel and plans another try.
    pub(super) fn fail(&mut self, now: Instant, reason: Reason, message: String) {
        tracing::error!(reason = %reason, message, "the kernel is not as it should be");
        self.troubles.push((reason, message));
        self.plan_retry(now);
    }

    fn plan_retry(&mut self, now: Instant) {
        let pause = self.retry.map_or(FIRST_RETRY, |(_, pause)| (pause * 2).min(LAST_RETRY));
        self.retry = Some((now + pause, pause));
    }

    /// Ends liveness of tunnels that nothing can be sent over: packets of BFD may pass all the same,
    /// for those of a userspace device do not cross its link.
    fn suspend(&mut self, stranded: &BTreeSet<LinkName>, now: Instant) {
        let is_hit = |tunnel: &Tunnel| stranded.contains(&want::link_name(tunnel.id.slot));
        for tunnel in self.tunnels.values_mut().filter(|tunnel| is_hit(tunnel)) {
            if tunnel.bfd_link.is_none() {
                continue;
            }
            self.liveness.report(tunnel.id, false, now);
            close_bfd(&self.bfd, tunnel);
            (tunnel.state, tunnel.since) = (State::Down, now);
        }
    }

    /// Starts liveness on links that have their address now.
    fn open_bfd(&mut self, refused: &Refused, now: Instant) {
        let Some(settings) = &self.settings else { return };
        let is_ready = |tunnel: &Tunnel| {
            tunnel.bfd_link.is_none() && !refused.contains_key(&want::link_name(tunnel.id.slot))
        };
        for tunnel in self.tunnels.values_mut().filter(|tunnel| is_ready(tunnel)) {
            let opened = match &tunnel.device {
                Some(device) => Ok(self.bfd.open_device(device, settings.overlay)),
                None => self.bfd.open_link(&tunnel.link(), settings.overlay),
            };
            match opened {
                Ok(link) => {
                    tunnel.bfd_link = Some(link);
                    tunnel.bfd_index = tunnel.index();
                    tunnel.since = now;
                    let peer = tunnel.edge.overlay_address;
                    self.bfd.insert(tunnel.id, link, peer, settings.bfd);
                    self.bfd.search_path_mtu(tunnel.id, peer, want::MOST_MTU);
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "no liveness on a tunnel");
                    self.troubles.push((Reason::TunnelEngineFailed, chain(&error)));
                }
            }
        }
        self.prefer(now);
    }

    /// What the sessions are, told again: a switch that the kernel refused is tried anew.
    fn report_all(&mut self, now: Instant) {
        let changes = self.liveness.changes();
        let status = |id| self.bfd.status(&id).map(|status| (id, status.state == State::Up));
        let seen: Vec<_> = self.tunnels.values().filter_map(|tunnel| status(tunnel.id)).collect();
        if !self.liveness.repeat(&seen, changes, now) {
            // A session that changed meanwhile has an event under way, which brings the next turn.
            self.look = true;
        }
    }

    /// Tells the edges, and takes away what is ours.
    pub(super) fn shut_down(mut self) {
        let now = Instant::now();
        self.liveness.set(&[], now);
        self.preferred.clear();
        for name in self.tunnels.keys().cloned().collect::<Vec<_>>() {
            self.dismantle(&name, now);
        }
        let owner = Ownership::tunnels();
        let nothing = Network::default();
        let removed = self
            .kernel
            .observe(&owner, &nothing)
            .map_err(|error| chain(&error))
            .and_then(|have| netd::plan(&nothing, &have, &owner).map_err(|error| chain(&error)))
            .and_then(|steps| self.kernel.apply_all(&steps).map_err(|error| chain(&error)));
        if let Err(error) = removed {
            tracing::error!(error, "something of ours is left in the kernel");
        }
    }
}

/// Ends liveness of a tunnel; its edge is told.
fn close_bfd(bfd: &Service<TunnelId>, tunnel: &mut Tunnel) {
    bfd.remove(&tunnel.id);
    if let Some(link) = tunnel.bfd_link.take() {
        bfd.close_link(link);
    }
}

/// Shakes hands anew over a device of the kernel. It may be gone; the next look sees that.
pub(super) fn renew_in_kernel(
    kernel: &mut dyn KernelNetwork,
    settings: &Settings,
    tunnel: &Tunnel,
) {
    for step in want::renewal(settings, &tunnel.wanted()) {
        if let Err(error) = kernel.apply(&step) {
            tracing::warn!(link = tunnel.link(), error = chain(&error), "no new handshake");
        }
    }
}

#[cfg(test)]
mod tests;
