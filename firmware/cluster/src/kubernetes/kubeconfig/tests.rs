use super::*;
use proptest::prelude::*;
use std::fs::File as Disk;
use std::io::Write;

fn pem(label: &str) -> String {
    format!("-----BEGIN {label}-----\nMAMCAQE=\n-----END {label}-----\n")
}

/// As k3s writes it for the administrator.
fn admin() -> String {
    let data = |label| STANDARD.encode(pem(label));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    \
         server: https://127.0.0.1:6443\n  name: default\ncontexts:\n- context:\n    cluster: default\n    \
         user: default\n  name: default\ncurrent-context: default\npreferences: {{}}\nusers:\n- name: default\n  \
         user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        data("CERTIFICATE"),
        data("CERTIFICATE"),
        data("EC PRIVATE KEY"),
    )
}

fn refused(text: &str) -> String {
    parse(text, Path::new("/nowhere")).unwrap_err()
}

#[test]
fn the_administrators_file_is_read() {
    let access = parse(&admin(), Path::new("/nowhere")).unwrap();
    assert_eq!((access.server.as_str(), access.port), ("127.0.0.1:6443", 6443));
    assert_eq!(access.roots.len(), 1);
    assert!(access.identity.is_some() && access.token.is_none() && access.files.is_empty());
    assert!(!format!("{access:?}").contains("key"));
}

/// As k3s writes it for the kubelet: paths as they are below its own root.
#[test]
fn the_kubelets_file_names_others_as_seen_below_its_root() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("var/lib/rancher/nowhere/agent");
    std::fs::create_dir_all(&folder).unwrap();
    for (name, label) in [
        ("server-ca.crt", "CERTIFICATE"),
        ("client-kubelet.crt", "CERTIFICATE"),
        ("client-kubelet.key", "PRIVATE KEY"),
    ] {
        let mut file = Disk::create(folder.join(name)).unwrap();
        file.write_all(pem(label).as_bytes()).unwrap();
    }
    let text = "clusters:\n- cluster:\n    server: https://[::1]:6444\n    \
                certificate-authority: /var/lib/rancher/nowhere/agent/server-ca.crt\n  name: local\n\
                contexts:\n- context:\n    cluster: local\n    user: user\n  name: Default\n\
                current-context: Default\nusers:\n- name: user\n  user:\n    \
                client-certificate: client-kubelet.crt\n    \
                client-key: /var/lib/rancher/nowhere/agent/client-kubelet.key\n";
    let access = parse(text, &folder).unwrap();
    assert_eq!((access.host.as_str(), access.server.as_str()), ("::1", "[::1]:6444"));
    assert_eq!(access.files.len(), 3);
    assert!(access.files.iter().all(|file| file.starts_with(&folder)));
}

#[test]
fn a_token_is_read_as_text_or_from_its_file() {
    let text = admin();
    let (head, _) = text.split_once("    client-certificate-data").unwrap();
    let access = parse(&format!("{head}    token: abc\n"), Path::new("/nowhere")).unwrap();
    assert_eq!(access.token.as_ref().map(|token| token.as_str()), Some("abc"));
    let folder = tempfile::tempdir().unwrap();
    Disk::create(folder.path().join("t")).unwrap().write_all(b"from-file\n").unwrap();
    let access = parse(&format!("{head}    tokenFile: t\n"), folder.path()).unwrap();
    assert_eq!(access.token.as_ref().map(|token| token.as_str()), Some("from-file"));
}

#[test]
fn what_would_weaken_the_connection_is_refused() {
    let plain = admin().replace("https://", "http://");
    assert!(refused(&plain).contains("is not https"), "{}", refused(&plain));
    let path = admin().replace(":6443", ":6443/k8s/clusters/c1");
    assert!(refused(&path).contains("is not https://HOST:PORT"));
    let skip = admin().replace("    server:", "    insecure-skip-tls-verify: true\n    server:");
    assert!(refused(&skip).contains("insecure-skip-tls-verify"));
    let exec =
        admin().replace("    client-key-data:", "    exec: {command: x}\n    client-key-data:");
    assert!(refused(&exec).contains("exec"));
    let rootless = admin().replace("certificate-authority-data", "other");
    assert!(refused(&rootless).contains("no certificate authority"));
    let empty = admin().replace(&STANDARD.encode(pem("CERTIFICATE")), &STANDARD.encode("nothing"));
    assert!(refused(&empty).contains("holds no certificate"), "{}", refused(&empty));
    let half = admin().replace("client-key-data", "other");
    assert!(refused(&half).contains("only one of"));
}

#[test]
fn a_name_that_leads_nowhere_is_told() {
    assert!(
        refused(&admin().replace("current-context: default", "current-context: other"))
            .contains("no context other")
    );
    assert!(refused(&admin().replace("cluster: default", "cluster: c")).contains("no cluster c"));
    assert!(refused(&admin().replace("user: default", "user: u")).contains("no user u"));
}

proptest! {
    /// k3s may be writing it at this moment.
    #[test]
    fn a_torn_file_is_an_error_or_whole(length in 0usize..1000) {
        let text = admin();
        let torn = &text[..length.min(text.len())];
        if let Ok(access) = parse(torn, Path::new("/nowhere")) {
            prop_assert!(access.identity.is_some());
        }
    }
}
