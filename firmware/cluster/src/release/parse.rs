//! YAML to objects. Every complaint names the file, the document in it (from 1, empty ones
//! counted) and the field.
//!
//! What is checked here needs no cluster: shape, names, our annotations, double entries, bounds.
//! Whether Kubernetes knows a field is asked of its API server in a dry run. Foreign labels and
//! annotations stay as written; one label is added, [`MANAGED_BY_LABEL`].

mod scan;
mod yaml;

use super::credentials::credentials;
use super::images::images;
use super::model::{DEFAULT_TIMEOUT, Item, Key, Release, Strategy, group};
use super::order::{class, is_built_in, is_cluster_wide};
use crate::object::{Object, ObjectId, Origin};
use holdfast_api::kubernetes::ReleaseRef;
use holdfast_api::marks::{
    DATA_PLANE_ANNOTATION, DEPLOYMENT_ANNOTATION, MANAGED_BY_LABEL, SYSTEM_NAMESPACE,
    TIMEOUT_ANNOTATION,
};
use holdfast_api::meta::{is_dns_label, is_dns_subdomain};
use holdfast_api::{Reason, brief};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of all files together; the controller keeps a release in one object.
pub const MAX_BYTES: usize = 1 << 20;
/// Objects of one release.
pub const MAX_OBJECTS: usize = 2000;
/// Levels of mappings and lists in one document.
pub const MAX_DEPTH: usize = 64;
/// Bytes of a release in memory, what its aliases repeat counted each time.
pub const MAX_CONTENT_BYTES: usize = 16 << 20;
/// Images of one release; every node holds all of them.
pub const MAX_IMAGES: usize = 500;
/// Bytes of a name of an object; RBAC alone would take longer ones.
const MAX_NAME: usize = 253;
/// Bytes of an `apiVersion`: a group (RFC 1123, subdomain) and a version (label).
const MAX_API_VERSION: usize = 253 + 1 + 63;
/// Bytes of a kind (CustomResourceDefinition v1, `spec.names.kind`).
const MAX_KIND: usize = 63;
/// The longest time that an object may be given, in seconds.
pub const MAX_TIMEOUT_SECS: u64 = 24 * 3600;

/// Bytes that messages show of a name that is none.
const NAME_SHOWN: usize = 100;

/// Namespaces that Kubernetes or the manager makes; a release may use them (but for the
/// manager's) and may not bring them.
const GIVEN_NAMESPACES: [&str; 5] =
    ["default", "kube-system", "kube-public", "kube-node-lease", SYSTEM_NAMESPACE];
/// Fields of `metadata` that the API server writes.
const SERVER_FIELDS: [&str; 4] = ["uid", "resourceVersion", "managedFields", "deletionTimestamp"];

/// Why manifests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The release's name does not do as the value of a label.
    #[error(
        "the name {:?} cannot be the value of a label: at most 63 letters, digits, '-', '_' and '.'",
        brief(name, NAME_SHOWN)
    )]
    Name {
        /// The name.
        name: String,
    },
    /// Too much text.
    #[error("the manifests have {bytes} bytes, {MAX_BYTES} are allowed")]
    TooBig {
        /// Bytes in all.
        bytes: usize,
    },
    /// Too many objects.
    #[error("{origin}: the release has more than {MAX_OBJECTS} objects")]
    TooMany {
        /// The first one too many.
        origin: Origin,
    },
    /// Too many images.
    #[error("the release has {images} images, {MAX_IMAGES} are allowed")]
    TooManyImages {
        /// How many.
        images: usize,
    },
    /// A file would take too long to read, or be read as something else.
    #[error("{}, line {line}: {problem}", brief(file, NAME_SHOWN))]
    Unfit {
        /// The file.
        file: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A document is not YAML that can become JSON.
    #[error("{origin}: this is not usable YAML")]
    Yaml {
        /// Where.
        origin: Origin,
        /// The parser's words, with line and column.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// A field is not as it has to be.
    #[error("{origin}: {field}: {problem}")]
    Field {
        /// Where.
        origin: Origin,
        /// Path of the field in the document.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// An object is there twice.
    #[error("{second}: metadata.name: {id} is also in {first}")]
    Twice {
        /// The object.
        id: Box<ObjectId>,
        /// Where it is first.
        first: Origin,
        /// Where it is again.
        second: Origin,
    },
}

impl ParseError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        Reason::ReleaseInvalid
    }
}

