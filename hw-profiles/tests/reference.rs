//! The reference page tells the truth.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use hw_profiles::facts::{Cpus, NumaNode};
use hw_profiles::{Catalogue, Facts, PageSize, validate};

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/profiles.md"))
        .unwrap()
}

/// The first block of TOML behind this text.
fn block(after: &str) -> String {
    let page = page();
    let section = page.split_once(after).unwrap_or_else(|| panic!("no {after:?} in the page")).1;
    let body = section.split_once("```toml\n").unwrap().1;
    body.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_worked_example_gives_what_the_page_says() {
    let text = block("## A worked example");
    assert_eq!(Catalogue::shipped().validate(&text, "acme-edge-4.toml"), []);
    let dir = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(dir.path().join("acme-edge-4.toml")).unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let catalogue = Catalogue::load(&[dir.path().into()]);
    let profile = catalogue.get("acme-edge-4").unwrap();
    let facts = Facts {
        cpus: Cpus { count: 8, sockets: 1, ..Cpus::default() },
        numa_nodes: vec![NumaNode { memory_bytes: 16 << 30, ..NumaNode::default() }],
        memory_bytes: 16 << 30,
        ..Facts::default()
    };
    let pages = |size: PageSize| profile.hugepages.pools[&size].on(0).pages(size, 16 << 30);
    assert_eq!((pages(PageSize::M2), pages(PageSize::G1)), (64, 8));
    let arguments = profile.kernel_arguments(&facts).join(" ");
    assert!(page().contains(&arguments), "{arguments}");
}

#[test]
fn the_example_of_a_mistake_is_the_real_message() {
    let text = block("## A worked example").replace("memory_floor", "memory_flor");
    let problems = validate(&text, "/etc/holdfast/profiles/acme-edge-4.toml");
    assert!(page().contains(&problems[0].to_string()), "{}", problems[0]);
}

#[test]
fn the_example_of_a_rule_is_valid() {
    assert_eq!(validate(&block("### `[[match]]`"), "x.toml"), []);
}
