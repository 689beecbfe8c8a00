//! What the console knows and what each key does. Pure: no terminal, no socket, no clock.
//!
//! ```text
//!              node without token, or `t`            Enter, controller unknown
//!   Overview ──────────────────────────► Token ───────────────────────────► Controller
//!      ▲                                  │ ▲ ▲                                  │
//!      │ Esc                              │ │ └────────────── Esc ───────────────┤
//!      └──────────────────────────────────┤ │ refused                            │ Enter
//!      ▲ taken                            ▼ │                                    │
//!      └───────────────────────────── Sending ◄──────────────────────────────────┘
//! ```

use super::look::Look;
use crate::token_entry::TokenEntry;
use holdfast_api::local::{NodeReport, Problem, Stage, TokenInput};
use zeroize::Zeroizing;

/// Longest address of a controller, characters.
const CONTROLLER_MAX: usize = 255;

/// A key, as far as we know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Char(char),
    Enter,
    Backspace,
    Left,
    Right,
    Up,
    Down,
    Escape,
    /// Forget what was typed.
    Clear,
    /// Draw everything anew.
    Repaint,
    Quit,
}

/// What happens to the console.
pub(crate) enum Input {
    Key(Key),
    Paste(Zeroizing<String>),
    /// The manager's answer, or why there is none.
    Report(Result<Box<NodeReport>, Problem>),
    /// What became of the token.
    Sent(Result<(), Problem>),
}

/// What is to be done about it.
#[derive(Debug)]
pub(crate) enum Action {
    None,
    Ask,
    Repaint,
    Send(TokenInput),
    Quit,
}

/// What is being typed.
pub(crate) enum Step {
    Token,
    Controller(String),
    Sending,
}

/// A token on its way in.
pub(crate) struct Entry {
    pub(crate) token: TokenEntry,
    pub(crate) step: Step,
    /// What was wrong with the last attempt.
    pub(crate) note: Option<String>,
    /// Asked for by a key and not by the state of the node.
    by_hand: bool,
}

/// What the console knows.
pub(crate) struct Model {
    pub(crate) look: Look,
    /// The last answer of the manager.
    pub(crate) report: Option<Box<NodeReport>>,
    /// Why there is no newer one.
    pub(crate) trouble: Option<Problem>,
    pub(crate) entry: Option<Entry>,
    /// Said once, at the bottom.
    pub(crate) notice: Option<&'static str>,
    /// Items that are scrolled out at the top.
    pub(crate) scroll: u16,
    /// The question for a token was closed, or answered; it comes back with the next need.
    dismissed: bool,
}

impl Model {
    pub(crate) fn new(look: Look) -> Self {
        Model {
            look,
            report: None,
            trouble: None,
            entry: None,
            notice: None,
            scroll: 0,
            dismissed: false,
        }
    }

    pub(crate) fn on(&mut self, input: Input) -> Action {
        match input {
            Input::Key(Key::Quit) => Action::Quit,
            Input::Key(Key::Repaint) => Action::Repaint,
            Input::Key(key) if self.entry.is_some() => self.key_in_entry(key),
            Input::Key(key) => self.key_in_overview(key),
            Input::Paste(text) => {
                self.paste(&text);
                Action::None
            }
            Input::Report(Ok(report)) => {
                self.learn(report);
                Action::None
            }
            Input::Report(Err(problem)) => {
                self.trouble = Some(problem);
                Action::None
            }
            Input::Sent(result) => self.sent(result),
        }
    }

    fn key_in_overview(&mut self, key: Key) -> Action {
        self.notice = None;
        match key {
            Key::Char('q') => return Action::Quit,
            Key::Char('r') => return Action::Ask,
            Key::Char('t') => self.open(true),
            Key::Up | Key::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            Key::Down | Key::Char('j') => {
                let items = self.report.as_ref().map_or(0, |report| report.items.len());
                let last = u16::try_from(items.saturating_sub(1)).unwrap_or(u16::MAX);
                self.scroll = self.scroll.saturating_add(1).min(last);
            }
            Key::Char(_) | Key::Enter | Key::Backspace | Key::Left | Key::Right => {}
            Key::Escape | Key::Clear | Key::Repaint | Key::Quit => {}
        }
        Action::None
    }

