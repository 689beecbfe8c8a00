//! Directories of profiles: who wins, and what a broken file costs.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use holdfast_api::Reason;
use hw_profiles::facts::Dmi;
use hw_profiles::load::Origin;
use hw_profiles::{Bytes, Catalogue, Facts, Problem, select};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use tempfile::TempDir;

struct Dirs {
    vendor: TempDir,
    admin: TempDir,
}

impl Dirs {
    fn new() -> Self {
        Dirs { vendor: tempfile::tempdir().unwrap(), admin: tempfile::tempdir().unwrap() }
    }

    fn vendor(self, name: &str, text: &str) -> Self {
        File::create(self.vendor.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
        self
    }

    fn admin(self, name: &str, text: &str) -> Self {
        File::create(self.admin.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
        self
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.vendor.path().into(), self.admin.path().into(), "/nonexistent".into()]
    }

    fn load(&self) -> Catalogue {
        Catalogue::load(&self.paths())
    }
}

fn only(catalogue: &Catalogue) -> &Problem {
    let [problem] = catalogue.problems() else { panic!("{:#?}", catalogue.problems()) };
    problem
}

fn floor(catalogue: &Catalogue, name: &str) -> Bytes {
    catalogue.get(name).unwrap().hugepages.memory_floor
}

#[test]
fn the_administrator_overrides_the_vendor_overrides_what_is_shipped() {
    let text = |gib: u64| format!("inherit = 'virtual'\nhugepages.memory_floor = '{gib} GiB'");
    let dirs = Dirs::new()
        .vendor("kvm.toml", &text(5))
        .vendor("vmware.toml", &text(6))
        .admin("kvm.toml", &text(7));
    let catalogue = dirs.load();
    assert_eq!(catalogue.problems(), []);
    assert_eq!(floor(&catalogue, "kvm"), Bytes(7 << 30));
    assert_eq!(floor(&catalogue, "vmware"), Bytes(6 << 30));
    let want =
        Origin::File { path: dirs.admin.path().join("kvm.toml"), layer: 1, last_good: false };
    assert_eq!(catalogue.origin("kvm"), Some(&want));
    assert_eq!(catalogue.origin("aws"), Some(&Origin::Shipped));
}

#[test]
fn an_overridden_base_reaches_its_children() {
    let dirs =
        Dirs::new().admin("virtual.toml", "inherit = 'generic'\nhugepages.memory_floor = '3 GiB'");
    let catalogue = dirs.load();
    assert_eq!(floor(&catalogue, "aws"), Bytes(3 << 30));
    assert_eq!(catalogue.get("aws").unwrap().bases, ["cloud", "virtual", "generic"]);
}

#[test]
fn a_new_profile_is_selected_for_its_machine() {
    let text = "inherit = 'appliance'\n[[match]]\nsys_vendor = 'ACME'\n";
    let catalogue = Dirs::new().admin("acme-one.toml", text).load();
    let dmi = Dmi { sys_vendor: "ACME".into(), ..Dmi::default() };
    let selection = select(&catalogue, &Facts { dmi, ..Facts::default() });
    assert_eq!((selection.profile.name.as_str(), selection.warning), ("acme-one", None));
}

#[test]
fn a_typo_is_reported_with_its_line_and_the_weaker_file_stands() {
    let good = "inherit = 'virtual'\nhugepages.memory_floor = '5 GiB'";
    let typo = "inherit = 'virtual'\n\n[hugepages]\nmemory_flor = '6 GiB'\n";
    let dirs = Dirs::new().vendor("kvm.toml", good).admin("kvm.toml", typo);
    let catalogue = dirs.load();
    let problem = only(&catalogue);
    assert_eq!((problem.line, problem.column, problem.reason), (4, 1, Reason::ProfileInvalid));
    assert!(
        problem.file.ends_with("kvm.toml") && problem.message.contains("memory_flor"),
        "{problem}"
    );
    assert_eq!(floor(&catalogue, "kvm"), Bytes(5 << 30));

    let alone = Dirs::new().admin("kvm.toml", typo).load();
    assert_eq!(alone.get("kvm"), Catalogue::shipped().get("kvm"));
}

#[test]
fn a_file_that_breaks_later_keeps_standing_as_it_was() {
    let good = "inherit = 'virtual'\nhugepages.memory_floor = '5 GiB'";
    let dirs = Dirs::new().admin("kvm.toml", good).admin("acme.toml", good);
    let before = dirs.load();
    let dirs = dirs.admin("kvm.toml", "inherit = ").admin("acme.toml", "nonsense");
    let after = before.reload(&dirs.paths());
    assert_eq!(after.problems().len(), 2, "{:#?}", after.problems());
    for name in ["kvm", "acme"] {
        assert_eq!(floor(&after, name), Bytes(5 << 30), "{name}");
        assert!(matches!(after.origin(name), Some(Origin::File { last_good: true, .. })), "{name}");
    }
    // And again, from what is itself a last good one.
    assert_eq!(floor(&after.reload(&dirs.paths()), "acme"), Bytes(5 << 30));
    // Removing the file is no mistake but a decision.
    std::fs::remove_file(dirs.admin.path().join("acme.toml")).unwrap();
    assert_eq!(after.reload(&dirs.paths()).get("acme"), None);
}

#[test]
fn a_cycle_is_named_and_the_file_that_made_it_is_set_aside() {
    let catalogue = Dirs::new().admin("generic.toml", "\ninherit = 'intel-nuc'").load();
    let problem = only(&catalogue);
    assert_eq!(problem.line, 2);
    assert!(problem.message.contains("inherits from itself"), "{problem}");
    assert!(problem.message.contains("→ generic"), "{problem}");
    assert_eq!(catalogue.get("generic"), Catalogue::shipped().get("generic"));

    let pair = Dirs::new().admin("a.toml", "inherit = 'b'").admin("b.toml", "inherit = 'a'").load();
    assert!(pair.get("a").is_none() && pair.get("b").is_none());
    assert_eq!(pair.problems().len(), 2, "the cycle, then the base that went with it");
    let myself = Dirs::new().admin("a.toml", "inherit = 'a'").load();
    assert!(only(&myself).message.contains("inherits from itself: a → a"), "{}", only(&myself));
}

#[test]
fn a_missing_base_is_named() {
    let catalogue =
        Dirs::new().admin("acme.toml", "description = 'x'\ninherit = 'intel-nux'").load();
    let problem = only(&catalogue);
    assert_eq!((problem.line, problem.column), (2, 1));
    assert!(problem.message.contains("no profile `intel-nux`"), "{problem}");
    assert!(catalogue.get("acme").is_none());
}

#[test]
fn what_only_breaks_on_top_of_its_base_is_found() {
    // `virtual` takes pages of 2M already; together it is more than there is.
    let text = "inherit = 'cloud'\n[hugepages.pools]\n1G = { share = 95 }\n";
    let catalogue = Dirs::new().admin("aws.toml", text).load();
    let problem = only(&catalogue);
    assert!(problem.message.contains("105 %"), "{problem}");
    assert_eq!(problem.line, 2, "{problem}");
    assert_eq!(catalogue.get("aws"), Catalogue::shipped().get("aws"));
}

#[test]
fn two_roles_for_the_same_ports_are_a_conflict_with_its_own_reason() {
    let text = "inherit = 'generic'\n[nics]\ninside = [{ driver = 'igb' }]\noutside = [{ driver = 'igb' }]\n";
    let catalogue = Dirs::new().admin("acme.toml", text).load();
    let problem = only(&catalogue);
    assert_eq!((problem.reason, problem.line), (Reason::ProfileNicConflict, 3), "{problem}");
}

#[test]
fn names_sizes_and_strays_in_a_directory() {
    let dirs = Dirs::new()
        .admin("Has Spaces.toml", "")
        .admin("notes.txt", "not a profile")
        .admin("big.toml", &"#".repeat(300_000));
    std::fs::create_dir(dirs.admin.path().join("folder.toml")).unwrap();
    let catalogue = dirs.load();
    let messages: Vec<&str> =
        catalogue.problems().iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("lower-case letters")), "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("300000 bytes")), "{messages:?}");
    assert_eq!(catalogue.iter().count(), Catalogue::shipped().iter().count());
}

#[test]
fn a_directory_that_cannot_be_read_is_reported() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let catalogue = Catalogue::load(&[file.path().into()]);
    assert!(only(&catalogue).message.contains("cannot be read"));
}

#[test]
fn a_file_can_be_checked_before_it_is_put_there() {
    let catalogue = Catalogue::shipped();
    assert_eq!(catalogue.validate("inherit = 'kvm'", "acme.toml"), []);
    let problems = catalogue.validate("inherit = 'kvn'", "acme.toml");
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].to_string(), "acme.toml:1:1: there is no profile `kvn` to inherit from");
    let problems = catalogue.validate("inherit = 'aws'", "dir/generic.toml");
    assert!(problems[0].message.contains("inherits from itself"), "{problems:?}");
}
