//! How a node joins: the token in k3s' form, and what a server lets its holder do.
//!
//! A token is `K10<hash of the authority>::server:<password>` or only the password. The password
//! is a bearer token of the group `system:bootstrappers`, with which Kubernetes' own way of
//! joining works: a certificate signing request that is approved by itself.

use crate::recipe::hex;
use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;
use std::path::Path;

/// A token, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the authority's PEM, in hexadecimal digits.
    pub authority: Option<String>,
    /// The secret.
    pub password: String,
}

impl Token {
    /// Takes it apart.
    pub fn parse(text: &str) -> Self {
        let full = text.trim().strip_prefix("K10").and_then(|rest| rest.split_once("::"));
        match full {
            Some((authority, user)) => Self {
                authority: Some(authority.to_owned()),
                password: user.split_once(':').map_or(user, |(_, password)| password).to_owned(),
            },
            None => Self { authority: None, password: text.trim().to_owned() },
        }
    }

    /// The full form, for the authority with this PEM.
    pub fn full(&self, authority: &[u8]) -> String {
        format!("K10{}::server:{}", fingerprint(authority), self.password)
    }

    /// Whether the authority is the one that the token names; a bare password names none.
    pub fn trusts(&self, authority: &[u8]) -> bool {
        self.authority.as_ref().is_none_or(|hash| *hash == fingerprint(authority))
    }
}

fn fingerprint(authority: &[u8]) -> String {
    hex(digest(&SHA256, authority).as_ref())
}

/// The file of bearer tokens for the API server: name, user, id, groups (Kubernetes'
/// documentation, "Static Token File").
pub fn token_file(password: &str) -> String {
    let password = password.replace('"', "\"\"");
    format!("\"{password}\",k3s-join,k3s-join,\"system:bootstrappers\"\n")
}

/// Name of the object, in `kube-public`, that tells whom to trust.
pub const TRUST: &str = "cluster-ca";

/// In it: the authority of servers.
pub const SERVERS: &str = "server-ca";

/// In it: the authority of clients, among them the API server at the kubelet.
pub const CLIENTS: &str = "client-ca";

/// The kubeconfig of somebody who has the token.
pub fn kubeconfig(server: &str, authority: &Path, token: &Token) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: local\n  cluster:\n    server: {server}\n    \
         certificate-authority: {}\nusers:\n- name: join\n  user: {{token: {:?}}}\ncontexts:\n- name: default\n  \
         context: {{cluster: local, user: join}}\ncurrent-context: default\n",
        authority.display(),
        token.password,
    )
}

/// Name of the object, in `kube-system`, that has what a further server needs: the authorities and
/// their keys. k3s keeps it in its datastore, readable with the token too.
pub const BOOTSTRAP: &str = "k3s-bootstrap";

/// A file's name as a key of an object, which takes no `/`.
pub fn key_of(file: &str) -> String {
    file.replace('/', "_")
}

/// The file's name again.
pub fn file_of(key: &str) -> String {
    key.replace('_', "/")
}

/// What a server applies once: who may join, what nodes may read, how a joining node learns whom
/// to trust, and what a joining server takes over.
pub fn manifests(authority: &str, clients: &str, shared: &BTreeMap<String, String>) -> String {
    let shared: BTreeMap<String, &String> =
        shared.iter().map(|(file, text)| (key_of(file), text)).collect();
    let binding = |name: &str, role: &str, group: &str| {
        serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        })
    };
    let items = [
        binding("k3s-join", "system:node-bootstrapper", "system:bootstrappers"),
        binding(
            "k3s-join-approval",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            "system:bootstrappers",
        ),
        binding("k3s-join-proxier", "system:node-proxier", "system:bootstrappers"),
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": TRUST, "namespace": "kube-public"},
            "data": {SERVERS: authority, CLIENTS: clients},
        }),
        serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "k3s-cluster-ca", "namespace": "kube-public"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [TRUST], "verbs": ["get"]}],
        }),
        serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "k3s-cluster-ca", "namespace": "kube-public"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "k3s-cluster-ca"},
            // Before a node knows whom it talks to, it must not show its token.
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}],
        }),
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": BOOTSTRAP, "namespace": "kube-system"},
            "stringData": shared,
        }),
        serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": BOOTSTRAP, "namespace": "kube-system"},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "resourceNames": [BOOTSTRAP], "verbs": ["get"]}],
        }),
        serde_json::json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": BOOTSTRAP, "namespace": "kube-system"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": BOOTSTRAP},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:bootstrappers"}],
        }),
    ];
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_survive_as_keys() {
        for file in ["etcd/peer-ca.key", "service.pub"] {
            assert_eq!(file_of(&key_of(file)), file);
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_put_together_is_taken_apart(password in "[a-z0-9]{1,40}", pem in "[ -~]{0,80}") {
            let full = Token { authority: None, password: password.clone() }.full(pem.as_bytes());
            let token = Token::parse(&full);
            proptest::prop_assert_eq!(&token.password, &password);
            proptest::prop_assert!(token.trusts(pem.as_bytes()));
            let other = format!("{pem}x");
            proptest::prop_assert!(!token.trusts(other.as_bytes()));
            proptest::prop_assert!(Token::parse(&password).trusts(b"anything"));
        }
    }
}
