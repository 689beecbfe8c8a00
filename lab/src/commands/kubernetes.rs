//! Kubernetes for worlds and tests: built in a process beside this one, so that other work goes on.
//!
//! The process has the lowest priority and a process group of its own. It ends with this one,
//! however that ends, and takes the compiler with it; a build that was cut off carries on the next
//! time. What cannot be had on this machine is no failure: [`have`] says why.

use anyhow::{Context, bail};
use holdfast_lab_kubernetes::build::Progress;
use holdfast_lab_kubernetes::cache::{Built, Cache};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::signal::unix::{SignalKind, signal};

/// Exit code of the process where this machine cannot have Kubernetes; its last line says why.
const CANNOT: u8 = 75;

/// Kubernetes that is there.
pub(super) fn found() -> Option<Built> {
    Built::of_environment().or_else(|| Cache::of_user().ok()?.find())
}

/// A build that goes on.
pub(super) struct Background {
    child: Child,
    last: Arc<Mutex<String>>,
    aloud: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts it; none when Kubernetes is there.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(super) fn start() -> anyhow::Result<Option<Self>> {
        if found().is_some() {
            return Ok(None);
        }
        eprintln!("Kubernetes is not built yet; that is done meanwhile, at the lowest priority");
        let mut child = Command::new("nice")
            .args(["-n", "19"])
            .arg(super::own_program()?)
            .arg("build-kubernetes")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .context("cannot start the build of Kubernetes")?;
        let lines = child.stdout.take().context("the build has no output")?;
        let (last, aloud) = (Arc::default(), Arc::default());
        let reader = {
            let (last, aloud) = (Arc::clone(&last), Arc::clone(&aloud));
            std::thread::spawn(move || read(lines, &last, &aloud))
        };
        Ok(Some(Background { child, last, aloud, reader: Some(reader) }))
    }

    /// Waits for its end, telling how it goes; why it cannot be, where it cannot.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn finish(mut self) -> anyhow::Result<Option<String>> {
        self.aloud.store(true, Ordering::Relaxed);
        let word = || self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (so_far, pid) = (word(), self.child.id());
        if !so_far.is_empty() {
            eprintln!("{so_far}");
        }
        let status = self.child.wait().context("cannot wait for the build of Kubernetes")?;
        if let Some(reader) = self.reader.take() {
            let _told_all = reader.join();
        }
        tracing::info!(pid, %status, "the build of Kubernetes ended");
        match status.code() {
            Some(0) => Ok(None),
            Some(code) if code == i32::from(CANNOT) => Ok(Some(word())),
            _ => bail!("Kubernetes cannot be built: {}", word()),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            // It ends what it started.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let _reaped = self.child.wait();
        }
    }
}

/// Kubernetes, by the build under way or one that is begun now; why not, where it cannot be had.
///
/// # Errors
/// The build failed.
pub(super) fn have(background: Option<Background>) -> anyhow::Result<Option<String>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(Some("a cluster needs root".into()));
    }
    let background = match background {
        Some(background) => Some(background),
        None => Background::start()?,
    };
    background.map_or(Ok(None), Background::finish)
}

fn read(lines: impl Read, last: &Mutex<String>, aloud: &AtomicBool) {
    for line in BufReader::new(lines).lines().map_while(Result::ok) {
        if aloud.load(Ordering::Relaxed) {
            eprintln!("{line}");
        }
        *last.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }
}

/// `lab build-kubernetes`: the process.
///
/// # Errors
/// The build failed.
pub(super) fn build() -> anyhow::Result<ExitCode> {
    let parent = getppid();
    end_with_parent()?;
    if getppid() != parent {
        bail!("whoever started this is gone");
    }
    let mut say = |progress: &Progress| say!("kubernetes: {progress}");
    let built = Cache::of_user()
        .map_err(holdfast_lab_kubernetes::build::BuildError::NoCache)
        .and_then(|cache| holdfast_lab_kubernetes::build::build(&cache, &mut say));
    match built {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let cannot = error.skips();
            say!("{:#}", anyhow::Error::from(error));
            Ok(ExitCode::from(if cannot { CANNOT } else { 1 }))
        }
    }
}

/// On the wish to end, which the kernel sends too when the parent is gone, the whole process group
/// is killed.
fn end_with_parent() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let mut wish = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    drop(entered);
    std::thread::spawn(move || {
        runtime.block_on(wish.recv());
        let _never_returns = kill(Pid::from_raw(0), Signal::SIGKILL);
    });
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
    Ok(())
}
