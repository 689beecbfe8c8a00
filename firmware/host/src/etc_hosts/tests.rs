use super::*;
use holdfast_api::marks::{HOSTS_BEGIN, HOSTS_END};
use proptest::prelude::*;

fn want(lines: &[(&str, &[&str])]) -> Want {
    let name = |text: &&str| HostName::try_from(*text).unwrap();
    let entry = |(address, names): &(&str, &[&str])| Entry {
        address: address.parse().unwrap(),
        name: name(&names[0]),
        aliases: names[1..].iter().map(name).collect(),
    };
    Want { entries: lines.iter().map(entry).collect() }
}

fn file(content: &[u8]) -> Have {
    Have::File { content: content.to_vec(), mode: 0o644 }
}

/// The content after carrying the plan out, and what it mends.
fn after(want: &Want, content: &[u8]) -> (Vec<u8>, Option<Reason>) {
    let reason = plan(want, &file(content)).pop().and_then(|step| step.reason());
    (block::edit(content, want).content, reason)
}

fn some() -> Want {
    want(&[("10.7.0.1", &["node-1", "node-1.site"]), ("fd00::1", &["re-1"])])
}

const BLOCK: &str = "# BEGIN holdfast (managed block; edits inside are replaced)\n\
    10.7.0.1\tnode-1 node-1.site\t# holdfast\n\
    fd00::1\tre-1\t# holdfast\n\
    # END holdfast\n";

// --- laws ---

fn wants() -> impl Strategy<Value = Want> {
    let entry = (
        any::<std::net::IpAddr>(),
        "[a-z][a-z0-9]{0,8}",
        proptest::collection::vec("[a-z]{1,5}", 0..3),
    );
    let entry = entry.prop_map(|(address, name, aliases)| Entry {
        address,
        name: HostName::try_from(name.as_str()).unwrap(),
        aliases: aliases.iter().map(|alias| HostName::try_from(alias.as_str()).unwrap()).collect(),
    });
    proptest::collection::vec(entry, 0..4).prop_map(|entries| Want { entries })
}

#[derive(Debug, Clone)]
enum Part {
    Foreign(Vec<u8>),
    Begin,
    End,
    Piece(usize),
    Ours,
}

/// Files made of foreign lines and of markers in any order, each line with its own ending.
fn parts() -> impl Strategy<Value = Vec<(Part, &'static str)>> {
    let foreign =
        proptest::collection::vec(any::<u8>().prop_filter("one line", |b| *b != b'\n'), 0..12);
    let part = prop_oneof![
        4 => foreign.prop_map(Part::Foreign),
        1 => Just(Part::Begin),
        1 => Just(Part::End),
        1 => (16..HOSTS_BEGIN.len()).prop_map(Part::Piece),
        1 => Just(Part::Ours),
    ];
    proptest::collection::vec((part, prop_oneof![Just("\n"), Just("\r\n")]), 0..14)
}

fn bytes(part: &Part) -> Vec<u8> {
    match part {
        Part::Foreign(bytes) => bytes.clone(),
        Part::Begin => HOSTS_BEGIN.into(),
        Part::End => HOSTS_END.into(),
        Part::Piece(length) => HOSTS_BEGIN.as_bytes()[..*length].trim_ascii_end().to_vec(),
        Part::Ours => b"10.9.9.9\tgone\t# holdfast".to_vec(),
    }
}

/// What is not ours, told from the parts and not from the bytes: every foreign line, but those
/// between a BEGIN and an END with no other marker in between.
fn foreign(parts: &[(Part, &str)], finished: bool) -> Vec<u8> {
    let next_marker = |at: usize| {
        parts[at + 1..]
            .iter()
            .find(|(part, _)| !matches!(part, Part::Foreign(_) | Part::Ours))
            .map(|(part, _)| part)
    };
    let (mut kept, mut inside) = (Vec::new(), false);
    for (at, (part, ending)) in parts.iter().enumerate() {
        match part {
            Part::Begin => inside = matches!(next_marker(at), Some(Part::End)),
            Part::End | Part::Piece(_) => inside = false,
            Part::Foreign(line) if !inside => {
                kept.extend_from_slice(line);
                if finished || at + 1 < parts.len() {
                    kept.extend_from_slice(ending.as_bytes());
                }
            }
            Part::Foreign(_) | Part::Ours => {}
        }
    }
    kept
}

