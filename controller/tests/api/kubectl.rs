//! A real kubectl with the kubeconfig that the program prints.
//!
//! Runs with every kubectl that is found: `kubectl`, `kubectl.1.*` beside it, and the ones that
//! `HOLDFAST_KUBECTL` names (colon between them).

use super::world::{PATIENCE, World, of};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

fn programs() -> Vec<PathBuf> {
    let named = std::env::var("HOLDFAST_KUBECTL").unwrap_or_default();
    let mut found: Vec<PathBuf> =
        named.split(':').filter(|p| !p.is_empty()).map(Into::into).collect();
    let path = std::env::var("PATH").unwrap_or_default();
    let Some(kubectl) =
        path.split(':').map(|dir| Path::new(dir).join("kubectl")).find(|p| p.exists())
    else {
        return found;
    };
    let real = std::fs::canonicalize(&kubectl).unwrap_or(kubectl.clone());
    let beside = std::fs::read_dir(real.parent().unwrap()).into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = beside
        .map(|file| file.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1.")))
        .collect();
    versions.sort();
    found.push(kubectl);
    // The oldest and the newest.
    found.extend(versions.first().cloned());
    found.extend(versions.last().filter(|_| versions.len() > 1).cloned());
    found
}

struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.program);
        // Ends watches, too: whatever is wrong, no test hangs on it.
        command.arg("--request-timeout=60s");
        // Words between single quotes stay together.
        for (n, part) in arguments.split('\'').enumerate() {
            if n % 2 == 1 {
                command.arg(part);
            } else {
                command.args(part.split_whitespace());
            }
        }
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.home.path());
        command
    }

    fn output(&self, arguments: &str, input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What it prints; it must succeed.
    fn run(&self, arguments: &str, input: &str) -> String {
        let output = self.output(arguments, input);
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{} {arguments}: {out}{err}", self.program.display());
        out.into_owned()
    }

    /// What it complains of; it must fail.
    fn fail(&self, arguments: &str, input: &str) -> String {
        let output = self.output(arguments, input);
        assert!(!output.status.success(), "{arguments}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn kubeconfig(world: &World, options: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-controller"))
        .args(["kubeconfig", "--data"])
        .arg(world.data.path())
        .args(options)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn keep(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::File::create(&path).and_then(|mut f| f.write_all(text.as_bytes())).unwrap();
    path
}

const SITE: &str = "apiVersion: fleet.holdfast.dev/v1alpha1
kind: Site
metadata:
  name: ce09
  labels: {region: us-west}
spec:
  place: {region: us-west}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_with_the_kubeconfig_that_is_printed() {
    let programs = programs();
    if programs.is_empty() {
        eprintln!("skipped: kubectl is not installed");
        return;
    }
    for program in programs {
        let world = World::new().await;
        world.edge("re-1", 1).await;
        world.node("acme", "ce01").await;
        let dir = tempfile::tempdir().unwrap();
        let all = keep(dir.path(), "all", &kubeconfig(&world, &[]));
        let acme = keep(dir.path(), "acme", &kubeconfig(&world, &["--namespace", "acme"]));
        let spare = || tempfile::tempdir().unwrap();
        let all = Kubectl { program: program.clone(), kubeconfig: all, home: spare() };
        let acme = Kubectl { program: program.clone(), kubeconfig: acme, home: spare() };
        tokio::task::spawn_blocking(move || story(&all, &acme)).await.unwrap();
    }
}

fn story(all: &Kubectl, acme: &Kubectl) {
    let table = all.run("-n acme get sites,registrations,regionaledges", "");
    for word in [
        "NAME",
        "PHASE",
        "TUNNELS",
        "site.fleet.holdfast.dev/ce01",
        "Admitted",
        "regionaledge.fleet.holdfast.dev/re-1",
        "192.0.2.1:51820",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
    // Without a namespace the tenant's own is meant.
    assert!(acme.run("get si", "").contains("ce01"));
    assert!(acme.fail("get sites -A", "").contains("Forbidden"));
    assert!(acme.fail("-n other get sites", "").contains("Forbidden"));
    assert!(all.run("get sites -A -o wide", "").contains("10.128.0.0/24"));
    assert!(all.run("get namespaces", "").contains("acme"));
    assert!(all.run("api-resources --api-group=fleet.holdfast.dev", "").contains("tunnelpeers"));

    assert_eq!(acme.run("apply -f -", SITE).trim(), "site.fleet.holdfast.dev/ce09 created");
    assert_eq!(acme.run("apply -f -", SITE).trim(), "site.fleet.holdfast.dev/ce09 unchanged");
    let changed = SITE.replace("us-west", "us-east");
    assert_eq!(acme.run("apply -f -", &changed).trim(), "site.fleet.holdfast.dev/ce09 configured");
    assert!(acme.run("get sites -l region=us-east", "").contains("ce09"));
    assert!(!acme.run("get sites -l 'region in (us-west)'", "").contains("ce09"));
    let object: Value = serde_json::from_str(&acme.run("get site ce09 -o json", "")).unwrap();
    assert_eq!(object["spec"]["place"], json!({"region": "us-east"}));
    assert!(acme.run("get site ce09 -o yaml", "").contains("prefix: 10.128.1.0/24"));
    assert!(acme.run("describe site ce09", "").contains("us-east"));
    assert!(acme.run("get tunnelpeers,nodeconfigs,nodestatuses,tokens", "").contains("ce01"));
    assert!(acme.run("explain site.spec.edges", "").contains("How many tunnels to hold"));

    acme.run("label site ce09 x=y", "");
    acme.run("annotate site ce09 note=hello", "");
    acme.run("patch site ce09 --type merge -p '{\"spec\":{\"edges\":{\"want\":1}}}'", "");
    acme.run("patch site ce09 --type json -p '[{\"op\":\"replace\",\"path\":\"/spec/edges/want\",\"value\":3}]'", "");
    assert_eq!(acme.run("get site ce09 -o jsonpath={.spec.edges.want}", ""), "3");
    assert!(
        acme.fail("patch site ce09 --type merge -p '{\"spec\":{\"edges\":{\"want\":9}}}'", "")
            .contains("spec.edges.want")
    );
    // Old ones find it out themselves, new ones are told by the server.
    let typo = SITE.replace("spec:", "spec:\n  plaice: {}");
    assert!(acme.fail("apply -f -", &typo).contains("plaice"));
    assert!(
        acme.run("apply --server-side --force-conflicts -f -", &changed)
            .contains("serverside-applied")
    );
    assert!(
        acme.run("apply --server-side --force-conflicts -f -", &changed)
            .contains("serverside-applied")
    );
    acme.run("replace -f -", &changed);

    watching(acme);
    assert!(acme.run("delete site ce09", "").contains("deleted"));
    assert!(acme.fail("get site ce09", "").contains("NotFound"));
    let token =
        "apiVersion: fleet.holdfast.dev/v1alpha1\nkind: Token\nmetadata: {generateName: t-}\n";
    let made: Value = serde_json::from_str(&acme.run("create -o json -f -", token)).unwrap();
    assert!(made["status"]["token"].as_str().unwrap().len() > 50);
    assert!(acme.run("get tokens", "").contains("0/1"));
    assert!(
        acme.run("wait --for=condition=Ready=Unknown site/ce01 --timeout=60s", "")
            .contains("condition met")
    );
}

/// `get -w`: the table first, then a line for each change.
fn watching(kubectl: &Kubectl) {
    let mut child = kubectl.command("get sites ce09 -w").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().starts_with("NAME"));
    assert!(next().contains("us-east"));
    kubectl
        .run("patch site ce09 --type merge -p '{\"spec\":{\"place\":{\"region\":\"moved\"}}}'", "");
    let deadline = Instant::now() + PATIENCE;
    while !next().contains("moved") {
        assert!(Instant::now() < deadline);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// kubectl ends `get -w` when its watch ends, whoever serves it; `wait` lists and watches anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_ends_get_w_in_order_and_wait_goes_on() {
    for program in programs() {
        let mut world = World::new().await;
        let operator = world.operator(Some("acme")).await;
        operator.create(&of("acme", "sites"), &json!({"metadata": {"name": "a"}})).await;
        let home = tempfile::tempdir().unwrap();
        let text = kubeconfig(&world, &["--namespace", "acme"]);
        let kubeconfig = keep(home.path(), "config", &text);
        let kubectl = Kubectl { program, kubeconfig, home };
        let begin = |arguments: &str, until: &str| {
            let mut command = kubectl.command(&format!("{arguments} -v=6"));
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            // What it asks of the server; the watch stands once it is answered.
            let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
            assert!(log.any(|line| line.unwrap().contains(until)), "{arguments}");
            let rest = std::thread::spawn(move || log.map_while(Result::ok).collect::<Vec<_>>());
            (child, rest)
        };
        let (mut get, get_log) = begin("get sites -w", "watch=true");
        let wish = "wait site/a --for=jsonpath={.spec.place.region}=moved --timeout=60s";
        let (mut wait, wait_log) = begin(wish, "watch=true");
        world.restart().await;
        let change = json!({"spec": {"place": {"region": "moved"}}});
        let operator = world.operator(Some("acme")).await;
        assert_eq!(operator.patch(&of("acme", "sites/a"), &change).await.code, 200);
        let ends = tokio::task::spawn_blocking(move || (get.wait(), wait.wait())).await.unwrap();
        let (get_log, wait_log) = (get_log.join().unwrap(), wait_log.join().unwrap());
        assert!(ends.0.unwrap().success(), "{get_log:#?}");
        assert!(ends.1.unwrap().success(), "{wait_log:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_by_the_command_too() {
    let world = World::new().await;
    let data = world.data.path().to_owned();
    let create = move |options: &'static [&'static str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-controller"));
        command.args(["token", "create", "--data"]).arg(&data);
        if !options.contains(&"--namespace") {
            command.args(["--namespace", "acme"]);
        }
        command.args(options);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let output = create(&["--auto-approve", "--uses", "3", "--expires-in", "1h", "--site", "ce01"])
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let envelope = holdfast_api::token::Envelope::parse(&text).unwrap();
    assert_eq!(envelope.tenant, "acme");
    let device = super::world::Device::new();
    assert_eq!(world.register(&envelope, &device, json!({})).await["status"]["node"], "ce01");
    let output = create(&["--role", "regional-edge", "-o", "json"]).await.unwrap();
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&object["spec"]["role"], &object["spec"]["approval"]),
        (&json!("RegionalEdge"), &json!("Manual"))
    );
    for (options, argument) in [
        (&["--site", "No Site"][..], "--site"),
        (&["--namespace", "BAD/ns"], "--namespace"),
        (&["--server", "https://127.0.0.1:1"], "the server at 127.0.0.1:1"),
    ] {
        let output = create(options).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let code = if argument.starts_with("--") { 10 } else { 40 };
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.starts_with(&format!("holdfast-controller: {argument}")), "{said}");
        assert!(said.contains("[config.invalid]") || said.contains("[controller.unreachable]"));
    }
    let completion = Command::new(env!("CARGO_BIN_EXE_holdfast-controller"))
        .args(["completion", "bash"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&completion.stdout).contains("--auto-approve"));
    // The commands' own credentials are gone when they are.
    assert_eq!(std::fs::read_dir(world.data.path().join("operators")).unwrap().count(), 0);
}