    fn key_in_entry(&mut self, key: Key) -> Action {
        let knows_controller =
            self.report.as_ref().is_some_and(|report| !report.controller.is_empty());
        let Some(entry) = &mut self.entry else { return Action::None };
        if matches!(entry.step, Step::Sending) {
            return Action::None;
        }
        entry.note = None;
        match (&mut entry.step, key) {
            (Step::Token, Key::Char(character)) => entry.token.put(character),
            (Step::Token, Key::Backspace) => entry.token.backspace(),
            (Step::Token, Key::Left | Key::Up) => entry.token.left(),
            (Step::Token, Key::Right | Key::Down) => entry.token.right(),
            (Step::Token, Key::Clear) => entry.token.clear(),
            (Step::Token, Key::Escape) => {
                self.entry = None;
                self.dismissed = true;
            }
            (Step::Token, Key::Enter) => match entry.token.envelope() {
                Ok(_) if knows_controller => return entry.send(None),
                Ok(_) => entry.step = Step::Controller(String::new()),
                Err(error) => entry.note = Some(error.to_string()),
            },
            (Step::Controller(text), Key::Char(character)) => put_address(text, character),
            (Step::Controller(text), Key::Backspace) => {
                text.pop();
            }
            (Step::Controller(text), Key::Clear) => text.clear(),
            (Step::Controller(_), Key::Escape) => entry.step = Step::Token,
            (Step::Controller(text), Key::Enter) => {
                let address = Some(std::mem::take(text)).filter(|text| !text.is_empty());
                return entry.send(address);
            }
            (Step::Controller(_), Key::Left | Key::Right | Key::Up | Key::Down) => {}
            (_, Key::Repaint | Key::Quit) | (Step::Sending, _) => {}
        }
        Action::None
    }

    fn paste(&mut self, text: &str) {
        let Some(entry) = &mut self.entry else { return };
        entry.note = None;
        match &mut entry.step {
            Step::Token => entry.token.paste(text),
            Step::Controller(address) => text.trim().chars().for_each(|c| put_address(address, c)),
            Step::Sending => {}
        }
    }

    fn learn(&mut self, report: Box<NodeReport>) {
        self.trouble = None;
        let wants_token = matches!(report.stage, Stage::NoToken | Stage::Refused);
        self.report = Some(report);
        if wants_token {
            if self.entry.is_none() && !self.dismissed {
                self.open(false);
            }
            return;
        }
        self.dismissed = false;
        self.notice = None;
        // A token came from elsewhere while nobody was typing.
        if self.entry.as_ref().is_some_and(|entry| entry.token.is_empty() && !entry.by_hand) {
            self.entry = None;
        }
    }

    fn sent(&mut self, result: Result<(), Problem>) -> Action {
        match result {
            Ok(()) => {
                self.entry = None;
                // The manager may need a moment until its report shows the token.
                self.dismissed = true;
                self.notice = Some("The token was taken; the node registers now.");
                Action::Ask
            }
            Err(problem) => {
                if let Some(entry) = &mut self.entry {
                    entry.step = Step::Token;
                    entry.note = Some(format!(
                        "{}: {} {}",
                        problem.reason, problem.message, problem.next_step
                    ));
                }
                Action::None
            }
        }
    }

    fn open(&mut self, by_hand: bool) {
        self.notice = None;
        let token = TokenEntry::new();
        self.entry = Some(Entry { token, step: Step::Token, note: None, by_hand });
    }
}

impl Entry {
    fn send(&mut self, controller: Option<String>) -> Action {
        match self.token.envelope() {
            Ok(token) => {
                self.step = Step::Sending;
                Action::Send(TokenInput { token: token.encode().to_string(), controller })
            }
            Err(error) => {
                self.step = Step::Token;
                self.note = Some(error.to_string());
                Action::None
            }
        }
    }
}

fn put_address(text: &mut String, character: char) {
    if character.is_ascii_graphic() && text.len() < CONTROLLER_MAX {
        text.push(character);
    }
}