fn without_block(content: &[u8], want: &Want) -> Vec<u8> {
    let block = block::render(want).into_bytes();
    match content.windows(block.len().max(1)).position(|window| window == block) {
        Some(at) if !block.is_empty() => [&content[..at], &content[at + block.len()..]].concat(),
        _ => content.to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Arbitrary bytes survive to the byte, and come back to the byte when the block goes again.
    #[test]
    fn foreign_bytes_survive(content in proptest::collection::vec(any::<u8>(), 0..200), want in wants()) {
        let (with, reason) = after(&want, &content);
        prop_assert_eq!(reason, None);
        prop_assert_eq!(without_block(&with, &want), content.clone());
        prop_assert_eq!(after(&Want::default(), &with).0, content);
    }

    /// However the markers are damaged, foreign lines survive in their order and to the byte.
    #[test]
    fn foreign_lines_survive_damage(parts in parts(), finished in any::<bool>(), want in wants()) {
        let mut content: Vec<u8> = Vec::new();
        for (at, (part, ending)) in parts.iter().enumerate() {
            content.extend(bytes(part));
            if finished || at + 1 < parts.len() {
                content.extend_from_slice(ending.as_bytes());
            }
        }
        let (with, _) = after(&want, &content);
        let text = String::from_utf8_lossy(&with).into_owned();
        prop_assert_eq!(without_block(&with, &want), foreign(&parts, finished), "{}", text);
        prop_assert_eq!(text.matches(HOSTS_BEGIN).count(), usize::from(!want.entries.is_empty()));
    }

    /// Applying twice is applying once, and the plan is empty afterwards.
    #[test]
    fn planning_again_yields_nothing(parts in parts(), want in wants()) {
        let content: Vec<u8> = parts.iter().flat_map(|(part, ending)| [bytes(part), ending.as_bytes().to_vec()].concat()).collect();
        let (once, _) = after(&want, &content);
        prop_assert_eq!(plan(&want, &file(&once)), vec![]);
        prop_assert_eq!(after(&want, &once), (once, None));
    }

    /// Another wish changes the block alone.
    #[test]
    fn one_block_replaces_another(content in proptest::collection::vec(any::<u8>(), 0..200), one in wants(), two in wants()) {
        let (first, _) = after(&one, &content);
        let (second, reason) = after(&two, &first);
        prop_assert_eq!(reason, None);
        prop_assert_eq!(without_block(&second, &two), content);
    }
}

// --- cases ---

#[test]
fn the_block_comes_after_the_last_complete_line() {
    let (with, _) = after(&some(), b"127.0.0.1 localhost\n");
    assert_eq!(String::from_utf8(with).unwrap(), format!("127.0.0.1 localhost\n{BLOCK}"));
    let (with, _) = after(&some(), b"127.0.0.1 localhost\n::1 ip6");
    assert_eq!(String::from_utf8(with).unwrap(), format!("127.0.0.1 localhost\n{BLOCK}::1 ip6"));
    assert_eq!(after(&some(), b"").0, BLOCK.as_bytes());
}

#[test]
fn the_block_is_replaced_where_it_stands_whatever_the_line_ends() {
    let crlf = BLOCK.replace('\n', "\r\n").replace("10.7.0.1", "10.7.0.9");
    let content = format!("a\r\n{crlf}b\r\n");
    let step = plan(&some(), &file(content.as_bytes())).remove(0);
    assert_eq!(step.to_string(), "change our block in /etc/hosts: 1 lines added, 1 removed");
    assert_eq!(
        after(&some(), content.as_bytes()),
        (format!("a\r\n{BLOCK}b\r\n").into_bytes(), None)
    );
}

#[test]
fn damaged_markers_are_mended_and_told() {
    let ours = "10.7.0.1\tnode-1 node-1.site\t# holdfast\n";
    for (content, kept) in [
        (format!("a\n{HOSTS_BEGIN}\n{ours}b\n"), "a\n|b\n"),
        (format!("a\n{ours}{HOSTS_END}\nb\n"), "a\n|b\n"),
        (format!("a\n{HOSTS_END}\nb\n{HOSTS_BEGIN}\nc\n"), "a\n|b\nc\n"),
        (format!("a\n# BEGIN holdfast (mana\n{ours}{HOSTS_END}\nb\n"), "a\n|b\n"),
        (format!("{BLOCK}a\n{BLOCK}"), "|a\n"),
        (format!("a\n{ours}b\n"), "a\n|b\n"),
    ] {
        let (with, reason) = after(&some(), content.as_bytes());
        assert_eq!(String::from_utf8(with).unwrap(), kept.replace('|', BLOCK), "{content}");
        assert_eq!(reason, Some(Reason::HostsMarkersDamaged), "{content}");
    }
}

#[test]
fn others_with_similar_words_are_left_alone() {
    let content = b"# BEGIN holdfast-lab\n10.0.0.1 x # holdfast\n# END holdfast-lab\n10.0.0.2\ty\t# holdfast too\n";
    let (with, reason) = after(&some(), content);
    assert_eq!((&with[..content.len()], reason), (&content[..], None));
}

#[test]
fn the_file_keeps_its_mode_and_is_made_when_it_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let go = |want: &Want| -> Vec<Outcome> {
        let steps = plan(want, &observe(&root).unwrap());
        steps.iter().map(|step| apply(&root, step).unwrap()).collect()
    };
    assert_eq!(go(&Want::default()), []);
    assert_eq!(go(&some()), [Outcome::Created]);
    assert_eq!(go(&some()), []);
    std::fs::set_permissions(path(&root), std::fs::Permissions::from_mode(0o640)).unwrap();
    let step = plan(&Want::default(), &observe(&root).unwrap()).remove(0);
    assert_eq!(apply(&root, &step).unwrap(), Outcome::Changed);
    assert_eq!(apply(&root, &step).unwrap(), Outcome::Unchanged);
    assert_eq!(observe(&root).unwrap(), Have::File { content: vec![], mode: 0o640 });
}

#[test]
fn what_cannot_be_read_or_replaced_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    std::fs::create_dir_all(path(&root)).unwrap();
    let error = observe(&root).unwrap_err();
    assert!(matches!(&error, HostsError::Read { path, .. } if path.ends_with("etc/hosts")));
    let error = apply(&root, &Step::Create { want: some() }).unwrap_err();
    assert!(matches!(error, HostsError::Read { .. }));
    assert_eq!(error.reason(), Reason::HostsUnwritable);
}

#[test]
fn a_line_that_came_after_planning_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    holdfast_durable::write(&path(&root), b"a\n", 0o644).unwrap();
    let step = plan(&some(), &observe(&root).unwrap()).remove(0);
    holdfast_durable::write(&path(&root), b"a\nb\n", 0o644).unwrap();
    apply(&root, &step).unwrap();
    assert_eq!(std::fs::read_to_string(path(&root)).unwrap(), format!("a\nb\n{BLOCK}"));
}
