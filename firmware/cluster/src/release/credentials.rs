//! Who asks registries for a release's images, where they want to know: Secrets of the type
//! `kubernetes.io/dockerconfigjson` that the release itself brings. Pods name them as
//! `imagePullSecrets`; images are pulled before there is a pod, so each counts for every image that
//! it fits. One that is on the site already is not looked for: a node's own rights do not read it.
//!
//! The format, and what an entry fits, is that of kubernetes.io "Images", "Interpretation of
//! config.json". Of the wildcards only a whole `*` between dots is known. What is no such document
//! the API server refuses in the dry run.

use crate::images::{Credentials, Reference};
use crate::object::Object;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_api::kubernetes::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;

const KIND: &str = "kubernetes.io/dockerconfigjson";
const KEY: &str = ".dockerconfigjson";

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: Secret,
    /// Both of them, in base64.
    #[serde(default)]
    auth: Secret,
}

impl Entry {
    fn credentials(self) -> Option<Credentials> {
        if !self.username.is_empty() {
            return Some(Credentials { username: self.username, password: self.password });
        }
        let both = String::from_utf8(STANDARD.decode(self.auth.0.trim()).ok()?).ok()?;
        let (username, password) = both.split_once(':')?;
        Some(Credentials { username: username.into(), password: Secret(password.into()) })
    }
}

/// A part of a registry.
struct Place {
    host: String,
    path: String,
}

impl Place {
    /// As it is written in such a document: also as a URL, with the version of the registry's API.
    fn parse(key: &str) -> Self {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        let (host, path) = key.split_once('/').unwrap_or((key, ""));
        let path = path.trim_end_matches('/');
        let path = if path == "v1" || path == "v2" { "" } else { path };
        let host = if host == "index.docker.io" { "docker.io" } else { host };
        Place { host: host.into(), path: path.into() }
    }

    fn fits(&self, image: &Reference) -> bool {
        let is_host = self.host.split('.').count() == image.registry().split('.').count()
            && self
                .host
                .split('.')
                .zip(image.registry().split('.'))
                .all(|(ours, theirs)| ours == theirs || ours == "*");
        let rest = image.path().strip_prefix(self.path.as_str());
        let is_path = self.path.is_empty()
            || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        is_host && is_path
    }
}

/// Credentials by image, for those of `images` that have some: of several the ones for the longest
/// path.
pub fn credentials<'a>(
    objects: impl IntoIterator<Item = &'a Object>,
    images: &[String],
) -> BTreeMap<String, Credentials> {
    let entries: Vec<(Place, Credentials)> = objects
        .into_iter()
        .filter_map(config)
        .flat_map(|config| config.auths)
        .filter_map(|(key, entry)| Some((Place::parse(&key), entry.credentials()?)))
        .collect();
    let of = |image: &String| {
        let reference = Reference::parse(image).ok()?;
        let fitting = entries.iter().filter(|(place, _)| place.fits(&reference));
        let (_, best) = fitting.max_by_key(|(place, _)| place.path.len())?;
        Some((image.clone(), best.clone()))
    };
    images.iter().filter_map(of).collect()
}

fn config(object: &Object) -> Option<Config> {
    let value = &object.value;
    if object.id.kind != "Secret" || value["type"] != KIND {
        return None;
    }
    match value["stringData"][KEY].as_str() {
        Some(text) => serde_json::from_str(text).ok(),
        None => serde_json::from_slice(&STANDARD.decode(value["data"][KEY].as_str()?).ok()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{ObjectId, Origin};
    use serde_json::{Value, json};

    fn secret(kind: &str, more: Value) -> Object {
        let id = ObjectId {
            api_version: "v1".into(),
            kind: "Secret".into(),
            namespace: Some("shop".into()),
            name: "pull".into(),
        };
        let mut value = json!({"type": kind});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Object { id, origin: Origin::default(), value }
    }

    fn who(objects: &[Object], images: &[&str]) -> Vec<String> {
        let images: Vec<String> = images.iter().map(|image| (*image).to_owned()).collect();
        let found = credentials(objects, &images);
        let who = |image: &String| {
            let found = found.get(image)?;
            Some(format!("{}:{}", found.username, found.password.0))
        };
        images.iter().map(|image| who(image).unwrap_or_default()).collect()
    }

    #[test]
    fn an_image_is_asked_for_by_whom_the_release_names_for_its_registry() {
        let auths = json!({"auths": {
            "r.lab:5000": {"username": "all", "password": "1"},
            "https://r.lab:5000/shop": {"auth": STANDARD.encode("shop:2:3")},
            "*.example": {"username": "wild", "password": "4"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "5"},
            "broken.lab": {"auth": "no base64!"},
        }});
        let encoded = secret(KIND, json!({"data": {KEY: STANDARD.encode(auths.to_string())}}));
        let plain = secret(KIND, json!({"stringData": {KEY: auths.to_string()}}));
        let images = [
            "r.lab:5000/app:v1",
            "r.lab:5000/shop/web:v1",
            "r.lab:5000/shopping:v1",
            "r.lab/app:v1",
            "a.example/app:v1",
            "a.b.example/app:v1",
            "docker.io/library/nginx:1",
            "broken.lab/app:v1",
        ];
        let want = ["all:1", "shop:2:3", "all:1", "", "wild:4", "", "hub:5", ""];
        for object in [encoded, plain] {
            assert_eq!(who(&[object], &images), want);
        }
    }

    #[test]
    fn other_secrets_are_none_of_a_registrys_business() {
        let text = json!({"auths": {"r.lab": {"username": "a", "password": "b"}}}).to_string();
        let data = json!({"stringData": {KEY: text}});
        assert_eq!(who(&[secret("Opaque", data)], &["r.lab/a:1"]), [""]);
        let damaged = secret(KIND, json!({"data": {KEY: "e30"}}));
        assert_eq!(who(&[damaged, secret(KIND, json!({}))], &["r.lab/a:1"]), [""]);
    }
}
