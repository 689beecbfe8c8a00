//! `get` and `list`.

use super::authorize::Sight;
use super::body::{Answer, json, json_value};
use super::negotiate::{Query, View};
use super::{ApiError, Target, table};
use crate::select::{FieldSelector, LabelSelector};
use crate::store::{Entry, Key, Shared, Store};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, BytesMut};
use holdfast_api::meta::API_VERSION;
use holdfast_api::resources::Kind;
use hyper::header::{ETAG, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Objects of a page when the client names no limit: none is left out, as in Kubernetes.
const LIMIT_MAX: u64 = 100_000;

/// Which objects of a collection are wanted and may be seen.
#[derive(Debug, Clone)]
pub(super) struct Selection {
    pub(super) kind: Kind,
    namespace: Option<String>,
    pub(super) sight: Sight,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(super) fn new(target: &Target, sight: Sight, query: &Query) -> Result<Self, ApiError> {
        let bad = |error: crate::select::SelectorError| ApiError::bad_request(error.to_string());
        Ok(Selection {
            kind: target.kind,
            namespace: target.namespace.clone(),
            sight,
            labels: LabelSelector::parse(query.text("labelSelector")).map_err(bad)?,
            fields: FieldSelector::parse(target.kind, query.text("fieldSelector")).map_err(bad)?,
        })
    }

    pub(super) fn matches(&self, entry: &Entry) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == entry.key.namespace)
            && sees(&self.sight, entry)
            && self.labels.matches(entry.value.pointer("/metadata/labels"))
            && self.fields.matches(&entry.value)
    }

    /// The objects after `after`, at most `limit` of them, whether there are more, and the version.
    pub(super) fn page(
        &self,
        store: &Store,
        after: Option<&Key>,
        limit: usize,
    ) -> (Vec<Shared>, bool, u64) {
        store.read(|state, version| {
            let all = state.list(self.kind, self.namespace.as_deref(), after);
            let mut wanted = all.filter(|entry| self.matches(entry));
            let page: Vec<Shared> = wanted.by_ref().take(limit).cloned().collect();
            (page, wanted.next().is_some(), version)
        })
    }
}

/// Whether somebody with this sight sees the object.
pub(super) fn sees(sight: &Sight, entry: &Entry) -> bool {
    match sight {
        Sight::All => true,
        Sight::Named(namespace, name) => {
            entry.key.name == *name
                && namespace.as_ref().is_none_or(|namespace| *namespace == entry.key.namespace)
        }
        Sight::PeersOf(edge) => {
            let edges = entry.value.pointer("/spec/edges").and_then(Value::as_array);
            edges.is_some_and(|edges| edges.iter().any(|name| name == edge))
        }
    }
}

/// One object.
pub(super) fn get(
    store: &Store,
    key: &Key,
    sight: &Sight,
    view: View,
    if_none_match: Option<&str>,
) -> Result<Answer, ApiError> {
    let missing = || match sight {
        // Whoever sees only some must not learn which others there are.
        Sight::PeersOf(edge) => {
            ApiError::forbidden(format!("{} is none of the peers of edge {edge:?}", key.name))
        }
        Sight::All | Sight::Named(..) => ApiError::not_found(key.kind, &key.name),
    };
    let entry = store.get(key).filter(|entry| sees(sight, entry)).ok_or_else(missing)?;
    let tag = tag(&entry);
    let known = if_none_match.is_some_and(|known| {
        known.split(',').map(|t| t.trim().trim_start_matches("W/")).any(|t| t == tag || t == "*")
    });
    let mut answer = match (known, view) {
        (true, _) => json(304, ""),
        (false, View::Objects) => json(200, text(sight, &entry)),
        (false, View::Table) => {
            json_value(200, &table::table(key.kind, std::slice::from_ref(&entry), None))
        }
        (false, View::Metadata) => json_value(200, &metadata_of(&entry)),
    };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        answer.headers_mut().insert(ETAG, value);
    }
    Ok(answer)
}

/// The object as somebody with this sight reads it: a node sees its own join token.
pub(super) fn text(sight: &Sight, entry: &Entry) -> bytes::Bytes {
    match (entry.key.kind, sight) {
        (Kind::NodeConfig, Sight::Named(..)) => entry.json_with_secret(),
        _ => entry.json(),
    }
}

/// The content hash of a node's configuration; of other objects their uid and version.
fn tag(entry: &Entry) -> String {
    match entry.text("/status/contentHash") {
        "" => format!("\"{}-{}\"", entry.text("/metadata/uid"), entry.version),
        hash => format!("\"{hash}\""),
    }
}

/// Where the next page begins.
///
/// Pages are read at different times. The position that a list reports is that of its first page,
/// so that a watch from there repeats whatever changed while the later ones were read.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Continue {
    v: u64,
    ns: String,
    name: String,
}

impl Continue {
    pub(super) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        serde_json::from_slice(&bytes).map_err(|_| bad())
    }
}

/// A collection.
pub(super) fn list(
    store: &Store,
    selection: &Selection,
    query: &Query,
    view: View,
) -> Result<Answer, ApiError> {
    let limit = query.number("limit")?.filter(|limit| *limit > 0).unwrap_or(LIMIT_MAX);
    let limit = usize::try_from(limit.min(LIMIT_MAX)).unwrap_or(usize::MAX);
    let from = match query.text("continue") {
        "" => None,
        text => Some(Continue::parse(text)?),
    };
    let after = from.as_ref().map(|from| Key::new(selection.kind, &from.ns, &from.name));
    let (page, more, version) = selection.page(store, after.as_ref(), limit);
    let version = from.as_ref().map_or(version, |from| from.v);
    if from.is_some() && store.since(selection.kind, version).is_err() {
        let message = "The provided continue parameter is too old; list again from the beginning";
        return Err(ApiError::expired(message));
    }
    let next = page.last().filter(|_| more).map(|last| {
        let (ns, name) = (last.key.namespace.clone(), last.key.name.clone());
        Continue { v: version, ns, name }.encode()
    });
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(next) = next {
        metadata["continue"] = next.into();
    }
    Ok(match view {
        View::Objects => json(200, objects(selection, &metadata, &page)),
        View::Table => json_value(200, &table::table(selection.kind, &page, Some(metadata))),
        View::Metadata => {
            let items: Vec<Value> = page.iter().map(|entry| metadata_of(entry)).collect();
            json_value(
                200,
                &json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata, "items": items,
                }),
            )
        }
    })
}

/// Pieced together from texts that exist already, so that large lists cost little.
fn objects(selection: &Selection, metadata: &Value, page: &[Shared]) -> bytes::Bytes {
    let texts: Vec<bytes::Bytes> = page.iter().map(|entry| text(&selection.sight, entry)).collect();
    let size: usize = texts.iter().map(|text| text.len() + 1).sum();
    let mut out = BytesMut::with_capacity(size + 256);
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{API_VERSION}","metadata":{metadata},"items":["#,
        selection.kind.name()
    );
    out.put(head.as_bytes());
    for (index, text) in texts.into_iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put(text);
    }
    out.put(&b"]}"[..]);
    out.freeze()
}

pub(super) fn metadata_of(entry: &Entry) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": entry.value["metadata"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn continue_tokens_read_back_and_anything_else_is_refused(v: u64, ns in ".{0,20}", name in ".{0,20}", junk in ".{0,40}") {
            let token = Continue { v, ns, name };
            prop_assert_eq!(Continue::parse(&token.encode()).unwrap(), token);
            if let Err(error) = Continue::parse(&junk) {
                prop_assert_eq!(error.code(), 400);
            }
        }
    }
}
