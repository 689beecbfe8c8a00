use super::*;
use proptest::prelude::*;

fn judge(log: &[&str], facts: &Facts) -> Diagnosis {
    let log = said(log);
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let ending = Some(Ending::Status(1));
    diagnose(&Evidence { ending, log: &log, facts, now }).unwrap()
}

fn said(lines: &[&str]) -> Log {
    let kubernetes = lines.iter().map(|line| (*line).to_owned()).collect();
    Log { kubernetes, ..Log::default() }
}

fn reason(line: &str) -> Reason {
    judge(&["Starting", line, "\tmain.main()"], &Facts::default()).reason
}

/// Each line as k3s v1.2x to v1.3x prints it, in the public reports of its users.
#[test]
fn what_k3s_says() {
    for (line, want) in [
        (
            r#"time="2022-09-14T19:31:28+08:00" level=fatal msg="starting kubernetes: preparing server: init cluster datastore and https: listen tcp :6443: bind: address already in use""#,
            Reason::KubernetesPortTaken,
        ),
        (
            r#"E1019 20:33:37.958760 1 run.go:74] "command failed" err="failed to create listener: failed to listen on 0.0.0.0:6443: listen tcp 0.0.0.0:6443: bind: address already in use""#,
            Reason::KubernetesPortTaken,
        ),
        (
            r#"time="2024-02-02T08:45:29Z" level=fatal msg="starting kubernetes: preparing server: failed to get CA certs: Get \"https://10.255.0.101:6443/cacerts\": dial tcp 10.255.0.101:6443: connect: connection refused""#,
            Reason::KubernetesServerUnreachable,
        ),
        (
            r#"time="2021-07-29T06:42:37-04:00" level=error msg="token CA hash does not match the Cluster CA certificate hash: f086 != 8e7d""#,
            Reason::KubernetesJoinRefused,
        ),
        (
            r#"time="2023-09-19T12:49:13+02:00" level=error msg="failed to get CA certs: https://127.0.0.1:6444/cacerts: 401 Unauthorized""#,
            Reason::KubernetesJoinRefused,
        ),
        (
            r#"level=fatal msg="starting kubernetes: preparing server: bootstrap data already found and encrypted with different token""#,
            Reason::KubernetesJoinRefused,
        ),
        (
            "FATA[0004] Failed to reconcile with temporary etcd: wal: max entry size limit exceeded, recBytes: 865, fileSize(19681280) - offset(19681192) - padBytes(7) = entryLimit(81)",
            Reason::KubernetesDatastoreDamaged,
        ),
        (
            "etcdserver: read wal error (walpb: crc mismatch) and cannot be repaired",
            Reason::KubernetesDatastoreDamaged,
        ),
        (
            "F1016 03:31:28.074425    3792 server.go:185] unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [kubernetes.io/role]",
            Reason::KubernetesConfigRefused,
        ),
        (
            r#"level=fatal msg="flag provided but not defined: -node-lable""#,
            Reason::KubernetesConfigRefused,
        ),
        (
            r#"level=error msg="Get \"https://127.0.0.1:6444/v1-k3s/readyz\": x509: certificate has expired or is not yet valid: current time 2026-01-01T00:00:00Z is after 2025-11-01T00:00:00Z""#,
            Reason::KubernetesCertificateExpired,
        ),
        (
            r#"level=fatal msg="failed to create new etcd: write /var/lib/rancher/k3s/server/db/etcd/member/wal/0.tmp: no space left on device""#,
            Reason::KubernetesDiskFull,
        ),
    ] {
        assert_eq!(reason(line), want, "{line}");
    }
}

