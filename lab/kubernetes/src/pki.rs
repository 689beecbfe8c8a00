//! The certificates of a cluster, laid out as k3s does below `server/tls` and `agent`.
//!
//! Authorities are made once and kept, so that a restarted node knows its cluster again; what
//! they sign is made anew at every start. All keys are ECDSA P-256.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write a certificate")]
    Write(#[from] holdfast_durable::WriteError),
    /// Another server does not have what all of them need.
    #[error("the server has no {name} for this one")]
    Missing {
        /// The file.
        name: String,
    },
    /// A certificate cannot be made, or one that is there is damaged.
    #[error("cannot make the certificate of {subject}")]
    Issue {
        /// Whose.
        subject: String,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
}

/// Where the certificates of one server are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pki {
    tls: PathBuf,
}

/// What a certificate is for.
struct Leaf<'a> {
    file: &'a str,
    name: &'a str,
    group: Option<&'a str>,
    addresses: Vec<SanType>,
    usages: &'a [ExtendedKeyUsagePurpose],
}

/// The authorities of a cluster.
const AUTHORITIES: &[&str] =
    &["server-ca", "client-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca"];

type Authority = (String, Issuer<'static, KeyPair>);

const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];
const SERVER: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];
const BOTH: &[ExtendedKeyUsagePurpose] =
    &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

impl Pki {
    /// Below the data directory.
    pub fn below(data: &Path) -> Self {
        Self { tls: data.join("server/tls") }
    }

