use super::write;
use crate::token_sources::{
    SOURCE_MAX, SOURCES, check_controller, find, parse, remove_typed, store_typed,
};
use crate::{Search, SourceKind, TokenSourceError};
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_api::token::{CaFingerprint, Envelope, TokenId, TokenSecret};
use proptest::prelude::*;

const SEED: &str = "var/lib/cloud/seed/nocloud/user-data";

fn envelope(tenant: &str) -> Envelope {
    Envelope {
        tenant: tenant.into(),
        ca: CaFingerprint([7; 16]),
        id: TokenId([1; 5]),
        secret: TokenSecret::new([2; 10]),
    }
}

fn text(tenant: &str) -> String {
    envelope(tenant).encode().to_string()
}

fn world() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    (dir, root)
}

fn cloud(content: &str) -> Result<Option<(Envelope, Option<String>)>, TokenSourceError> {
    parse(SourceKind::CloudInit, content.as_bytes())
}

/// The law: each source is found when it is alone, and hides all that are weaker.
#[test]
fn the_strongest_source_decides() {
    let (_dir, root) = world();
    assert!(matches!(find(&root), Search::Missing));
    assert_eq!(find(&root).reason(), Some(Reason::TokenMissing));
    for (index, (kind, path)) in SOURCES.iter().enumerate().rev() {
        let tenant = format!("tenant-{index}");
        let content = match kind {
            SourceKind::CloudInit => {
                format!("#cloud-config\npackages: [vim]\nholdfast:\n  token: {}\n", text(&tenant))
            }
            SourceKind::Typed | SourceKind::File => text(&tenant),
        };
        write(&root.join(path), content);
        let Search::Found(found) = find(&root) else { panic!("{path}") };
        assert_eq!(found.envelope, envelope(&tenant));
        assert_eq!((found.source.kind, found.source.path), (*kind, root.join(path)));
    }
}

#[test]
fn what_was_typed_is_kept_closed_and_forgotten_again() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, root) = world();
    store_typed(&root, &envelope("acme"), Some("https://c.example:6443")).unwrap();
    let Search::Found(found) = find(&root) else { panic!() };
    assert_eq!(found.source.kind, SourceKind::Typed);
    assert_eq!(found.controller.as_deref(), Some("https://c.example:6443"));
    let mode = std::fs::metadata(&found.source.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    remove_typed(&root).unwrap();
    remove_typed(&root).unwrap();
    assert!(matches!(find(&root), Search::Missing));
}

#[test]
fn a_mistyped_token_names_its_group_and_keeps_its_text_to_itself() {
    let (_dir, root) = world();
    let good = text("acme");
    let mut wrong: Vec<String> = good.split('-').map(Into::into).collect();
    wrong[3] = wrong[3].chars().rev().collect();
    let wrong = wrong.join("-");
    for (path, content) in [
        ("etc/holdfast/token", wrong.clone()),
        (SEED, format!("#cloud-config\nholdfast: {{token: {wrong}}}\n")),
    ] {
        write(&root.join(path), content);
        let Search::Invalid { source, error } = find(&root) else { panic!("{path}") };
        assert!(matches!(error, TokenSourceError::MistypedGroup { group: 4 }), "{error}");
        assert_eq!(error.reason(), Reason::TokenMistypedGroup);
        assert_eq!(error.to_string(), "group 4 of the token is mistyped");
        let shown = format!("{source} {source:?} {error:?}");
        for group in wrong.split('-') {
            assert!(!shown.contains(group), "{shown}");
        }
        std::fs::remove_file(root.join(path)).unwrap();
    }
    // A cut token is told apart, and nothing weaker is used behind the stronger one's back.
    write(&root.join("etc/holdfast/token"), &good[..good.len() - 6]);
    write(&root.join(SEED), format!("#cloud-config\nholdfast: {{token: {good}}}\n"));
    let Search::Invalid { error, .. } = find(&root) else { panic!() };
    assert!(matches!(error, TokenSourceError::Malformed(_)), "{error}");
}

#[test]
fn plain_files_are_read_as_people_write_them() {
    let token = text("acme");
    let file = |content: &str| parse(SourceKind::File, content.as_bytes());
    for content in [
        token.clone(),
        format!("{token}\n"),
        format!("\u{feff}{}\r\n", token.to_lowercase()),
        format!("# from the operator\n\n  {token}  \n"),
    ] {
        assert_eq!(file(&content).unwrap(), Some((envelope("acme"), None)), "{content}");
    }
    let with = format!("{token}\ncontroller = c.example:6443\n");
    let (_, controller) = file(&with).unwrap().unwrap();
    assert_eq!(controller.as_deref(), Some("https://c.example:6443"));
    assert_eq!(file("").unwrap(), None);
    assert_eq!(file("# nothing yet\n").unwrap(), None);
    for (content, line) in [
        (format!("{token}\n{token}"), 2),
        (format!("{token}\ncolor=red"), 2),
        (format!("{token}\n\ncontroller=a\ncontroller=b"), 4),
        ("controller=a".into(), 1),
    ] {
        let error = file(&content).unwrap_err();
        assert!(matches!(error, TokenSourceError::Line { line: at, .. } if at == line), "{error}");
    }
    let error = parse(SourceKind::File, b"\n\xff\xfe").unwrap_err();
    assert!(matches!(error, TokenSourceError::Line { line: 2, .. }), "{error}");
}

