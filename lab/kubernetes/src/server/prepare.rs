//! Certificates, token and files of a node, and the plan of what to start.

use super::join::{self, Token};
use super::joining::TOMBSTONE;
use super::members::Etcdctl;
use super::{Datastore, Manifests, Plan, Program, files};
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
    /// The server does not take the token.
    #[error("the server {server} refuses to let this node join: {said}")]
    Refused {
        /// The server.
        server: String,
        /// What it says.
        said: String,
    },
    /// No random numbers.
    #[error("the kernel gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What the steps share.
pub(super) struct Node<'a> {
    pub(super) settings: &'a Settings,
    places: &'a Places,
    pub(super) built: &'a Built,
    pub(super) address: IpAddr,
    cgroup: &'a str,
    pub(super) pki: Pki,
}

/// The node's address: as it was asked for, else the one with which this machine would speak to
/// others. Nothing is sent. A control plane alone is content with itself.
///
/// # Errors
/// There is none.
pub fn address(settings: &Settings) -> Result<IpAddr, PrepareError> {
    let towards_others = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // TEST-NET-1 (RFC 5737): connecting a datagram socket only looks the route up.
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    match settings.node_ip {
        Some(address) => Ok(address),
        None => towards_others().or_else(|error| match settings.has_agent && !settings.reset {
            true => Err(PrepareError::NoAddress(error)),
            false => Ok(IpAddr::from([127, 0, 0, 1])),
        }),
    }
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
    let address = address(settings)?;
    let pki = Pki::below(&settings.data);
    Node { settings, places, built, address, cgroup, pki }.plan()
}

/// The datastore of a server alone, whatever it was a member of.
///
/// # Errors
/// The server has no address.
pub(crate) fn datastore_alone(
    settings: &Settings,
    places: &Places,
    built: &Built,
) -> Result<Program, PrepareError> {
    let (address, pki) = (address(settings)?, Pki::below(&settings.data));
    let node = Node { settings, places, built, address, cgroup: "", pki };
    Ok(node.etcd(&node.alone()))
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

    pub(super) fn write(&self, path: &str, content: &str) -> Result<String, PrepareError> {
        holdfast_durable::write_if_changed(&self.data(path), content.as_bytes(), 0o600)?;
        Ok(self.show(path))
    }

    fn plan(&self) -> Result<Plan, PrepareError> {
        self.make(&self.data("log"))?;
        let (mut programs, mut parts, mut datastore) = (Vec::new(), Vec::new(), None);
        if self.settings.is_server {
            let joins = self.joins()?;
            if joins {
                self.adopt_authorities()?;
            }
            self.pki.prepare(
                &self.settings.node_name,
                &[self.address, self.first_service()],
                &self.settings.list("tls-san").into_iter().map(str::to_owned).collect::<Vec<_>>(),
            )?;
            let token = self.server_token()?;
            self.server_files(&token)?;
            let authority = self.read(&self.pki.path("server-ca.crt"))?;
            let clients = self.read(&self.pki.path("client-ca.crt"))?;
            let shared = self.pki.shared()?;
            self.write("server/join.json", &join::manifests(&authority, &clients, &shared))?;
            if self.first_of_cluster(joins) {
                // The first node of a new cluster gets the first range. Known before the kubelet
                // looks, which it does every five seconds only; `routes` mends it should it ever
                // be another.
                let network = files::network(&self.first_range(), &self.data("agent/cni-state"));
                self.write(NETWORK, &network.to_string())?;
            }
            let (cluster, joining) = self.cluster(joins)?;
            datastore = Some(Datastore {
                program: self.etcd(&cluster),
                etcdctl: Etcdctl::own(self.settings, self.built),
                joining,
                tombstone: self.data(TOMBSTONE),
            });
            parts.extend([self.api_server(), self.controllers(), self.scheduler()]);
        }
        if self.settings.has_agent {
            self.agent(&mut programs, &mut parts)?;
        }
        let lines: String = parts.iter().map(|part| part.join("\t") + "\n").collect();
        let parts = self.write("agent/etc/parts", &lines)?;
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
        let is_server = self.settings.is_server;
        Ok(Plan {
            datastore,
            programs,
            kubernetes: Program {
                name: "kubernetes".into(),
                arguments: vec![hyperkube.display().to_string(), "together".into(), parts],
                log: self.data("log/kubernetes.log"),
            },
            environment,
            runtime_socket: self.places.runtime_socket(),
            images: self.settings.has_agent.then(|| self.data("agent/images")),
            hyperkube,
            kubeconfig: if is_server {
                self.data("server/cred/admin.kubeconfig")
            } else {
                self.data("agent/kubeproxy.kubeconfig")
            },
            node: self.settings.node_name.clone(),
            cni: self.data(NETWORK),
            network: self.has_network().then(|| self.data("agent/cni-state")),
            manifests: is_server.then(|| Manifests {
                own: self.data("server/join.json"),
                folder: self.data("server/manifests"),
                disabled: self.settings.list("disable").into_iter().map(str::to_owned).collect(),
                elects: self.settings.has_etcd,
                started: jiff::Timestamp::now(),
            }),
            root: self.places.root().to_path_buf(),
            keep: vec![
                self.places.root().to_path_buf(),
                self.settings.data.clone(),
                self.built.root().to_path_buf(),
            ],
            settings: self.data("agent/settings"),
        })
    }

    /// What runs pods.
    fn agent(
        &self,
        programs: &mut Vec<Program>,
        parts: &mut Vec<Vec<String>>,
    ) -> Result<(), PrepareError> {
        for dir in
            ["agent/images", "agent/containerd", "agent/etc/cni/net.d", "agent/volume-plugins"]
        {
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
        programs.push(self.containerd()?);
        let authority = if self.settings.is_server {
            self.node_credentials()?;
            self.tls("client-ca.crt")
        } else {
            self.agent_credentials()?;
            self.show("agent/client-ca.crt")
        };
        parts.push(self.kubelet(&authority)?);
        if !self.settings.flag("disable-kube-proxy") {
            parts.push(self.proxy()?);
        }
        self.pause_image()
    }

    fn first_of_cluster(&self, joins: bool) -> bool {
        self.has_network()
            && self.settings.has_agent
            && !joins
            && !self.data("server/db/etcd").exists()
    }

    pub(super) fn make(&self, dir: &Path) -> Result<(), PrepareError> {
        std::fs::create_dir_all(dir).map_err(|source| PrepareError::File {
            attempt: "make",
            path: dir.to_path_buf(),
            source,
        })
    }

    pub(super) fn read(&self, path: &Path) -> Result<String, PrepareError> {
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
            self.write_kubeconfig(&format!("server/cred/{name}.kubeconfig"), &local, user)?;
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

    /// What `user` reaches the API server with, by the names of its files.
    fn write_kubeconfig(&self, file: &str, server: &str, user: &str) -> Result<(), PrepareError> {
        let config = pki::kubeconfig(
            server,
            &self.pki.path("server-ca.crt"),
            &self.pki.path(&format!("{user}.crt")),
            &self.pki.path(&format!("{user}.key")),
        );
        self.write(file, &config).map(drop)
    }

    fn node_credentials(&self) -> Result<(), PrepareError> {
        let local = format!("https://127.0.0.1:{}", self.settings.port);
        for (name, user) in [("kubelet", "client-kubelet"), ("kubeproxy", "client-kube-proxy")] {
            self.write_kubeconfig(&format!("agent/{name}.kubeconfig"), &local, user)?;
        }
        Ok(())
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
