//! Certificates, token and files of a node, and the plan of what to start.

use super::join::{self, Token};
use super::{Plan, Program, files};
use crate::cache::Built;
use crate::config::Settings;
use crate::image::{Image, archive};
use crate::pki::{self, Pki, PkiError};
use crate::places::Places;
use crate::registries::{Registries, RegistriesError};
use holdfast_durable::WriteError;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The pods' network, below the data directory.
const NETWORK: &str = "agent/etc/cni/net.d/10-holdfast.conflist";

/// Why a node cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// No address can be found.
    #[error("this node has no address of its own (no default route): name one with node-ip")]
    NoAddress(#[source] io::Error),
    /// A file cannot be written.
    #[error("cannot write the node's configuration")]
    Write(#[from] WriteError),
    /// A file cannot be handled.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// No certificates.
    #[error("cannot make the node's certificates")]
    Pki(#[from] PkiError),
    /// `registries.yaml` is wrong.
    #[error("registries.yaml is refused")]
    Registries(#[from] RegistriesError),
    /// The token is not the cluster's.
    #[error("the token is not that of this datastore: {} was made with another one", .0.display())]
    OtherToken(PathBuf),
    /// The server's authority is not the token's.
    #[error("the server {0} is not the one that the token was made by")]
    OtherServer(String),
    /// No random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What the steps share.
pub(super) struct Node<'a> {
    pub(super) settings: &'a Settings,
    places: &'a Places,
    built: &'a Built,
    pub(super) address: IpAddr,
    cgroup: &'a str,
    pki: Pki,
}

/// The password in DATA/server/token, which is made when there is none. Whoever wants to know the
/// token of a server reads DATA/server/node-token.
fn server_token(settings: &Settings, pki: &Pki) -> Result<Token, PrepareError> {
    let path = settings.data.join("server/token");
    let stored = match std::fs::read_to_string(&path) {
        Ok(text) => Some(Token::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(PrepareError::File { attempt: "read", path, source }),
    };
    let given = settings.token.as_deref().map(Token::parse);
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
    let authority = pki.path("server-ca.crt");
    let pem = std::fs::read(&authority).map_err(|source| PrepareError::File {
        attempt: "read",
        path: authority,
        source,
    })?;
    let full = format!("{}\n", token.full(&pem));
    holdfast_durable::write_if_changed(&path, full.as_bytes(), 0o600)?;
    holdfast_durable::write_if_changed(
        &settings.data.join("server/node-token"),
        full.as_bytes(),
        0o600,
    )?;
    Ok(token)
}

/// The address with which this machine would speak to others. Nothing is sent.
fn own_address() -> io::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // TEST-NET-1 (RFC 5737): connecting a datagram socket only looks the route up.
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}

/// Writes everything and says what to start. `cgroup` is the node's, for its pods.
///
/// # Errors
/// [`PrepareError`] says what is in the way.
pub fn prepare(
    settings: &Settings,
    places: &Places,
    built: &Built,
    cgroup: &str,
) -> Result<Plan, PrepareError> {
    let address = match settings.node_ip {
        Some(address) => address,
        None => own_address().map_err(PrepareError::NoAddress)?,
    };
    let pki = Pki::below(&settings.data);
    Node { settings, places, built, address, cgroup, pki }.plan()
}

impl Node<'_> {
    pub(super) fn data(&self, path: &str) -> PathBuf {
        self.settings.data.join(path)
    }

    pub(super) fn show(&self, path: &str) -> String {
        self.data(path).display().to_string()
    }

    pub(super) fn tls(&self, file: &str) -> String {
        self.pki.path(file).display().to_string()
    }

    fn write(&self, path: &str, content: &str) -> Result<String, PrepareError> {
        holdfast_durable::write_if_changed(&self.data(path), content.as_bytes(), 0o600)?;
        Ok(self.show(path))
    }

    fn plan(&self) -> Result<Plan, PrepareError> {
        for dir in [
            "agent/images",
            "agent/containerd",
            "agent/etc/cni/net.d",
            "agent/volume-plugins",
            "log",
        ] {
            self.make(&self.data(dir))?;
        }
        for dir in [
            self.places.runtime(),
            self.places.kubelet(),
            self.places.logs().join("pods"),
            self.places.logs().join("containers"),
        ] {
            self.make(&dir)?;
        }
        let mut programs = Vec::new();
        let mut parts = Vec::new();
        let mut manifests = None;
        if self.settings.is_server {
            self.pki.prepare(
                &self.settings.node_name,
                &[self.address, self.first_service()],
                &self.settings.list("tls-san").into_iter().map(str::to_owned).collect::<Vec<_>>(),
            )?;
            let token = server_token(self.settings, &self.pki)?;
            self.server_files(&token)?;
            let authority = self.read(&self.pki.path("server-ca.crt"))?;
            let clients = self.read(&self.pki.path("client-ca.crt"))?;
            self.write("server/join.json", &join::manifests(&authority, &clients))?;
            manifests = Some(self.data("server/join.json"));
            programs.push(self.etcd());
            parts.extend([self.api_server(), self.controllers(), self.scheduler()]);
        }
        programs.push(self.containerd()?);
        let authority = if self.settings.is_server {
            self.tls("client-ca.crt")
        } else {
            self.show("agent/client-ca.crt")
        };
        if self.settings.is_server {
            self.node_credentials()?;
        } else {
            self.agent_credentials()?;
        }
        parts.push(self.kubelet(&authority)?);
        if !self.settings.flag("disable-kube-proxy") {
            parts.push(self.proxy()?);
        }
        let lines: String = parts.iter().map(|part| part.join("\t") + "\n").collect();
        let parts = self.write("agent/etc/parts", &lines)?;
        self.pause_image()?;
        if self.settings.is_server && self.has_network() && !self.data("server/db/etcd").exists() {
            // The first node of a new cluster gets the first range. Known before the kubelet looks,
            // which it does every five seconds only; `routes` mends it should it ever be another.
            let network = files::network(&self.first_range(), &self.data("agent/cni-state"));
            self.write(NETWORK, &network.to_string())?;
        }
        let hyperkube = self.built.program("hyperkube");
        let mut environment: Vec<(String, String)> = self
            .built
            .environment()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        // The kubelet would ask a cloud's metadata service for credentials.
        environment.push(("AWS_EC2_METADATA_DISABLED".into(), "true".into()));
        environment.push(("HOME".into(), self.show("agent")));
        Ok(Plan {
            programs,
            kubernetes: Program {
                name: "kubernetes".into(),
                arguments: vec![hyperkube.display().to_string(), "together".into(), parts],
                log: self.data("log/kubernetes.log"),
            },
            environment,
            runtime_socket: self.places.runtime_socket(),
            images: self.data("agent/images"),
            hyperkube,
            kubeconfig: if self.settings.is_server {
                self.data("server/cred/admin.kubeconfig")
            } else {
                self.data("agent/kubeproxy.kubeconfig")
            },
            node: self.settings.node_name.clone(),
            cni: self.data(NETWORK),
            network: self.has_network().then(|| self.data("agent/cni-state")),
            manifests,
            root: self.places.root().to_path_buf(),
            keep: vec![
                self.places.root().to_path_buf(),
                self.settings.data.clone(),
                self.built.root().to_path_buf(),
            ],
            settings: self.data("agent/settings"),
        })
    }

    fn make(&self, dir: &Path) -> Result<(), PrepareError> {
        std::fs::create_dir_all(dir).map_err(|source| PrepareError::File {
            attempt: "make",
            path: dir.to_path_buf(),
            source,
        })
    }

    fn read(&self, path: &Path) -> Result<String, PrepareError> {
        std::fs::read_to_string(path).map_err(|source| PrepareError::File {
            attempt: "read",
            path: path.to_path_buf(),
            source,
        })
    }

    pub(super) fn services(&self) -> &str {
        self.settings.text("service-cidr", "10.43.0.0/16")
    }

    pub(super) fn pods(&self) -> &str {
        self.settings.text("cluster-cidr", "10.42.0.0/16")
    }

    fn has_network(&self) -> bool {
        self.settings.text("flannel-backend", "host-gw") != "none"
    }

    /// What the controller manager gives to the first node.
    fn first_range(&self) -> String {
        let base = self.pods().split('/').next().unwrap_or_default();
        format!("{base}/{}", if base.contains(':') { 64 } else { 24 })
    }

    /// The API server's address inside: the first one of the range.
    fn first_service(&self) -> IpAddr {
        let base = self.services().split('/').next().and_then(|base| base.parse().ok());
        match base.unwrap_or(IpAddr::from([10, 43, 0, 0])) {
            IpAddr::V4(base) => IpAddr::V4((base.to_bits() + 1).into()),
            IpAddr::V6(base) => IpAddr::V6((base.to_bits() + 1).into()),
        }
    }

    fn server_files(&self, token: &Token) -> Result<(), PrepareError> {
        let local = format!("https://127.0.0.1:{}", self.settings.port);
        for (name, user) in [
            ("admin", "client-admin"),
            ("controller", "client-controller"),
            ("scheduler", "client-scheduler"),
        ] {
            let config = pki::kubeconfig(
                &local,
                &self.pki.path("server-ca.crt"),
                &self.pki.path(&format!("{user}.crt")),
                &self.pki.path(&format!("{user}.key")),
            );
            self.write(&format!("server/cred/{name}.kubeconfig"), &config)?;
        }
        self.write("server/cred/tokens.csv", &join::token_file(&token.password))?;
        let admin = pki::embedded_kubeconfig(&self.pki, &local)?;
        holdfast_durable::write(
            &self.settings.kubeconfig,
            admin.as_bytes(),
            self.settings.kubeconfig_mode,
        )?;
        Ok(())
    }

    fn node_credentials(&self) -> Result<(), PrepareError> {
        let local = format!("https://127.0.0.1:{}", self.settings.port);
        for (name, user) in [("kubelet", "client-kubelet"), ("kubeproxy", "client-kube-proxy")] {
            let config = pki::kubeconfig(
                &local,
                &self.pki.path("server-ca.crt"),
                &self.pki.path(&format!("{user}.crt")),
                &self.pki.path(&format!("{user}.key")),
            );
            self.write(&format!("agent/{name}.kubeconfig"), &config)?;
        }
        Ok(())
    }

    /// Of a node that joins: the token, and whom to trust with it. Waits for the server as long as
    /// it takes, as k3s does.
    fn agent_credentials(&self) -> Result<(), PrepareError> {
        let server = self.settings.server.as_deref().unwrap_or_default();
        let token = Token::parse(self.settings.token.as_deref().unwrap_or_default());
        let trust = |key: &str| loop {
            match self.trust(server, key) {
                Some(pem) => break pem,
                None => {
                    eprintln!("the server {server} does not answer yet");
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        };
        let authority = trust(join::SERVERS);
        if !token.trusts(authority.as_bytes()) {
            return Err(PrepareError::OtherServer(server.into()));
        }
        self.write("agent/server-ca.crt", &authority)?;
        self.write("agent/client-ca.crt", &trust(join::CLIENTS))?;
        let config = join::kubeconfig(server, &self.data("agent/server-ca.crt"), &token);
        self.write("agent/bootstrap.kubeconfig", &config)?;
        self.write("agent/kubeproxy.kubeconfig", &config)?;
        Ok(())
    }

    /// One authority, as the server tells it to anybody. Asked for by its path, for strangers may
    /// not ask what kinds of objects there are.
    fn trust(&self, server: &str, key: &str) -> Option<String> {
        let path = format!("/api/v1/namespaces/kube-public/configmaps/{}", join::TRUST);
        let output = Command::new(self.built.program("hyperkube"))
            .args(["kubectl", "--insecure-skip-tls-verify", "--kubeconfig=/dev/null"])
            // A stranger's name: without any, kubectl asks for one.
            .args(["--username=stranger", "--password=none"])
            .args(["--request-timeout=5s", "--server", server, "get", "--raw", &path])
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        Some(object["data"][key].as_str()?.to_owned())
    }

    fn containerd(&self) -> Result<Program, PrepareError> {
        let listed = self.places.registries().display().to_string();
        let registries =
            Registries::read(Path::new(self.settings.text("private-registry", &listed)))?;
        let hosts = self.data("agent/etc/containerd/certs.d");
        if hosts.exists() {
            // A registry that is not named any more must not be asked any more.
            std::fs::remove_dir_all(&hosts).map_err(|source| PrepareError::File {
                attempt: "remove",
                path: hosts.clone(),
                source,
            })?;
        }
        self.make(&hosts)?;
        for (registry, text) in registries.hosts() {
            self.write(&format!("agent/etc/containerd/certs.d/{registry}/hosts.toml"), &text)?;
        }
        let file = files::Containerd {
            root: &self.data("agent/containerd"),
            state: &self.places.runtime(),
            socket: &self.places.runtime_socket(),
            pause: self.settings.text("pause-image", files::PAUSE_IMAGE),
            snapshotter: self.settings.text("snapshotter", "overlayfs"),
            cni_plugins: &self.built.cni_plugins(),
            cni: &self.data("agent/etc/cni/net.d"),
            hosts: &hosts,
            registries: &registries,
        }
        .file();
        let file = self.write("agent/etc/containerd/config.toml", &file)?;
        Ok(Program {
            name: "containerd".into(),
            arguments: vec!["containerd".into(), "--config".into(), file],
            log: self.data("agent/containerd/containerd.log"),
        })
    }

    fn kubelet(&self, authority: &str) -> Result<Vec<String>, PrepareError> {
        let resolv = match self.settings.text("resolv-conf", "") {
            // Nothing here asks the machine's own name servers.
            "" => self.write("agent/etc/resolv.conf", "nameserver 127.0.0.1\n")?,
            file => file.to_owned(),
        };
        let file = files::kubelet(
            &self.address.to_string(),
            Path::new(authority),
            self.settings.text("cluster-dns", "10.43.0.10"),
            self.settings.text("cluster-domain", "cluster.local"),
            self.cgroup,
            Path::new(&resolv),
            &self.data("agent/volume-plugins"),
        );
        let file = self.write("agent/etc/kubelet.yaml", &file.to_string())?;
        let mut arguments = vec![
            "kubelet".to_owned(),
            format!("--config={file}"),
            format!("--kubeconfig={}", self.show("agent/kubelet.kubeconfig")),
            format!("--hostname-override={}", self.settings.node_name),
            format!("--node-ip={}", self.address),
            format!("--root-dir={}", self.places.kubelet().display()),
            format!("--cert-dir={}", self.show("agent/pki")),
            "--container-runtime=remote".into(),
            format!(
                "--container-runtime-endpoint=unix://{}",
                self.places.runtime_socket().display()
            ),
            // Lowering it takes a right that a container's root may lack.
            "--oom-score-adj=0".into(),
        ];
        if !self.settings.is_server {
            arguments.push(format!(
                "--bootstrap-kubeconfig={}",
                self.show("agent/bootstrap.kubeconfig")
            ));
        }
        if self.settings.flag("debug") {
            arguments.push("--v=4".into());
        }
        for (flag, key) in [("node-labels", "node-label"), ("register-with-taints", "node-taint")] {
            let values = self.settings.list(key);
            if !values.is_empty() {
                arguments.push(format!("--{flag}={}", values.join(",")));
            }
        }
        arguments.extend(self.settings.extra("kubelet-arg"));
        Ok(arguments)
    }

    fn proxy(&self) -> Result<Vec<String>, PrepareError> {
        let file = files::proxy(
            &self.address.to_string(),
            &self.settings.node_name,
            self.pods(),
            &self.data("agent/kubeproxy.kubeconfig"),
        );
        let file = self.write("agent/etc/kube-proxy.yaml", &file.to_string())?;
        let mut arguments = vec!["kube-proxy".to_owned(), format!("--config={file}")];
        arguments.extend(self.settings.extra("kube-proxy-arg"));
        Ok(arguments)
    }

    /// The first container of every pod, where k3s looks for archives to import.
    fn pause_image(&self) -> Result<(), PrepareError> {
        let path = self.data("agent/images/holdfast-pause.tar");
        if path.exists() {
            return Ok(());
        }
        let program = self.built.program("pause");
        let program = std::fs::read(&program).map_err(|source| PrepareError::File {
            attempt: "read",
            path: program,
            source,
        })?;
        let image =
            Image::new(files::PAUSE_IMAGE).file("pause", 0o755, program).entrypoint(&["/pause"]);
        holdfast_durable::write(&path, &archive(&[image]), 0o644)?;
        Ok(())
    }
}
