//! Process 1 of the machine: mounts what every Linux has, runs the tests, tells, ends.
//!
//! Modules are not loaded by it, save one: the kernel asks modprobe(8) for them when a test wants
//! a kind of link, as it does on any Debian. TUN is the exception, since its device file is only
//! there once the module is.
//!
//! Whatever fails here ends the machine; the console then says why.

use super::NO_IPV6;
use super::report::Outcome;
use super::wire::{Event, Executable, JOB_FILE, Job};
use anyhow::{Context, anyhow, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, killpg};
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The second serial line; the kernel's messages are on the first.
const RESULTS: &str = "/dev/ttyS1";
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Of each stream of a test, bytes.
const MOST_OUTPUT: u64 = 32 * 1024;

/// [`init`] was called outside a machine.
#[derive(Debug, thiserror::Error)]
#[error("machine-init is what a test machine starts first; it would reboot this one")]
pub struct NotInMachine;

/// Runs the tests of the machine and ends it.
///
/// # Errors
/// When this is not process 1 of a machine that [`super::run_tests`] made; nothing was done then.
pub fn init() -> Result<Infallible, NotInMachine> {
    if std::process::id() != 1 || !Path::new(JOB_FILE).exists() {
        return Err(NotInMachine);
    }
    if let Err(error) = work() {
        eprintln!("machine-init: {error:#}");
    }
    end()
}

/// Reboots at once, which QEMU was told to take as the end.
fn end() -> ! {
    nix::unistd::sync();
    // Documentation/admin-guide/sysrq.rst; root may use it whatever kernel.sysrq says.
    if let Err(error) = OpenOptions::new()
        .write(true)
        .open("/proc/sysrq-trigger")
        .and_then(|mut file| file.write_all(b"b"))
    {
        eprintln!("machine-init: cannot reboot: {error}");
    }
    // The kernel panics when process 1 exits, and that ends the machine as well.
    std::process::exit(1)
}

fn work() -> anyhow::Result<()> {
    mount_all()?;
    let job: Job = serde_json::from_slice(&fs::read(JOB_FILE)?).context("cannot read the job")?;
    let deadline = Instant::now() + Duration::from_secs(job.limit_secs);
    let mut line = Line::open()?;
    line.tell(&Event::Booted {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().into(),
    })?;
    for command in [&["ip", "link", "set", "lo", "up"][..], &["modprobe", "tun"]] {
        if let Err(error) = succeed(command) {
            line.tell(&Event::Note { text: format!("{error:#}") })?;
        }
    }
    let has_ipv6 = !fs::read_to_string("/proc/cmdline")?.contains(NO_IPV6);
    let mut cut_short = None;
    for executable in &job.executables {
        let tests = match list(executable) {
            Ok(tests) => tests,
            Err(error) => {
                let test = executable.name.clone();
                let (outcome, output) = (Outcome::Failed, format!("{error:#}"));
                line.tell(&Event::Ended { test, outcome, millis: 0, output })?;
                continue;
            }
        };
        for test in tests {
            let name = format!("{}::{test}", executable.name);
            let is_wanted = job.filter.as_ref().is_none_or(|filter| name.contains(filter));
            if !is_wanted || job.without_ipv6.contains(&name) == has_ipv6 {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                cut_short = Some(format!("after {} s no further test is begun", job.limit_secs));
                break;
            }
            line.tell(&Event::Began { test: name.clone() })?;
            let began = Instant::now();
            let (outcome, output) =
                run(executable, &test, left.min(Duration::from_secs(job.limit_each_secs)))?;
            let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            line.tell(&Event::Ended { test: name, outcome, millis, output })?;
        }
    }
    line.tell(&Event::Finished { cut_short })?;
    line.drain()
}

fn mount_all() -> anyhow::Result<()> {
    let none: Option<&str> = None;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
    ] {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount {at}"))?;
    }
    Ok(())
}

/// The line on which events are told.
struct Line(File);

impl Line {
    fn open() -> anyhow::Result<Line> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(RESULTS)
            .with_context(|| format!("cannot open {RESULTS}"))?;
        let mut settings = tcgetattr(&file)?;
        cfmakeraw(&mut settings);
        tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        Ok(Line(file))
    }

    fn tell(&mut self, event: &Event) -> anyhow::Result<()> {
        writeln!(self.0, "{}", event.render()).context("cannot tell")
    }

    fn drain(&self) -> anyhow::Result<()> {
        Ok(tcdrain(&self.0)?)
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", PATH).env("HOME", "/root").stdin(Stdio::null());
    command
}

