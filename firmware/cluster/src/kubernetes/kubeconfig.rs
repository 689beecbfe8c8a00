//! What a kubeconfig says: where the server is, whose word counts for it, who we are.
//!
//! Read are the parts that k3s writes: CA, client certificate and key (as data or as files), and
//! bearer tokens (as text or as a file). What would make us trust more than the CA of the file, or
//! run a program, is refused: `insecure-skip-tls-verify`, `exec`, `auth-provider`, user names with
//! passwords. Keys of the file that are not known are ignored, for other programs write it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_api::kubernetes::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// How to reach an API server.
pub struct Access {
    /// `HOST:PORT`, as messages name it and as a request's authority.
    pub server: String,
    /// Host to connect to; a name or an address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Name that the server's certificate must have.
    pub server_name: ServerName<'static>,
    /// Certificates of the CA, of which there is at least one.
    pub roots: Vec<CertificateDer<'static>>,
    /// Our certificate with its chain, and the key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Our bearer token.
    pub token: Option<Zeroizing<String>>,
    /// Files that were read beside the kubeconfig; when one changes, it must be read again.
    pub files: Vec<PathBuf>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Reads the kubeconfig at `path`: its current context, or the only one.
///
/// # Errors
/// What cannot be used, as a sentence.
pub fn read(path: &Path) -> Result<Access, String> {
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| error.to_string())?);
    parse(&text, path.parent().unwrap_or(Path::new("/")))
}

/// Understands the text of a kubeconfig that lies in `folder`.
///
/// # Errors
/// What cannot be used, as a sentence.
pub fn parse(text: &str, folder: &Path) -> Result<Access, String> {
    let file: File = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    let context = match file.current_context.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => {
            find(&file.contexts, name).ok_or_else(|| format!("it has no context {name}"))?
        }
        None => match &file.contexts[..] {
            [only] => only,
            _ => return Err("it has no current context".into()),
        },
    };
    let Some(Context { cluster, user }) = &context.context else {
        return Err(format!("the context {} is empty", context.name));
    };
    let cluster = find(&file.clusters, cluster)
        .and_then(|named| named.cluster.as_ref())
        .ok_or_else(|| format!("it has no cluster {cluster}"))?;
    let user = user.as_deref().unwrap_or_default();
    let user = find(&file.users, user)
        .and_then(|named| named.user.as_ref())
        .ok_or_else(|| format!("it has no user {user}"))?;
    access(cluster, user, folder)
}

fn access(cluster: &Cluster, user: &User, folder: &Path) -> Result<Access, String> {
    if cluster.insecure_skip_tls_verify {
        return Err("insecure-skip-tls-verify is not supported".into());
    }
    if user.exec.is_some() || user.auth_provider.is_some() || user.password.is_some() {
        return Err("exec, auth-provider and passwords are not supported".into());
    }
    let uri: http::Uri =
        cluster.server.parse().map_err(|error| format!("server {}: {error}", cluster.server))?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
        return Err(format!("server {} is not https://HOST:PORT", cluster.server));
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let name = cluster.tls_server_name.clone().filter(|name| !name.is_empty());
    let server_name = ServerName::try_from(name.unwrap_or_else(|| host.clone()))
        .map_err(|_| format!("server {} has no usable name", cluster.server))?;

    let mut files = Vec::new();
    let mut part = |what: &str, data: &Option<Secret>, path: &Option<String>| match (
        data.as_ref().filter(|data| !data.0.is_empty()),
        path.as_deref().unwrap_or(""),
    ) {
        (Some(data), _) => STANDARD
            .decode(data.0.as_bytes())
            .map(|bytes| Some(Zeroizing::new(bytes)))
            .map_err(|_| format!("{what}-data is not base64")),
        (None, "") => Ok(None),
        (None, path) => {
            let path = place(folder, Path::new(path));
            let bytes =
                fs::read(&path).map_err(|error| format!("{what} {}: {error}", path.display()))?;
            files.push(path);
            Ok(Some(Zeroizing::new(bytes)))
        }
    };
    let ca = part(
        "certificate-authority",
        &cluster.certificate_authority_data,
        &cluster.certificate_authority,
    )?
    .ok_or("it names no certificate authority")?;
    let certificate =
        part("client-certificate", &user.client_certificate_data, &user.client_certificate)?;
    let key = part("client-key", &user.client_key_data, &user.client_key)?;
    let token = match user.token.as_ref().filter(|token| !token.0.is_empty()) {
        Some(token) => Some(Zeroizing::new(token.0.clone())),
        None => part("tokenFile", &None, &user.token_file)?
            .map(|bytes| Zeroizing::new(String::from_utf8_lossy(&bytes).trim().to_owned())),
    };
    let identity = match (certificate, key) {
        // A kubelet keeps both in one file; its name stands in both places then.
        (Some(certificate), Some(key)) => Some((
            certificates("client-certificate", &certificate)?,
            PrivateKeyDer::from_pem_slice(&key).map_err(|error| format!("client-key: {error}"))?,
        )),
        (None, None) => None,
        _ => return Err("it has only one of client certificate and key".into()),
    };
    if identity.is_none() && token.is_none() {
        return Err("it does not say who we are".into());
    }
    Ok(Access {
        server: uri.authority().map(ToString::to_string).unwrap_or_default(),
        host,
        port,
        server_name,
        roots: certificates("certificate-authority", &ca)?,
        identity,
        token,
        files,
    })
}

/// A path of the kubeconfig, which is relative to its folder (client-go, `ResolveLocalPaths`). A
/// distribution below a root of its own writes paths as it sees them itself; the kubeconfig's own
/// place tells that root then.
fn place(folder: &Path, path: &Path) -> PathBuf {
    let named = folder.join(path);
    let Ok(inner) = path.strip_prefix("/") else { return named };
    if named.exists() {
        return named;
    }
    folder.ancestors().map(|root| root.join(inner)).find(|place| place.exists()).unwrap_or(named)
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{what}: {error}"))?;
    if found.is_empty() { Err(format!("{what} holds no certificate")) } else { Ok(found) }
}

trait Name {
    fn name(&self) -> &str;
}

fn find<'a, T: Name>(all: &'a [T], name: &str) -> Option<&'a T> {
    all.iter().find(|one| one.name() == name)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    current_context: Option<String>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Option<Context>,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: Option<String>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<Secret>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: Option<User>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<Secret>,
    client_key: Option<String>,
    client_key_data: Option<Secret>,
    token: Option<Secret>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    password: Option<Secret>,
    exec: Option<serde_yaml_ng::Value>,
    auth_provider: Option<serde_yaml_ng::Value>,
}

impl Name for NamedContext {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Name for NamedCluster {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Name for NamedUser {
    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
#[path = "kubeconfig/tests.rs"]
mod tests;
