//! Which images a node would have to pull, as far as its Node object tells. Pure, and a forecast: a
//! kubelet names so many images and no more.

use super::site::{holds, is_ready};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// The kubelet's `nodeStatusMaxImages`, as it is unless somebody sets it.
const NAMED: usize = 50;

/// What a node would pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// The node.
    pub node: String,
    /// Images that it does not name.
    pub images: Vec<String>,
    /// It names all that it has.
    pub is_sure: bool,
    /// Its kubelet takes pods.
    pub is_ready: bool,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lacking { node, images, is_sure, is_ready } = self;
        write!(f, "{node} ")?;
        match (images.is_empty(), is_sure) {
            (true, _) => write!(f, "has them")?,
            (false, true) => write!(f, "lacks {}", images.join(", "))?,
            (false, false) => write!(f, "may lack {}", images.join(", "))?,
        }
        if *is_ready { Ok(()) } else { write!(f, " and is not Ready") }
    }
}

/// What each of these nodes would pull of `images`, named in full, for the release of this digest.
pub fn lacking(nodes: &[Value], digest: &str, images: &[String]) -> Vec<Lacking> {
    let of = |node: &Value| {
        let listed = node["status"]["images"].as_array().map(Vec::as_slice).unwrap_or_default();
        let names = listed.iter().flat_map(|image| image["names"].as_array()).flatten();
        let has: BTreeSet<&str> = names.filter_map(Value::as_str).collect();
        let lacks = |image: &&String| !holds(node, digest) && !has.contains(image.as_str());
        Lacking {
            node: node["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            images: images.iter().filter(lacks).cloned().collect(),
            is_sure: listed.len() < NAMED,
            is_ready: is_ready(node),
        }
    };
    nodes.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::marks::PRE_PULLED_ANNOTATION;
    use serde_json::json;

    #[test]
    fn a_node_lacks_what_neither_it_nor_its_kubelet_names() {
        let image = |name: &str| json!({"names": [format!("{name}@sha256:00"), name]});
        let node = |name: &str, holds: &str, ready: &str, images: Vec<Value>| {
            json!({
                "metadata": {"name": name, "annotations": {PRE_PULLED_ANNOTATION: holds}},
                "status": {"images": images, "conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let nodes = [
            node("a", "0f", "True", vec![]),
            node("b", "0e", "True", vec![image("r.lab/a:1")]),
            node("c", "", "Unknown", vec![image("r.lab/a:1"), image("r.lab/b:1")]),
            node("d", "", "True", vec![image("r.lab/x:1"); NAMED]),
        ];
        let images = ["r.lab/a:1", "r.lab/b:1"].map(str::to_owned);
        let told: Vec<String> =
            lacking(&nodes, "0f", &images).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "a has them",
                "b lacks r.lab/b:1",
                "c has them and is not Ready",
                "d may lack r.lab/a:1, r.lab/b:1",
            ]
        );
    }
}
