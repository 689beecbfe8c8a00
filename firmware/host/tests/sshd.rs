//! With a real sshd on a loopback port, real authorities and real certificates.
//!
//! Needs root (sshd checks the owner of what it reads) and the OpenSSH programs, and says so when
//! it lacks them. Directories lie under /run, as sshd wants nobody else to be able to write above
//! its files.
#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use holdfast_api::Reason;
use holdfast_api::chain;
use holdfast_api::paths::Root;
use holdfast_host::Outcome;
use holdfast_host::ssh_ca::{
    OpenSsh, Places, Reload, SshError, Step, Want, WantError, apply, observe, plan,
};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine with an sshd of its own.
struct Machine {
    dir: tempfile::TempDir,
    root: Root,
    ssh: OpenSsh,
    port: u16,
    daemon: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- sshd said:\n{log}");
        }
    }
}

impl Machine {
    fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: sshd's files have to belong to root");
            return None;
        }
        let system = OpenSsh::find(&Root::default());
        for program in [&system.sshd, &system.keygen, Path::new("/usr/bin/ssh")] {
            if !program.is_file() {
                eprintln!("skipped: {} is not installed", program.display());
                return None;
            }
        }
        let dir = tempfile::Builder::new().prefix("holdfast-sshd-").tempdir_in("/run").unwrap();
        let root = Root::new(dir.path());
        let pid_file = dir.path().join("sshd.pid");
        let ssh = OpenSsh { reload: Reload::PidFile(pid_file), ..system };
        std::fs::create_dir_all(Places::new(&root).drop_ins).unwrap();
        keygen(&["-t", "ed25519", "-f", text(&dir.path().join("host_key"))]);
        // Somebody else may take the port between our look and sshd's bind.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            write_main(&root, port, "");
            if let Some(daemon) = serve(&ssh, dir.path(), port) {
                return Some(Machine { dir, root, ssh, port, daemon });
            }
        }
        panic!("no free port in ten tries");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn authority(&self, name: &str) -> String {
        keygen(&["-t", "ed25519", "-C", name, "-f", text(&self.path(name))]);
        std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap()
    }

    /// A user's key with a certificate of `authority` for `principal`.
    fn certificate(&self, name: &str, authority: &str, principal: &str) {
        keygen(&["-t", "ed25519", "-f", text(&self.path(name))]);
        let public = self.path(&format!("{name}.pub"));
        let ca = self.path(authority);
        keygen(&[
            "-s",
            text(&ca),
            "-I",
            name,
            "-n",
            principal,
            "-z",
            "7",
            "-V",
            "-5m:+1h",
            text(&public),
        ]);
    }

    fn go(&mut self, want: &Want) -> Result<Vec<Outcome>, SshError> {
        let steps = plan(want, &observe(&self.root, &self.ssh)?);
        steps.iter().map(|step| apply(&self.root, step, &mut self.ssh)).collect()
    }

    fn steps(&self, want: &Want) -> Vec<Step> {
        plan(want, &observe(&self.root, &self.ssh).unwrap())
    }

    /// Whether root logs in with this key and its certificate; `None` when sshd was not reached.
    fn try_login(&self, name: &str) -> Option<bool> {
        let certificate =
            format!("CertificateFile={}", text(&self.path(&format!("{name}-cert.pub"))));
        let known = format!("UserKnownHostsFile={}", text(&self.path("known_hosts")));
        let mut command = Command::new("/usr/bin/ssh");
        command.args(["-F", "none", "-i", text(&self.path(name)), "-p", &self.port.to_string()]);
        for option in [
            &certificate,
            &known,
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=no",
            "BatchMode=yes",
            "ConnectTimeout=10",
            "PreferredAuthentications=publickey",
        ] {
            command.args(["-o", option]);
        }
        let output = command
            .args(["root@127.0.0.1", "echo it is me"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {
                assert_eq!(output.stdout, b"it is me\n");
                Some(true)
            }
            Some(255) if said.contains("Permission denied") => Some(false),
            // It closes its port for a moment while it reads its configuration anew.
            _ => None,
        }
    }

    /// Waits until logging in with `name` is as expected: a reload takes a moment.
    fn expect_login(&self, name: &str, expected: bool) {
        let end = Instant::now() + PATIENCE;
        while self.try_login(name) != Some(expected) {
            assert!(Instant::now() < end, "logging in with {name} should answer {expected}");
            std::thread::yield_now();
        }
    }
}

