//! The command lines of the control plane. Pure.

use super::Program;
use super::members::{CLIENTS, Cluster, PEERS, url};
use super::prepare::Node;

impl Node<'_> {
    /// Where this server's member of the datastore is for the others.
    pub(super) fn peer_url(&self) -> String {
        url(self.address, PEERS)
    }

    /// A datastore of this server alone.
    pub(super) fn alone(&self) -> Cluster {
        let initial = format!("{}={}", self.settings.node_name, self.peer_url());
        Cluster { initial, exists: false }
    }

    pub(super) fn etcd(&self, cluster: &Cluster) -> Program {
        let mut clients = vec![url([127, 0, 0, 1].into(), CLIENTS)];
        if !self.address.is_loopback() {
            clients.push(url(self.address, CLIENTS));
        }
        let mut arguments = vec![
            "etcd".into(),
            format!("--name={}", self.settings.node_name),
            format!("--data-dir={}", self.show("server/db/etcd")),
            format!("--listen-client-urls={}", clients.join(",")),
            format!("--advertise-client-urls={}", url(self.address, CLIENTS)),
            format!("--listen-peer-urls={}", self.peer_url()),
            format!("--initial-advertise-peer-urls={}", self.peer_url()),
            format!("--initial-cluster={}", cluster.initial),
            format!("--initial-cluster-state={}", if cluster.exists { "existing" } else { "new" }),
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

    pub(super) fn api_server(&self) -> Vec<String> {
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

    /// What the clients of the API server have in common.
    fn component(&self, program: &str, user: &str) -> Vec<String> {
        let config = self.show(&format!("server/cred/{user}.kubeconfig"));
        vec![
            program.to_owned(),
            "--bind-address=127.0.0.1".into(),
            "--port=0".into(),
            "--profiling=false".into(),
            format!("--kubeconfig={config}"),
            format!("--authentication-kubeconfig={config}"),
            format!("--authorization-kubeconfig={config}"),
            format!("--cert-dir={}", self.show(&format!("server/tls/{program}"))),
        ]
    }

    pub(super) fn controllers(&self) -> Vec<String> {
        let mut arguments = self.component("kube-controller-manager", "controller");
        arguments.extend([
            "--use-service-account-credentials=true".into(),
            // The usual rates make forty controllers start one after the other.
            "--kube-api-qps=200".into(),
            "--kube-api-burst=400".into(),
            "--allocate-node-cidrs=true".into(),
            format!("--cluster-cidr={}", self.pods()),
        ]);
        for (flag, file) in [
            ("root-ca-file", "server-ca.crt"),
            ("service-account-private-key-file", "service.key"),
            ("cluster-signing-cert-file", "client-ca.crt"),
            ("cluster-signing-key-file", "client-ca.key"),
        ] {
            arguments.push(format!("--{flag}={}", self.tls(file)));
        }
        arguments.extend(self.election());
        arguments.extend(self.settings.extra("kube-controller-manager-arg"));
        arguments
    }

    pub(super) fn scheduler(&self) -> Vec<String> {
        let mut arguments = self.component("kube-scheduler", "scheduler");
        arguments.extend(self.election());
        arguments.extend(self.settings.extra("kube-scheduler-arg"));
        arguments
    }

    /// One server leads where there can be several. Who looks for a leader looks every second, so
    /// that a restarted server waits no longer for its own earlier self.
    fn election(&self) -> Vec<String> {
        match self.settings.has_etcd {
            false => vec!["--leader-elect=false".into()],
            true => vec!["--leader-elect=true".into(), "--leader-elect-retry-period=1s".into()],
        }
    }
}
