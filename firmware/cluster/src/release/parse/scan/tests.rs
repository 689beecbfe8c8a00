use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn deepest(text: &str) -> usize {
    Walk::new(text).walk().unwrap()
}

fn nested(value: &Value) -> usize {
    match value {
        Value::Array(entries) => 1 + entries.iter().map(nested).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(nested).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

#[test]
fn brackets_that_are_text_count_for_nothing() {
    let many = "[{".repeat(200);
    for (text, depth) in [
        (format!("a: x{many}\nb: 'it''s {many}'\nc: \"\\\"{many}\\\\\"\nd: [1]\n"), 1),
        (format!("# {many}\na: b # {many}\nc: {{d: 1}} # {many}\n"), 1),
        (format!("a: |\n  {many}\n\n   {many}\nb: >-\n {many}\nc: [[1]]\n"), 2),
        (format!("- |2\n   {many}\n- - >+1\n   {many}\n  - [1]\n"), 1),
        (format!("a:\n- b: |\n    {many}\n  c: {{}}\n- |\n {many}\n"), 1),
        (format!("? |\n  {many}\n: |\n  {many}\n"), 0),
        (format!("--- |\n {many}\n--- >\n {many}\n...\n---\n[[[]]]\n"), 3),
        (format!("a: x\n  {many}\n  y\nb: [x\n y, 'z\n {many}\n ', {{}}]\n"), 2),
        (format!("a: !x |\n  {many}\nb: &c !<tag:x,2000:[y]> |\n  {many}\nd: *c\n"), 0),
        (format!("a: |\r\n  {many}\r\nb: \"x\\\r\n  {many}\"\r\n"), 0),
        (format!("a: |\n\t\nb: {many}"), 0),
        ("{\"a\":[1,{\"b\":\"]]]\",\"c\":'{{{'}],d: -1, e: http://x/[y]}".into(), 3),
        ("[!<x>,[!y,[&z ,[*z ]]]]".into(), 4),
    ] {
        assert_eq!(deepest(&text), depth, "{}", text.replace(&many, "…"));
    }
}

/// What takes minutes to be read.
#[test]
fn hostile_texts_are_refused() {
    let tags: String = (0..80_000).map(|n| format!("%TAG !{n}! x\n")).collect();
    for (text, says) in [
        ("{?".repeat(390_000), "more than 64 levels of brackets"),
        ("[? ".repeat(65), "more than 64 levels of brackets"),
        (format!("a: |\n  x\nb:\n  c: |\n  {}", "{?".repeat(99)), "levels of brackets"),
        (format!("a: 'x\n b: |\n    ', {}", "{?".repeat(99)), "levels of brackets"),
        (format!("[!<a>,{}", "{?".repeat(99)), "levels of brackets"),
        (format!("{tags}---\n"), "more than 64 %TAG lines"),
        (format!("\"a{}{}\"", "\n".repeat(300_000), "b\n".repeat(300_000)), "white space"),
        (format!("a{}{}", " ".repeat(300_000), "b ".repeat(300_000)), "white space"),
        (format!("a: |\n{}{}", "\n".repeat(300_000), " b\n".repeat(200_000)), "white space"),
    ] {
        // A block scalar that begins too far to the left is none, nor is one within quotes.
        match Walk::new(&text).walk() {
            Err(Unfit { problem, .. }) => assert!(problem.contains(says), "{problem}"),
            Ok(depth) => panic!("{depth} levels: {:?}", &text[..40]),
        }
    }
}

/// Whatever anchors are called, a text that is taken says what YAML says of it.
#[test]
fn anchors_are_not_taken_for_each_other() {
    let told = |text: &str| check(text).map_err(|unfit| (unfit.line, unfit.problem));
    let twice = |line, name| {
        Err((
            line,
            format!(
                "&{name} would be taken for another anchor; give each one of a document its own name"
            ),
        ))
    };
    assert_eq!(told("- &a 1\n- &a 2\n- *a\n- &b 3\n- *a\n"), twice(4, "b"));
    assert_eq!(told("- &a 1\n- &b 2\n- &a 3\n- &c 4\n- *a\n"), twice(4, "c"));
    assert_eq!(told("- &a 1\n- &a 2\n- *a\n- &a 3\n"), twice(4, "a"));
    assert_eq!(told("- &a 1\n- *a\n- &a 2\n- *a\n"), Ok(()));
    assert_eq!(told("x: &a 1\ny: &b 2\n---\nx: &a 3\ny: &b 4\n---\nx: &c 5\n"), Ok(()));
}

proptest! {
    #[test]
    fn aliases_mean_what_was_named_last(words in proptest::collection::vec((0..3usize, any::<bool>()), 1..12)) {
        let (mut text, mut means, mut named) = (String::new(), Vec::new(), [None; 3]);
        for (number, (name, is_alias)) in words.into_iter().enumerate() {
            match named[name].filter(|_| is_alias) {
                Some(value) => {
                    text += &format!("- *n{name}\n");
                    means.push(value);
                }
                None => {
                    text += &format!("- &n{name} {number}\n");
                    named[name] = Some(number);
                    means.push(number);
                }
            }
        }
        if check(&text).is_ok() {
            let read: Vec<usize> = serde_yaml_ng::from_str(&text).unwrap();
            prop_assert_eq!(read, means, "{}", text);
        }
    }
}

#[test]
fn one_long_gap_is_no_harm() {
    let text = format!("a: |\n  x\n{}  y\nb: \"c{}d\"\n", "\n".repeat(50_000), " ".repeat(50_000));
    assert_eq!(check(&text), Ok(()));
    let script =
        format!("a: |\n{}", "  if [[ $x ]]; then\n\n\n    echo '\u{1b}[0m'\n".repeat(9999));
    assert_eq!(deepest(&script), 0);
}

/// Values whose texts are as misleading as can be.
fn value() -> impl Strategy<Value = Value> {
    let text = "[\\[\\]{}:,#&*!|>'\"%@`\\-?\\\\\n\t a-c]{0,12}";
    let leaf = prop_oneof![text.prop_map(Value::from), any::<i32>().prop_map(Value::from)];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((text, inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    /// As JSON every level is one of brackets; as YAML is written none is, but for what is empty.
    #[test]
    fn levels_are_those_of_the_values(value in value()) {
        prop_assert_eq!(deepest(&value.to_string()), nested(&value));
        prop_assert_eq!(deepest(&serde_json::to_string_pretty(&value).unwrap()), nested(&value));
        prop_assert!(deepest(&serde_yaml_ng::to_string(&value).unwrap()) <= 1);
        let text = format!("a:\n- b: {value}\n  c: |\n    {value}\n  d: [{value}]\n");
        prop_assert_eq!(deepest(&text), 1 + nested(&value));
    }

    #[test]
    fn every_text_has_an_end(text in "([\\[\\]{}:,#&*!|>'\"%\\-?\\\\\n\r\t a.é\u{85}\u{2028}\u{feff}]{0,60}|\\PC{0,60})") {
        let _either = Walk::new(&text).walk();
    }
}
