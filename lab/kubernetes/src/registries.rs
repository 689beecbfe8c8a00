//! `registries.yaml` (docs.k3s.io, "Private Registry Configuration") as containerd wants it: a
//! `hosts.toml` for each registry (containerd's docs/hosts.md). Pure.
//!
//! Left out: `rewrite`, which Debian's containerd does not have; it is refused.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    /// By name of the registry that images name; `*` is every other one.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Mirror>,
    /// By name of the host that is asked.
    #[serde(default)]
    pub configs: BTreeMap<String, Access>,
}

/// Where to ask instead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// URLs, asked in this order.
    #[serde(default)]
    pub endpoint: Vec<String>,
    /// Not had here.
    #[serde(default)]
    pub rewrite: BTreeMap<String, String>,
}

/// How to ask a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Who asks.
    #[serde(default)]
    pub auth: Option<Auth>,
    /// Whom to trust.
    #[serde(default)]
    pub tls: Option<Tls>,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The name.
    #[serde(default)]
    pub username: String,
    /// The password.
    #[serde(default)]
    pub password: String,
}

/// Whom to trust.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// File of the authority.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// File of our certificate.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// File of its key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Trust anybody.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

/// Why it is refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// It makes no sense.
    #[error("{} is no registries.yaml", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// It asks for what is not had here.
    #[error("mirror {0:?} has `rewrite`, which the laboratory's Kubernetes does not have")]
    Rewrite(String),
}

impl Registries {
    /// Reads the file; one that is absent names nothing.
    ///
    /// # Errors
    /// [`RegistriesError`] names the file and what is wrong.
    pub fn read(path: &Path) -> Result<Self, RegistriesError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => return Err(RegistriesError::Read { path: path.to_path_buf(), source }),
        };
        let parsed: Option<Self> = serde_yaml_ng::from_str(&text)
            .map_err(|source| RegistriesError::Damaged { path: path.to_path_buf(), source })?;
        let parsed = parsed.unwrap_or_default();
        match parsed.mirrors.iter().find(|(_, mirror)| !mirror.rewrite.is_empty()) {
            Some((name, _)) => Err(RegistriesError::Rewrite(name.clone())),
            None => Ok(parsed),
        }
    }

    /// `hosts.toml` of every registry that is named, by the folder it belongs in.
    pub fn hosts(&self) -> BTreeMap<String, String> {
        let mut hosts = BTreeMap::new();
        for (name, mirror) in &self.mirrors {
            let mut text = String::new();
            let folder = if name == "*" { "_default" } else { name };
            if name != "*" {
                let _infallible = writeln!(text, "server = {:?}", url_of(name));
            }
            for endpoint in &mirror.endpoint {
                self.host(&mut text, endpoint);
            }
            hosts.insert(folder.to_owned(), text);
        }
        // A host with settings of its own is asked by itself, too.
        for name in self.configs.keys() {
            if !hosts.contains_key(name) && !self.is_endpoint(name) {
                let mut text = format!("server = {:?}\n", url_of(name));
                self.host(&mut text, &url_of(name));
                hosts.insert(name.clone(), text);
            }
        }
        hosts
    }

    fn is_endpoint(&self, name: &str) -> bool {
        self.mirrors
            .values()
            .flat_map(|mirror| &mirror.endpoint)
            .any(|endpoint| host_of(endpoint) == name)
    }

    fn host(&self, text: &mut String, endpoint: &str) {
        let _infallible =
            writeln!(text, "[host.{endpoint:?}]\n  capabilities = [\"pull\", \"resolve\"]");
        if let Some(tls) =
            self.configs.get(host_of(endpoint)).and_then(|access| access.tls.as_ref())
        {
            if let Some(ca) = &tls.ca_file {
                let _infallible = writeln!(text, "  ca = {:?}", ca.display().to_string());
            }
            if let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) {
                let pair = [certificate, key].map(|path| path.display().to_string());
                let _infallible = writeln!(text, "  client = [[{:?}, {:?}]]", pair[0], pair[1]);
            }
            if tls.insecure_skip_verify {
                text.push_str("  skip_verify = true\n");
            }
        }
    }

    /// The part of containerd's configuration that says who asks.
    pub fn credentials(&self) -> String {
        let mut text = String::new();
        for (host, access) in &self.configs {
            if let Some(auth) = &access.auth {
                let _infallible = writeln!(
                    text,
                    "  [plugins.\"io.containerd.grpc.v1.cri\".registry.configs.{host:?}.auth]\n    username = {:?}\n    password = {:?}",
                    auth.username, auth.password
                );
            }
        }
        text
    }
}

/// The registry that stands behind `docker.io` has another name.
fn url_of(name: &str) -> String {
    format!("https://{}", if name == "docker.io" { "registry-1.docker.io" } else { name })
}

fn host_of(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Registries, RegistriesError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registries.yaml");
        holdfast_durable::write(&path, text.as_bytes(), 0o600).unwrap();
        Registries::read(&path)
    }

    #[test]
    fn mirrors_become_hosts() {
        let registries = read(
            "mirrors:\n  re.example:\n    endpoint: [\"http://10.0.0.1:5000\", \"https://10.0.0.2\"]\n  \"*\": {endpoint: [\"http://10.0.0.1:5000\"]}\n\
             configs:\n  \"10.0.0.2\":\n    auth: {username: u, password: p}\n    tls: {ca_file: /ca.pem}\n",
        )
        .unwrap();
        let hosts = registries.hosts();
        assert_eq!(hosts.keys().collect::<Vec<_>>(), ["_default", "re.example"]);
        assert_eq!(
            hosts["re.example"],
            "server = \"https://re.example\"\n\
             [host.\"http://10.0.0.1:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n\
             [host.\"https://10.0.0.2\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"/ca.pem\"\n"
        );
        assert!(registries.credentials().contains("username = \"u\""));
    }

    #[test]
    fn what_is_not_had_is_refused() {
        let rewrite = read("mirrors: {a: {endpoint: [\"http://b\"], rewrite: {x: y}}}\n");
        assert!(matches!(rewrite, Err(RegistriesError::Rewrite(name)) if name == "a"));
        assert!(matches!(read("miror: {}\n"), Err(RegistriesError::Damaged { .. })));
        assert_eq!(Registries::read(Path::new("/nowhere/r.yaml")).unwrap(), Registries::default());
    }
}
