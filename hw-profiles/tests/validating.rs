//! Mistakes in a file, each found where it is.

use holdfast_api::Reason;
use hw_profiles::{Problem, shipped, validate};

fn problems(text: &str) -> Vec<String> {
    validate(text, "x.toml").iter().map(Problem::to_string).collect()
}

/// The one problem, and the place where `▸` marks it in the text.
fn only(marked: &str) -> Problem {
    let at = marked.find('▸').expect("the text marks the place");
    let text = marked.replace('▸', "");
    let found = validate(&text, "x.toml");
    let [problem] = &found[..] else { panic!("{text}\n{found:#?}") };
    let before = &marked[..at];
    let want = (
        before.matches('\n').count() + 1,
        before.chars().rev().take_while(|c| *c != '\n').count() + 1,
    );
    assert_eq!((problem.line, problem.column), want, "{problem}\n{text}");
    problem.clone()
}

#[test]
fn shipped_profiles_are_valid() {
    for (name, text) in shipped() {
        assert_eq!(validate(text, name), []);
    }
}

#[test]
fn each_mistake_is_named_at_its_place() {
    for (text, message) in [
        ("▸descripton = 'x'", "unknown field `descripton`"),
        ("description = ▸", "value"),
        ("[nics]\n▸outsde = []", "unknown variant `outsde`"),
        ("[nics]\noutside = [{ ▸diver = 'x' }]", "unknown field `diver`"),
        ("[[nics.outside]]\nkind = ▸'ethernt'", "unknown variant `ethernt`"),
        ("hugepages.memory_floor = ▸'1 gigabyte'", "is not a size"),
        ("hugepages.memory_floor = ▸1024", "expected a string"),
        ("[hugepages.pools]\n▸3M = { count = 1 }", "is not a page size"),
        ("[hugepages.pools]\n▸2M = { count = 1, share = 1 }", "not both"),
        ("[hugepages.pools]\n▸2M = {}", "give `count`"),
        ("[hugepages.pools]\n▸2M = { share = 0 }", "1 to 100 percent"),
        ("[hugepages.pools]\n2M = { count = 1, nodes = [▸{ node = 1 }] }", "give `count`"),
        (
            "[hugepages.pools]\n2M = { count = 1, nodes = [{ node = 1, count = 1 }, ▸{ node = 1, count = 2 }] }",
            "twice",
        ),
        ("[hugepages.▸pools]\n2M = { share = 60 }\n1G = { share = 60 }", "120 %"),
        ("data_plane.cores = ▸'all'", "no choice of cores"),
        ("data_plane.interrupts = ▸'everywhere'", "unknown variant"),
        ("[kernel]\narguments = ['quiet', ▸'a b']", "not one word"),
        ("[kernel]\narguments = [▸'hugepages=4']", "worked out from the table"),
        ("[kernel.sysctls]\n▸'net..x' = 1", "not the name of a sysctl"),
        ("[kernel.sysctls]\n'net.x' = ▸1.5", "a text or a whole number"),
        ("[watchdog]\n▸timeout_secs = 2", "outside 5 to 600"),
        ("tpm = ▸'maybe'", "unknown variant `maybe`"),
        ("[tunnels]\n▸kinds = []", "at least one kind"),
        ("[tunnels]\n▸kinds = ['tls', 'tls']", "each once"),
        ("[tunnels]\nkinds = [▸'gre']", "unknown variant `gre`"),
        ("[kubernetes.labels]\n▸'a b' = 'c'", "not a label"),
        ("[kubernetes]\ntaints = [▸'a=b']", "is not a taint"),
        ("[kubernetes]\ndisable = [▸'kube-proxy']", "unknown variant"),
        ("[assertions]\n▸cpus = { min = 4, max = 2 }", "`min` is more than `max`"),
        ("[assertions]\n▸memory = {}", "give `min`"),
        ("[assertions]\ntpm = ▸'3.0'", "unknown variant `3.0`"),
        ("[assertions.nics]\n▸outside = { count = 1, min = 1 }", "not both"),
        ("▸[[match]]", "a rule without a field"),
        ("[[match]]\nsys_vendor = 'x'\n▸product_name = ''", "that say nothing"),
        ("[[match]]\n▸product_name = { prefix = '' }", "matches everything"),
        ("[[match]]\n▸product_name = { glob = '**' }", "matches everything"),
        ("[[match]]\n▸product_name = { one_of = [] }", "matches nothing"),
        ("[[match]]\nproduct_name = ▸{ begins = 'x' }", "unknown field `begins`"),
        ("[[match]]\n▸vendor = 'x'", "unknown field `vendor`"),
        ("[[nics.outside]]\n▸pci = '3:00.0'", "not a PCI address"),
        ("nics.outside = [▸{ order = 0, from = 1 }]", "give one of them"),
        ("▸inherit = 'A'", "cannot be the name"),
    ] {
        let problem = only(text);
        assert!(problem.message.contains(message), "{problem}, wanted: {message}");
        assert_eq!(problem.reason, Reason::ProfileInvalid);
    }
}

#[test]
fn the_second_role_with_the_same_selector_is_a_conflict() {
    let problem = only("nics.outside = [{ driver = 'igb' }]\nnics.inside = [▸{ driver = 'igb' }]");
    assert_eq!(problem.reason, Reason::ProfileNicConflict);
}

#[test]
fn all_mistakes_of_meaning_are_reported_in_order_of_place() {
    let text = "watchdog.timeout_secs = 1\nkernel.arguments = ['a b']\n[assertions]\ncpus = {}\n";
    let found = problems(text);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(
        found[0].starts_with("x.toml:1:10:") && found[2].starts_with("x.toml:4:1:"),
        "{found:#?}"
    );
}

#[test]
fn columns_count_characters_and_not_bytes() {
    assert_eq!(only("nics = { outside = [], ▸'é' = 1 }").column, 24);
}
