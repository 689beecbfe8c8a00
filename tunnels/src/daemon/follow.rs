//! Following the file: reading it, keeping the last good one, and what a new one means for the
//! tunnels that stand.

use super::control::{Control, Trouble};
use super::reconcile::renew_in_kernel;
use super::settings::{self, Settings, SettingsProblem};
use super::tunnel::chain;
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_api::tunnel::{EdgeCandidate, TunnelKind};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

/// Which state of a file was read: when it was written, how long it is, which inode.
pub(super) type Stamp = (SystemTime, u64, u64);

impl Control {
    /// Takes the file that is followed, or the last good one when that is of no use.
    pub(super) fn load(&mut self, now: Instant) {
        if self.reload(now).is_ok() {
            return;
        }
        let last_good = self.root.tunnels_last_good();
        match settings::read(&last_good) {
            Ok((settings, _)) => {
                tracing::info!(path = %last_good.display(), "the last good configuration is in force");
                self.accept(settings, now);
            }
            Err(error) if error.is_missing() => {}
            Err(error) => {
                tracing::warn!(error = chain(&error), "no last good configuration either")
            }
        }
    }

    /// Reads the file when it is another one than last time.
    pub(super) fn look_at_file(&mut self, now: Instant) {
        if self.stamp_of_file() != self.stamp {
            let _ = self.reload(now);
        }
    }

    /// Reads the file now. What it says is in force when this returns; its consequences follow
    /// with the next turn.
    pub(super) fn reload(&mut self, now: Instant) -> Result<u64, Problem> {
        self.stamp = self.stamp_of_file();
        match settings::read(&self.config) {
            Ok((settings, bytes)) => {
                let generation = settings.generation;
                self.config_trouble = None;
                self.keep_as_last_good(&bytes);
                tracing::info!(generation, "configuration in force");
                self.accept(settings, now);
                Ok(generation)
            }
            Err(error) => {
                let problem = Problem::new(error.reason(), chain(&error));
                self.config_trouble = self.trouble_of(&error);
                if error.may_pass() {
                    self.stamp = None;
                }
                Err(problem)
            }
        }
    }

    fn trouble_of(&self, error: &SettingsProblem) -> Option<Trouble> {
        // No file is how every node begins, and what a reboot without the manager looks like.
        if error.is_missing() {
            return None;
        }
        let trouble = Some((error.reason(), chain(error)));
        if trouble != self.config_trouble {
            tracing::error!(error = chain(error), "the configuration cannot be used");
        }
        trouble
    }

    fn stamp_of_file(&self) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(&self.config).ok()?;
        Some((meta.modified().ok()?, meta.len(), meta.ino()))
    }

    fn keep_as_last_good(&mut self, bytes: &[u8]) {
        let path = self.root.tunnels_last_good();
        if path == self.config {
            return;
        }
        if let Err(error) = holdfast_durable::write_if_changed(&path, bytes, 0o600) {
            let reason =
                if error.disk_full() { Reason::StateDiskFull } else { Reason::StateUnwritable };
            tracing::warn!(error = chain(&error), "the configuration will not survive a reboot");
            self.config_trouble = Some((reason, chain(&error)));
        }
    }

    pub(super) fn accept(&mut self, settings: Settings, now: Instant) {
        self.kind = settings.kinds.iter().copied().find(|kind| match kind {
            TunnelKind::WireguardKernel => self.kernel.wireguard_supported(),
            TunnelKind::WireguardUserspace => true,
        });
        let kind = self.kind;
        let moved = self.settings.as_ref().is_some_and(|old| old.overlay != settings.overlay);
        let candidates: BTreeMap<&str, &EdgeCandidate> =
            settings.candidates.iter().map(|edge| (edge.name.as_str(), edge)).collect();
        let mut gone = Vec::new();
        for (name, tunnel) in &mut self.tunnels {
            match candidates.get(name.as_str()) {
                Some(edge) if !moved && Some(tunnel.kind) == kind && tunnel.is_still(edge) => {
                    if tunnel.update(edge, &settings) {
                        renew_in_kernel(self.kernel.as_mut(), &settings, tunnel);
                    }
                    if let Some(link) = tunnel.bfd_link {
                        self.bfd.insert(tunnel.id, link, edge.overlay_address, settings.bfd);
                    }
                }
                // It is made anew, in its slot.
                Some(_) => gone.push(name.clone()),
                // The selector drops it; until then it may carry traffic.
                None => {}
            }
        }
        let targets: Vec<(&str, SocketAddr)> =
            settings.candidates.iter().map(|edge| (edge.name.as_str(), edge.probe)).collect();
        self.prober.set_targets(targets, now);
        if self.tunnels.is_empty() {
            self.probing_since = Some(now);
        }
        self.settings = Some(settings);
        for name in gone {
            self.dismantle(&name, now);
        }
        self.look = true;
        self.retry = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::Options;
    use crate::daemon::fake::FakeKernel;
    use crate::daemon::liveness::Liveness;
    use crate::daemon::settings::tests::config;
    use crate::wireguard::PrivateKey;
    use holdfast_api::paths::Root;

    /// As when the manager writes the key a moment later, or the disk answers badly once.
    #[test]
    fn what_could_not_be_read_is_read_again_without_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("tunnels.json"), dir.path().join("key"));
        let mut told = config();
        told.private_key.clone_from(&key);
        holdfast_durable::write(&path, &serde_json::to_vec(&told).unwrap(), 0o600).unwrap();
        let kernel = Box::new(FakeKernel::default());
        let (tell, _events) = tokio::sync::mpsc::unbounded_channel();
        let liveness = Liveness::new(kernel.clone(), tell);
        let options = Options { root: Root::new(dir.path()), config: Some(path.clone()) };
        let mut control = Control::over(&options, kernel, liveness, 7).unwrap();
        let now = Instant::now();
        control.load(now);
        assert!(!control.is_configured() && control.config_trouble.is_some());
        control.look_at_file(now);
        assert!(!control.is_configured(), "the key is not there yet");
        let text = PrivateKey::generate().unwrap().to_base64();
        holdfast_durable::write(&key, text.as_bytes(), 0o600).unwrap();
        control.look_at_file(now);
        assert!(control.is_configured() && control.config_trouble.is_none());

        // A file that makes no sense is read once.
        holdfast_durable::write(&path, b"{", 0o600).unwrap();
        control.look_at_file(now);
        assert!(control.config_trouble.is_some());
        assert_eq!(control.stamp, control.stamp_of_file());
    }
}
