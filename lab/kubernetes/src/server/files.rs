//! The configuration files of containerd, kubelet and kube-proxy. Pure.

use crate::registries::Registries;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// The pause image, which no registry has to have.
pub const PAUSE_IMAGE: &str = "holdfast.lab/pause:1";

/// containerd's configuration.
pub struct Containerd<'a> {
    /// Where images and containers are.
    pub root: &'a Path,
    /// State that does not outlive the machine.
    pub state: &'a Path,
    /// The socket.
    pub socket: &'a Path,
    /// The image of every pod's first container.
    pub pause: &'a str,
    /// How layers are put together.
    pub snapshotter: &'a str,
    /// The network plugins.
    pub cni_plugins: &'a Path,
    /// Their configuration.
    pub cni: &'a Path,
    /// The registries' `hosts.toml`.
    pub hosts: &'a Path,
    /// Registries.
    pub registries: &'a Registries,
}

impl Containerd<'_> {
    /// The file.
    pub fn file(&self) -> String {
        let show = |path: &Path| format!("{:?}", path.display().to_string());
        let mut text = String::from("version = 2\noom_score = 0\n");
        let unused = [
            "snapshotter.v1.aufs",
            "snapshotter.v1.btrfs",
            "snapshotter.v1.devmapper",
            "snapshotter.v1.zfs",
            "internal.v1.opt",
            "internal.v1.tracing",
            "tracing.processor.v1.otlp",
        ];
        let unused = unused.map(|name| format!("\"io.containerd.{name}\"")).join(", ");
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        let _infallible = write!(
            text,
            "root = {root}\nstate = {state}\ndisabled_plugins = [{unused}]\n\
             [grpc]\n  address = {socket}\n\
             [{cri}]\n  sandbox_image = {pause:?}\n  stream_server_address = \"127.0.0.1\"\n  disable_apparmor = true\n  \
             restrict_oom_score_adj = true\n\
             [{cri}.cni]\n  bin_dir = {plugins}\n  conf_dir = {cni}\n\
             [{cri}.containerd]\n  snapshotter = {snapshotter:?}\n  default_runtime_name = \"runc\"\n\
             [{cri}.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n\
             [{cri}.containerd.runtimes.runc.options]\n  SystemdCgroup = false\n\
             [{cri}.registry]\n  config_path = {hosts}\n{credentials}",
            root = show(self.root),
            state = show(self.state),
            socket = show(self.socket),
            pause = self.pause,
            plugins = show(self.cni_plugins),
            cni = show(self.cni),
            snapshotter = self.snapshotter,
            hosts = show(self.hosts),
            credentials = self.registries.credentials(),
        );
        text
    }
}

/// The kubelet's configuration (v1beta1); flags that the user gives stand above it.
pub fn kubelet(
    address: &str,
    authority: &Path,
    dns: &str,
    domain: &str,
    cgroup: &str,
    resolv: &Path,
    plugins: &Path,
) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "clusterDNS": [dns],
        "clusterDomain": domain,
        // Tests fill disks on purpose, and the machine's own disk may be nearly full.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "failSwapOn": false,
        "healthzBindAddress": "127.0.0.1",
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        // A node is Ready within a second, not ten.
        "nodeStatusUpdateFrequency": "1s",
        "resolvConf": resolv,
        // This kubelet forgets the end of a pod that is deleted in the second in which its container
        // starts, until it looks at the pod again. That is a minute, unless it is told otherwise.
        "syncFrequency": "5s",
        "volumePluginDir": plugins,
    })
}

/// kube-proxy's configuration (v1alpha1); it must not touch the machine's connection tracking.
pub fn proxy(address: &str, node: &str, cidr: &str, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": address,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "hostnameOverride": node,
        "mode": "iptables",
        "clusterCIDR": cidr,
        "clientConnection": {"kubeconfig": kubeconfig},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

/// The pods' network of one node: a bridge, and addresses out of the node's range.
pub fn network(range: &str, state: &Path) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "cbr0",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": state,
                    "ranges": [[{"subnet": range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}
