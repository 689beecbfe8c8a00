//! A data plane in small: a DaemonSet whose pod is the way to the registry, also to that of its own
//! next version.

use std::fmt::Display;

/// Where the pod listens. containerd asks loopback addresses by plain HTTP, and nobody else instead.
pub const WAY: &str = "127.0.0.1:5000";

/// Its manifest. `image` has a shell and `nc`; `registry` is the address that the way leads to.
pub fn manifest(image: &str, registry: impl Display) -> String {
    format!(
        r#"apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: way, namespace: default, annotations: {{holdfast.dev/data-plane: "true"}}}}
spec:
  selector: {{matchLabels: {{app: way}}}}
  updateStrategy: {{type: RollingUpdate, rollingUpdate: {{maxUnavailable: 1}}}}
  template:
    metadata: {{labels: {{app: way}}}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      tolerations: [{{operator: Exists}}]
      containers:
      - name: way
        image: "{image}"
        command: ["sh", "-c", "trap 'exit 0' TERM; nc -ll -p 5000 -e nc {registry} 5000 & wait"]
        readinessProbe: {{httpGet: {{path: /v2/, port: 5000, host: 127.0.0.1}}, periodSeconds: 1}}
"#
    )
}
