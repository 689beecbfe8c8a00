//! Lists, a page at a time (Kubernetes API concepts, "Retrieving large results sets in chunks").
//!
//! Any server behind the aggregation layer may answer, so nothing is taken on trust: how many pages
//! there are, that the next one is another one, that it is short enough.

use super::connect::Api;
use super::discovery::Resource;
use super::error::ApiError;
use super::request::Question;
use serde_json::Value;
use std::collections::BTreeSet;

/// Objects that are asked for at a time.
pub(super) const PAGE: usize = 100;
/// Pages of one list; of full ones a site has less than this of anything.
const PAGES: usize = 2000;
/// Bytes of one list, far more than a site has of anything.
const LIST_BYTES: usize = 128 << 20;
/// Times that a list is begun anew because it took longer than the server remembers.
const TRIES: usize = 3;

impl Api {
    pub(super) async fn pages(
        &self,
        resource: &Resource,
        question: Question,
    ) -> Result<Vec<Value>, ApiError> {
        let mut list = List { limit: PAGE, ..List::default() };
        let mut begun = 1;
        loop {
            let mut page = question.clone().query("limit", &list.limit.to_string());
            if !list.next.is_empty() {
                page = page.query("continue", &list.next);
            }
            let told = match self.call(&page).await {
                Ok(told) => told,
                Err(ApiError::Stale { .. }) if begun < TRIES => {
                    begun += 1;
                    list = List { limit: list.limit, ..List::default() };
                    continue;
                }
                Err(error) if error.is_too_long() && list.limit > 1 => {
                    list.limit /= 2;
                    continue;
                }
                Err(error) => return Err(error),
            };
            list.take(resource, told.json(&page)?, told.body.len())
                .map_err(|why| question.misunderstood(why))?;
            if list.next.is_empty() {
                return Ok(list.objects);
            }
        }
    }
}

#[derive(Default)]
struct List {
    objects: Vec<Value>,
    /// Where the next page begins; empty at the beginning and at the end.
    next: String,
    passed: BTreeSet<String>,
    bytes: usize,
    limit: usize,
}

impl List {
    /// Takes a page of so many bytes.
    fn take(
        &mut self,
        resource: &Resource,
        mut page: Value,
        bytes: usize,
    ) -> Result<(), &'static str> {
        self.bytes += bytes;
        if self.bytes > LIST_BYTES {
            return Err("the list is too long");
        }
        if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
            self.objects.extend(items.into_iter().map(|item| named(resource, item)));
        }
        self.next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if self.next.is_empty() {
            return Ok(());
        }
        if !self.passed.insert(self.next.clone()) {
            return Err("the list leads back to a page that was there before");
        }
        if self.passed.len() > PAGES {
            return Err("the list has too many pages");
        }
        Ok(())
    }
}

/// Items of a list do not say what they are, as the list does.
fn named(resource: &Resource, mut item: Value) -> Value {
    if let Value::Object(fields) = &mut item {
        fields.insert("apiVersion".into(), resource.api_version.clone().into());
        fields.insert("kind".into(), resource.kind.clone().into());
    }
    item
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_list_without_end_is_refused() {
        let resource = Resource {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            plural: "configmaps".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let page = |next: String| json!({"metadata": {"continue": next}, "items": [{}]});
        let mut list = List::default();
        let end = (0..).find_map(|n| list.take(&resource, page(format!("p{n}")), 1).err());
        assert_eq!(end, Some("the list has too many pages"));
        assert_eq!(list.objects.len(), PAGES + 1);
        let mut list = List::default();
        for next in ["a", "b"] {
            list.take(&resource, page(next.into()), 1).unwrap();
        }
        let again = list.take(&resource, page("a".into()), 1);
        assert_eq!(again, Err("the list leads back to a page that was there before"));
        let long = List::default().take(&resource, page(String::new()), LIST_BYTES + 1);
        assert_eq!(long, Err("the list is too long"));
    }
}
