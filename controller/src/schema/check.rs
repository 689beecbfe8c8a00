//! Checking and pruning what clients write.

use super::{Field, Format, Schema, spec_of, status_of};
use holdfast_api::meta::API_VERSION;
use holdfast_api::resources::Kind;
use holdfast_api::tunnel::PublicKey;
use serde_json::{Map, Value};

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Its path, such as `spec.uses`.
    pub field: String,
    /// Kubernetes' cause word, or a reason code of ours.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl FieldError {
    /// A value that cannot be.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        FieldError { field: field.into(), reason: "FieldValueInvalid", message: message.into() }
    }

    /// A value that must be there.
    pub fn required(field: impl Into<String>) -> Self {
        let message = "Required value".into();
        FieldError { field: field.into(), reason: "FieldValueRequired", message }
    }

    /// A value that the caller may not set.
    pub fn forbidden(field: impl Into<String>, message: impl Into<String>) -> Self {
        FieldError { field: field.into(), reason: "FieldValueForbidden", message: message.into() }
    }
}

/// What was found. Unknown fields are removed from the value, and nulls too.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Wrong fields.
    pub errors: Vec<FieldError>,
    /// Paths of unknown fields.
    pub unknown: Vec<String>,
}

/// Checks `object` against the form of its kind and prunes it.
pub fn check(kind: Kind, object: &mut Value) -> Report {
    let mut report = Report::default();
    let Some(map) = object.as_object_mut() else {
        report.errors.push(FieldError::invalid("", "must be an object"));
        return report;
    };
    for (name, want) in [("apiVersion", API_VERSION), ("kind", kind.name())] {
        match map.get(name) {
            None => {
                map.insert(name.into(), want.into());
            }
            Some(have) if have == want => {}
            Some(have) => {
                let message = format!("Invalid value: {have}: must be {want:?} here");
                report.errors.push(FieldError::invalid(name, message));
            }
        }
    }
    drop_unknown(map, "", &mut report, |name| {
        matches!(name, "apiVersion" | "kind" | "metadata" | "spec" | "status")
    });
    metadata(map, &mut report);
    for (name, schema) in [("spec", spec_of(kind)), ("status", status_of(kind))] {
        if let Some(value) = map.get_mut(name) {
            walk(schema, value, name, &mut report);
        }
    }
    report
}

const META_TEXTS: &[&str] =
    &["name", "generateName", "namespace", "uid", "resourceVersion", "selfLink"];

fn metadata(map: &mut Map<String, Value>, report: &mut Report) {
    let meta = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Some(meta) = meta.as_object_mut() else {
        report.errors.push(FieldError::invalid("metadata", "must be an object"));
        return;
    };
    meta.retain(|_, value| !value.is_null());
    drop_unknown(meta, "metadata.", report, |name| {
        META_TEXTS.contains(&name)
            || matches!(
                name,
                "generation"
                    | "creationTimestamp"
                    | "deletionTimestamp"
                    | "deletionGracePeriodSeconds"
                    | "labels"
                    | "annotations"
                    | "finalizers"
                    | "ownerReferences"
                    | "managedFields"
            )
    });
    for name in META_TEXTS {
        if let Some(value) = meta.get_mut(*name) {
            walk(&Schema::Text, value, &format!("metadata.{name}"), report);
        }
    }
    for name in ["labels", "annotations"] {
        if let Some(value) = meta.get_mut(name) {
            walk(&Schema::Map(&Schema::Text), value, &format!("metadata.{name}"), report);
        }
    }
    if let Some(value) = meta.get_mut("finalizers") {
        walk(&Schema::List(&Schema::Text), value, "metadata.finalizers", report);
    }
}

fn drop_unknown(
    map: &mut Map<String, Value>,
    prefix: &str,
    report: &mut Report,
    known: impl Fn(&str) -> bool,
) {
    map.retain(|name, _| {
        let keep = known(name);
        if !keep {
            report.unknown.push(format!("{prefix}{name}"));
        }
        keep
    });
}

fn walk(schema: &Schema, value: &mut Value, path: &str, report: &mut Report) {
    let mut wrong = |want: &str, value: &Value| {
        let message = format!("Invalid value: {}: {want}", shorten(value));
        report.errors.push(FieldError::invalid(path, message));
    };
    match schema {
        Schema::Any => {}
        Schema::Text if value.is_string() => {}
        Schema::Text => wrong("must be a text", value),
        Schema::Bool if value.is_boolean() => {}
        Schema::Bool => wrong("must be true or false", value),
        Schema::Int(low, high) => {
            if !value.as_i64().is_some_and(|n| (*low..=*high).contains(&n)) {
                wrong(&format!("must be a whole number from {low} to {high}"), value);
            }
        }
        Schema::Enum(words) => {
            if !value.as_str().is_some_and(|word| words.contains(&word)) {
                wrong(&format!("supported values: {}", words.join(", ")), value);
            }
        }
        Schema::Format(format) => {
            if let Some(want) =
                value.as_str().map_or(Some("must be a text"), |t| misses(*format, t))
            {
                wrong(want, value);
            }
        }
        Schema::List(item) => match value.as_array_mut() {
            Some(items) => {
                for (index, value) in items.iter_mut().enumerate() {
                    walk(item, value, &format!("{path}[{index}]"), report);
                }
            }
            None => wrong("must be a list", value),
        },
        Schema::Map(item) => match value.as_object_mut() {
            Some(map) => {
                map.retain(|_, value| !value.is_null());
                for (name, value) in map {
                    walk(item, value, &key_path(path, name), report);
                }
            }
            None => wrong("must be an object", value),
        },
        Schema::Object(fields) => match value.as_object_mut() {
            Some(map) => object(fields, map, path, report),
            None => wrong("must be an object", value),
        },
    }
}

fn object(fields: &[Field], map: &mut Map<String, Value>, path: &str, report: &mut Report) {
    map.retain(|_, value| !value.is_null());
    let prefix = format!("{path}.");
    drop_unknown(map, &prefix, report, |name| fields.iter().any(|field| field.name == name));
    for field in fields {
        let path = format!("{prefix}{}", field.name);
        match map.get_mut(field.name) {
            Some(value) => walk(field.schema, value, &path, report),
            None if field.required => report.errors.push(FieldError::required(path)),
            None => {}
        }
    }
}

fn misses(format: Format, text: &str) -> Option<&'static str> {
    let (fits, want) = match format {
        Format::Time => (text.parse::<jiff::Timestamp>().is_ok(), "must be a time (RFC 3339)"),
        Format::Ip => (text.parse::<std::net::IpAddr>().is_ok(), "must be an IP address"),
        Format::Prefix => {
            (text.parse::<ipnet::IpNet>().is_ok(), "must be a prefix such as 10.0.0.0/8")
        }
        Format::Socket => (
            text.parse::<std::net::SocketAddr>().is_ok(),
            "must be an address and port such as 192.0.2.1:51820",
        ),
        Format::WireguardKey => {
            (text.parse::<PublicKey>().is_ok(), "must be a WireGuard key: 32 bytes in base64")
        }
    };
    (!fits).then_some(want)
}

/// The path of an entry of a map: in brackets when a dot in its name could be mistaken for one of
/// the path, or when it is no plain word at all.
pub fn key_path(path: &str, key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.is_empty() && key.bytes().all(plain) {
        return format!("{path}.{key}");
    }
    format!("{path}[{}]", shorten(&key.into()).trim_matches('"'))
}

/// A value as JSON, cut where it would fill the screen.
pub(crate) fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