/// Each line as the laboratory's Kubernetes printed it when that was done to it.
#[test]
fn what_the_laboratory_says() {
    for (line, want) in [
        (
            "Error: failed to create listener: failed to listen on 0.0.0.0:6443: listen tcp 0.0.0.0:6443: bind: address already in use",
            Reason::KubernetesPortTaken,
        ),
        (
            r#"etcd ended (exit status: 1): {"level":"fatal","caller":"etcdmain/etcd.go:271","msg":"discovery failed","error":"listen tcp 127.0.0.1:2379: bind: address already in use"}"#,
            Reason::KubernetesPortTaken,
        ),
        (
            "the token is not that of this datastore: /var/lib/rancher/k3s/server/token was made with another one",
            Reason::KubernetesJoinRefused,
        ),
        (
            r#"{"level":"panic","caller":"backend/backend.go:162","msg":"failed to open database","path":"/var/lib/rancher/k3s/server/db/etcd/member/snap/db","error":"invalid database"}"#,
            Reason::KubernetesDatastoreDamaged,
        ),
        (
            r#"{"level":"fatal","caller":"etcdmain/etcd.go:271","msg":"discovery failed","error":"proto: Record: wiretype end group for non-group"}"#,
            Reason::KubernetesDatastoreDamaged,
        ),
        (
            r#"{"level":"warn","caller":"wal/file_pipeline.go:79","msg":"failed to preallocate space when creating a new WAL","size":64000000,"error":"no space left on device"}"#,
            Reason::KubernetesDiskFull,
        ),
        (
            "the server https://10.0.0.1:6443 does not answer yet",
            Reason::KubernetesServerUnreachable,
        ),
        (
            "/etc/rancher/k3s/config.yaml: unknown option \"node-lable\"",
            Reason::KubernetesConfigRefused,
        ),
        ("Error: unknown flag: --nonsense", Reason::KubernetesConfigRefused),
        // The noise of a healthy start.
        (
            "W1122 clientconn.go] grpc: addrConn.createTransport failed to connect to {127.0.0.1:2379}. Err: connection error: desc = \"transport: Error while dialing dial tcp 127.0.0.1:2379: connect: connection refused\". Reconnecting...",
            Reason::KubernetesExited,
        ),
    ] {
        assert_eq!(reason(line), want, "{line}");
    }
}

/// Each was seen in the log of a k3s that served its workloads.
#[test]
fn what_a_healthy_k3s_says_of_others_dooms_nobody() {
    for line in [
        r#"time="2024-05-01T08:00:00Z" level=error msg="Failed to process config: failed to process /var/lib/rancher/k3s/server/manifests/config.yaml: yaml: line 12: mapping values are not allowed in this context""#,
        r#"E0501 08:00:00.000000    1234 proxier.go:1560] "can't open port, skipping it" err="listen tcp4 :31234: bind: address already in use" port="nodePort for default/web""#,
        r#"time="2024-05-01T08:00:00Z" level=warning msg="unable to parse \"registry.example\": invalid argument \"x\"""#,
        "F is the first letter of this line: unknown flag: --x",
        "F1234",
    ] {
        let log = said(&[line]);
        assert!(!is_doomed(&log), "{line}");
        let (facts, now) = (Facts::default(), Timestamp::UNIX_EPOCH);
        let running = Evidence { ending: None, log: &log, facts: &facts, now };
        assert_eq!(diagnose(&running), None, "{line}");
        assert_eq!(reason(line), Reason::KubernetesExited, "{line}");
    }
}

#[test]
fn what_nothing_comes_back_from_dooms() {
    for line in [
        r#"time="2023-07-08T10:00:00Z" level=fatal msg="yaml: line 9: could not find expected ':'""#,
        "FATA[0000] flag provided but not defined: -x",
        "/etc/rancher/k3s/config.yaml.d/60-holdfast.yaml: unknown option \"x\"",
        "listen tcp 127.0.0.1:10259: bind: address already in use",
        r#"time="2023-07-08T10:00:00Z" level=fatal msg="listen tcp :7443: bind: address already in use""#,
        r#"{"level":"panic","msg":"failed to open database","error":"invalid database"}"#,
        "F1016 03:31:28.074425    3792 server.go:185] unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [kubernetes.io/role]",
    ] {
        assert!(is_doomed(&said(&[line])), "{line}");
    }
    let passes = "{\"level\":\"warn\",\"msg\":\"peer sent a snapshot with a crc mismatch\"}";
    assert!(!is_doomed(&said(&[passes])));
}

