//! A copy of a collection that follows the controller's, by list and watch, forever.
//!
//! Level-triggered: what counts is the copy, not the events. The copy keeps its last state while
//! the controller is away; whoever must survive a restart as well writes it to disk.

use crate::client::Selector;
use crate::watch::Event;
use crate::{Backoff, Client, ClientError, backoff};
use holdfast_api::Reason;
use holdfast_api::resources::{Object, Resource};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A watch that stood for so long was a good one, even if nothing happened.
const WHILE: Duration = Duration::from_secs(10);

/// What is known of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica<T> {
    /// The objects by namespace and name; none before the first list.
    pub objects: Option<BTreeMap<(String, String), Arc<T>>>,
    /// Why the copy may be old; none while the watch stands.
    pub trouble: Option<(Reason, String)>,
}

impl<T> Default for Replica<T> {
    fn default() -> Self {
        Replica { objects: None, trouble: None }
    }
}

impl<T> Replica<T> {
    /// The objects, in the order of namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.objects.iter().flat_map(|objects| objects.values()).map(Arc::as_ref)
    }
}

/// Keeps `into` equal to what `selector` selects. Runs until nobody listens to `into` any more;
/// failures are waited out with jitter and shown in [`Replica::trouble`].
///
/// May be cancelled at any time.
pub async fn follow<S, U>(
    client: Client,
    namespace: Option<String>,
    selector: Selector,
    into: watch::Sender<Replica<Object<S, U>>>,
) where
    Object<S, U>: Resource + DeserializeOwned + PartialEq,
{
    let mut backoff = Backoff::default();
    loop {
        let ended = tokio::select! {
            ended = once(&client, namespace.as_deref(), &selector, &into, &mut backoff) => ended,
            // Nobody wants the copy any more.
            () = into.closed() => return,
        };
        let wait = match ended {
            // The server ended the watch in good order; it asked nobody to hurry back.
            Ok(()) => continue,
            Err(error) if error.is_gone() && backoff.failures() == 0 => {
                backoff.failed(backoff::seed());
                continue;
            }
            Err(error) => {
                let chain = holdfast_api::chain(&error);
                tracing::warn!(reason = %error.reason(), error = %chain, "lost the controller's {}", <Object<S, U>>::KIND.plural());
                into.send_if_modified(|copy| {
                    let trouble = Some((error.reason(), chain));
                    let news = copy.trouble != trouble;
                    copy.trouble = trouble;
                    news
                });
                error.retry_after().unwrap_or_default().max(backoff.failed(backoff::seed()))
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = into.closed() => return,
        }
    }
}

/// One list, and watches after it until one fails.
async fn once<S, U>(
    client: &Client,
    namespace: Option<&str>,
    selector: &Selector,
    into: &watch::Sender<Replica<Object<S, U>>>,
    backoff: &mut Backoff,
) -> Result<(), ClientError>
where
    Object<S, U>: Resource + DeserializeOwned + PartialEq,
{
    let list = client.list::<Object<S, U>>(namespace, selector).await?;
    let mut version = list.metadata.resource_version;
    let objects = list.items.into_iter().map(|item| (key(&item), Arc::new(item))).collect();
    let fresh = Replica { objects: Some(objects), trouble: None };
    into.send_if_modified(|copy| {
        let news = *copy != fresh;
        *copy = fresh;
        news
    });
    loop {
        let mut watch = client.watch::<Object<S, U>>(namespace, selector, Some(&version)).await?;
        let (begun, mut silent) = (Instant::now(), true);
        while let Some(event) = watch.next().await {
            let event = event?;
            backoff.succeeded();
            silent = false;
            version = version_of(&event);
            into.send_if_modified(|copy| absorb(copy, event));
        }
        if begun.elapsed() >= WHILE {
            backoff.succeeded();
        } else if silent {
            // A server that ends every watch at once must not be asked in a tight loop.
            tokio::time::sleep(backoff.failed(backoff::seed())).await;
            return Ok(());
        }
    }
}

fn key<S, U>(object: &Object<S, U>) -> (String, String) {
    (object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone())
}

fn version_of<S, U>(event: &Event<Object<S, U>>) -> String {
    match event {
        Event::Added(object) | Event::Modified(object) | Event::Deleted(object) => {
            object.metadata.resource_version.clone()
        }
        Event::Bookmark { resource_version } => resource_version.clone(),
    }
}

/// Applies an event; whether the copy changed.
fn absorb<S, U>(copy: &mut Replica<Object<S, U>>, event: Event<Object<S, U>>) -> bool
where
    Object<S, U>: PartialEq,
{
    let objects = copy.objects.get_or_insert_default();
    match event {
        Event::Added(object) | Event::Modified(object) => {
            let (key, object) = (key(&object), Arc::new(object));
            objects.insert(key, object.clone()).is_none_or(|before| before != object)
        }
        Event::Deleted(object) => objects.remove(&key(&object)).is_some(),
        Event::Bookmark { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::resources::{Site, SiteSpec};
    use proptest::prelude::*;

    fn site(name: u8, version: u8) -> Site {
        let mut site = Site::new(Some("acme"), &format!("s{name}"), SiteSpec::default());
        site.metadata.resource_version = version.to_string();
        site
    }

    proptest! {
        /// The law: absorbing events gives the same set as applying them to a plain map, and a
        /// change is reported exactly when the set changed.
        #[test]
        fn a_copy_is_the_sum_of_its_events(events in proptest::collection::vec((0u8..4, 0u8..3, any::<bool>()), 0..40)) {
            let mut copy = Replica::<Site>::default();
            let mut model = BTreeMap::new();
            for (name, version, gone) in events {
                let before = model.clone();
                let news = if gone {
                    model.remove(&name);
                    absorb(&mut copy, Event::Deleted(site(name, version)))
                } else {
                    model.insert(name, version);
                    absorb(&mut copy, Event::Modified(site(name, version)))
                };
                prop_assert_eq!(news, before != model);
                let have: Vec<_> = copy.iter().cloned().collect();
                let want: Vec<_> = model.iter().map(|(n, v)| site(*n, *v)).collect();
                prop_assert_eq!(have, want);
            }
        }
    }
}
