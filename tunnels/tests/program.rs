//! What `holdfast-wireguard` does with its arguments and its caller, and how it goes into the
//! background. What its device does is in `wireguard.rs` and `faults.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod world;

use netd::tuntap::{Options, Tun};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, getsid};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use world::{Namespace, need_rights, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-wireguard");
const LINK: &str = "wg0";

/// A namespace and a directory in which a device may be started. It ends when this is dropped.
struct Place {
    namespace: Namespace,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { namespace: Namespace::new(), dir: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(format!("sockets/{LINK}.sock"))
    }

    /// The program, with its sockets below the directory that it is started in.
    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.dir.path()).args(["--sockets", "sockets"]);
        command
    }

    fn run(&self, command: &mut Command) -> Output {
        self.namespace.net.enter(|| command.output()).unwrap().unwrap()
    }

    /// Of the process that listens.
    fn pid(&self) -> Pid {
        let socket = UnixStream::connect(self.socket()).unwrap();
        Pid::from_raw(getsockopt(&socket, PeerCredentials).unwrap().pid())
    }

    fn has_link(&self) -> bool {
        self.namespace.run("ip", &["link", "show", LINK]).status.success()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.namespace.run("ip", &["link", "delete", LINK]);
    }
}

/// In the foreground.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_name_behind_two_dashes_goes_into_the_background_too() {
    need_rights!();
    let place = Place::new();
    let started = place.run(place.command().args(["--", LINK]));
    assert!(started.status.success(), "{}", said(&started));
    assert!(place.has_link());
    std::fs::remove_file(place.socket()).unwrap();
    wait_for("its end", || (!place.has_link()).then_some(()));
}

/// Otherwise its directory could not be unmounted, a signal to the session would end it, and whoever
/// reads what a descriptor gives would wait for as long as it runs.
#[test]
fn in_the_background_it_has_nothing_of_its_caller() {
    need_rights!();
    let place = Place::new();
    let ours = place.dir.path().join("ours");
    let mut shell = Command::new("sh");
    shell.current_dir(place.dir.path());
    shell.args(["-c", "exec \"$@\" 3>ours 7<ours", "sh", PROGRAM, "--sockets", "sockets", LINK]);
    let started = place.run(&mut shell);
    assert!(started.status.success(), "{}", said(&started));
    let pid = place.pid();
    assert_eq!(getsid(Some(pid)), Ok(pid));
    let process = PathBuf::from(format!("/proc/{pid}"));
    assert_eq!(std::fs::read_link(process.join("cwd")).unwrap(), Path::new("/"));
    let open: Vec<PathBuf> = std::fs::read_dir(process.join("fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(open.contains(&"/dev/net/tun".into()) && !open.contains(&ours), "{open:?}");
}

/// Set up by hand, nobody sets its MTU; of more every full packet would go in fragments.
#[test]
fn a_full_packet_fits_into_a_datagram_at_first() {
    need_rights!();
    let place = Place::new();
    let started = place.run(place.command().arg(LINK));
    assert!(started.status.success(), "{}", said(&started));
    let shown = place.namespace.ip(&["link", "show", LINK]);
    assert!(shown.contains(" mtu 1420 "), "{shown}");
}

/// As after a SIGKILL while the machine is busy: the kernel has not taken the device away yet.
#[test]
fn a_device_that_another_process_is_about_to_lose_is_waited_for() {
    need_rights!();
    let place = Place::new();
    let open = || Tun::open(&LINK.parse().unwrap(), Options::default()).unwrap();
    let held = place.namespace.net.enter(open).unwrap();
    let mut command = place.command();
    command.args(["--foreground", "--log", "debug", LINK]).stderr(Stdio::piped());
    let mut program = Running(place.namespace.net.enter(|| command.spawn()).unwrap().unwrap());
    let mut log = BufReader::new(program.0.stderr.take().unwrap()).lines();
    let mut tries = 0;
    // Otherwise it has ended, and so has its log.
    while tries < 5 {
        tries += u32::from(log.next().expect("it tries again").unwrap().contains("trying again"));
    }
    drop(held);
    wait_for("the device", || UnixStream::connect(place.socket()).ok());
    std::fs::remove_file(place.socket()).unwrap();
    assert!(program.0.wait().unwrap().success());
}

#[test]
fn what_is_wrongly_typed_is_told_from_what_fails() {
    for typed in [&["--log", "nonsense=foo=bar", LINK][..], &["--helpers", "many", LINK], &[]] {
        let output = Command::new(PROGRAM).args(typed).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{typed:?}: {}", said(&output));
    }
    let version = Command::new(PROGRAM).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert_eq!(version, concat!("holdfast-wireguard ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// One line, also where a backtrace is asked for, and the same from the background.
#[test]
fn a_name_that_cannot_be_had_is_told_in_one_line() {
    need_rights!();
    let place = Place::new();
    place.namespace.ip(&["tuntap", "add", "tap0", "mode", "tap"]);
    for name in ["all", "default", "lo", "tap0"] {
        for way in ["--foreground", "--log=info"] {
            let mut command = place.command();
            let output = place.run(command.args([way, name]).env("RUST_BACKTRACE", "1"));
            assert_eq!(output.status.code(), Some(1), "{way} {name}");
            let said = said(&output);
            let expected = format!("error: cannot make the device {name}; a link of another kind");
            assert!(said.starts_with(&expected) && said.lines().count() == 1, "{said}");
        }
    }
}

#[test]
fn a_process_with_too_few_descriptors_says_so() {
    need_rights!();
    let place = Place::new();
    let with = |descriptors: u32| {
        let mut shell = Command::new("sh");
        shell.current_dir(place.dir.path()).args([
            "-c",
            "ulimit -n \"$1\"; shift; exec \"$@\"",
            "sh",
        ]);
        shell.arg(descriptors.to_string()).args([PROGRAM, "--sockets", "sockets", LINK]);
        place.run(&mut shell)
    };
    let mut refused = 0;
    for descriptors in 8..64 {
        let output = with(descriptors);
        if output.status.success() {
            assert!(place.has_link(), "{descriptors} are enough");
            break;
        }
        refused += 1;
        let said = said(&output);
        let cause = ["EMFILE", "os error 24", "ulimit -n"].iter().any(|word| said.contains(word));
        assert!(cause && output.status.code() == Some(1), "{descriptors}: {said}");
        assert!(!said.contains("CAP_NET_ADMIN") && !said.contains("modprobe"), "{said}");
    }
    assert!(refused > 0, "eight are not enough");
}