/// The release that `manifests` (YAML by file name) describe; objects that give no time of their
/// own may take `timeout`, [`DEFAULT_TIMEOUT`] when zero.
///
/// # Errors
/// The first thing that is wrong, in the order of the files' names.
pub fn parse(
    reference: &ReleaseRef,
    manifests: &BTreeMap<String, String>,
    timeout: Duration,
) -> Result<Release, ParseError> {
    let name = &reference.name;
    if !is_label_value(name) {
        return Err(ParseError::Name { name: name.clone() });
    }
    let bytes = manifests.iter().map(|(file, text)| file.len() + text.len()).sum();
    if bytes > MAX_BYTES {
        return Err(ParseError::TooBig { bytes });
    }
    let mut raw = Vec::new();
    let budget = yaml::Budget::new();
    for (file, text) in manifests {
        // YAML 1.2, 5.2: a byte order mark may begin a stream.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        scan::check(text).map_err(|scan::Unfit { line, problem }| ParseError::Unfit {
            file: file.clone(),
            line,
            problem,
        })?;
        for (at, document) in yaml::documents(text, &budget).enumerate() {
            let origin = Origin { file: file.clone(), document: at + 1 };
            let value =
                document.map_err(|source| ParseError::Yaml { origin: origin.clone(), source })?;
            unpack(&origin, "", value, &mut raw)?;
        }
    }
    let scopes = scopes(&raw);
    let timeout = if timeout.is_zero() { DEFAULT_TIMEOUT } else { timeout };
    let mut seen: BTreeMap<Key, Origin> = BTreeMap::new();
    let mut items = Vec::with_capacity(raw.len());
    for raw in raw {
        let item = item(raw, name, timeout, &scopes)?;
        let Object { id, origin, .. } = &item.object;
        if let Some(first) = seen.insert(Key::of(id), origin.clone()) {
            return Err(ParseError::Twice {
                id: Box::new(id.clone()),
                first,
                second: origin.clone(),
            });
        }
        items.push(item);
    }
    items.sort_by_key(|item| class(&item.object.id));
    let images = images(items.iter().map(|item| &item.object));
    if images.len() > MAX_IMAGES {
        return Err(ParseError::TooManyImages { images: images.len() });
    }
    let credentials = credentials(items.iter().map(|item| &item.object), &images);
    Ok(Release { reference: reference.clone(), items, images, credentials })
}

/// An object as it was written, and where.
struct Raw {
    origin: Origin,
    /// Path of the object in its document, with a dot at its end, empty for the document itself.
    at: String,
    fields: Map<String, Value>,
}

impl Raw {
    fn wrong(&self, field: &str, problem: impl Into<String>) -> ParseError {
        let field = format!("{}{field}", self.at);
        ParseError::Field { origin: self.origin.clone(), field, problem: problem.into() }
    }

    fn text(&self, field: &str) -> Result<&str, ParseError> {
        match self.fields.get(field) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            None | Some(Value::Null) => Err(self.wrong(field, "is missing")),
            Some(_) => Err(self.wrong(field, "must be a text that is not empty")),
        }
    }

    fn short_text(&self, field: &str, most: usize) -> Result<String, ParseError> {
        match self.text(field)? {
            text if text.len() <= most => Ok(text.to_owned()),
            _ => Err(self.wrong(field, format!("has more than {most} bytes"))),
        }
    }
}

/// Objects of a document: itself, or what a `List` holds.
fn unpack(origin: &Origin, at: &str, value: Value, into: &mut Vec<Raw>) -> Result<(), ParseError> {
    let wrong = |field: String, problem: &str| ParseError::Field {
        origin: origin.clone(),
        field,
        problem: problem.into(),
    };
    let mut fields = match value {
        Value::Null if at.is_empty() => return Ok(()),
        Value::Object(fields) => fields,
        _ => {
            let field = if at.is_empty() { "(document)" } else { at };
            return Err(wrong(field.into(), "must be a mapping"));
        }
    };
    let prefix = if at.is_empty() { String::new() } else { format!("{at}.") };
    let is_list = fields.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List"));
    if is_list && fields.get("items").is_some() {
        let Some(Value::Array(items)) = fields.remove("items") else {
            return Err(wrong(format!("{prefix}items"), "must be a list"));
        };
        for (index, item) in items.into_iter().enumerate() {
            unpack(origin, &format!("{prefix}items[{index}]"), item, into)?;
        }
        return Ok(());
    }
    if into.len() == MAX_OBJECTS {
        return Err(ParseError::TooMany { origin: origin.clone() });
    }
    into.push(Raw { origin: origin.clone(), at: prefix, fields });
    Ok(())
}