#[test]
fn cloud_configs_are_read_among_everything_else() {
    let token = text("acme");
    let full = format!(
        "#cloud-config\nhostname: a\nusers:\n- default\n- &u {{name: x}}\n- *u\n? [1, 2]\n: 3\n\
         holdfast:\n  token: \"{token}\"\n  controller: https://c.example:6443/\nruncmd: [[ls, -l]]\n"
    );
    let (found, controller) = cloud(&full).unwrap().unwrap();
    assert_eq!(found, envelope("acme"));
    assert_eq!(controller.as_deref(), Some("https://c.example:6443"));
    for silent in [
        "#cloud-config\n",
        "#cloud-config\nhostname: holdfast\n",
        "#!/bin/sh\necho holdfast\n",
        "",
        "#cloud-config\nbroken: [",
    ] {
        assert_eq!(cloud(silent).unwrap(), None, "{silent}");
    }
}

#[test]
fn wrong_sections_say_what_is_wrong_without_repeating_it() {
    let token = text("acme");
    for (section, word) in [
        (format!("holdfast: {token}"), "not a mapping"),
        ("holdfast:".into(), "is empty"),
        ("holdfast: {}".into(), "`token` is missing"),
        ("holdfast: {token: 12345}".into(), "not text"),
        ("holdfast: {token: [a]}".into(), "not text"),
        ("holdfast: {token: !secret x}".into(), "not text"),
        (format!("holdfast: {{token: {token}, controller: 1}}"), "`controller` is not text"),
        (format!("holdfast: {{tokn: {token}}}"), "a key other than"),
        (format!("holdfast: {{token: {token}, token: {token}}}"), "twice"),
        (format!("holdfast: {{token: {token}}}\nholdfast: {{}}"), "twice"),
    ] {
        let error = cloud(&format!("#cloud-config\n{section}\n")).unwrap_err();
        assert!(matches!(error, TokenSourceError::Section(_)), "{section}: {error}");
        assert_eq!(error.reason(), Reason::ConfigInvalid);
        assert!(error.to_string().contains(word), "{section}: {error}");
        assert!(!format!("{error:?}").contains(&token[..5]), "{error:?}");
    }
    let error = cloud("#cloud-config\nholdfast:\n  token: [\n").unwrap_err();
    assert!(matches!(error, TokenSourceError::NotYaml { line: 4, .. }), "{error}");
    let error =
        cloud(&format!("#cloud-config\nholdfast: {{token: {token}, controller: http://c}}"));
    assert!(matches!(error, Err(TokenSourceError::Controller(_))), "{error:?}");
}

#[test]
fn kinds_that_we_do_not_read_are_named_and_passed_over() {
    let (_dir, root) = world();
    for (content, word) in [
        ("Content-Type: multipart/mixed; boundary=x\n\n--x\n", "MIME"),
        ("MIME-Version: 1.0\n", "MIME"),
        ("#cloud-config-archive\n- content: '#cloud-config\n  holdfast: {}'\n", "archive"),
        ("## template: jinja\n#cloud-config\nholdfast: {}\n", "Jinja"),
        ("#include\nhttps://example.com/x\n", "#include"),
        ("holdfast:\n  token: x\n", "without a first line"),
    ] {
        write(&root.join(SEED), content);
        let Search::Invalid { error, .. } = find(&root) else { panic!("{content}") };
        assert!(matches!(error, TokenSourceError::Unsupported(_)), "{content}: {error}");
        assert!(error.to_string().contains(word), "{content}: {error}");
    }
    for (content, word) in [(&[0x1f, 0x8b, 8, 0][..], "compressed"), (&[0xff, 0xfe], "UTF-8")] {
        write(&root.join(SEED), content);
        let Search::Invalid { error, .. } = find(&root) else { panic!("{word}") };
        assert!(error.to_string().contains(word), "{error}");
    }
    let weaker = "var/lib/cloud/instance/user-data.txt";
    write(&root.join(weaker), format!("#cloud-config\nholdfast: {{token: {}}}", text("acme")));
    assert!(matches!(find(&root), Search::Found(_)));
}