/// Each as containerd 1.6 and etcd 3.4 say it of a file of theirs whose first pages, or whose other
/// pages, were overwritten, or that was cut. Only etcd's is restored from a snapshot.
#[test]
fn each_database_is_damaged_for_itself() {
    let facts = Facts::default();
    let judge = |log: &Log| {
        let evidence = Evidence { ending: None, log, facts: &facts, now: Timestamp::UNIX_EPOCH };
        diagnose(&evidence).map(|found| (found.reason, found.message))
    };
    let panic = [
        "panic: invalid page type: 0: 4",
        "",
        "goroutine 23 [running]:",
        "panic({0x1e5c0a0, 0xc000114a90})",
        "\t/usr/lib/go/src/runtime/panic.go:884 +0x212",
        "go.etcd.io/bbolt.(*Cursor).search(0xc0006c08a0, {0xc0006c0968, 0x2, 0x20}, 0x0?)",
        "\tgo.etcd.io/bbolt/cursor.go:250 +0x299",
    ];
    for (lines, message) in [
        (
            &[
                r#"time="2026-01-01T00:00:00Z" level=warning msg="failed to load plugin io.containerd.grpc.v1.cri" error="failed to get services: failed to get instance of service \"images-service\": invalid database""#,
            ][..],
            "invalid database",
        ),
        (
            &[
                r#"time="2026-01-01T00:00:00Z" level=warning msg="failed to load plugin io.containerd.grpc.v1.content" error="file size too small""#,
            ],
            "file size too small",
        ),
        (&panic, "panic: invalid page type"),
    ] {
        let containerd: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        // k3s and the kubelet tell what containerd tells them.
        let kubernetes = vec![
            r#"E0101 remote_runtime.go:86] "Version from runtime service failed" err="rpc error: code = Unknown desc = invalid database""#.into(),
            format!("containerd ended (exit status: 2): {}", lines[0]),
        ];
        let log = Log { kubernetes, containerd };
        let (reason, text) = judge(&log).unwrap();
        assert_eq!(reason, Reason::KubernetesContainerdDamaged, "{lines:?}");
        assert!(text.contains(message), "{text}");
        assert!(is_doomed(&log), "it waits for containerd without end");
    }
    let etcd = r#"{"level":"panic","msg":"failed to open database","path":"/var/lib/rancher/k3s/server/db/etcd/member/snap/db","error":"invalid database"}"#;
    let (reason, _) = judge(&said(&[etcd])).unwrap();
    assert_eq!(reason, Reason::KubernetesDatastoreDamaged);
    // Of a layer, and of containerd's own doing inside of a transaction.
    let layer = [
        r#"time="2026-01-01T00:00:00Z" level=error msg="PullImage \"registry.example/app:1\" failed" error="failed to extract layer: crc mismatch""#,
    ];
    // What a pod is told to run is quoted.
    let quoted = [
        r#"time="2026-01-01T00:00:00Z" level=error msg="StartContainer failed" error="exec: \"failed to load plugin: invalid database\": executable file not found""#,
    ];
    let own = [
        "panic: assignment to entry in nil map",
        "goroutine 23 [running]:",
        "github.com/containerd/containerd/metadata.(*DB).Init.func1(0xc00040a0e0)",
        "go.etcd.io/bbolt.(*DB).Update(0x0?, 0xc0006c0c20)",
    ];
    for lines in [&layer[..], &quoted, &own] {
        let containerd = lines.iter().map(|line| (*line).to_owned()).collect();
        let log = Log { containerd, ..Log::default() };
        assert_eq!((judge(&log), is_doomed(&log)), (None, false), "{lines:?}");
    }
}

