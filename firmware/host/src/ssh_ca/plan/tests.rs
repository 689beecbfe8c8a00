use super::super::key::PublicKey;
use super::super::{Places, SshError, Sshd, apply, observe};
use super::*;
use crate::Outcome;
use crate::ssh_ca::DaemonError;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

/// An sshd that reads what it is given, and refuses from the n-th check on.
#[derive(Default)]
struct Fake {
    missing: bool,
    checks: Cell<u32>,
    refuse_from: Option<u32>,
    reloads: u32,
    reload_fails: bool,
}

impl Sshd for Fake {
    fn installed(&self) -> bool {
        !self.missing
    }

    fn check(&self, config: &Path) -> Result<BTreeMap<String, String>, DaemonError> {
        self.checks.set(self.checks.get() + 1);
        if self.refuse_from.is_some_and(|from| self.checks.get() >= from) {
            return Err(DaemonError::Rejected { said: "no".into() });
        }
        let mut settings = BTreeMap::new();
        let mut files = vec![config.to_path_buf()];
        while let Some(file) = files.pop() {
            for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
                let (key, value) = line.split_once(' ').unwrap_or((line, ""));
                match key.to_ascii_lowercase().as_str() {
                    "include" if value.contains('*') => {
                        let dir = Path::new(value).parent().unwrap();
                        files.extend(
                            std::fs::read_dir(dir)
                                .into_iter()
                                .flatten()
                                .map(|entry| entry.unwrap().path()),
                        );
                    }
                    "include" => {
                        files.extend(value.split(' ').map(|word| word.trim_matches('"').into()))
                    }
                    key => {
                        drop(settings.insert(key.to_string(), value.trim_matches('"').to_string()))
                    }
                }
            }
        }
        Ok(settings)
    }

    fn check_krl(&self, _: &Path, _: &Path) -> Result<(), DaemonError> {
        Ok(())
    }

    fn reload(&mut self) -> Result<Outcome, DaemonError> {
        if self.reload_fails {
            return Err(DaemonError::Reload { said: "no".into() });
        }
        self.reloads += 1;
        Ok(Outcome::Changed)
    }
}

const KEYS: [&str; 3] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0FtVp0cMpPjkl0ABfdSRr4IS3ru4dKg3bxsx+Ez8Xx one",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0FtVp0cMpPjkl0ABfdSRr4IS3ru4dKg3bxsx+Ez8Xy two",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0FtVp0cMpPjkl0ABfdSRr4IS3ru4dKg3bxsx+Ez8Xz three",
];

fn want(keys: &[usize]) -> Want {
    Want::parse(keys.iter().map(|at| KEYS[*at]), [("root", vec!["operators"])], None).unwrap()
}

struct Box_ {
    _dir: tempfile::TempDir,
    root: Root,
    sshd: Fake,
}

impl Box_ {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let places = Places::new(&root);
        let main = format!("Port 22\nInclude {}/*.conf\n", places.drop_ins.display());
        holdfast_durable::write(&places.main, main.as_bytes(), 0o644).unwrap();
        Box_ { _dir: dir, root, sshd: Fake::default() }
    }

    fn plan(&self, want: &Want) -> Vec<Step> {
        plan(want, &observe(&self.root, &self.sshd).unwrap())
    }

    fn go(&mut self, want: &Want) -> Result<Vec<Outcome>, SshError> {
        self.plan(want).iter().map(|step| apply(&self.root, step, &mut self.sshd)).collect()
    }

    fn in_force(&self) -> Option<SetId> {
        in_force(&observe(&self.root, &self.sshd).unwrap())
    }

    fn drop_in(&self) -> Option<String> {
        std::fs::read_to_string(Places::new(&self.root).drop_in).ok()
    }
}

#[test]
fn a_set_is_staged_checked_installed_and_then_nothing_is_to_be_done() {
    let mut machine = Box_::new();
    let steps: Vec<String> = machine.plan(&want(&[0])).iter().map(Step::to_string).collect();
    let id = machine
        .plan(&want(&[0]))
        .iter()
        .find_map(|s| if let Step::Check(set) = s { Some(set.id().clone()) } else { None })
        .unwrap();
    let print = PublicKey::parse(KEYS[0]).unwrap().fingerprint();
    let expected = [
        format!("stage SSH set {id}: authorities {print}, principals of 1 users"),
        format!("check SSH set {id} with sshd -t"),
        format!("put SSH set {id} in force"),
        "reload sshd".to_string(),
    ];
    assert_eq!(steps, expected);
    let outcomes = machine.go(&want(&[0])).unwrap();
    assert_eq!(
        outcomes,
        [Outcome::Created, Outcome::Unchanged, Outcome::Created, Outcome::Changed]
    );
    assert_eq!(machine.plan(&want(&[0])), []);
    assert_eq!(machine.in_force(), Some(id));
}

#[test]
fn the_order_and_comments_of_keys_do_not_matter_twice() {
    assert_eq!(want(&[0, 1]), want(&[1, 0, 1]));
}

#[test]
fn the_set_before_is_kept_and_older_ones_are_swept() {
    let mut machine = Box_::new();
    let mut ids = vec![];
    for keys in [&[0][..], &[0, 1], &[1]] {
        machine.go(&want(keys)).unwrap();
        ids.push(machine.in_force().unwrap());
    }
    let have = observe(&machine.root, &machine.sshd).unwrap();
    assert_eq!(have.last_good.as_ref(), Some(&ids[1]));
    assert_eq!(
        have.sets.keys().collect::<std::collections::BTreeSet<_>>(),
        ids[1..].iter().collect()
    );
    assert_eq!(machine.plan(&want(&[1])), []);
    assert_eq!(machine.sshd.reloads, 3);
}

