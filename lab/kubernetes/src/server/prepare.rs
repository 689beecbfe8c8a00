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
use std::process::Command;
use std::time::Duration;

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

/// `text` with every file that a node of ours needs, relative to its data directory.
struct Node<'a> {
    settings: &'a Settings,
    places: &'a Places,
    built: &'a Built,
    address: IpAddr,
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
    fn data(&self, path: &str) -> PathBuf {
        self.settings.data.join(path)
    }

    fn show(&self, path: &str) -> String {
        self.data(path).display().to_string()
    }

    fn tls(&self, file: &str) -> String {
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
            cni: self.data("agent/etc/cni/net.d/10-holdfast.conflist"),
            network: (self.settings.text("flannel-backend", "host-gw") != "none")
                .then(|| self.data("agent/cni-state")),
            manifests,
            logs: self.places.logs(),
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

    fn services(&self) -> &str {
        self.settings.text("service-cidr", "10.43.0.0/16")
    }

    fn pods(&self) -> &str {
        self.settings.text("cluster-cidr", "10.42.0.0/16")
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

    /// One authority, as the server tells it to anybody.
    fn trust(&self, server: &str, key: &str) -> Option<String> {
        let output = Command::new(self.built.program("hyperkube"))
            .args([
                "kubectl",
                "--insecure-skip-tls-verify",
                "--kubeconfig=/dev/null",
                "--request-timeout=5s",
                "--server",
                server,
            ])
            .args(["--namespace=kube-public", "get", "configmap", join::TRUST, "-o"])
            .arg(format!("jsonpath={{.data.{key}}}"))
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        (output.status.success() && !text.is_empty()).then_some(text)
    }

    fn etcd(&self) -> Program {
        let mut arguments = vec![
            "etcd".into(),
            format!("--name={}", self.settings.node_name),
            format!("--data-dir={}", self.show("server/db/etcd")),
            "--listen-client-urls=https://127.0.0.1:2379".into(),
            "--advertise-client-urls=https://127.0.0.1:2379".into(),
            "--listen-peer-urls=https://127.0.0.1:2380".into(),
            "--initial-advertise-peer-urls=https://127.0.0.1:2380".into(),
            format!("--initial-cluster={}=https://127.0.0.1:2380", self.settings.node_name),
            "--listen-metrics-urls=http://127.0.0.1:2382".into(),
            "--client-cert-auth".into(),
            format!("--trusted-ca-file={}", self.tls("etcd/server-ca.crt")),
            format!("--cert-file={}", self.tls("etcd/server-client.crt")),
            format!("--key-file={}", self.tls("etcd/server-client.key")),
            "--peer-client-cert-auth".into(),
            format!("--peer-trusted-ca-file={}", self.tls("etcd/peer-ca.crt")),
            format!("--peer-cert-file={}", self.tls("etcd/peer-server-client.crt")),
            format!("--peer-key-file={}", self.tls("etcd/peer-server-client.key")),
            "--logger=zap".into(),
            // The laboratory pulls no plugs: what the kernel has is safe.
            "--unsafe-no-fsync".into(),
        ];
        arguments.extend(self.settings.extra("etcd-arg"));
        Program { name: "etcd".into(), arguments, log: self.data("log/etcd.log") }
    }

    fn api_server(&self) -> Vec<String> {
        let issuer = format!(
            "https://kubernetes.default.svc.{}",
            self.settings.text("cluster-domain", "cluster.local")
        );
        let mut arguments = vec![
            "kube-apiserver".to_owned(),
            format!(
                "--advertise-address={}",
                self.settings.text("advertise-address", &self.address.to_string())
            ),
            format!("--bind-address={}", self.settings.text("bind-address", "0.0.0.0")),
            format!("--secure-port={}", self.settings.port),
            "--insecure-port=0".into(),
            "--allow-privileged=true".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--profiling=false".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--etcd-servers=https://127.0.0.1:2379".into(),
            "--requestheader-allowed-names=system:auth-proxy".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            format!("--service-account-issuer={issuer}"),
            format!("--api-audiences={issuer},k3s"),
            format!("--service-cluster-ip-range={}", self.services()),
            format!(
                "--service-node-port-range={}",
                self.settings.text("service-node-port-range", "30000-32767")
            ),
            format!("--cert-dir={}", self.show("server/tls/temporary-certs")),
            format!("--token-auth-file={}", self.show("server/cred/tokens.csv")),
        ];
        for (flag, file) in [
            ("client-ca-file", "client-ca.crt"),
            ("tls-cert-file", "serving-kube-apiserver.crt"),
            ("tls-private-key-file", "serving-kube-apiserver.key"),
            ("kubelet-client-certificate", "client-kube-apiserver.crt"),
            ("kubelet-client-key", "client-kube-apiserver.key"),
            ("etcd-cafile", "etcd/server-ca.crt"),
            ("etcd-certfile", "etcd/client.crt"),
            ("etcd-keyfile", "etcd/client.key"),
            ("service-account-key-file", "service.pub"),
            ("service-account-signing-key-file", "service.key"),
            ("requestheader-client-ca-file", "request-header-ca.crt"),
            ("proxy-client-cert-file", "client-auth-proxy.crt"),
            ("proxy-client-key-file", "client-auth-proxy.key"),
        ] {
            arguments.push(format!("--{flag}={}", self.tls(file)));
        }
        arguments.extend(self.settings.extra("kube-apiserver-arg"));
        arguments
    }

    fn controllers(&self) -> Vec<String> {
        let config = self.show("server/cred/controller.kubeconfig");
        let mut arguments = vec![
            "kube-controller-manager".to_owned(),
            "--bind-address=127.0.0.1".into(),
            "--port=0".into(),
            "--leader-elect=false".into(),
            "--profiling=false".into(),
            "--use-service-account-credentials=true".into(),
            // The usual rates make forty controllers start one after the other.
            "--kube-api-qps=200".into(),
            "--kube-api-burst=400".into(),
            "--allocate-node-cidrs=true".into(),
            format!("--cluster-cidr={}", self.pods()),
            format!("--kubeconfig={config}"),
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            format!("--cert-dir={}", self.show("server/tls/kube-controller-manager")),
        ];
        for (flag, file) in [
            ("root-ca-file", "server-ca.crt"),
            ("service-account-private-key-file", "service.key"),
            ("cluster-signing-cert-file", "client-ca.crt"),
            ("cluster-signing-key-file", "client-ca.key"),
        ] {
            arguments.push(format!("--{flag}={}", self.tls(file)));
        }
        arguments.extend(self.settings.extra("kube-controller-manager-arg"));
        arguments
    }

    fn scheduler(&self) -> Vec<String> {
        let config = self.show("server/cred/scheduler.kubeconfig");
        let mut arguments = vec![
            "kube-scheduler".to_owned(),
            "--bind-address=127.0.0.1".into(),
            "--port=0".into(),
            "--leader-elect=false".into(),
            "--profiling=false".into(),
            format!("--kubeconfig={config}"),
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            format!("--cert-dir={}", self.show("server/tls/kube-scheduler")),
        ];
        arguments.extend(self.settings.extra("kube-scheduler-arg"));
        arguments
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