/// A version that failed may have raised the datastore's: on a site with one server the snapshot
/// from before it is put back then, as of any datastore that cannot be read.
#[test]
fn a_datastore_of_a_newer_version_is_as_good_as_damaged() {
    let line = r#"{"level":"panic","caller":"membership/downgrade.go:49","msg":"invalid downgrade; server version is lower than determined cluster version","current-server-version":"3.5.21","determined-cluster-version":"3.6"}"#;
    let found = judge(&["Starting", line], &Facts::default());
    assert_eq!(found.reason, Reason::KubernetesDatastoreDamaged);
    assert!(found.message.starts_with("a newer Kubernetes wrote the datastore"), "{found:?}");
}

#[test]
fn whoever_has_the_port_is_named() {
    let line = "listen tcp 0.0.0.0:6443: bind: address already in use";
    let mut facts = Facts {
        listeners: vec![
            Listener { port: 22, program: None },
            Listener { port: 6443, program: Some(Program { name: "nginx".into(), pid: 12 }) },
        ],
        ..Facts::default()
    };
    assert_eq!(judge(&[line], &facts).message, "port 6443 is taken by nginx (process 12)");
    facts.listeners[1].program = None;
    assert!(judge(&[line], &facts).message.starts_with("port 6443 is taken by a program that"));
    facts.listeners.clear();
    assert!(judge(&[line], &facts).message.starts_with("port 6443 was taken: listen tcp"));
}

#[test]
fn the_certificate_is_named() {
    let line = "x509: certificate has expired or is not yet valid";
    let validity = |path: &str, from: &str, to: &str| Validity {
        path: path.into(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
    };
    let good = validity("/a.crt", "2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
    let old = validity("/b.crt", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
    let early = validity("/c.crt", "2026-06-01T00:00:00Z", "2027-01-01T00:00:00Z");
    let with = |certificates| Facts { certificates, ..Facts::default() };
    assert_eq!(
        judge(&[line], &with(vec![good.clone(), old])).message,
        "/b.crt expired at 2025-01-01T00:00:00Z"
    );
    assert_eq!(
        judge(&[line], &with(vec![early])).message,
        "/c.crt is valid from 2026-06-01T00:00:00Z only"
    );
    assert_eq!(judge(&[line], &with(vec![good])).message, line);
}

#[test]
fn a_disk_without_room_explains_an_end_without_words() {
    let facts = Facts { free_bytes: Some(1_000_000), ..Facts::default() };
    assert_eq!(judge(&["panic"], &facts).reason, Reason::KubernetesDiskFull);
    let facts = Facts { free_bytes: Some(ROOM), ..Facts::default() };
    assert_eq!(judge(&["panic"], &facts).reason, Reason::KubernetesExited);
}

#[test]
fn the_last_words_are_told_without_stack_traces() {
    let finding = judge(&["one", "two", "", "three", "four", "\tmain.go:1"], &Facts::default());
    assert_eq!(finding.message, "it ended with status 1: two | three | four");
    let finding = judge(&[], &Facts::default());
    assert_eq!(finding.message, "it ended with status 1 and logged nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes that a program logs, split anywhere, are judged without a panic; and a process
    /// that runs is only called failed for something its log says.
    #[test]
    fn any_log_is_judged(lines in proptest::collection::vec("[a-z:…\t ]{0,20}(: bind: address already in use|:6443|…)?\\PC{0,9}", 0..6)) {
        let log = Log { kubernetes: lines.clone(), containerd: lines };
        let now = Timestamp::UNIX_EPOCH;
        let facts = Facts::default();
        let running = Evidence { ending: None, log: &log, facts: &facts, now };
        if let Some(found) = diagnose(&running) {
            prop_assert!(found.reason != Reason::KubernetesExited);
        }
        let ended = Evidence { ending: Some(Ending::Unknown), ..running };
        prop_assert!(diagnose(&ended).is_some());
    }
}