/// Group and kind of what the release's own definitions define, and whether it has namespaces.
fn scopes(raw: &[Raw]) -> BTreeMap<(String, String), bool> {
    let definitions = raw.iter().filter(|raw| {
        raw.fields.get("kind").and_then(Value::as_str) == Some("CustomResourceDefinition")
    });
    definitions
        .filter_map(|raw| {
            let spec = raw.fields.get("spec")?;
            let group = spec.get("group")?.as_str()?;
            let kind = spec.get("names")?.get("kind")?.as_str()?;
            let namespaced = spec.get("scope")?.as_str()? == "Namespaced";
            Some(((group.to_owned(), kind.to_owned()), namespaced))
        })
        .collect()
}

fn item(
    mut raw: Raw,
    release: &str,
    timeout: Duration,
    scopes: &BTreeMap<(String, String), bool>,
) -> Result<Item, ParseError> {
    let api_version = raw.short_text("apiVersion", MAX_API_VERSION)?;
    let kind = raw.short_text("kind", MAX_KIND)?;
    let mut metadata = match raw.fields.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        None | Some(Value::Null) => return Err(raw.wrong("metadata", "is missing")),
        Some(_) => return Err(raw.wrong("metadata", "must be a mapping")),
    };
    if metadata.contains_key("generateName") {
        return Err(raw.wrong("metadata.generateName", "an object of a release needs a fixed name"));
    }
    if let Some(field) = SERVER_FIELDS.iter().find(|field| metadata.contains_key(**field)) {
        let field = format!("metadata.{field}");
        return Err(raw.wrong(&field, "is written by the API server; leave it out"));
    }
    let name = match metadata.get("name") {
        Some(Value::String(name)) => name.clone(),
        None | Some(Value::Null) => return Err(raw.wrong("metadata.name", "is missing")),
        Some(_) => return Err(raw.wrong("metadata.name", "must be a text; put it in quotes")),
    };
    let mut id = ObjectId { api_version, kind, namespace: None, name };
    check_name(&raw, &id)?;
    id.namespace = namespace(&raw, &id, &metadata, scopes)?;
    if let Some(namespace) = &id.namespace {
        metadata.insert("namespace".into(), namespace.clone().into());
    }
    for field in ["labels", "annotations"] {
        check_texts(&raw, &metadata, field)?;
    }
    label(&raw, &mut metadata, release)?;
    let Raw { origin, at, mut fields } = raw;
    fields.insert("metadata".into(), Value::Object(metadata));
    let object = Object { id, origin: origin.clone(), value: Value::Object(fields) };
    let bad = |annotation: &str, problem: &str| ParseError::Field {
        origin: origin.clone(),
        field: format!("{at}metadata.annotations.{annotation}"),
        problem: problem.into(),
    };
    let strategy = match object.annotation(DEPLOYMENT_ANNOTATION) {
        None | Some("pessimistic") => Strategy::Pessimistic,
        Some("optimistic") => Strategy::Optimistic,
        Some(_) => return Err(bad(DEPLOYMENT_ANNOTATION, "must be pessimistic or optimistic")),
    };
    let data_plane = match object.annotation(DATA_PLANE_ANNOTATION) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(bad(DATA_PLANE_ANNOTATION, "must be \"true\" or \"false\"")),
    };
    let timeout = match object.annotation(TIMEOUT_ANNOTATION).map(str::parse) {
        None => timeout,
        Some(Ok(secs)) if (1..=MAX_TIMEOUT_SECS).contains(&secs) => Duration::from_secs(secs),
        Some(_) => {
            return Err(bad(TIMEOUT_ANNOTATION, "must be a number of seconds, 1 to 86400"));
        }
    };
    Ok(Item { object, strategy, timeout, data_plane })
}

