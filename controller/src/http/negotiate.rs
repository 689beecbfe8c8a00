//! What a client wants to be answered with, and the parameters of its URL.

use super::ApiError;
use std::collections::BTreeMap;

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The objects.
    Objects,
    /// Rows and columns for people (`meta.k8s.io/v1 Table`).
    Table,
    /// Metadata only.
    Metadata,
}

/// Reads an `Accept` header: the first form in it that we have.
pub(super) fn view(accept: Option<&str>) -> Result<View, ApiError> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return Ok(View::Objects);
    };
    accept.split(',').find_map(one_view).ok_or_else(ApiError::not_acceptable)
}

fn one_view(item: &str) -> Option<View> {
    let mut parts = item.split(';').map(str::trim);
    let media = parts.next()?;
    if !matches!(media, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let parameters: BTreeMap<&str, &str> = parts.filter_map(|part| part.split_once('=')).collect();
    match parameters.get("as").copied() {
        None => Some(View::Objects),
        Some("Table") if parameters.get("v") != Some(&"v1beta1") => Some(View::Table),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(View::Metadata),
        Some(_) => None,
    }
}

/// The parameters after the question mark; of several with one name the last counts.
#[derive(Debug, Default)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Query {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// A parameter; empty when it is not given.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1")
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let bad = |_| ApiError::bad_request(format!("{name}: {text:?} is not a whole number"));
        text.parse().map(Some).map_err(bad)
    }
}

/// Percent-decoding (RFC 3986 §2.1); `+` is a space, as HTML forms write it.
fn decode(text: &str) -> String {
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    loop {
        rest = match rest {
            [] => return String::from_utf8_lossy(&out).into_owned(),
            [b'%', high, low, more @ ..] if digit(high).is_some() && digit(low).is_some() => {
                out.push(digit(high).unwrap_or(0) << 4 | digit(low).unwrap_or(0));
                more
            }
            [b'+', more @ ..] => {
                out.push(b' ');
                more
            }
            [byte, more @ ..] => {
                out.push(*byte);
                more
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_form_that_we_have_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(view(Some(kubectl)).unwrap(), View::Table);
        assert_eq!(
            view(Some("application/vnd.kubernetes.protobuf, application/json")).unwrap(),
            View::Objects
        );
        assert_eq!(view(None).unwrap(), View::Objects);
        assert_eq!(view(Some("*/*")).unwrap(), View::Objects);
        let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(view(Some(metadata)).unwrap(), View::Metadata);
        assert_eq!(view(Some("text/html")).unwrap_err().code(), 406);
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse(Some("labelSelector=a%20in+%28b%2Cc%29&watch=1&x=%zz&limit=5"));
        assert_eq!(query.text("labelSelector"), "a in (b,c)");
        assert!(query.flag("watch"));
        assert_eq!(query.text("x"), "%zz");
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.number("watch").unwrap(), Some(1));
        assert_eq!(query.number("x").unwrap_err().code(), 400);
    }

    proptest! {
        #[test]
        fn any_query_is_read(text in ".{0,100}") {
            let _ = Query::parse(Some(&text));
        }
    }
}
