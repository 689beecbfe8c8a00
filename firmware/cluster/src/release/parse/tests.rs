use super::*;
use crate::release::model::Strategy;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

fn reference() -> ReleaseRef {
    ReleaseRef { name: "edge-7".into(), ..ReleaseRef::default() }
}

fn try_files(files: &[(&str, &str)]) -> Result<Release, ParseError> {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    parse(&reference(), &files.collect(), Duration::ZERO)
}

fn complaint(text: &str) -> String {
    try_files(&[("a.yaml", text)]).unwrap_err().to_string()
}

const GOOD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

#[test]
fn objects_get_namespace_and_label_and_keep_the_rest() {
    let release = try_files(&[(
        "a.yaml",
        "---\n# nothing\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  \
         labels: {theirs: kept}\n  annotations: {theirs.example/a: kept, holdfast.dev/timeout: '7', \
         holdfast.dev/deployment: optimistic, holdfast.dev/data-plane: 'true'}\n",
    )])
    .unwrap();
    let item = &release.items[0];
    assert_eq!(item.object.id.to_string(), "Deployment default/web");
    assert_eq!(item.object.origin.to_string(), "a.yaml, document 2");
    assert_eq!(item.object.value["metadata"]["labels"]["theirs"], "kept");
    assert_eq!(item.object.value["metadata"]["labels"][MANAGED_BY_LABEL], "edge-7");
    assert_eq!(item.object.value["metadata"]["namespace"], "default");
    assert_eq!(item.object.annotation("theirs.example/a"), Some("kept"));
    assert_eq!(item.timeout, Duration::from_secs(7));
    assert_eq!(item.strategy, Strategy::Optimistic);
    assert!(item.data_plane);
}

#[test]
fn every_complaint_names_file_document_and_field() {
    let meta = "apiVersion: v1\nkind: ConfigMap\nmetadata:";
    for (text, says) in [
        ("kind: A\nmetadata: {name: a}", "a.yaml, document 1: apiVersion: is missing"),
        (&*format!("{GOOD}---\napiVersion: v1"), "a.yaml, document 2: kind: is missing"),
        ("apiVersion: v1\nkind: A", "a.yaml, document 1: metadata: is missing"),
        ("apiVersion: v1\nkind: [A]", "a.yaml, document 1: kind: must be a text that is not empty"),
        ("- a", "a.yaml, document 1: (document): must be a mapping"),
        (&*format!("{meta} {{}}"), "a.yaml, document 1: metadata.name: is missing"),
        (
            &*format!("{meta} {{name: 7}}"),
            "a.yaml, document 1: metadata.name: must be a text; put it in quotes",
        ),
        (
            &*format!("{meta} {{generateName: a-}}"),
            "a.yaml, document 1: metadata.generateName: an object of a release needs a fixed name",
        ),
        (
            &*format!("{meta} {{name: a, resourceVersion: '1'}}"),
            "a.yaml, document 1: metadata.resourceVersion: is written by the API server; leave it out",
        ),
        (
            &*format!("{meta} {{name: a, annotations: {{holdfast.dev/timeout: 7}}}}"),
            "a.yaml, document 1: metadata.annotations.holdfast.dev/timeout: must be a text; put it in quotes",
        ),
        (
            &*format!("{meta} {{name: a, annotations: {{holdfast.dev/timeout: 5m}}}}"),
            "a.yaml, document 1: metadata.annotations.holdfast.dev/timeout: must be a number of seconds, 1 to 86400",
        ),
        (
            &*format!("{meta} {{name: a, annotations: {{holdfast.dev/deployment: hopeful}}}}"),
            "a.yaml, document 1: metadata.annotations.holdfast.dev/deployment: must be pessimistic or optimistic",
        ),
        (
            &*format!("{meta} {{name: a, labels: {{holdfast.dev/managed-by: me}}}}"),
            "a.yaml, document 1: metadata.labels.holdfast.dev/managed-by: is Holdfast's own; leave it out",
        ),
        (
            &*format!("{meta} {{name: a, namespace: holdfast-system}}"),
            "a.yaml, document 1: metadata.namespace: holdfast-system is the manager's own",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system}",
            "a.yaml, document 1: metadata.name: the namespace kube-system is not a release's",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}",
            "a.yaml, document 1: metadata.namespace: a Namespace belongs to the whole cluster",
        ),
        (
            "kind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {}",
            "a.yaml, document 1: items[0].metadata.name: is missing",
        ),
    ] {
        assert_eq!(complaint(text), says);
    }
    assert!(complaint(&format!("{meta} {{name: A_b}}")).contains("\"A_b\" must be lower-case"));
}

