//! The real `tunneld` with its packets in huge pages, where the system's pool has some.

#![allow(clippy::unwrap_used, reason = "helpers of the test; a panic is a failed test")]

mod world;

use holdfast_api::Reason;
use holdfast_api::tunnel::{Pages, TunnelKind};
use std::path::{Path, PathBuf};
use world::{World, need_rights, wait_for};

/// What both tunnels take of 2 MiB.
const PAGES: u64 = 4;

/// A pool of the system (Documentation/admin-guide/mm/hugetlbpage.rst). Other tests may have it too:
/// one that has pages is taken as it is.
struct Pool {
    folder: PathBuf,
    /// What we made of an empty one, which is empty again when this is dropped.
    made: Option<u64>,
}

impl Pool {
    /// None where the kernel has no such pages.
    fn of(kib: u64) -> Option<Self> {
        let folder = PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB"));
        folder.is_dir().then_some(Pool { folder, made: None })
    }

    fn read(&self, name: &str) -> u64 {
        number(&self.folder.join(name)).unwrap()
    }

    /// Pages that are nobody's, and promised to nobody.
    fn free(&self) -> u64 {
        self.read("free_hugepages").saturating_sub(self.read("resv_hugepages"))
    }

    /// Has so many in an empty one, if the kernel finds memory for them.
    fn fill(&mut self, pages: u64) {
        if self.read("nr_hugepages") == 0 {
            self.set(pages);
            self.made = Some(self.read("nr_hugepages"));
        }
    }

    fn set(&self, pages: u64) {
        // A file of the kernel: written in place.
        let file = std::fs::File::options().write(true).open(self.folder.join("nr_hugepages"));
        let _ = file.and_then(|mut file| {
            std::io::Write::write_all(&mut file, pages.to_string().as_bytes())
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What somebody else has made of it meanwhile is not ours to take.
        if self.made.is_some_and(|made| self.read("nr_hugepages") == made) {
            self.set(0);
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// KiB of huge pages that the daemon has touched.
fn huge_kib(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Two tunnels whose packets are in such pages, if there are some.
fn with(pages: Pages) -> World {
    let mut world = World::three();
    let mut config = world.config();
    config.kinds = vec![TunnelKind::WireguardUserspace];
    config.packet_pages = pages;
    world.write(&config);
    world.start();
    world.wait("two tunnels up", |state| state.up() == 2);
    world
}

#[test]
fn packets_are_in_huge_pages_when_it_is_asked_for_and_the_pool_has_some() {
    need_rights!();
    let Some(mut pool) = Pool::of(2048) else {
        return eprintln!("skipped: this kernel has no pages of 2 MiB");
    };
    pool.fill(PAGES);
    let free = pool.free();
    if free < PAGES {
        return eprintln!("skipped: the kernel finds memory for {free} of {PAGES} pages of 2 MiB");
    }
    let usual = with(Pages::Usual);
    assert_eq!(huge_kib(&usual), 0, "nobody asked for them: they are set aside for others");
    drop(usual);

    let mut world = with(Pages::Huge2M);
    if world.state().unwrap().reason == Some(Reason::TunnelUsualPages) && pool.free() < PAGES {
        return eprintln!("skipped: somebody else took the pages meanwhile");
    }
    wait_for("an answer", || world.ping().then_some(()));
    assert!(huge_kib(&world) >= 2 * 2048, "{} KiB for two tunnels", huge_kib(&world));
    let mut config = world.config();
    config.intent.candidates.clear();
    world.write(&config);
    assert_eq!(world.reload().0, 204);
    wait_for("the pages to be given back", || (huge_kib(&world) == 0).then_some(()));
}

#[test]
fn without_such_pages_the_usual_ones_do_and_it_is_told() {
    need_rights!();
    if let Some(pool) = Pool::of(1 << 20).filter(|pool| pool.free() > 0) {
        return eprintln!("skipped: {} pages of 1 GiB are free here", pool.free());
    }
    let world = with(Pages::Huge1G);
    assert!(world.ping());
    assert_eq!(huge_kib(&world), 0);
    let state = world.wait("it is told", |state| state.reason == Some(Reason::TunnelUsualPages));
    let told = "packets of hf-wg0 and hf-wg1 are in the usual pages, not of 1G";
    assert!(state.message.contains(told), "{}", state.message);
    let log = std::fs::read_to_string(world.root.path().join("log")).unwrap();
    assert!(log.contains("no such pages are free"), "{log}");
}
