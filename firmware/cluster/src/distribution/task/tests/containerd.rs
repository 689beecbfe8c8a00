//! containerd's folder.

use super::*;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// A power cut may tear it, and nobody is there to empty the folder.
#[tokio::test]
async fn a_damaged_database_of_containerd_is_put_aside_once_and_not_under_containers() {
    let bed = Bed::new();
    let database = format!("{CONTAINERD}/io.containerd.metadata.v1.bolt/meta.db");
    let tear = || holdfast_durable::write(&bed.path(&database), b"torn", 0o600).unwrap();
    tear();
    let mut shim = Command::new("sh");
    shim.arg0("containerd-shim-runc-v2").args(["-c", "read x", "sh"]);
    let mut shim = shim.arg(bed.paths().containerd_socket()).stdin(Stdio::piped()).spawn().unwrap();
    bed.want(|_| {});
    let manager = bed.manager();
    let damaged = Some(Reason::KubernetesContainerdDamaged);
    until(&manager, "a third start", |state| state.starts >= 2 && state.reason == damaged).await;
    assert!(bed.path(&database).exists());
    shim.kill().unwrap();
    shim.wait().unwrap();
    let state = ready(&manager).await;
    assert_eq!(state.reason, None);
    assert!(!bed.path(&database).exists() && bed.path(CONTAINERD).join("containerd.log").exists());

    // An hour is not over.
    tear();
    let starts = state.starts;
    kill(state.pid.unwrap());
    until(&manager, "two more", |state| state.starts >= starts + 2 && state.reason == damaged)
        .await;
    assert!(bed.path(&database).exists());
}