#[test]
fn a_set_that_fails_its_check_is_not_installed() {
    let mut machine = Box_::new();
    machine.go(&want(&[0])).unwrap();
    let before = machine.drop_in();
    machine.sshd.refuse_from = Some(machine.sshd.checks.get() + 1);
    let error = machine.go(&want(&[1])).unwrap_err();
    assert!(matches!(error, SshError::Rejected(_)));
    assert_eq!(error.reason(), Reason::SshConfigRejected);
    assert_eq!(machine.drop_in(), before);
    assert_eq!(machine.sshd.reloads, 1);
}

/// sshd accepts the staged set and not the installed one, as when somebody breaks the main
/// configuration in between.
#[test]
fn a_set_that_fails_after_the_installation_is_taken_back() {
    let mut machine = Box_::new();
    machine.sshd.refuse_from = Some(2);
    assert!(matches!(machine.go(&want(&[0])), Err(SshError::Rejected(_))));
    assert_eq!(machine.drop_in(), None, "there was none before");
    machine.sshd.refuse_from = None;
    machine.go(&want(&[0])).unwrap();
    let before = machine.drop_in();
    machine.sshd.refuse_from = Some(machine.sshd.checks.get() + 2);
    assert!(matches!(machine.go(&want(&[1])), Err(SshError::Rejected(_))));
    assert_eq!(machine.drop_in(), before);
    // Mended, it goes through.
    machine.sshd.refuse_from = None;
    machine.go(&want(&[1])).unwrap();
    assert_ne!(machine.drop_in(), before);
}

#[test]
fn a_drop_in_that_nothing_includes_is_refused() {
    let mut machine = Box_::new();
    holdfast_durable::write(&Places::new(&machine.root).main, b"Port 22\n", 0o644).unwrap();
    let error = machine.go(&want(&[0])).unwrap_err();
    assert!(
        matches!(&error, SshError::NotInForce { keyword, got: None, .. } if keyword == "authorizedprincipalsfile")
    );
    assert_eq!(machine.drop_in(), None);
}

#[test]
fn a_reload_that_failed_or_was_cut_off_is_made_up_for() {
    let mut machine = Box_::new();
    machine.sshd.reload_fails = true;
    let error = machine.go(&want(&[0])).unwrap_err();
    assert!(matches!(error, SshError::Reload(_)));
    assert_eq!((error.reason(), error.retryable()), (Reason::SshReloadFailed, true));
    machine.sshd.reload_fails = false;
    let set = machine.in_force();
    assert_eq!(machine.plan(&want(&[0])), [Step::Reload(set)]);
    machine.go(&want(&[0])).unwrap();
    assert_eq!(machine.plan(&want(&[0])), []);
}

/// Whichever step was the last one before a kill, the next pass ends the work.
#[test]
fn a_killed_pass_carries_on() {
    let all = Box_::new().plan(&want(&[0])).len();
    for killed_after in 0..=all {
        let mut machine = Box_::new();
        machine.go(&want(&[1])).unwrap();
        for step in machine.plan(&want(&[0])).iter().take(killed_after) {
            apply(&machine.root, step, &mut machine.sshd).unwrap();
        }
        machine.go(&want(&[0])).unwrap();
        assert_eq!(machine.plan(&want(&[0])), [], "killed after {killed_after}");
        assert!(machine.drop_in().unwrap().contains(&machine.in_force().unwrap().to_string()));
    }
}

#[test]
fn a_set_that_somebody_changed_is_written_anew() {
    let mut machine = Box_::new();
    machine.go(&want(&[0])).unwrap();
    let dir = Places::new(&machine.root).sets.join(machine.in_force().unwrap().to_string());
    holdfast_durable::write(&dir.join("user_ca_keys"), KEYS[2].as_bytes(), 0o644).unwrap();
    holdfast_durable::write(&dir.join("principals/intruder"), b"x\n", 0o644).unwrap();
    let steps: Vec<String> = machine.plan(&want(&[0])).iter().map(Step::to_string).collect();
    assert_eq!(steps.len(), 2, "staged and checked, nothing else changes: {steps:?}");
    machine.go(&want(&[0])).unwrap();
    assert!(!dir.join("principals/intruder").exists());
    assert_eq!(machine.plan(&want(&[0])), []);
}

#[test]
fn no_authorities_means_nothing_of_ours() {
    let mut machine = Box_::new();
    assert_eq!(machine.plan(&want(&[])), [], "a machine that never had one is not touched");
    machine.go(&want(&[0])).unwrap();
    machine.go(&want(&[])).unwrap();
    assert_eq!(machine.drop_in(), None);
    assert_eq!(machine.sshd.reloads, 2);
    assert_eq!(machine.plan(&want(&[])), []);
    assert!(observe(&machine.root, &machine.sshd).unwrap().sets.is_empty());
}

#[test]
fn without_an_sshd_nothing_is_done_and_that_is_told() {
    let mut machine = Box_::new();
    machine.sshd.missing = true;
    assert_eq!(machine.plan(&want(&[0])), []);
    assert_eq!(observe(&machine.root, &machine.sshd).unwrap().reason(), Some(Reason::SshAbsent));
}