#[test]
fn broken_yaml_names_line_and_column() {
    let error = try_files(&[("a.yaml", GOOD), ("b.yaml", &format!("{GOOD}---\na: [1"))]);
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "b.yaml, document 2: this is not usable YAML");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("line"), "{source}");
}

#[test]
fn a_byte_order_mark_begins_a_file_and_is_no_part_of_it() {
    let release = try_files(&[("a.yaml", &format!("\u{feff}{GOOD}"))]).unwrap();
    assert_eq!(release.items[0].object.origin.to_string(), "a.yaml, document 1");
}

#[test]
fn the_same_object_twice_is_told_with_both_places() {
    let other = GOOD.replace("{name: a}", "{name: a, namespace: default}");
    let error = try_files(&[("a.yaml", GOOD), ("b.yaml", &other)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "b.yaml, document 1: metadata.name: ConfigMap default/a is also in a.yaml, document 1"
    );
}

#[test]
fn a_field_written_twice_is_refused() {
    let error = try_files(&[("a.yaml", &format!("{GOOD}data: {{}}\ndata: {{}}\n"))]).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("\"data\" is there twice"), "{source}");
}

#[test]
fn lists_are_unpacked_and_scopes_come_from_the_releases_own_definitions() {
    let release = try_files(&[(
        "a.yaml",
        "apiVersion: v1\nkind: List\nitems:\n\
         - {apiVersion: x.example/v1, kind: Wide, metadata: {name: w}}\n\
         - {apiVersion: x.example/v1, kind: Narrow, metadata: {name: n}}\n\
         - {apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: 'a:b'}}\n\
         ---\napiVersion: v1\nkind: List\nitems:\n\
         - {apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: \
         wides.x.example}, spec: {group: x.example, scope: Cluster, names: {kind: Wide}}}\n\
         - {apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: \
         narrows.x.example}, spec: {group: x.example, scope: Namespaced, names: {kind: Narrow}}}\n",
    )])
    .unwrap();
    let ids: Vec<_> = release.items.iter().map(|item| item.object.id.to_string()).collect();
    assert_eq!(
        ids,
        [
            "CustomResourceDefinition wides.x.example",
            "CustomResourceDefinition narrows.x.example",
            "ClusterRole a:b",
            "Wide w",
            "Narrow default/n",
        ]
    );
}

#[test]
fn bounds_hold() {
    let big = "x".repeat(MAX_BYTES);
    assert!(matches!(try_files(&[("a", &big)]), Err(ParseError::TooBig { .. })));
    let many: String = (0..=MAX_OBJECTS)
        .map(|n| format!("---\n{}", GOOD.replace("name: a", &format!("name: a{n}"))))
        .collect();
    match try_files(&[("a", &many)]) {
        Err(ParseError::TooMany { origin }) => assert_eq!(origin.document, MAX_OBJECTS + 1),
        other => panic!("{other:?}"),
    }
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let told = complaint(&format!("# one\n{deep}"));
    assert_eq!(told, "a.yaml, line 2: more than 64 levels of brackets");
    let deep = "- ".repeat(100);
    assert!(matches!(try_files(&[("a", &deep)]), Err(ParseError::Yaml { .. })));
    let names: Vec<String> = (0..=MAX_IMAGES).map(|n| format!("a:{n}")).collect();
    let pulls = |count: usize| {
        let names = names[..count].join(" ");
        GOOD.replace(
            "{name: a}",
            &format!("{{name: a, annotations: {{holdfast.dev/pre-pull: '{names}'}}}}"),
        )
    };
    assert_eq!(try_files(&[("a", &pulls(MAX_IMAGES))]).unwrap().images.len(), MAX_IMAGES);
    assert_eq!(complaint(&pulls(MAX_IMAGES + 1)), "the release has 501 images, 500 are allowed");
}

/// Each of these is less than 1 MiB of text, and GiB when it is written out.
#[test]
fn what_aliases_repeat_is_paid_by_the_byte_and_for_the_whole_release() {
    let row = |word: &str, times| vec![word; times].join(",");
    let long = "x".repeat(200_000);
    let some = format!("{GOOD}data: &a [{}]\nmore: [{}]\n", row("1", 100), row("*a", 100));
    let too_much = [
        // A list of a thousand, a thousand times.
        format!("a: &a [{}]\nb: [{}]\n", row("1", 1000), row("*a", 1000)),
        // A long text, and as a name.
        format!("x: &a \"{long}\"\ny: [{}]\n", row("*a", 180_000)),
        format!("x: &a \"{long}\"\ny: [{}]\n", row("{*a : 1}", 60_000)),
        // Little in each document.
        (0..100)
            .map(|n| format!("---\n{}", some.replace("name: a", &format!("name: a{n}"))))
            .collect(),
    ];
    for text in &too_much {
        let error = try_files(&[("a", text)]).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("more than 16 MiB when aliases are written out"), "{source}");
    }
    assert!(try_files(&[("a", &some)]).is_ok());
}

