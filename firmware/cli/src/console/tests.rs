//! The console without a terminal: what keys do, and what is drawn, compared with files.

use super::look::Look;
use super::model::{Action, Input, Key, Model, Step};
use super::view;
use holdfast_api::Reason;
use holdfast_api::local::{NodeReport, Problem, Stage, TokenInput};
use holdfast_api::token::{CaFingerprint, Envelope, TokenId, TokenSecret};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use std::io::Write;
use std::path::PathBuf;

const SERIAL: Look = Look { lines: false, modern: false, colour: false };
const MODERN: Look = Look { lines: true, modern: true, colour: true };

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn report(name: &str) -> Box<NodeReport> {
    let text = std::fs::read_to_string(data(&format!("status-{name}.json"))).unwrap();
    Box::new(serde_json::from_str(&text).unwrap())
}

fn token() -> Envelope {
    Envelope {
        tenant: "acme".into(),
        ca: CaFingerprint([7; 16]),
        id: TokenId([1; 5]),
        secret: TokenSecret::new([2; 10]),
    }
}

fn model(name: &str) -> Model {
    let mut model = Model::new(SERIAL);
    model.on(Input::Report(Ok(report(name))));
    model
}

fn type_text(model: &mut Model, text: &str) {
    for character in text.chars() {
        assert!(matches!(model.on(Input::Key(Key::Char(character))), Action::None));
    }
}

fn away() -> Problem {
    Problem::new(Reason::ManagerUnreachable, "nobody answers on /run/holdfast/holdfastd.sock")
}

