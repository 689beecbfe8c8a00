//! The console in a real terminal, against a manager on a real socket.

#[cfg(test)]
mod common;

#[cfg(test)]
mod tests {
    use crate::common::pty::InTerminal;
    use crate::common::{FakeManager, data, eventually, token};
    use holdfast_api::token::Envelope;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::process::Command;

    fn serial(mut command: Command) -> Command {
        command.env("TERM", "vt100").env("LC_ALL", "C");
        command
    }

    fn modern(mut command: Command) -> Command {
        command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
        command
    }

    #[test]
    fn a_token_is_typed_on_a_serial_line_group_by_group() {
        let manager = FakeManager::with("no-token");
        let mut terminal = InTerminal::start(serial(manager.command(&["console"])), false);
        terminal.expect("Registration token");
        terminal.expect("QEMU Standard PC");
        let text = token().encode().to_string();
        let groups: Vec<&str> = text.split('-').collect();

        terminal.type_keys(groups[0]);
        terminal.expect("***** ");
        let wrong: String = groups[1].chars().rev().collect();
        terminal.type_keys(&wrong);
        terminal.expect("Group 2 is mistyped");
        assert!(manager.tokens().is_empty());
        // Delete, as serial terminals send it, and again.
        terminal.type_keys(&"\x7f".repeat(5));
        terminal.type_keys(&groups[1..].join(""));
        terminal.expect("Complete, for tenant acme");
        terminal.type_keys("\r");
        terminal.expect("Address of the controller");
        terminal.type_keys("https://c.example:6443\r");

        eventually("the token at the manager", || !manager.tokens().is_empty());
        let sent = &manager.tokens()[0];
        assert_eq!(Envelope::parse(sent["token"].as_str().unwrap()).unwrap(), token());
        assert_eq!(sent["controller"], "https://c.example:6443");
        terminal.expect("Registering");
        manager.set(|answers| answers.status = data("status-online.json"));
        terminal.expect("Tunnels, 2 of 2 up");
        assert!(!terminal.is_cooked());
        terminal.type_keys("q");
        assert!(terminal.end().success());
        assert!(terminal.is_cooked(), "the terminal must be given back");
        let written = terminal.written();
        assert!(written.is_ascii(), "a vt100 has no other characters");
        let text = String::from_utf8(written).unwrap();
        assert!(!text.contains("\x1b[6n"), "a serial line answers no questions");
        assert!(!text.contains("\x1b[38;"), "a vt100 has no colours");
    }

    #[test]
    fn a_token_is_pasted_into_a_modern_terminal() {
        let manager = FakeManager::with("no-token");
        manager.set(|answers| answers.status["controller"] = "https://c.example".into());
        let mut terminal = InTerminal::start(modern(manager.command(&["console"])), true);
        terminal.expect("Registration token");
        terminal.type_keys(&format!("\x1b[200~{}\n\x1b[201~", *token().encode()));
        terminal.expect("Complete, for tenant acme");
        assert!(terminal.shows("│"));
        terminal.type_keys("\r");
        eventually("the token at the manager", || !manager.tokens().is_empty());
        assert_eq!(manager.tokens()[0].get("controller"), None);
        terminal.expect("Registering");
        terminal.type_keys("\x03");
        assert!(terminal.end().success());
        assert!(terminal.is_cooked());
    }

    #[test]
    fn a_manager_may_come_late_and_go_away() {
        let mut manager = FakeManager::away();
        let mut terminal = InTerminal::start(serial(manager.command(&["console"])), true);
        terminal.expect("manager.unreachable");
        terminal.expect("systemctl status holdfastd");
        manager.start();
        terminal.expect("Intel(R) Client Systems NUC11TNHi5");
        eventually("a screen without the complaint", || !terminal.shows("manager.unreachable"));
        drop(manager);
        terminal.expect("manager.unreachable");
        assert!(terminal.shows("re-1"), "what was known stays");
        terminal.type_keys("q");
        assert!(terminal.end().success());
    }

    #[test]
    fn a_signal_gives_the_terminal_back() {
        let manager = FakeManager::with("online");
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            let mut terminal = InTerminal::start(modern(manager.command(&["console"])), true);
            terminal.expect("Tunnels, 2 of 2 up");
            assert!(!terminal.is_cooked());
            kill(Pid::from_raw(terminal.id().try_into().unwrap()), signal).unwrap();
            assert!(terminal.end().success(), "{signal}");
            assert!(terminal.is_cooked(), "{signal}");
        }
    }

    #[test]
    fn what_others_wrote_over_the_screen_is_drawn_away() {
        let manager = FakeManager::with("online");
        let mut terminal = InTerminal::start(serial(manager.command(&["console"])), true);
        terminal.expect("Tunnels, 2 of 2 up");
        // As if the kernel had written to the console.
        eventually("what it wrote", || {
            let shown = terminal.shows("usb 1-1");
            if !shown {
                // In the midst of what the console draws it would be read as a part of that.
                terminal.scribble("\x1b[5;1H[ 12.3] usb 1-1: new device");
            }
            shown
        });
        terminal.type_keys("\x0c");
        eventually("a clean screen", || !terminal.shows("usb 1-1"));
        terminal.expect("Intel(R) Client Systems NUC11TNHi5");
        terminal.type_keys("q");
        terminal.end();
    }

    #[test]
    fn token_set_asks_on_a_terminal() {
        let manager = FakeManager::with("no-token");
        let mut terminal = InTerminal::start(serial(manager.command(&["token", "set"])), true);
        terminal.expect("Group  1:");
        let text = token().encode().to_string();
        terminal.type_keys("zzzzz");
        terminal.expect("type this group again");
        terminal.type_keys(&text);
        terminal.expect("complete: press Enter");
        assert!(!terminal.shows(&text[6..11]), "right groups are hidden");
        terminal.type_keys("\r");
        terminal.expect("The token of tenant acme was taken");
        assert!(terminal.end().success());
        assert!(terminal.is_cooked());
        assert_eq!(manager.tokens().len(), 1);

        let mut terminal = InTerminal::start(serial(manager.command(&["token", "set"])), true);
        terminal.expect("Group  1:");
        terminal.type_keys("\x03");
        assert_eq!(terminal.end().code(), Some(1));
        assert!(terminal.is_cooked());
    }
}
