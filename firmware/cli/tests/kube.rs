//! `holdfast kube …` and `holdfast plan --release` against a manager on a real socket: what is
//! asked, when a wait ends, and how.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use crate::common::pty::InTerminal;
    use crate::common::{FakeManager, data, err, eventually, out};
    use holdfast_api::Reason;
    use holdfast_api::local::Problem;
    use serde_json::{Value, json};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    const KEY: &str = "AGE-SECRET-KEY-1QQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQPQQP";
    const SNAPSHOT: &str = "holdfast-1795260000-ce01-a-1795260000";

    fn code(reason: Reason) -> Option<i32> {
        Some(i32::from(reason.exit_code()))
    }

    fn manager() -> FakeManager {
        let manager = FakeManager::with("online");
        manager.set(|answers| answers.kubernetes = data("kube-ready.json"));
        manager
    }

    /// The ready state with these changes.
    fn ready(changes: &[(&str, Value)]) -> Value {
        let mut state = data("kube-ready.json");
        for (pointer, value) in changes {
            *state.pointer_mut(pointer).unwrap() = value.clone();
        }
        state
    }

    fn shown(output: &Output) -> Value {
        serde_json::from_str(&out(output)).unwrap()
    }

    fn file(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        use std::io::Write;
        let path = dir.join(name);
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn people_get_text_and_programs_their_part_of_what_the_manager_sent() {
        let manager = manager();
        let all = data("kube-ready.json");
        for (command, want) in [
            ("status", all.clone()),
            ("releases", all["release"].clone()),
            ("snapshots", all["snapshots"].clone()),
        ] {
            let answer = manager.run(&["kube", command, "-o", "json"], "");
            assert_eq!(shown(&answer), want, "{command}");
            let answer = manager.run(&["kube", command], "");
            assert_eq!((answer.status.code(), err(&answer)), (Some(0), String::new()));
            assert!(out(&answer).is_ascii(), "{}", out(&answer));
        }
        manager.set(|answers| answers.kubernetes = Value::Null);
        let answer = manager.run(&["kube", "status"], "");
        assert_eq!(answer.status.code(), code(Reason::KubernetesAbsent));
    }

    #[test]
    fn waiting_ends_when_the_wanted_release_is_in_force() {
        let mut manager = FakeManager::away();
        let args = ["kube", "status", "--wait", "--timeout", "60s", "-o", "json"];
        let mut command = manager.command(&args);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        // The manager comes late, and so does the wish for Kubernetes.
        manager.start();
        manager.set(|answers| answers.kubernetes = data("kube-backoff.json"));
        manager.set(|answers| answers.kubernetes = data("kube-applying.json"));
        manager.set(|answers| answers.kubernetes = data("kube-ready.json"));
        let answer = child.wait_with_output().unwrap();
        assert_eq!(answer.status.code(), Some(0), "{}", err(&answer));
        assert_eq!(shown(&answer), data("kube-ready.json"));
        assert!(err(&answer).contains("Ready; release edge-apps 1.4.2"), "{}", err(&answer));
    }

    #[test]
    fn waiting_that_fails_says_what_holds_it_back() {
        let manager = manager();
        let wait = |timeout| manager.run(&["kube", "status", "--wait", "--timeout", timeout], "");
        manager.set(|answers| answers.kubernetes = data("kube-applying.json"));
        let answer = wait("0");
        assert_eq!(answer.status.code(), code(Reason::PodImagePull));
        assert!(err(&answer).contains("step 7 of 31: wait for Deployment"), "{}", err(&answer));
        assert!(err(&answer).contains("release edge-apps 1.5.0 is Applying"), "{}", err(&answer));
        manager.set(|answers| answers.kubernetes = data("kube-backoff.json"));
        assert_eq!(wait("0").status.code(), code(Reason::KubernetesPortTaken));
        // Rolled back: an hour would change nothing.
        manager.set(|answers| answers.kubernetes = data("kube-rolled-back.json"));
        assert_eq!(wait("1h").status.code(), code(Reason::ReleaseRolledBack));
        manager.set(|answers| answers.kubernetes = Value::Null);
        assert_eq!(wait("0").status.code(), code(Reason::KubernetesAbsent));
    }

    #[test]
    fn a_snapshot_is_asked_for_and_waited_for() {
        let manager = manager();
        let answer = manager.run(&["kube", "snapshot"], "");
        assert_eq!(answer.status.code(), Some(0), "{}", err(&answer));
        assert!(out(&answer).contains("holdfast kube snapshots"));
        assert_eq!(manager.posted(), [("/v1/kubernetes/snapshot".to_owned(), Value::Null)]);

        let new = json!({
            "name": "new", "taken": "2026-11-22T04:00:00Z", "bytes": 1, "place": "local", "portable": false
        });
        let all = data("kube-ready.json")["snapshots"]["snapshots"].clone();
        let with_new: Vec<Value> =
            [new.clone()].into_iter().chain(all.as_array().unwrap().clone()).collect();
        // One of an earlier day comes into the storage meanwhile, and storing another fails.
        let mut stored = new.clone();
        stored["name"] = json!("earlier.age");
        stored["place"] = json!("s3");
        let upload = Problem::new(Reason::SnapshotUpload, "the storage is away");
        let then = [
            ready(&[
                ("/snapshots/snapshots", json!([stored])),
                ("/snapshots/problem", json!(upload)),
            ]),
            ready(&[("/snapshots/snapshots", json!(with_new))]),
        ];
        manager.set(|answers| answers.posted.clear());
        manager.set(|answers| answers.then = then.into());
        let answer = manager.run(&["kube", "snapshot", "--wait", "-o", "json"], "");
        assert_eq!((answer.status.code(), shown(&answer)), (Some(0), new), "{}", err(&answer));

        let problem = Problem::new(Reason::SnapshotFailed, "no space left");
        manager.set(|answers| {
            answers.posted.clear();
            answers.kubernetes = ready(&[]);
            answers.then = [ready(&[("/snapshots/problem", json!(problem))])].into();
        });
        let answer = manager.run(&["kube", "snapshot", "--wait"], "");
        assert_eq!(answer.status.code(), code(Reason::SnapshotFailed));
        assert!(err(&answer).contains("no space left"), "{}", err(&answer));
    }

    #[test]
    fn a_refusal_of_the_manager_is_passed_on() {
        let manager = manager();
        let problem = Problem::new(Reason::SnapshotNoKey, "an agent has no datastore");
        manager.set(|answers| answers.refuse_post = Some(problem));
        for args in [
            &["kube", "snapshot"][..],
            &["kube", "drill", "--wait"],
            &["kube", "restore", SNAPSHOT, "--yes"],
            &["plan", "--release"],
        ] {
            let answer = manager.run(args, "");
            assert_eq!(answer.status.code(), code(Reason::SnapshotNoKey), "{args:?}");
            assert!(err(&answer).contains("no datastore"), "{}", err(&answer));
        }
    }

    #[test]
    fn a_drill_that_fails_has_an_exit_code() {
        for (ok, want) in [(true, Some(0)), (false, code(Reason::SnapshotDrillFailed))] {
            let manager = manager();
            let drill = json!({
                "snapshot": SNAPSHOT, "at": "2026-11-22T04:00:00Z", "tookMs": 4200, "ok": ok,
                "message": if ok { "" } else { "the API server was not ready" },
            });
            let then = [ready(&[]), ready(&[("/snapshots/drill", drill.clone())])];
            manager.set(|answers| answers.then = then.into());
            let answer = manager.run(&["kube", "drill", "--wait", "-o", "json"], "");
            assert_eq!((answer.status.code(), shown(&answer)), (want, drill));
        }
    }

    #[test]
    fn a_restore_is_followed_until_kubernetes_is_ready_again() {
        let manager = manager();
        let then = [
            ready(&[]),
            ready(&[("/phase", json!("Restoring"))]),
            ready(&[("/phase", json!("Starting"))]),
            ready(&[("/starts", json!(2))]),
        ];
        manager.set(|answers| answers.then = then.into());
        let answer = manager.run(&["kube", "restore", SNAPSHOT, "--yes", "--wait"], "");
        assert_eq!(answer.status.code(), Some(0), "{}", err(&answer));
        assert!(err(&answer).contains("since then is lost"), "{}", err(&answer));
        assert!(err(&answer).contains("Restoring"), "{}", err(&answer));
        let want = json!({ "snapshot": SNAPSHOT });
        assert_eq!(manager.posted(), [("/v1/kubernetes/restore".to_owned(), want)]);

        let problem = Problem::new(Reason::SnapshotRestoreFailed, "not ready on it");
        manager.set(|answers| {
            answers.posted.clear();
            answers.kubernetes = ready(&[]);
            answers.then = [ready(&[("/snapshots/problem", json!(problem))])].into();
        });
        let answer = manager.run(&["kube", "restore", SNAPSHOT, "--yes", "--wait"], "");
        assert_eq!(answer.status.code(), code(Reason::SnapshotRestoreFailed));
    }

    #[test]
    fn what_the_storage_has_of_all_nodes_is_listed_by_the_names_that_restore_takes() {
        let manager = manager();
        let answer = manager.run(&["kube", "snapshots", "--site"], "");
        assert_eq!(answer.status.code(), code(Reason::SnapshotUpload), "{}", err(&answer));
        let name = "lost/holdfast-1795310000-lost-1795310000.tar.gz.age";
        let stored = json!([{
            "name": name, "taken": "2026-11-22T01:29:40Z", "bytes": 3145728, "place": "s3", "portable": true
        }]);
        manager.set(|answers| answers.stored = stored.clone());
        let answer = manager.run(&["kube", "snapshots", "--site"], "");
        let text = out(&answer);
        assert!(text.contains(name) && text.contains("kube restore NODE/NAME"), "{text}");
        let answer = manager.run(&["kube", "snapshots", "--site", "-o", "json"], "");
        assert_eq!(shown(&answer), stored);
    }

    #[test]
    fn kubernetes_is_stopped_for_a_restore_elsewhere_and_joins_anew() {
        let manager = manager();
        for (args, path, body) in [
            (&["kube", "stop"][..], "stop", Value::Null),
            (&["kube", "start"], "start", json!({"rejoin": false})),
            (&["kube", "start", "--rejoin"], "start", json!({"rejoin": true})),
            (
                &["kube", "restore", SNAPSHOT, "--yes", "--force"],
                "restore",
                json!({"snapshot": SNAPSHOT, "force": true}),
            ),
        ] {
            manager.set(|answers| answers.posted.clear());
            let answer = manager.run(args, "");
            assert_eq!(answer.status.code(), Some(0), "{}", err(&answer));
            assert_eq!(manager.posted(), [(format!("/v1/kubernetes/{path}"), body)]);
        }
    }

    #[test]
    fn an_identity_goes_to_the_manager_and_nowhere_else() {
        let manager = manager();
        let portable = file(manager.dir.path(), "site.age", "x", 0o600);
        let portable = portable.to_str().unwrap();
        let text = format!("# public key: age1xyz\n{KEY}\n");
        let key = file(manager.dir.path(), "key", &text, 0o600);
        let key = key.to_str().unwrap();
        let open = file(manager.dir.path(), "open", &text, 0o644);
        let open = open.to_str().unwrap();
        for (identity, input, warned) in
            [(key, "", false), (open, "", true), ("-", text.as_str(), false)]
        {
            manager.set(|answers| answers.posted.clear());
            let args =
                ["--log", "trace", "kube", "restore", portable, "--yes", "--identity", identity];
            let answer = manager.run(&args, input);
            assert_eq!(answer.status.code(), Some(0), "{}", err(&answer));
            assert_eq!(err(&answer).contains("chmod 600"), warned, "{identity}");
            assert!(!(out(&answer) + &err(&answer)).contains(&KEY[..24]), "{identity}");
            let want = json!({ "snapshot": portable, "identity": KEY });
            assert_eq!(manager.posted()[0].1, want);
        }
        manager.set(|answers| answers.posted.clear());
        for (text, want) in [("", "AGE-SECRET-KEY"), ("age-encryption.org/v1\n", "age -d")] {
            let args = ["kube", "restore", portable, "--yes", "--identity", "-"];
            let answer = manager.run(&args, text);
            assert_eq!(answer.status.code(), code(Reason::SnapshotWrongKey));
            assert!(err(&answer).contains(want), "{}", err(&answer));
        }
        assert!(manager.posted().is_empty(), "nothing may have been sent");
    }

    #[test]
    fn without_a_terminal_a_restore_needs_to_be_sure() {
        let manager = manager();
        for args in [
            &["kube", "restore", SNAPSHOT][..],
            &["kube", "restore", SNAPSHOT, "--identity", "-"],
            &["kube", "restore", "no-such", "--yes"],
        ] {
            let answer = manager.run(args, "yes\n");
            assert_eq!(answer.status.code(), Some(1), "{args:?}: {}", err(&answer));
        }
        assert!(manager.posted().is_empty(), "nothing may have been sent");
    }

    #[test]
    fn on_a_terminal_a_restore_asks() {
        let manager = manager();
        let ask = |typed: &str| {
            let mut command: Command = manager.command(&["kube", "restore", SNAPSHOT]);
            command.env("TERM", "vt100").env("LC_ALL", "C");
            let mut terminal = InTerminal::start(command, true);
            terminal.expect("Type yes to go on");
            assert!(terminal.shows("taken") && terminal.shows("is lost"));
            terminal.type_keys(typed);
            terminal.end()
        };
        assert_eq!(ask("no\r").code(), Some(1));
        assert!(manager.posted().is_empty(), "nothing may have been sent");
        assert!(ask("yes\r").success());
        eventually("the restore at the manager", || !manager.posted().is_empty());
    }

    #[test]
    fn a_release_is_planned_from_a_file_a_folder_or_as_the_controller_wants() {
        let manager = manager();
        let steps = data("plan-steps.json")["steps"].clone();
        manager.set(|answers| answers.plan = json!({ "steps": steps, "problems": [] }));
        let folder = manager.dir.path().join("edge");
        fs::create_dir(&folder).unwrap();
        file(&folder, "a.yaml", "a: 1\n", 0o644);
        file(&folder, "b.yml", "b: 1\n", 0o644);
        let folder = folder.to_str().unwrap();
        let one = format!("{folder}/a.yaml");
        for (path, want) in [
            (None, json!({ "manifests": {}, "name": "" })),
            (Some(one.as_str()), json!({ "manifests": { "a.yaml": "a: 1\n" }, "name": "a" })),
            (
                Some(folder),
                json!({ "manifests": { "a.yaml": "a: 1\n", "b.yml": "b: 1\n" }, "name": "edge" }),
            ),
        ] {
            manager.set(|answers| answers.posted.clear());
            let mut args = vec!["plan", "--exit-code", "--release"];
            args.extend(path);
            let answer = manager.run(&args, "");
            assert_eq!(answer.status.code(), Some(2), "{}", err(&answer));
            assert!(out(&answer).starts_with("5 steps; "), "{}", out(&answer));
            assert_eq!(manager.posted(), [("/v1/kubernetes/plan".to_owned(), want)]);
        }
        manager.set(|answers| answers.plan = data("plan-steps.json"));
        let answer = manager.run(&["plan", "--exit-code", "--release", &one], "");
        assert_eq!(answer.status.code(), code(Reason::NetLinkMissing));
    }

    #[test]
    fn manifests_that_cannot_be_sent_are_told_before_anything_is_sent() {
        let manager = manager();
        let dir = manager.dir.path();
        file(dir, "README.md", "x", 0o644);
        let large = file(dir, "large.txt", &"x".repeat(1 << 20), 0o644);
        for (path, want) in [
            (dir.to_str().unwrap(), "no *.yaml or *.yml file"),
            (large.to_str().unwrap(), "more than 1024 KiB"),
            ("/no/such", "cannot read /no/such"),
        ] {
            let answer = manager.run(&["plan", "--release", path], "");
            assert_eq!(answer.status.code(), code(Reason::ReleaseInvalid), "{}", err(&answer));
            assert!(err(&answer).contains(want), "{}", err(&answer));
        }
        assert!(manager.posted().is_empty());
    }
}