/// As much as is allowed, the way people and programs write it.
#[test]
fn a_large_release_without_aliases_is_taken() {
    let block = |n| {
        format!(
            "---\n{}data:\n{}",
            GOOD.replace("name: a", &format!("name: a{n}")),
            "  k: 'value'\n"
        )
    };
    let many: String = (0..MAX_OBJECTS).map(block).collect();
    assert_eq!(try_files(&[("a", &many)]).unwrap().items.len(), MAX_OBJECTS);
    let fields: Vec<String> = (0..60_000).map(|n| format!("\"k{n}\":\"v\"")).collect();
    let json = format!("{GOOD}data: {{{}}}\n", fields.join(","));
    assert!(json.len() > MAX_BYTES * 2 / 3, "{}", json.len());
    try_files(&[("a", &json)]).unwrap();
    let text = "    if [[ $x =~ ^\\[ ]]; then echo -e '\\e[0m{'; fi\n".repeat(20_000);
    try_files(&[("a", &format!("{GOOD}data:\n  script: |\n{text}"))]).unwrap();
}

#[test]
fn complaints_are_short_whatever_they_complain_of() {
    for c in ["x", "\"", "\u{80}", "\u{e9}"] {
        let long = c.repeat(50_000);
        let quoted = Value::from(long.clone()).to_string();
        let meta = "apiVersion: v1\nkind: ConfigMap\nmetadata:";
        for text in [
            format!("{meta} {{name: {quoted}}}"),
            format!("{meta} {{name: a, labels: {{{quoted}: 1}}}}"),
            format!("{quoted}: 1\n{quoted}: 2\n"),
            format!("apiVersion: v1\nkind: {quoted}\nmetadata: {{name: a}}"),
            format!("apiVersion: {quoted}\nkind: a\nmetadata: {{name: a}}"),
            format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {quoted}}}"
            ),
        ] {
            let error = try_files(&[(&long, &text)]).unwrap_err();
            let told = error.to_string();
            assert!(told.len() < 2000, "{} bytes: {}", told.len(), &told[..99]);
        }
        let reference = ReleaseRef { name: long.clone(), ..ReleaseRef::default() };
        let error = parse(&reference, &BTreeMap::new(), Duration::ZERO).unwrap_err();
        assert!(error.to_string().len() < 2000);
    }
}

#[test]
fn the_releases_name_has_to_do_as_a_label() {
    for name in ["", "-a", "a/b", &"a".repeat(64)] {
        let reference = ReleaseRef { name: name.into(), ..ReleaseRef::default() };
        let error = parse(&reference, &BTreeMap::new(), Duration::ZERO).unwrap_err();
        assert!(matches!(error, ParseError::Name { .. }), "{name}");
    }
}

/// Text that looks somewhat like manifests.
fn yamlish() -> impl proptest::strategy::Strategy<Value = String> {
    let word = prop_oneof![
        Just("apiVersion: v1\n"),
        Just("kind: ConfigMap\n"),
        Just("kind: List\nitems:\n- "),
        Just("metadata:\n"),
        Just("  name: a\n"),
        Just("  annotations: {holdfast.dev/timeout: '1'}\n"),
        Just("---\n"),
        Just("&a "),
        Just("*a "),
        Just("["),
        Just("]"),
        Just("{"),
        Just("!!binary x\n"),
        Just("? - a\n"),
        Just("<<: *a\n"),
        Just("\t"),
        Just("|\n"),
        Just("1: 2\n"),
        Just(".nan\n"),
    ];
    proptest::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".{0,200}", bytes: Vec<u8>, yaml in yamlish()) {
        for text in [&text, &*String::from_utf8_lossy(&bytes), &yaml] {
            let _any = try_files(&[("a", text)]);
        }
    }

    /// Whatever order files have, classes come in order and stay in the order written.
    #[test]
    fn the_order_is_stable_within_a_class(kinds in proptest::collection::vec(0usize..5, 1..30)) {
        const KINDS: [(&str, &str); 5] = [
            ("v1", "ConfigMap"),
            ("v1", "Namespace"),
            ("apps/v1", "Deployment"),
            ("x.example/v1", "Custom"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ];
        let text: String = kinds.iter().enumerate().map(|(n, kind)| {
            let (version, kind) = KINDS[*kind];
            format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: n{n:02}}}\n")
        }).collect();
        let release = try_files(&[("a", &text)]).unwrap();
        let keys: Vec<_> = release.items.iter()
            .map(|item| (class(&item.object.id), item.object.id.name.clone()))
            .collect();
        prop_assert!(keys.is_sorted());
        prop_assert_eq!(keys.len(), kinds.len());
    }
}