    /// A file, for example `client-admin.crt`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.tls.join(file)
    }

    /// Makes whatever is not there, and everything that the authorities sign.
    ///
    /// # Errors
    /// A file cannot be read or written, or an authority's is damaged.
    pub fn prepare(
        &self,
        node: &str,
        addresses: &[IpAddr],
        names: &[String],
    ) -> Result<(), PkiError> {
        let server = self.authority("server-ca")?;
        let client = self.authority("client-ca")?;
        let proxies = self.authority("request-header-ca")?;
        let etcd = self.authority("etcd/server-ca")?;
        let peers = self.authority("etcd/peer-ca")?;
        let mut served: Vec<SanType> = addresses.iter().copied().map(SanType::IpAddress).collect();
        for name in names {
            served.push(match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => dns(name)?,
            });
        }
        served.push(SanType::IpAddress(IpAddr::from([127, 0, 0, 1])));
        for name in [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            node,
        ] {
            served.push(dns(name)?);
        }
        // Members of the datastore compare it with where a connection comes from.
        let mut local = vec![SanType::IpAddress(IpAddr::from([127, 0, 0, 1])), dns("localhost")?];
        local.extend(addresses.iter().copied().map(SanType::IpAddress));
        let serving =
            |file, addresses| Leaf { file, name: file, group: None, addresses, usages: SERVER };
        let client_of =
            |file, name, group| Leaf { file, name, group, addresses: Vec::new(), usages: CLIENT };
        let node_user = format!("system:node:{node}");
        self.issue(&server, &serving("serving-kube-apiserver", served.clone()))?;
        self.issue(&server, &serving("serving-kubelet", served))?;
        self.issue(&client, &client_of("client-admin", "system:admin", Some("system:masters")))?;
        self.issue(
            &client,
            &client_of("client-kube-apiserver", "system:apiserver", Some("system:masters")),
        )?;
        self.issue(
            &client,
            &client_of("client-controller", "system:kube-controller-manager", None),
        )?;
        self.issue(&client, &client_of("client-scheduler", "system:kube-scheduler", None))?;
        self.issue(&client, &client_of("client-kube-proxy", "system:kube-proxy", None))?;
        self.issue(&client, &client_of("client-kubelet", &node_user, Some("system:nodes")))?;
        self.issue(&proxies, &client_of("client-auth-proxy", "system:auth-proxy", None))?;
        self.issue(&etcd, &client_of("etcd/client", "etcd-client", None))?;
        self.issue(&etcd, &Leaf { usages: BOTH, ..serving("etcd/server-client", local.clone()) })?;
        self.issue(&peers, &Leaf { usages: BOTH, ..serving("etcd/peer-server-client", local) })?;
        self.service_key()
    }

    /// What all servers of a cluster have in common, by the files' names below `tls`.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn shared(&self) -> Result<BTreeMap<String, String>, PkiError> {
        let authorities =
            AUTHORITIES.iter().flat_map(|one| ["crt", "key"].map(|e| format!("{one}.{e}")));
        authorities
            .chain(["service.pub".into(), "service.key".into()])
            .map(|name| {
                let path = self.path(&name);
                match std::fs::read_to_string(&path) {
                    Ok(text) => Ok((name, text)),
                    Err(source) => Err(PkiError::Read { path, source }),
                }
            })
            .collect()
    }

    /// Takes over what another server of the cluster has. Only known names are taken.
    ///
    /// # Errors
    /// One is missing, or cannot be written.
    pub fn adopt(&self, shared: &BTreeMap<String, String>) -> Result<(), PkiError> {
        let take = |name: &str, mode| {
            let text = shared.get(name).ok_or_else(|| PkiError::Missing { name: name.into() })?;
            holdfast_durable::write_if_changed(&self.path(name), text.as_bytes(), mode)?;
            Ok::<_, PkiError>(())
        };
        for authority in AUTHORITIES {
            // The key last: it says that both are there.
            take(&format!("{authority}.crt"), 0o644)?;
            take(&format!("{authority}.key"), 0o600)?;
        }
        take("service.pub", 0o644)?;
        take("service.key", 0o600)
    }

    /// The key that signs the tokens of service accounts, and its public half.
    fn service_key(&self) -> Result<(), PkiError> {
        let path = self.path("service.key");
        if !path.exists() {
            let key = generate("service accounts")?;
            holdfast_durable::write(
                &self.path("service.pub"),
                key.public_key_pem().as_bytes(),
                0o644,
            )?;
            holdfast_durable::write(&path, key.serialize_pem().as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// The authority `file`, and its certificate in PEM.
    fn authority(&self, file: &str) -> Result<Authority, PkiError> {
        let (certificate, key) =
            (self.path(&format!("{file}.crt")), self.path(&format!("{file}.key")));
        let issue = |source| PkiError::Issue { subject: file.into(), source };
        if !key.exists() {
            let pair = generate(file)?;
            let mut params = CertificateParams::default();
            params
                .distinguished_name
                .push(DnType::CommonName, format!("k3s-{}", file.replace('/', "-")));
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages =
                vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
            let pem = pair.serialize_pem();
            let made = CertifiedIssuer::self_signed(params, pair).map_err(issue)?;
            holdfast_durable::write(&certificate, made.pem().as_bytes(), 0o644)?;
            // The key last: it says that both are there.
            holdfast_durable::write(&key, pem.as_bytes(), 0o600)?;
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| PkiError::Read { path: path.to_path_buf(), source })
        };
        let pem = read(&certificate)?;
        let pair = KeyPair::from_pem(&read(&key)?).map_err(issue)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, pair).map_err(issue)?;
        Ok((pem, issuer))
    }

    fn issue(&self, (_, authority): &Authority, leaf: &Leaf<'_>) -> Result<(), PkiError> {
        let issue = |source| PkiError::Issue { subject: leaf.name.into(), source };
        let pair = generate(leaf.name)?;
        let mut params = CertificateParams::default();
        if let Some(group) = leaf.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.distinguished_name.push(DnType::CommonName, leaf.name);
        params.subject_alt_names.clone_from(&leaf.addresses);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = leaf.usages.to_vec();
        let made = params.signed_by(&pair, authority).map_err(issue)?;
        let file = |ending: &str| self.path(&format!("{}.{ending}", leaf.file));
        holdfast_durable::write(&file("crt"), made.pem().as_bytes(), 0o644)?;
        holdfast_durable::write(&file("key"), pair.serialize_pem().as_bytes(), 0o600)?;
        Ok(())
    }
}

fn generate(subject: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|source| PkiError::Issue { subject: subject.into(), source })
}

fn dns(name: &str) -> Result<SanType, PkiError> {
    name.try_into()
        .map(SanType::DnsName)
        .map_err(|source| PkiError::Issue { subject: name.into(), source })
}

/// A kubeconfig with its credentials in the file, as k3s writes it.
///
/// # Errors
/// A certificate cannot be read.
pub fn embedded_kubeconfig(pki: &Pki, server: &str) -> Result<String, PkiError> {
    use base64::Engine;
    let data = |file: &str| {
        let path = pki.path(file);
        std::fs::read(&path)
            .map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes))
            .map_err(|source| PkiError::Read { path, source })
    };
    Ok(format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: default\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: default\n  context: {{cluster: default, user: default}}\n\
         current-context: default\n",
        data("server-ca.crt")?,
        data("client-admin.crt")?,
        data("client-admin.key")?,
    ))
}

/// A kubeconfig that names the files of its credentials.
pub fn kubeconfig(server: &str, authority: &Path, certificate: &Path, key: &Path) -> String {
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: local\n  cluster:\n    server: {server}\n    \
         certificate-authority: {}\nusers:\n- name: user\n  user:\n    client-certificate: {}\n    client-key: {}\n\
         contexts:\n- name: default\n  context: {{cluster: local, user: user}}\ncurrent-context: default\n",
        authority.display(),
        certificate.display(),
        key.display(),
    )
}
