//! The fields of every kind as Markdown, for the reference page.

use super::{Field, Schema, doc_of, spec_of, status_of};
use crate::select::selectable;
use holdfast_api::resources::Kind;

/// What stands between the written and the generated part of `docs/reference/api.md`.
pub const MARK: &str = "<!-- Below this line the page is made from controller/src/schema; \
                        HOLDFAST_BLESS=1 cargo test -p holdfast-controller writes it. -->\n";

/// The fields of every kind.
pub fn render() -> String {
    let mut page = String::new();
    for kind in Kind::ALL.iter().copied() {
        let place = if kind.namespaced() { "in a namespace" } else { "without namespace" };
        page += &format!(
            "\n## {}\n\n{} `{}`, short `{}`, {place}.\n",
            kind.name(),
            doc_of(kind),
            kind.plural(),
            kind.short()
        );
        let fields: Vec<String> =
            selectable(kind).iter().map(|field| format!("`{field}`")).collect();
        page += &format!("Selectable fields: {}.\n", fields.join(", "));
        for (half, schema) in [("spec", spec_of(kind)), ("status", status_of(kind))] {
            if let Schema::Object(fields) = schema
                && !fields.is_empty()
            {
                page += "\n| field | form | meaning |\n|---|---|---|\n";
                rows(fields, half, &mut page);
            }
        }
    }
    page
}

fn rows(fields: &[Field], prefix: &str, page: &mut String) {
    for field in fields {
        let (path, inner) = open(&format!("{prefix}.{}", field.name), field.schema);
        let form = form(field.schema);
        let required = if field.required { ", required" } else { "" };
        *page += &format!("| `{path}` | {form}{required} | {} |\n", field.doc);
        if let Some(inner) = inner {
            rows(inner, &path, page);
        }
    }
}

/// The fields inside, if there are any, and the path to them.
fn open(path: &str, schema: &'static Schema) -> (String, Option<&'static [Field]>) {
    match schema {
        Schema::Object(fields) => (path.into(), Some(fields)),
        Schema::List(item) => open(&format!("{path}[]"), item),
        Schema::Map(item) => open(&format!("{path}.*"), item),
        Schema::Text
        | Schema::Bool
        | Schema::Int(..)
        | Schema::Enum(_)
        | Schema::Format(_)
        | Schema::Any => (path.into(), None),
    }
}

fn form(schema: &Schema) -> String {
    match schema {
        Schema::Text => "text".into(),
        Schema::Bool => "true or false".into(),
        Schema::Int(low, i64::MAX) => format!("{low} or more"),
        Schema::Int(low, high) => format!("{low} to {high}"),
        Schema::Enum(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Schema::Format(format) => format.name().into(),
        Schema::List(item) => format!("list of {}", form(item)),
        Schema::Map(item) => format!("map to {}", form(item)),
        Schema::Object(_) => "object".into(),
        Schema::Any => "any".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io::Write;

    /// Names of all fields, at any depth; those of maps stand for all keys.
    fn names(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.keys().cloned());
                fields.values().for_each(|inner| names(inner, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::String(_) => {}
        }
    }

    /// The schema lets it through as it comes, so that the page is written by hand.
    #[test]
    fn what_a_node_says_of_kubernetes_is_on_the_page() {
        use holdfast_api::kubernetes as k;
        let at = jiff::Timestamp::UNIX_EPOCH;
        let text = String::new;
        let reference = k::ReleaseRef::default();
        let reason = holdfast_api::Reason::PodCrashing;
        let part = k::ComponentState { name: text(), ok: true, message: text() };
        let pod = k::PodProblem { pod: text(), reason: text(), code: reason, message: text() };
        let failed = k::FailedRelease { release: reference.clone(), reason, message: text(), at };
        let snapshot =
            k::SnapshotInfo { name: text(), taken: at, bytes: 0, place: text(), portable: true };
        let drill = k::DrillResult { snapshot: text(), at, took_ms: 0, ok: true, message: text() };
        let state = k::KubernetesState {
            components: vec![part.clone()],
            conditions: vec![part],
            pods: k::PodCounts { problems: vec![pod], ..Default::default() },
            release: k::ReleaseState {
                good: Some(reference),
                failed: vec![failed],
                ..Default::default()
            },
            snapshots: k::SnapshotsState {
                snapshots: vec![snapshot],
                drill: Some(drill),
                problem: Some(holdfast_api::local::Problem::new(reason, "")),
                ..Default::default()
            },
            ..Default::default()
        };
        let mut fields = Vec::new();
        names(&serde_json::to_value(&state).unwrap(), &mut fields);
        assert!(fields.len() > 40, "{fields:?}");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/api.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (_, section) = page.split_once("## What a node says of Kubernetes\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        let code = section.split('`').skip(1).step_by(2);
        let said: BTreeSet<&str> =
            code.flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric())).collect();
        fields.retain(|field| !said.contains(field.as_str()));
        assert_eq!(fields, [""; 0], "docs/reference/api.md does not say what these are");
    }

    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/api.md");
        let have = std::fs::read_to_string(path).unwrap();
        let (written, generated) = have.split_once(MARK).expect("the mark stands in the page");
        if std::env::var_os("HOLDFAST_BLESS").is_some() {
            let page = format!("{written}{MARK}{}", render());
            std::fs::File::create(path).and_then(|mut f| f.write_all(page.as_bytes())).unwrap();
            return;
        }
        assert!(generated == render(), "docs/reference/api.md is stale; run with HOLDFAST_BLESS=1");
    }
}
