//! Joining a cluster: the token, whom to trust with it, what a further server takes over, and its
//! place in the datastore. Waits for the server as long as it takes, as k3s does.

use super::join::{self, Token};
use super::members::{self, Cluster, Etcdctl};
use super::prepare::{Node, PrepareError};
use super::{Joining, join::SERVERS};
use std::collections::BTreeMap;
use std::io;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

/// Below the data directory: the others have removed this member of the datastore.
pub(super) const TOMBSTONE: &str = "server/db/tombstone";

/// Below the data directory: the member has no vote yet; the others' places, one on a line.
const MARKER: &str = "server/db/joining";

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

impl Node<'_> {
    /// The password in DATA/server/token, which is made when there is none. Whoever wants to know
    /// the token of a server reads DATA/server/node-token.
    pub(super) fn server_token(&self) -> Result<Token, PrepareError> {
        let path = self.data("server/token");
        let stored = match std::fs::read_to_string(&path) {
            Ok(text) => Some(Token::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(PrepareError::File { attempt: "read", path, source }),
        };
        let given = self.settings.token.as_deref().map(Token::parse);
        let token = match (stored, given) {
            (Some(stored), Some(given)) if stored.password != given.password => {
                return Err(PrepareError::OtherToken(path));
            }
            (Some(stored), _) => stored,
            (None, Some(given)) => given,
            (None, None) => {
                let mut bytes = [0u8; 16];
                getrandom::fill(&mut bytes).map_err(PrepareError::Random)?;
                Token { authority: None, password: crate::recipe::hex(&bytes) }
            }
        };
        let authority = self.read(&self.pki.path("server-ca.crt"))?;
        let full = format!("{}\n", token.full(authority.as_bytes()));
        for file in ["server/token", "server/node-token"] {
            self.write(file, &full)?;
        }
        Ok(token)
    }

    /// Whether this server has yet to join the others' datastore. One that they have removed joins
    /// anew, and keeps what it had beside it.
    pub(super) fn joins(&self) -> Result<bool, PrepareError> {
        if self.settings.server.is_none() {
            return Ok(false);
        }
        let (database, tombstone) = (self.data("server/db/etcd"), self.data(TOMBSTONE));
        if tombstone.exists() && database.exists() {
            super::put_aside(&database).map_err(|source| PrepareError::File {
                attempt: "put aside",
                path: database.clone(),
                source,
            })?;
        }
        match std::fs::remove_file(&tombstone) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(PrepareError::File { attempt: "remove", path: tombstone, source });
            }
            _ => {}
        }
        Ok(!database.join("member").exists())
    }

    /// Of an agent: whom to trust, and its first credentials.
    pub(super) fn agent_credentials(&self) -> Result<(), PrepareError> {
        let (server, token) = self.trusted("agent/server-ca.crt")?;
        self.write("agent/client-ca.crt", &self.trust(server, join::CLIENTS))?;
        let config = join::kubeconfig(server, &self.data("agent/server-ca.crt"), &token);
        for file in ["agent/bootstrap.kubeconfig", "agent/kubeproxy.kubeconfig"] {
            self.write(file, &config)?;
        }
        // The kubelet would only log that it is refused.
        self.ask(server, "agent/bootstrap.kubeconfig", "/api/v1/nodes?limit=1").map(|_| ())
    }

    /// Of a further server: the authorities of the cluster and their keys.
    pub(super) fn adopt_authorities(&self) -> Result<(), PrepareError> {
        let (server, token) = self.trusted("server/cred/join-ca.crt")?;
        let config = join::kubeconfig(server, &self.data("server/cred/join-ca.crt"), &token);
        self.write("server/cred/join.kubeconfig", &config)?;
        let path = format!("/api/v1/namespaces/kube-system/secrets/{}", join::BOOTSTRAP);
        let secret = self.ask(server, "server/cred/join.kubeconfig", &path)?;
        let mut shared = BTreeMap::new();
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            let text = value.as_str().and_then(decode).ok_or_else(|| PrepareError::Refused {
                server: server.into(),
                said: format!("its {key} is damaged"),
            })?;
            shared.insert(join::file_of(key), text);
        }
        Ok(self.pki.adopt(&shared)?)
    }

    /// With which members the datastore starts.
    pub(super) fn cluster(&self, joins: bool) -> Result<(Cluster, Option<Joining>), PrepareError> {
        let marker = self.data(MARKER);
        if !joins {
            let others = match std::fs::read_to_string(&marker) {
                Ok(text) => text.lines().map(str::to_owned).collect(),
                Err(_) => return Ok((self.alone(), None)),
            };
            let others = Etcdctl::own(self.settings, self.built).at(others);
            return Ok((self.alone(), Some(Joining { others, marker })));
        }
        let server = self.settings.server.as_deref().unwrap_or_default();
        let places = self.others(server)?;
        self.write(MARKER, &places.join("\n"))?;
        let others = Etcdctl::own(self.settings, self.built).at(places);
        loop {
            match others.add(&self.settings.node_name, &self.peer_url()) {
                Ok(cluster) => return Ok((cluster, Some(Joining { others, marker }))),
                Err(error) => eprintln!("{error}"),
            }
            thread::sleep(PAUSE);
        }
    }

    /// Where the members of the datastore are: at the servers among the nodes.
    fn others(&self, server: &str) -> Result<Vec<String>, PrepareError> {
        let path = "/api/v1/nodes?labelSelector=node-role.kubernetes.io%2Fetcd%3Dtrue";
        loop {
            let nodes = self.ask(server, "server/cred/join.kubeconfig", path)?;
            let addresses = nodes["items"].as_array().into_iter().flatten().flat_map(|node| {
                let all = node["status"]["addresses"].as_array().into_iter().flatten();
                all.filter(|one| one["type"] == "InternalIP")
                    .filter_map(|one| one["address"].as_str())
            });
            let others: Vec<String> = addresses
                .filter_map(|text| text.parse().ok())
                // Of the node that this one replaces.
                .filter(|address| *address != self.address)
                .map(|address| members::url(address, members::CLIENTS))
                .collect();
            if !others.is_empty() {
                return Ok(others);
            }
            eprintln!("the server {server} has no datastore to join yet");
            thread::sleep(PAUSE);
        }
    }

    /// Server and token, once the server is known to be the token's; its authority goes to `file`.
    fn trusted(&self, file: &str) -> Result<(&str, Token), PrepareError> {
        let server = self.settings.server.as_deref().unwrap_or_default();
        let token = Token::parse(self.settings.token.as_deref().unwrap_or_default());
        let authority = self.trust(server, SERVERS);
        if !token.trusts(authority.as_bytes()) {
            return Err(PrepareError::OtherServer(server.into()));
        }
        self.write(file, &authority)?;
        Ok((server, token))
    }

    /// One authority, as the server tells it to anybody. Asked for by its path, for strangers may
    /// not ask what kinds of objects there are.
    fn trust(&self, server: &str, key: &str) -> String {
        let path = format!("/api/v1/namespaces/kube-public/configmaps/{}", join::TRUST);
        loop {
            let mut command = self.get(server, &path);
            // A stranger's name: without any, kubectl asks for one.
            command.args(["--username=stranger", "--password=none"]);
            command.args(["--insecure-skip-tls-verify", "--kubeconfig=/dev/null"]);
            let object = command.output().ok().and_then(|output| parse(&output));
            if let Some(text) = object.as_ref().and_then(|object| object["data"][key].as_str()) {
                return text.to_owned();
            }
            eprintln!("the server {server} does not answer yet");
            thread::sleep(PAUSE);
        }
    }

    /// An object, with the token's rights; again and again while there is none.
    fn ask(
        &self,
        server: &str,
        config: &str,
        path: &str,
    ) -> Result<serde_json::Value, PrepareError> {
        loop {
            let mut command = self.get(server, path);
            command.arg("--kubeconfig").arg(self.data(config));
            let output = command.output().map_err(|source| PrepareError::File {
                attempt: "start",
                path: self.built.program("hyperkube"),
                source,
            })?;
            if let Some(object) = parse(&output) {
                return Ok(object);
            }
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if said.contains("Unauthorized") {
                return Err(PrepareError::Refused { server: server.into(), said });
            }
            eprintln!("the server {server}: {said}");
            thread::sleep(PAUSE);
        }
    }

    fn get(&self, server: &str, path: &str) -> Command {
        let mut command = Command::new(self.built.program("hyperkube"));
        command
            .args(["kubectl", "--request-timeout=5s", "--server", server, "get", "--raw", path])
            .stdin(Stdio::null());
        command
    }
}

impl Joining {
    /// Asks for the vote of the member `name` until it has it.
    pub(super) fn follow(&self, name: &str) {
        while !self.others.promote(name).unwrap_or(false) {
            thread::sleep(Duration::from_millis(100));
        }
        let _asked_once_more = std::fs::remove_file(&self.marker);
    }
}

fn parse(output: &Output) -> Option<serde_json::Value> {
    output.status.success().then(|| serde_json::from_slice(&output.stdout).ok())?
}

fn decode(text: &str) -> Option<String> {
    use base64::Engine;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).ok()?).ok()
}
