//! What systemd is told: ready, the line of `systemctl status`, and that we live (sd_notify(3)).

use crate::report::headline;
use holdfast_api::local::NodeReport;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::debug;

/// The task that tells; it ends with this value.
#[derive(Debug)]
pub struct Supervisor(JoinHandle<()>);

impl Supervisor {
    /// Tells systemd that we are ready, and goes on telling while `report` changes. The watchdog is
    /// fed from the same single thread that runs the manager's loop, so a loop that hangs is seen.
    pub fn start(mut report: watch::Receiver<NodeReport>) -> Self {
        let period = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Supervisor(tokio::spawn(async move {
            notify(&[NotifyState::Ready]);
            loop {
                let line = headline(&report.borrow_and_update());
                notify(&[NotifyState::Status(&line), NotifyState::Watchdog]);
                let tick = period.unwrap_or(Duration::from_secs(3600));
                tokio::select! {
                    changed = report.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(tick) => {}
                }
            }
        }))
    }

    /// Tells that we end on purpose.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing; a lost datagram is made good by the next one.
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "sd_notify");
    }
}
