//! The emulated machine as a process.

use super::error::{MachineError, io_at};
use super::image::INIT;
use super::need;
use crate::packages;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// Memory of the machine, MiB: the files lie in it, and some tests make many routes.
const MEMORY_MIB: u32 = 2048;
/// Processors; two, so that races show.
const PROCESSORS: u32 = 2;
/// Others work on this machine as well.
const NICE: &str = "10";

/// `panic=-1` with `-no-reboot`: a machine that panics ends at once. The mitigations only cost.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=4 panic=-1 mitigations=off";

/// How much of the console is shown when the machine ended too early, lines.
const LAST_LINES: usize = 20;

/// QEMU, installed when it is missing and that is possible.
pub(super) fn find(say: &mut dyn FnMut(&str)) -> Result<PathBuf, MachineError> {
    if let Some(path) = packages::find(PROGRAM) {
        return Ok(path);
    }
    say(&format!("installing {PACKAGE}: it emulates the machine"));
    let missing = |source| MachineError::NoQemu { package: PACKAGE, source };
    packages::install(&[PACKAGE], say).map_err(missing)?;
    packages::find(PROGRAM).ok_or_else(|| missing(packages::AptError::Elsewhere(PROGRAM)))
}

/// A machine that runs; it is killed when this is dropped, and by the kernel when the thread that
/// made it ends without dropping it.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    console: PathBuf,
    complaints: PathBuf,
    results: Lines,
}

impl Machine {
    /// Starts a machine with these arguments of the kernel besides the usual ones, and its logs in `run`.
    pub(super) fn start(
        qemu: &Path,
        kernel: &Path,
        image: &Path,
        more: &[&str],
        run: &Path,
    ) -> Result<Machine, MachineError> {
        let log = |name: &str| run.join(name);
        let (console, results, complaints) =
            (log("console.log"), log("results.log"), log("qemu.log"));
        // Lines of the last machine must not count for this one.
        for path in [&console, &results] {
            File::create(path).map_err(io_at("make", path))?;
        }
        let said = File::create(&complaints).map_err(io_at("make", &complaints))?;
        // Both become the program that they are given, so the child is QEMU itself.
        let setpriv = need("setpriv", "util-linux")?;
        let nice = need("nice", "coreutils")?;
        let child = Command::new(&setpriv)
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&nice)
            .args(["-n", NICE])
            .arg(qemu)
            .args(arguments(kernel, image, more, &console, &results))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .map_err(io_at("run", &setpriv))?;
        Ok(Machine { child, console, complaints, results: Lines::new(results) })
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>, MachineError> {
        self.child.try_wait().map_err(io_at("wait for", Path::new(PROGRAM)))
    }

    /// What it told since the last call.
    pub(super) fn new_lines(&mut self) -> Result<Vec<String>, MachineError> {
        self.results.read()
    }

    /// The end of its console and what QEMU complained of.
    pub(super) fn last_words(&self) -> String {
        let read = |path: &Path| std::fs::read(path).unwrap_or_default();
        let complaints = String::from_utf8_lossy(&read(&self.complaints)).into_owned();
        let console = String::from_utf8_lossy(&read(&self.console)).into_owned();
        let lines: Vec<&str> = console.lines().chain(complaints.lines()).collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        format!("the end of {}:\n{}", self.console.display(), last.join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(
    kernel: &Path,
    image: &Path,
    more: &[&str],
    console: &Path,
    results: &Path,
) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    // A comma ends a value of QEMU's options unless it is doubled.
    let file = |path: &Path| format!("file:{}", text(path).replace(',', ",,"));
    let init = format!("rdinit={INIT} -- machine-init");
    let append = [&[KERNEL_ARGUMENTS], more, &[&init]].concat().join(" ");
    let (processors, memory) = (PROCESSORS.to_string(), MEMORY_MIB.to_string());
    let (kernel, image) = (text(kernel), text(image));
    let (console, results) = (file(console), file(results));
    [
        // Said, since QEMU would take KVM where it is configured so, and inside many a virtual
        // machine that hangs.
        ["-accel", "tcg,thread=multi"],
        ["-machine", "q35"],
        ["-cpu", "max"],
        ["-smp", &processors],
        ["-m", &memory],
        ["-display", "none"],
        ["-monitor", "none"],
        ["-nic", "none"],
        ["-kernel", &kernel],
        ["-initrd", &image],
        ["-append", &append],
        ["-serial", &console],
        ["-serial", &results],
    ]
    .iter()
    .flatten()
    .chain(&["-nodefaults", "-no-reboot"])
    .map(|argument| (*argument).to_owned())
    .collect()
}

/// The lines of a file that grows.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    offset: u64,
    begun: Vec<u8>,
}

impl Lines {
    fn new(path: PathBuf) -> Self {
        Lines { path, offset: 0, begun: Vec::new() }
    }

    /// The lines that were completed since the last call.
    fn read(&mut self) -> Result<Vec<String>, MachineError> {
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(self.offset))?;
                file.read_to_end(&mut bytes)
            })
            .map_err(io_at("read", &self.path))?;
        self.offset += bytes.len() as u64;
        self.begun.append(&mut bytes);
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.begun.split_off(end + 1);
        let whole = std::mem::replace(&mut self.begun, rest);
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_whole_lines_are_read_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = File::create(&path).unwrap();
        let mut lines = Lines::new(path);
        assert_eq!(lines.read().unwrap(), Vec::<String>::new());
        for (written, read) in
            [("a\nb", vec!["a"]), ("c", vec![]), ("\r\n\nd\n", vec!["bc", "", "d"])]
        {
            file.write_all(written.as_bytes()).unwrap();
            assert_eq!(lines.read().unwrap(), read, "after {written:?}");
        }
    }

    #[test]
    fn hardware_acceleration_is_never_asked_for() {
        let path = Path::new("/x");
        let arguments = arguments(path, path, &["quiet"], Path::new("/a,b"), path);
        let after = |option: &str| {
            let at = arguments.iter().position(|argument| argument == option).unwrap();
            arguments[at + 1].clone()
        };
        assert_eq!(after("-accel"), "tcg,thread=multi");
        assert!(!arguments.iter().any(|argument| argument.contains("kvm")));
        assert_eq!(after("-serial"), "file:/a,,b");
        assert!(after("-append").ends_with(" quiet rdinit=/lab -- machine-init"));
    }
}