fn succeed(words: &[&str]) -> anyhow::Result<()> {
    let output = command(Path::new(words[0])).args(&words[1..]).output();
    let text = words.join(" ");
    let output = output.with_context(|| format!("cannot run `{text}`"))?;
    let answer = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{text}` failed: {}", answer.trim());
    Ok(())
}

/// The tests of a program that are not to be ignored, in its order.
fn list(executable: &Executable) -> anyhow::Result<Vec<String>> {
    let ask = |ignored: &[&str]| -> anyhow::Result<String> {
        let output = command(&executable.path)
            .args(["--list", "--format", "terse"])
            .args(ignored)
            .output()
            .with_context(|| format!("cannot run {}", executable.path.display()))?;
        let answer = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "it does not list its tests: {}", answer.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let all = ask(&[])?;
    let ignored = ask(&["--ignored"])?;
    let ignored: BTreeSet<&str> = names(&ignored).collect();
    Ok(names(&all).filter(|name| !ignored.contains(name)).map(str::to_owned).collect())
}

/// Reads the terse list of a test program.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.strip_suffix(": test"))
}

/// Runs one test in a process of its own; what it leaves running is killed.
fn run(executable: &Executable, test: &str, limit: Duration) -> anyhow::Result<(Outcome, String)> {
    // Files, not pipes: what a test leaves running would keep a pipe open.
    let stream =
        |path| OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path);
    let (mut out, mut err) = (stream("/run/test.out")?, stream("/run/test.err")?);
    let mut child = command(&executable.path)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .current_dir(&executable.dir)
        .process_group(0)
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot run {}", executable.path.display()))?;
    let status = wait(&mut child, limit)?;
    let group = i32::try_from(child.id()).map_err(|_| anyhow!("a pid beyond those of Linux"))?;
    // Mostly there is nobody left.
    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    if status.is_none() {
        child.wait()?;
    }
    let (said, complained) = (tail(&mut out)?, tail(&mut err)?);
    let outcome = judge(status, &complained);
    let late = match status {
        None => format!("killed after {} s\n", limit.as_secs()),
        Some(_) => String::new(),
    };
    Ok((outcome, format!("{said}{complained}{late}")))
}

/// How the child ended; none when it did not in time.
fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn tail(file: &mut File) -> anyhow::Result<String> {
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(MOST_OUTPUT)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// How a test ended: a test that lacks something writes `skipped: <reason>` and returns.
fn judge(status: Option<ExitStatus>, stderr: &str) -> Outcome {
    if !status.is_some_and(|status| status.success()) {
        return Outcome::Failed;
    }
    match stderr.lines().find_map(|line| line.strip_prefix("skipped: ")) {
        Some(reason) => Outcome::Skipped { reason: reason.to_owned() },
        None => Outcome::Passed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn this_machine_is_not_rebooted() {
        assert!(matches!(init(), Err(NotInMachine)));
    }

    #[test]
    fn a_test_is_skipped_only_when_it_says_so_and_succeeds() {
        let (good, bad) = (Some(ExitStatus::from_raw(0)), Some(ExitStatus::from_raw(101 << 8)));
        let skipped = Outcome::Skipped { reason: "no TUN".into() };
        assert_eq!(judge(good, ""), Outcome::Passed);
        assert_eq!(judge(good, "note\nskipped: no TUN\n"), skipped);
        assert_eq!(judge(good, "it was not skipped: no\n"), Outcome::Passed);
        assert_eq!(judge(bad, "skipped: no TUN\n"), Outcome::Failed);
        assert_eq!(judge(None, ""), Outcome::Failed, "it ran out of time");
    }

    #[test]
    fn tests_are_read_from_the_terse_list() {
        let list = "a: test\nm::b: test\nc: bench\n\n2 tests, 1 benchmark\n";
        assert_eq!(names(list).collect::<Vec<_>>(), ["a", "m::b"]);
    }

    #[test]
    fn real_test_programs_are_listed_and_run() {
        let executable = Executable {
            name: "lab::lib".into(),
            path: std::env::current_exe().unwrap(),
            dir: std::env::temp_dir(),
        };
        let own = "machine::init::tests::tests_are_read_from_the_terse_list";
        assert!(list(&executable).unwrap().iter().any(|name| name == own));
    }
}