fn write_main(root: &Root, port: u16, more: &str) {
    let dir = text(root.dir());
    let main = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host_key\nPidFile {dir}/sshd.pid\n\
         UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
         AuthorizedKeysFile none\n{more}Include {dir}/etc/ssh/sshd_config.d/*.conf\n"
    );
    holdfast_durable::write(&Places::new(root).main, main.as_bytes(), 0o644).unwrap();
}

/// Starts sshd and waits until it answers; `None` when it does not want the port.
fn serve(ssh: &OpenSsh, dir: &Path, port: u16) -> Option<Child> {
    std::fs::create_dir_all("/run/sshd").unwrap();
    let log = File::create(dir.join("log")).unwrap();
    let config = dir.join("etc/ssh/sshd_config");
    let mut command = Command::new(&ssh.sshd);
    command
        .args(["-D", "-e", "-f"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut daemon = command.spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        if daemon.try_wait().unwrap().is_some() {
            return None;
        }
        let mut banner = [0; 4];
        let answers = TcpStream::connect(("127.0.0.1", port))
            .and_then(|mut stream| stream.read_exact(&mut banner));
        if answers.is_ok() && &banner == b"SSH-" && dir.join("sshd.pid").exists() {
            return Some(daemon);
        }
        assert!(Instant::now() < end, "sshd does not answer");
        std::thread::yield_now();
    }
}

fn keygen(args: &[&str]) {
    let mut command = Command::new("ssh-keygen");
    if args.contains(&"-t") {
        command.args(["-N", ""]);
    }
    let output = command.arg("-q").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn trusting(authorities: &[&str], revoked: Option<&[u8]>) -> Want {
    Want::parse(authorities.iter().copied(), [("root", vec!["operators", "break-glass"])], revoked)
        .unwrap()
}

#[test]
fn authorities_rotate_with_an_overlap() {
    let Some(mut machine) = Machine::start() else { return };
    let (old, new) = (machine.authority("old"), machine.authority("new"));
    machine.certificate("by-old", "old", "operators");
    machine.certificate("by-new", "new", "operators");
    machine.certificate("guest", "new", "guests");
    machine.expect_login("by-old", false);

    machine.go(&trusting(&[&old], None)).unwrap();
    machine.expect_login("by-old", true);
    machine.expect_login("by-new", false);

    let both = trusting(&[&old, &new], None);
    machine.go(&both).unwrap();
    machine.expect_login("by-new", true);
    machine.expect_login("by-old", true);
    machine.expect_login("guest", false);
    assert_eq!(machine.steps(&both), [], "doing it twice is nothing");

    machine.go(&trusting(&[&new], None)).unwrap();
    machine.expect_login("by-old", false);
    machine.expect_login("by-new", true);

    machine.go(&Want::default()).unwrap();
    machine.expect_login("by-new", false);
}

#[test]
fn a_bad_set_is_refused_and_the_last_good_one_goes_on() {
    let Some(mut machine) = Machine::start() else { return };
    let (good, next) = (machine.authority("good"), machine.authority("next"));
    machine.certificate("me", "good", "operators");
    machine.go(&trusting(&[&good], None)).unwrap();
    machine.expect_login("me", true);

    // A key that is none never becomes a wish.
    let cut = &next[..next.len() - 20];
    let error = Want::parse([good.as_str(), cut], [], None).unwrap_err();
    assert!(matches!(error, WantError::Authority { number: 2, .. }));
    assert_eq!(error.reason(), Reason::SshBadKey);

    // A machine whose own configuration is broken: sshd would not come up again.
    let drop_ins = Places::new(&machine.root).drop_ins;
    let other = drop_ins.join("50-admin.conf");
    holdfast_durable::write(&other, b"NoSuchKeyword yes\n", 0o644).unwrap();
    let error = machine.go(&trusting(&[&next], None)).unwrap_err();
    assert_eq!(error.reason(), Reason::SshConfigRejected);
    assert!(chain(&error).contains("NoSuchKeyword"), "{}", chain(&error));
    machine.expect_login("me", true);

    // Somebody else sets it first, and sshd takes the first word.
    holdfast_durable::write(&other, b"TrustedUserCAKeys /nowhere\n", 0o644).unwrap();
    let error = machine.go(&trusting(&[&next], None)).unwrap_err();
    assert!(
        matches!(&error, SshError::NotInForce { got: Some(got), .. } if got == "/nowhere"),
        "{error}"
    );
    machine.expect_login("me", true);

    holdfast_durable::remove(&other).unwrap();
    machine.go(&trusting(&[&next], None)).unwrap();
    machine.expect_login("me", false);
}

#[test]
fn revoked_certificates_are_refused_and_an_unreadable_list_is_not_installed() {
    let Some(mut machine) = Machine::start() else { return };
    let (authority, spare) = (machine.authority("authority"), machine.authority("spare"));
    machine.certificate("lost", "authority", "operators");
    machine.certificate("kept", "spare", "break-glass");
    let both = [authority.as_str(), spare.as_str()];
    machine.go(&trusting(&both, None)).unwrap();
    machine.expect_login("lost", true);

    let list = machine.path("krl");
    keygen(&["-k", "-f", text(&list), text(&machine.path("lost-cert.pub"))]);
    let list = std::fs::read(list).unwrap();
    machine.go(&trusting(&both, Some(&list))).unwrap();
    machine.expect_login("lost", false);
    machine.expect_login("kept", true);

    // With such a list sshd would let nobody in.
    let error = machine.go(&trusting(&both, Some(&list[..list.len() - 9]))).unwrap_err();
    assert_eq!(error.reason(), Reason::SshConfigRejected);
    let error =
        Want::parse(both, [], Some(b"# lost in the field\nssh-ed25519 AAAA\n")).unwrap_err();
    assert!(matches!(error, WantError::Revoked { line: 2, .. }));
    machine.expect_login("kept", true);

    // A whole authority, as a plain list of keys.
    let plain = format!("# compromised\n{spare}");
    machine.go(&trusting(&both, Some(plain.as_bytes()))).unwrap();
    machine.expect_login("lost", true);
    machine.expect_login("kept", false);
}

#[test]
fn a_stale_pid_file_hits_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut bystander =
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    File::create(&file).unwrap().write_all(format!("{}\n", bystander.id()).as_bytes()).unwrap();
    let mut ssh = OpenSsh { reload: Reload::PidFile(file), ..OpenSsh::find(&Root::default()) };
    let outcome = holdfast_host::ssh_ca::Sshd::reload(&mut ssh).unwrap();
    assert_eq!(outcome, Outcome::Unchanged);
    assert!(bystander.try_wait().unwrap().is_none());
    drop(bystander.stdin.take());
    bystander.wait().unwrap();
}
