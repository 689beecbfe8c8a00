//! Power cuts, full disks, lost and damaged files.

use super::http::Http;
use super::world::{BASE, PATIENCE, World, of, operator_token, read_ca};
use holdfast_poll::until_async;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// A server in a process of its own, killed when dropped.
struct Process {
    child: Child,
    /// The data directory as we see it.
    data: PathBuf,
}

impl Process {
    async fn start(mut command: Command, data: impl Fn(u32) -> PathBuf) -> Process {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let data = data(child.id());
        let process = Process { child, data };
        until_async("the server is up", PATIENCE, async || {
            process.try_connect(None).await.map(drop).ok_or("no answer")
        })
        .await;
        process
    }

    async fn plain(data: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-controller"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
        let data = data.to_owned();
        Self::start(command, move |_| data.clone()).await
    }

    async fn try_connect(&self, bearer: Option<&str>) -> Option<Http> {
        let address = std::fs::read_to_string(self.data.join("address")).ok()?;
        let address = address.trim().parse().ok()?;
        let ca = read_ca(&self.data);
        Http::try_connect(address, &ca, bearer, None, b"h2").await.ok()
    }

    async fn operator(&self) -> Http {
        self.try_connect(Some(&operator_token(&self.data, None))).await.unwrap()
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn site_names(operator: &Http) -> BTreeSet<String> {
    let list = operator.must(&of("acme", "sites")).await;
    let sites = list["items"].as_array().unwrap();
    let prefixes: BTreeSet<_> =
        sites.iter().map(|s| s["spec"]["prefix"].as_str().unwrap()).collect();
    assert_eq!(prefixes.len(), sites.len(), "whole objects only, and no prefix twice");
    sites.iter().map(|s| s["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    let data = tempfile::tempdir().unwrap();
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let mut versions = Vec::new();
    for round in 0..3 {
        // A stale address must not be taken for the new one.
        let _ = std::fs::remove_file(data.path().join("address"));
        let mut process = Process::plain(data.path()).await;
        let operator = Arc::new(process.operator().await);
        let kept = site_names(&operator).await;
        let expected = acknowledged.lock().await.clone();
        assert!(expected.is_subset(&kept), "lost: {:?}", expected.difference(&kept));
        let version = operator.must(&of("acme", "sites")).await["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap();
        assert!(versions.last().is_none_or(|before| *before < version), "versions only grow");
        let (count, mut counted) = watch::channel(0usize);
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..16 {
            let (operator, acknowledged, count) =
                (operator.clone(), acknowledged.clone(), count.clone());
            writers.spawn(async move {
                for n in 0.. {
                    let name = format!("s-{round}-{writer}-{n}");
                    let site = json!({"metadata": {"name": name}}).to_string();
                    let json = [("content-type", "application/json")];
                    match operator.try_call("POST", &of("acme", "sites"), &json, site).await {
                        Ok(answer) if answer.code == 201 => {
                            acknowledged.lock().await.insert(name);
                            count.send_modify(|count| *count += 1);
                        }
                        _ => return,
                    }
                }
            });
        }
        let something = tokio::time::timeout(PATIENCE, counted.wait_for(|count| *count >= 100));
        drop(something.await.expect("there is something to lose").unwrap());
        let last = operator.must(&of("acme", "sites")).await["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap();
        process.kill();
        while writers.join_next().await.is_some() {}
        versions.push(last);
    }
}

/// A tmpfs of 24 MiB in a mount namespace of the server's own.
async fn on_a_small_disk(dir: &Path) -> Option<Process> {
    let probe = Command::new("unshare").args(["-m", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no right to make a mount namespace");
        return None;
    }
    let script = "mount -t tmpfs -o size=24m tmpfs \"$1\" && exec \"$2\" serve --listen 127.0.0.1:0 --data \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(dir).arg(env!("CARGO_BIN_EXE_holdfast-controller"));
    let dir = dir.to_owned();
    let inside = move |pid: u32| {
        PathBuf::from(format!("/proc/{pid}/root")).join(dir.strip_prefix("/").unwrap())
    };
    Some(Process::start(command, inside).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let Some(process) = on_a_small_disk(dir.path()).await else { return };
    let operator = process.operator().await;
    let ballast = "x".repeat(200_000);
    let site =
        |n: usize| json!({"metadata": {"name": format!("s{n}"), "annotations": {"b": ballast}}});
    for n in 0..5 {
        operator.create(&of("acme", "sites"), &site(n)).await;
    }
    let filler = process.data.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let mut n = 5;
    let refused = loop {
        let answer = operator.post(&of("acme", "sites"), &site(n)).await;
        if answer.code != 201 {
            break answer;
        }
        n += 1;
        assert!(n < 1_000, "the disk never fills");
    };
    assert_eq!((refused.code, refused.reason()), (503, "state.disk-full"), "{}", refused.body);
    assert!(refused.headers.contains_key("retry-after"));
    // It stays readable, and refuses as long as the disk is full.
    assert_eq!(site_names(&operator).await.len(), n);
    assert_eq!(operator.get(&of("acme", &format!("sites/s{n}"))).await.code, 404);
    assert_eq!(operator.post(&of("acme", "sites"), &site(n)).await.reason(), "state.disk-full");
    std::fs::remove_file(&filler).unwrap();
    operator.create(&of("acme", "sites"), &json!({"metadata": {"name": "after"}})).await;
    let want = site_names(&operator).await;
    assert_eq!(want.len(), n + 1);
    // Another process on a copy of the files finds the same.
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.redb", "status.redb", "ca/ca.key", "ca/ca.crt"] {
        std::fs::create_dir_all(copy.path().join("ca")).unwrap();
        std::fs::copy(process.data.join(name), copy.path().join(name)).unwrap();
    }
    let second = Process::plain(copy.path()).await;
    assert_eq!(site_names(&second.operator().await).await, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_can_be_lost_and_comes_back() {
    let mut world = World::new().await;
    let (device, registration) = world.node("acme", "ce01").await;
    let report = json!({"metadata": {"name": "ce01"}, "status": {"stage": "Online"}});
    let status = of("acme", "nodestatuses/ce01");
    let node = world.certified(&device, &registration).await;
    assert_eq!(node.put(&status, &report).await.code, 201);
    let site = of("acme", "sites/ce01");
    world.operator(None).await.until(&site, |site| site["status"]["phase"] == "Online").await;
    // In good order everything is kept.
    world.stop().await;
    world.start().await;
    let operator = world.operator(None).await;
    assert_eq!(operator.must(&status).await["status"]["stage"], "Online");
    let damages: [fn(&Path); 2] = [
        |file| std::fs::remove_file(file).unwrap(),
        |file| std::fs::File::create(file).and_then(|mut f| f.write_all(&[7; 9_000])).unwrap(),
    ];
    for damage in damages {
        let before = operator_version(&world).await;
        world.stop().await;
        damage(&world.data.path().join("status.redb"));
        world.start().await;
        let operator = world.operator(None).await;
        assert_eq!(operator.get(&status).await.code, 404);
        let config = operator.must(&of("acme", "nodeconfigs/ce01")).await;
        assert_eq!(config["spec"]["node"], "ce01", "configuration is not touched");
        operator.until(&site, |site| site["status"]["phase"] == "Pending").await;
        assert!(operator_version(&world).await > before, "versions only grow");
        let node = world.certified(&device, &registration).await;
        assert_eq!(node.put(&status, &report).await.code, 201);
        operator.until(&site, |site| site["status"]["phase"] == "Online").await;
    }
}

async fn operator_version(world: &World) -> u64 {
    let list: Value = world.operator(None).await.must(&format!("{BASE}/sites")).await;
    list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_cannot_be_says_why() {
    let mut world = World::new().await;
    let start = |data: &Path| {
        Command::new(env!("CARGO_BIN_EXE_holdfast-controller"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .output()
            .unwrap()
    };
    let says = |output: &std::process::Output, words: &str, code: i32| {
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(words), "{text}");
        assert_eq!(output.status.code(), Some(code), "{text}");
    };
    says(&start(world.data.path()), "in use by another process", 83);
    world.stop().await;
    let ca = world.data.path().join("ca/ca.crt");
    let kept = std::fs::read(&ca).unwrap();
    std::fs::remove_file(&ca).unwrap();
    says(&start(world.data.path()), "ca.crt is missing", 43);
    std::fs::File::create(&ca).and_then(|mut f| f.write_all(b"junk")).unwrap();
    says(&start(world.data.path()), "ca.crt is damaged", 43);
    std::fs::File::create(&ca).and_then(|mut f| f.write_all(&kept)).unwrap();
    std::fs::File::create(world.data.path().join("config.redb"))
        .and_then(|mut f| f.write_all(&[1; 5_000]))
        .unwrap();
    says(&start(world.data.path()), "config.redb", 83);
    let file = tempfile::NamedTempFile::new().unwrap();
    says(&start(file.path()), "cannot make", 83);
    // The key is for nobody else to read.
    use std::os::unix::fs::PermissionsExt;
    for key in ["ca/ca.key", "server/server.key"] {
        let mode = std::fs::metadata(world.data.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}
