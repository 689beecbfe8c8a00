//! `holdfast console`: one screen for a terminal or a serial line.
//!
//! Shows what the node is and how it is, and asks for a token while there is none. [`model`] holds
//! the state and says what each key does, [`view`] draws it, both pure; this file waits for keys,
//! for the manager and for signals, and draws after each.
//!
//! It works on 80 × 24 over a serial line whose size nobody knows and never asks the terminal a
//! question, because a line without an answer would hang. A manager that is away is shown, and
//! asked again every second.

mod look;
mod model;
pub(crate) mod prompt;
mod screen;
mod view;

#[cfg(test)]
mod tests;

use crate::failure::Failure;
use crate::manager::Manager;
use crate::output::Context;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use holdfast_api::local::{NodeReport, TokenInput};
use look::Look;
use model::{Action, Input, Key, Model};
use screen::Screen;
use std::io::{self, IsTerminal};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use zeroize::Zeroize;

/// Between two looks at the manager.
const REFRESH: Duration = Duration::from_secs(1);
/// Keys and answers that wait to be handled; a full queue makes the reader of keys wait.
const QUEUE: usize = 64;

pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let why = "the console needs a terminal; use `holdfast status` and `holdfast token set -`";
        return Err(Failure::Usage(why.into()));
    }
    let fail = |attempt| move |source| Failure::Terminal { attempt, source };
    let mut stop = Stop::new().map_err(fail("wait for signals"))?;
    let look = Look::of_this_terminal();
    let mut screen = Screen::open(look).map_err(fail("set up the terminal"))?;
    let outcome = drive(context.manager(), look, &mut screen, &mut stop).await;
    let closed = screen.close().map_err(fail("restore the terminal"));
    outcome.map_err(fail("draw on the terminal"))?;
    closed.map(|()| 0)
}

async fn drive(
    manager: Manager,
    look: Look,
    screen: &mut Screen,
    stop: &mut Stop,
) -> io::Result<()> {
    let mut model = Model::new(look);
    let (inputs, mut queue) = mpsc::channel(QUEUE);
    let keys = inputs.clone();
    std::thread::Builder::new().name("keys".into()).spawn(move || read_keys(&keys))?;
    let mut tick = tokio::time::interval(REFRESH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asking = None;
    screen.draw(&model)?;
    loop {
        // Each arm only waits; what is cut off here is waited for again in the next round.
        let first = tokio::select! {
            input = queue.recv() => input,
            () = stop.wait() => return Ok(()),
            _ = tick.tick() => {
                ask(&manager, &inputs, &mut asking);
                continue;
            }
        };
        let mut next = first;
        while let Some(input) = next {
            match model.on(input) {
                Action::None => {}
                Action::Quit => return Ok(()),
                Action::Ask => ask(&manager, &inputs, &mut asking),
                Action::Repaint => screen.repaint()?,
                Action::Send(input) => send(&manager, &inputs, input),
            }
            next = queue.try_recv().ok();
        }
        screen.draw(&model)?;
    }
}

/// Asks for the state of the node, unless that is being done already.
fn ask(
    manager: &Manager,
    inputs: &mpsc::Sender<Input>,
    asking: &mut Option<tokio::task::JoinHandle<()>>,
) {
    if asking.as_ref().is_some_and(|task| !task.is_finished()) {
        return;
    }
    let (manager, inputs) = (manager.clone(), inputs.clone());
    *asking = Some(tokio::spawn(async move {
        let answer = manager.get::<NodeReport>("/v1/status").await;
        let answer = answer.map(|answer| Box::new(answer.known)).map_err(|f| f.problem());
        // The receiver is gone only when the console is being closed.
        let _ = inputs.send(Input::Report(answer)).await;
    }));
}

fn send(manager: &Manager, inputs: &mpsc::Sender<Input>, mut input: TokenInput) {
    let (manager, inputs) = (manager.clone(), inputs.clone());
    tokio::spawn(async move {
        let sent = manager.put_token(&input).await;
        input.token.zeroize();
        let sent = sent.map_err(|source| Failure::Manager { source }.problem());
        let _ = inputs.send(Input::Sent(sent)).await;
    });
}

/// Runs on its own thread, since reading a terminal blocks; ends with the process.
fn read_keys(inputs: &mpsc::Sender<Input>) {
    loop {
        let input = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => match understand(key) {
                Some(key) => Input::Key(key),
                None => continue,
            },
            Ok(Event::Paste(text)) => Input::Paste(text.into()),
            Ok(Event::Resize(..)) => Input::Key(Key::Repaint),
            Ok(_) => continue,
            // The terminal went away.
            Err(_) => Input::Key(Key::Quit),
        };
        if inputs.blocking_send(input).is_err() {
            return;
        }
    }
}

/// What a key means to us. Terminals on serial lines send control characters for some of them.
fn understand(event: KeyEvent) -> Option<Key> {
    if event.modifiers.contains(KeyModifiers::CONTROL) {
        return match event.code {
            KeyCode::Char('c' | 'd') => Some(Key::Quit),
            KeyCode::Char('l') => Some(Key::Repaint),
            KeyCode::Char('u') => Some(Key::Clear),
            KeyCode::Char('h') => Some(Key::Backspace),
            KeyCode::Char('j' | 'm') => Some(Key::Enter),
            _ => None,
        };
    }
    match event.code {
        KeyCode::Char(character) => Some(Key::Char(character)),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Backspace | KeyCode::Delete => Some(Key::Backspace),
        KeyCode::Left | KeyCode::BackTab => Some(Key::Left),
        KeyCode::Right | KeyCode::Tab => Some(Key::Right),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::Esc => Some(Key::Escape),
        _ => None,
    }
}

/// The signals that end the console.
struct Stop {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Stop {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
