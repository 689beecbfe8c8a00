//! Nodes that a site had. The site's Kubernetes may know them still: they are removed from it, and
//! none of their names is given to another node while it could be taken for the one that left.

use super::object::annotate;
use super::{LEFT_ANNOTATION, to_value};
use crate::store::Shared;
use holdfast_api::resources::SiteNode;
use serde_json::Value;

/// How many are remembered. The removal takes a minute; this many do not leave in one.
const KEPT: usize = 64;

/// Nodes that left the site, oldest first.
pub(super) fn of(site: &Shared) -> Vec<String> {
    serde_json::from_str(site.annotation(LEFT_ANNOTATION)).unwrap_or_default()
}

/// Writes down that `node` left the site `value`, whose nodes are now `nodes`. A site without any
/// remembers none: whoever comes next makes a cluster of its own.
pub(super) fn note(value: &mut Value, mut left: Vec<String>, node: &str, nodes: &[SiteNode]) {
    left.retain(|name| name != node);
    left.push(node.to_owned());
    let from = if nodes.is_empty() { left.len() } else { left.len().saturating_sub(KEPT) };
    let kept = &left[from..];
    let text = if kept.is_empty() { String::new() } else { to_value(&kept).to_string() };
    annotate(value, LEFT_ANNOTATION, &text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_ones_are_remembered_while_there_is_a_cluster() {
        let nodes = [SiteNode::default()];
        let mut value = json!({});
        let mut left = Vec::new();
        for n in 0..KEPT + 2 {
            note(&mut value, left, &format!("n{n}"), &nodes);
            let text = value["metadata"]["annotations"][LEFT_ANNOTATION].as_str().unwrap();
            left = serde_json::from_str(text).unwrap();
        }
        assert_eq!((left.len(), left[0].as_str()), (KEPT, "n2"));
        note(&mut value, left, "n9", &[]);
        assert_eq!(value["metadata"]["annotations"], json!({}));
    }
}