#[test]
fn files_that_are_not_files_or_too_long_are_refused_without_waiting() {
    let (_dir, root) = world();
    let path = root.join(SEED);
    std::fs::create_dir_all(&path).unwrap();
    let Search::Invalid { error, .. } = find(&root) else { panic!() };
    assert!(matches!(error, TokenSourceError::Read(_)), "{error}");
    std::fs::remove_dir(&path).unwrap();
    if std::process::Command::new("mkfifo").arg(&path).status().is_ok_and(|s| s.success()) {
        let Search::Invalid { error, .. } = find(&root) else { panic!() };
        assert!(matches!(error, TokenSourceError::Read(_)), "{error}");
        std::fs::remove_file(&path).unwrap();
    }
    write(&path, vec![b'#'; usize::try_from(SOURCE_MAX).unwrap() + 1]);
    let Search::Invalid { error, .. } = find(&root) else { panic!() };
    assert!(matches!(error, TokenSourceError::TooLong), "{error}");
    assert_eq!(error.reason(), Reason::ConfigInvalid);
}

/// A few kilobytes that would grow to gigabytes if aliases were followed.
#[test]
fn yaml_bombs_are_defused() {
    let mut bomb = String::from("#cloud-config\na0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let inner = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb += &format!("a{n}: &a{n} [{inner}]\n");
    }
    let token = text("acme");
    let began = std::time::Instant::now();
    let beside = cloud(&format!("{bomb}holdfast: {{token: {token}}}\n")).unwrap();
    assert_eq!(beside, Some((envelope("acme"), None)));
    for inside in ["holdfast: *a11", "holdfast: {token: *a11}", "holdfast: {? *a11 : x}"] {
        let error = cloud(&format!("{bomb}{inside}\n")).unwrap_err();
        let told = matches!(error, TokenSourceError::Section(_) | TokenSourceError::NotYaml { .. });
        assert!(told, "{inside}: {error}");
    }
    let wide = vec!["*w"; 20_000].join(",");
    let wide =
        format!("#cloud-config\nw: &w [{}]\nholdfast: {{token: [{wide}]}}\n", "x,".repeat(20_000));
    assert!(matches!(cloud(&wide), Err(TokenSourceError::Section(_))));
    let token = format!("holdfast: {{token: {token}}}");
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        cloud(&format!("#cloud-config\n{token}\nx: {open}{close}\n"))
    };
    assert_eq!(deep(8_000).unwrap(), Some((envelope("acme"), None)));
    assert!(matches!(deep(50_000), Err(TokenSourceError::Unsupported(_))));
    // Generous: what is guarded against takes minutes or all memory.
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
}

#[test]
fn addresses_of_controllers_are_checked() {
    for (typed, want) in [
        ("https://c.example:6443", "https://c.example:6443"),
        (" c.example ", "https://c.example"),
        ("HTTPS://10.0.0.1:443/", "https://10.0.0.1:443"),
        ("[2001:db8::1]:6443", "https://[2001:db8::1]:6443"),
        ("https://[::1]", "https://[::1]"),
    ] {
        assert_eq!(check_controller(typed).unwrap(), want, "{typed}");
    }
    for typed in [
        "",
        "https://",
        "http://c.example",
        "c.example:0",
        "c.example:99999",
        "c.example:",
        "https://c.example/path",
        "https://user@c.example",
        "a b",
        "c..example",
        "2001:db8::1",
        "[2001:db8::1",
        "c.example\nx",
        "https://c.example?x",
    ] {
        let error = check_controller(typed);
        assert!(matches!(error, Err(TokenSourceError::Controller(_))), "{typed}: {error:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(content in prop::collection::vec(any::<u8>(), 0..400)) {
        for kind in [SourceKind::File, SourceKind::CloudInit] {
            let _ = parse(kind, &content);
        }
        let mut headed = b"#cloud-config\nholdfast: ".to_vec();
        headed.extend_from_slice(&content);
        let _ = parse(SourceKind::CloudInit, &headed);
    }

    /// Bytes that look like YAML more often than random ones do.
    #[test]
    fn any_yaml_is_answered(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "holdfast", "token", "controller", ": ", ":", "\n", "\n  ", "- ", "[", "]", "{",
                "}", ", ", "&a ", "*a", "!t ", "? ", "| ", "'", "\"", "x", "1", "<<", "---\n", "#",
            ]),
            0..60,
        ),
    ) {
        let _ = parse(SourceKind::CloudInit, format!("#cloud-config\n{}", parts.concat()).as_bytes());
    }

    /// Whatever stands in a controller's place, what comes out is an address and nothing else.
    #[test]
    fn checked_addresses_are_clean(typed in "\\PC{0,60}") {
        if let Ok(address) = check_controller(&typed) {
            prop_assert!(address.starts_with("https://"));
            prop_assert!(address.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(check_controller(&address).unwrap(), address);
        }
    }
}