/// What stands on the screen, a line per row, without the spaces at its end.
fn drawn(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(model, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| {
        let cells = (0..width).map(|x| buffer.cell((x, y)).unwrap().symbol());
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    (0..height).map(row).collect()
}

fn golden(name: &str, have: &str) {
    let path = data(name);
    if std::env::var_os("HOLDFAST_BLESS").is_some() {
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(have.as_bytes()).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == want, "{name} differs; it is now:\n{have}");
}

fn sent(action: Action) -> TokenInput {
    let Action::Send(input) = action else { panic!("{action:?}") };
    input
}

#[test]
fn screens_look_right_on_a_serial_line() {
    for name in ["online", "degraded"] {
        golden(&format!("console-{name}.txt"), &drawn(&model(name), 80, 24));
    }
    let mut waiting = Model::new(SERIAL);
    waiting.on(Input::Report(Err(away())));
    golden("console-no-manager.txt", &drawn(&waiting, 80, 24));
    let mut typing = model("no-token");
    let text = token().encode().to_string();
    type_text(&mut typing, &text[..17]);
    type_text(&mut typing, "-0000Z-1");
    golden("console-typing.txt", &drawn(&typing, 80, 24));
}

#[test]
fn kubernetes_has_a_line_where_there_is_room_for_it() {
    let with = |kube: &str| {
        let mut report = report("online");
        let text = std::fs::read_to_string(data(&format!("kube-{kube}.json"))).unwrap();
        report.kubernetes = Some(serde_json::from_str(&text).unwrap());
        let mut model = Model::new(SERIAL);
        model.on(Input::Report(Ok(report)));
        model
    };
    golden("console-kubernetes.txt", &drawn(&with("ready"), 80, 24));
    let screen = drawn(&with("rolled-back"), 80, 24);
    assert!(screen.contains("Kubernetes    Ready  release.rolled-back  2 pods failed"), "{screen}");
    assert!(!drawn(&with("ready"), 80, 18).contains("Kubernetes"), "tunnels and items go first");
}

#[test]
fn a_modern_terminal_gets_lines_and_a_serial_one_plain_characters() {
    let mut modern = Model::new(MODERN);
    modern.on(Input::Report(Ok(report("degraded"))));
    assert!(drawn(&modern, 80, 24).contains('│'));
    assert!(drawn(&model("degraded"), 80, 24).is_ascii());
}

#[test]
fn a_node_without_token_asks_for_one_and_sends_what_was_typed() {
    let mut model = model("no-token");
    let text = token().encode();
    assert!(matches!(model.on(Input::Key(Key::Enter)), Action::None), "nothing typed yet");
    type_text(&mut model, &text.to_lowercase());
    assert!(drawn(&model, 80, 24).contains("Complete, for tenant acme: press Enter."));
    assert!(!drawn(&model, 80, 24).contains(&text[..5]), "right groups are hidden");
    // The node knows no controller, so it is asked for next.
    assert!(matches!(model.on(Input::Key(Key::Enter)), Action::None));
    type_text(&mut model, "https://c.example:6443 ");
    let input = sent(model.on(Input::Key(Key::Enter)));
    assert_eq!(Envelope::parse(&input.token).unwrap(), token());
    assert_eq!(input.controller.as_deref(), Some("https://c.example:6443"));
    // A second Enter sends nothing twice.
    assert!(matches!(model.on(Input::Key(Key::Enter)), Action::None));
    assert!(matches!(model.on(Input::Sent(Ok(()))), Action::Ask));
    // The manager's next answer may be older than the token.
    model.on(Input::Report(Ok(report("no-token"))));
    assert!(model.entry.is_none());
    assert!(drawn(&model, 80, 24).contains("The token was taken"));
}

#[test]
fn a_known_controller_is_not_asked_for() {
    let mut model = Model::new(SERIAL);
    let mut known = report("no-token");
    known.controller = "https://c.example".into();
    model.on(Input::Report(Ok(known)));
    model.on(Input::Paste(token().encode().to_string().into()));
    let input = sent(model.on(Input::Key(Key::Enter)));
    assert_eq!(input.controller, None);
}

#[test]
fn a_refused_token_stays_to_be_mended_with_the_reason_beside_it() {
    let mut model = model("no-token");
    model.on(Input::Paste(token().encode().to_string().into()));
    model.on(Input::Key(Key::Enter));
    sent(model.on(Input::Key(Key::Enter)));
    let problem = Problem::new(Reason::TokenVersion, "of version 9");
    model.on(Input::Sent(Err(problem)));
    let screen = drawn(&model, 80, 24);
    assert!(screen.contains("token.version: of version 9"), "{screen}");
    assert!(matches!(model.entry.as_ref().unwrap().step, Step::Token));
    assert!(!model.entry.as_ref().unwrap().token.is_empty());
}

#[test]
fn the_question_comes_and_goes_with_the_need() {
    let mut model = model("no-token");
    assert!(model.entry.is_some());
    // A token came by cloud-init.
    model.on(Input::Report(Ok(report("online"))));
    assert!(model.entry.is_none());
    // Refused: only a new token helps.
    let mut refused = report("online");
    refused.stage = Stage::Refused;
    model.on(Input::Report(Ok(refused.clone())));
    assert!(model.entry.is_some());
    // Closed by hand, it stays closed until the need is a new one.
    model.on(Input::Key(Key::Escape));
    model.on(Input::Report(Ok(refused.clone())));
    assert!(model.entry.is_none());
    model.on(Input::Report(Ok(report("online"))));
    model.on(Input::Report(Ok(refused)));
    assert!(model.entry.is_some());
    // What somebody is typing is never taken away.
    type_text(&mut model, "045");
    model.on(Input::Report(Ok(report("online"))));
    assert!(model.entry.is_some());
    model.on(Input::Key(Key::Escape));
    model.on(Input::Key(Key::Char('t')));
    model.on(Input::Report(Ok(report("online"))));
    assert!(model.entry.is_some(), "asked for by hand");
}

#[test]
fn a_manager_that_goes_away_is_said_over_what_was_known() {
    let mut model = model("online");
    model.on(Input::Report(Err(away())));
    let screen = drawn(&model, 80, 24);
    assert!(
        screen.contains("manager.unreachable") && screen.contains("systemctl status"),
        "{screen}"
    );
    assert!(screen.contains("re-1"), "{screen}");
    model.on(Input::Report(Ok(report("online"))));
    assert!(!drawn(&model, 80, 24).contains("manager.unreachable"));
}

#[test]
fn keys_of_the_overview() {
    let mut model = model("degraded");
    assert!(matches!(model.on(Input::Key(Key::Char('r'))), Action::Ask));
    assert!(matches!(model.on(Input::Key(Key::Repaint)), Action::Repaint));
    (0..9).for_each(|_| assert!(matches!(model.on(Input::Key(Key::Down)), Action::None)));
    assert_eq!(model.scroll, 2, "three items");
    assert!(matches!(model.on(Input::Key(Key::Char('q'))), Action::Quit));
}

proptest! {
    /// Whatever is typed on whatever screen, something is drawn and nothing panics.
    #[test]
    fn any_keys_on_any_screen_are_drawn(
        name in prop::sample::select(vec!["online", "degraded", "no-token"]),
        keys in prop::collection::vec(prop_oneof![
            any::<char>().prop_map(Key::Char),
            prop::sample::select(vec![
                Key::Enter, Key::Backspace, Key::Left, Key::Right, Key::Up, Key::Down,
                Key::Escape, Key::Clear, Key::Repaint, Key::Char('t'), Key::Char('-'),
            ]),
        ], 0..120),
        paste in prop::option::of("\\PC{0,300}"),
        width in 1u16..200,
        height in 1u16..60,
    ) {
        let mut model = model(name);
        for key in keys {
            model.on(Input::Key(key));
        }
        if let Some(paste) = paste {
            model.on(Input::Paste(paste.into()));
        }
        drawn(&model, width, height);
    }
}
