//! The built program against a manager on a real socket: output, exit codes, what is sent.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use crate::common::{FakeManager, data, err, eventually, out, text, token};
    use holdfast_api::Reason;
    use holdfast_api::local::Problem;
    use holdfast_api::token::Envelope;
    use serde_json::{Value, json};
    use std::process::Stdio;

    fn code(reason: Reason) -> Option<i32> {
        Some(i32::from(reason.exit_code()))
    }

    #[test]
    fn people_get_text_and_programs_get_what_the_manager_sent() {
        let manager = FakeManager::with("online");
        let status = manager.run(&["status"], "");
        assert_eq!((status.status.code(), err(&status)), (Some(0), String::new()));
        assert_eq!(out(&status), text("status-online.txt"), "no colours into a pipe");
        let status = manager.run(&["status", "-o", "json"], "");
        let shown: Value = serde_json::from_str(&out(&status)).unwrap();
        assert_eq!(shown, data("status-online.json"), "with the fields of a newer manager");
        let tunnels = manager.run(&["tunnels"], "");
        assert_eq!(out(&tunnels), text("tunnels-online.txt"));
        let tunnels = manager.run(&["-o", "json", "tunnels"], "");
        let shown: Value = serde_json::from_str(&out(&tunnels)).unwrap();
        assert_eq!(shown["failovers"], 2);
    }

    #[test]
    fn the_exit_code_of_a_plan_says_whether_there_is_something_to_do() {
        let manager = FakeManager::with("online");
        let steps = data("plan-steps.json")["steps"].clone();
        manager.set(|answers| answers.plan = json!({ "steps": [], "problems": [] }));
        let plan = manager.run(&["plan", "--exit-code"], "");
        assert_eq!((out(&plan).as_str(), plan.status.code()), ("Nothing to do.\n", Some(0)));
        manager.set(|answers| answers.plan = json!({ "steps": steps, "problems": [] }));
        assert_eq!(manager.run(&["plan", "--exit-code"], "").status.code(), Some(2));
        assert_eq!(manager.run(&["plan"], "").status.code(), Some(0));
        manager.set(|answers| answers.plan = data("plan-steps.json"));
        let plan = manager.run(&["plan", "--exit-code"], "");
        assert_eq!(plan.status.code(), code(Reason::NetLinkMissing));
        assert_eq!(out(&plan), text("plan-steps.txt"));
    }

    #[test]
    fn the_exit_code_of_health_says_why_not() {
        let manager = FakeManager::with("online");
        manager.set(|answers| answers.health = data("health-bad.json"));
        let health = manager.run(&["health"], "");
        assert_eq!(health.status.code(), code(Reason::HugepagesShort));
        assert_eq!(out(&health), text("health-bad.txt"));
        manager.set(|answers| answers.health = json!({ "healthy": true, "checks": [] }));
        assert_eq!(manager.run(&["health", "-o", "json"], "").status.code(), Some(0));
    }

    #[test]
    fn a_manager_that_is_away_has_a_code_and_a_next_step() {
        let manager = FakeManager::away();
        for command in ["status", "plan", "health", "tunnels"] {
            let answer = manager.run(&[command], "");
            assert_eq!(answer.status.code(), code(Reason::ManagerUnreachable), "{command}");
            assert!(out(&answer).is_empty());
            let said = err(&answer);
            assert!(said.contains("[manager.unreachable]") && said.contains("systemctl"), "{said}");
        }
        let answer = manager.run(&["status", "-o", "json"], "");
        let problem: Problem = serde_json::from_str(&err(&answer)).unwrap();
        assert_eq!(problem.reason, Reason::ManagerUnreachable);
        assert!(problem.message.contains("holdfastd.sock"), "{}", problem.message);
    }

    #[test]
    fn a_token_is_checked_before_anything_is_sent() {
        let manager = FakeManager::with("no-token");
        let good = token().encode().to_string();
        let mut groups: Vec<String> = good.split('-').map(Into::into).collect();
        groups[1] = groups[1].chars().rev().collect();
        groups[3] = groups[3].chars().rev().collect();
        for command in ["set", "check"] {
            let answer = manager.run(&["token", command, "-"], &groups.join("-"));
            assert_eq!(answer.status.code(), code(Reason::TokenMistypedGroup));
            assert!(err(&answer).contains("groups 2 and 4"), "{}", err(&answer));
            let answer = manager.run(&["token", command, &good[..20]], "");
            assert_eq!(answer.status.code(), code(Reason::TokenMalformed));
        }
        let checked = manager.run(&["token", "check", "-o", "json", "-"], &good);
        let shown: Value = serde_json::from_str(&out(&checked)).unwrap();
        assert_eq!(shown["tenant"], "acme");
        assert!(manager.tokens().is_empty(), "nothing may have been sent");

        let typed = good.to_lowercase().replace('-', " ") + "\n";
        let set = manager.run(&["token", "set", "-", "--controller", "https://c.example"], &typed);
        assert_eq!(set.status.code(), Some(0), "{}", err(&set));
        assert!(out(&set).contains("acme") && !out(&set).contains(&good[..5]));
        let sent = manager.tokens();
        assert_eq!(sent.len(), 1);
        let read = Envelope::parse(sent[0]["token"].as_str().unwrap()).unwrap();
        assert_eq!((read, &sent[0]["controller"]), (token(), &json!("https://c.example")));
    }

    #[test]
    fn a_refusal_of_the_manager_is_passed_on() {
        let manager = FakeManager::with("no-token");
        let problem = Problem::new(Reason::StateDiskFull, "no space left in /var/lib/holdfast");
        manager.set(|answers| answers.refuse_token = Some(problem));
        let set = manager.run(&["token", "set", "-"], &token().encode());
        assert_eq!(set.status.code(), code(Reason::StateDiskFull));
        assert!(err(&set).contains("no space left") && err(&set).contains("Free space"));
    }

    #[test]
    fn no_terminal_and_no_token_is_a_usage_error() {
        let manager = FakeManager::with("no-token");
        for args in [&["token", "set"][..], &["console"], &["nonsense"], &["reason", "no.such"]] {
            let answer = manager.run(args, "");
            assert_eq!(answer.status.code(), Some(1), "{args:?}: {}", err(&answer));
        }
        assert_eq!(manager.run(&["--help"], "").status.code(), Some(0));
    }

    #[test]
    fn waiting_ends_when_the_stage_is_there() {
        let mut manager = FakeManager::away();
        manager.set(|answers| answers.status = data("status-no-token.json"));
        let mut command = manager.command(&["status", "--wait", "online", "--timeout", "60s"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The manager comes up late; the node gets on while it is being looked at.
        manager.start();
        manager.set(|answers| answers.status["stage"] = json!("Registering"));
        manager.set(|answers| answers.status = data("status-online.json"));
        let answer = child.wait_with_output().unwrap();
        assert_eq!(answer.status.code(), Some(0), "{}", err(&answer));
        assert_eq!(out(&answer), text("status-online.txt"));
        assert!(err(&answer).contains("Online"), "{}", err(&answer));
    }

    #[test]
    fn waiting_that_runs_out_says_what_holds_the_node_back() {
        let manager = FakeManager::with("no-token");
        let wait = |stage| manager.run(&["status", "--wait", stage, "--timeout", "0"], "");
        let answer = wait("online");
        assert_eq!(answer.status.code(), code(Reason::TokenMissing));
        assert!(err(&answer).contains("NoToken") && err(&answer).contains("not Online"));
        assert_eq!(wait("no-token").status.code(), Some(0));
        manager.set(|answers| answers.status["reason"] = Value::Null);
        assert_eq!(wait("online").status.code(), Some(124));
        // A refused node is not waited for: an hour would change nothing.
        manager.set(|answers| {
            answers.status["stage"] = json!("Refused");
            answers.status["reason"] = json!("token.expired");
        });
        let answer = manager.run(&["status", "--wait", "online", "--timeout", "1h"], "");
        assert_eq!(answer.status.code(), code(Reason::TokenExpired));
    }

    #[test]
    fn reasons_are_explained_without_a_manager() {
        let manager = FakeManager::away();
        let one = manager.run(&["reason", "token.expired"], "");
        assert!(out(&one).contains(Reason::TokenExpired.sentence()), "{}", out(&one));
        let all = manager.run(&["reason", "-o", "json"], "");
        let all: Vec<Value> = serde_json::from_str(&out(&all)).unwrap();
        assert_eq!(all.len(), Reason::ALL.len());
        let some = manager.run(&["reason", "tunnel"], "");
        assert!(out(&some).contains("tunnel.single") && !out(&some).contains("token."));
    }

    #[test]
    fn every_shell_gets_a_completion_script() {
        let manager = FakeManager::away();
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = manager.run(&["completion", shell], "");
            assert!(out(&script).contains("holdfast"), "{shell}");
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_not_a_failure() {
        let manager = FakeManager::with("online");
        let mut command = manager.command(&["reason"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        eventually("the end", || child.try_wait().unwrap().is_some());
        let answer = child.wait_with_output().unwrap();
        assert_eq!((answer.status.code(), err(&answer)), (Some(0), String::new()));
    }
}
