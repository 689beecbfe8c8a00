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
    use std::io::Write;

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