/// Names of RBAC's objects may have colons; all others are DNS names (RFC 1123), that of a
/// namespace a single label.
fn check_name(raw: &Raw, id: &ObjectId) -> Result<(), ParseError> {
    let ObjectId { kind, name, .. } = id;
    let (good, rule) = match group(&id.api_version) {
        "rbac.authorization.k8s.io" => (
            !matches!(name.as_str(), "" | "." | "..")
                && name.len() <= MAX_NAME
                && !name.contains(['/', '%']),
            "must not be empty, has at most 253 bytes and neither '/' nor '%'",
        ),
        "" if matches!(kind.as_str(), "Namespace" | "Service") => (
            is_dns_label(name),
            "must be lower-case letters, digits and '-', at most 63 (RFC 1123)",
        ),
        _ => (
            is_dns_subdomain(name),
            "must be lower-case letters, digits, '-' and '.', at most 253 (RFC 1123)",
        ),
    };
    if !good {
        let name = brief(name, NAME_SHOWN);
        return Err(raw.wrong("metadata.name", format!("{name:?} {rule}")));
    }
    match (group(&id.api_version), kind.as_str()) {
        ("", "Namespace") if GIVEN_NAMESPACES.contains(&name.as_str()) => {
            Err(raw.wrong("metadata.name", format!("the namespace {name} is not a release's")))
        }
        ("", "Node") => Err(raw.wrong("kind", "nodes are not a release's")),
        _ => Ok(()),
    }
}

fn namespace(
    raw: &Raw,
    id: &ObjectId,
    metadata: &Map<String, Value>,
    scopes: &BTreeMap<(String, String), bool>,
) -> Result<Option<String>, ParseError> {
    let field = "metadata.namespace";
    let given = match metadata.get("namespace") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if is_dns_label(name) => Some(name.clone()),
        Some(_) => {
            return Err(raw.wrong(field, "must be lower-case letters, digits and '-' (RFC 1123)"));
        }
    };
    if given.as_deref() == Some(SYSTEM_NAMESPACE) {
        return Err(raw.wrong(field, format!("{SYSTEM_NAMESPACE} is the manager's own")));
    }
    let group = group(&id.api_version);
    let namespaced = if is_built_in(group) {
        is_cluster_wide(id).map(|wide| !wide)
    } else {
        scopes.get(&(group.to_owned(), id.kind.clone())).copied()
    };
    match (namespaced, given) {
        (Some(false), Some(_)) => {
            Err(raw.wrong(field, format!("a {} belongs to the whole cluster", id.kind)))
        }
        (Some(true), None) => Ok(Some("default".into())),
        (_, given) => Ok(given),
    }
}

/// Labels and annotations are mappings of texts; YAML makes `true` and `1` something else.
fn check_texts(raw: &Raw, metadata: &Map<String, Value>, field: &str) -> Result<(), ParseError> {
    let path = format!("metadata.{field}");
    match metadata.get(field) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(texts)) => match texts.iter().find(|(_, text)| !text.is_string()) {
            Some((name, _)) => {
                let field = format!("{path}.{}", brief(name, NAME_SHOWN));
                Err(raw.wrong(&field, "must be a text; put it in quotes"))
            }
            None => Ok(()),
        },
        Some(_) => Err(raw.wrong(&path, "must be a mapping")),
    }
}

fn label(raw: &Raw, metadata: &mut Map<String, Value>, release: &str) -> Result<(), ParseError> {
    let labels = metadata.entry("labels").or_insert(Value::Null);
    if labels.is_null() {
        *labels = Value::Object(Map::new());
    }
    let Value::Object(labels) = labels else {
        return Err(raw.wrong("metadata.labels", "must be a mapping"));
    };
    match labels.insert(MANAGED_BY_LABEL.into(), release.into()) {
        Some(other) if other != *release => {
            let field = format!("metadata.labels.{MANAGED_BY_LABEL}");
            Err(raw.wrong(&field, "is Holdfast's own; leave it out"))
        }
        _ => Ok(()),
    }
}

/// Kubernetes: "Labels and Selectors", syntax of values; an empty one would not name us.
fn is_label_value(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests;
