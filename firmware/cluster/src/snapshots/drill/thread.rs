//! A thread with a network namespace of its own, and async work on it.
//!
//! A namespace belongs to a thread (network_namespaces(7)), and so does the wish to die with one's
//! parent (prctl(2), `PR_SET_PDEATHSIG`): what is started here sees no other network, and ends with
//! this thread. Nothing is left in `/run/netns`.

use super::super::error::SnapshotError;
use nix::sched::{CloneFlags, unshare};
use std::io;
use std::process::{Command, Stdio};
use tokio::sync::oneshot;

/// The address of the namespace (RFC 5737: never anybody's).
pub(super) const ADDRESS: &str = "192.0.2.1";

/// Does the work; dropping the future ends it.
pub(super) async fn run<T, W>(work: impl FnOnce() -> W + Send + 'static) -> Result<T, SnapshotError>
where
    T: Send + 'static,
    W: Future<Output = Result<T, SnapshotError>>,
{
    let (mut answer, answered) = oneshot::channel();
    let thread = move || {
        let result = inside().map_err(SnapshotError::Network).and_then(|runtime| {
            runtime.block_on(async {
                tokio::select! {
                    result = work() => result,
                    // Nobody waits any more: the work may be dropped, all of it ends with that.
                    () = answer.closed() => Err(SnapshotError::Ended),
                }
            })
        });
        // Nobody waits: see above.
        let _nobody = answer.send(result);
    };
    std::thread::Builder::new()
        .name("drill".into())
        .spawn(thread)
        .map_err(SnapshotError::Network)?;
    // The thread ends without an answer only by a panic.
    answered.await.unwrap_or(Err(SnapshotError::Ended))
}

fn inside() -> io::Result<tokio::runtime::Runtime> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    // A bridge, since the kernel of a node has one for its pods; Kubernetes wants an address that
    // is not loopback, and a default route.
    for words in [
        "link set lo up",
        "link add drill0 type bridge",
        &format!("addr add {ADDRESS}/24 dev drill0"),
        "link set drill0 up",
        "route add default dev drill0",
    ] {
        let output = Command::new("ip").args(words.split(' ')).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(io::Error::other(format!("ip {words}: {said}")));
        }
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::process;

    async fn links() -> String {
        let output = process::Command::new("ip").args(["-o", "link"]).output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[tokio::test]
    async fn the_work_has_a_network_of_its_own_and_nothing_is_left() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a network namespace needs root");
            return;
        }
        let inside = run(|| async { Ok(links().await) }).await.unwrap();
        assert!(inside.contains("drill0") && inside.lines().count() == 2, "{inside}");
        assert!(!links().await.contains("drill0"));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a network namespace needs root");
            return;
        }
        let (ended, sees) = oneshot::channel::<()>();
        let work = run(move || async move {
            let _ended = ended;
            std::future::pending::<()>().await;
            Ok(())
        });
        drop(tokio::time::timeout(std::time::Duration::from_millis(300), work).await);
        let gone = tokio::time::timeout(std::time::Duration::from_secs(20), sees).await;
        assert!(gone.unwrap().is_err());
    }
}
