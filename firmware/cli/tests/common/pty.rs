//! A terminal to run a program in: a pseudo-terminal and enough of an emulator to see its screen.

use super::{DEADLINE, eventually};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// A program in a terminal. Killed when dropped.
pub(crate) struct InTerminal {
    child: Child,
    keyboard: File,
    /// Held open, so that the terminal outlives the program and can be looked at.
    line: OwnedFd,
    screen: Arc<Shown>,
}

/// A screen, and the news that something was written to it.
#[derive(Default)]
struct Shown {
    screen: Mutex<Screen>,
    changed: Condvar,
}

impl InTerminal {
    /// `sized`: whether the terminal knows its size; one behind a serial line does not.
    pub(crate) fn start(mut command: Command, sized: bool) -> Self {
        let (ws_row, ws_col) = if sized { (ROWS, COLUMNS) } else { (0, 0) };
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        let stdio = || Stdio::from(pair.slave.try_clone().unwrap());
        let child = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let mut output = File::from(pair.master.try_clone().unwrap());
        let screen = Arc::new(Shown::default());
        let seen = screen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                seen.screen.lock().unwrap().take(&bytes[..count]);
                seen.changed.notify_all();
            }
        });
        InTerminal { child, keyboard: File::from(pair.master), line: pair.slave, screen }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn type_keys(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Writes to the terminal's screen behind the program's back.
    pub(crate) fn scribble(&self, text: &str) {
        File::from(self.line.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn shows(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    /// Waits until `text` is on the screen.
    pub(crate) fn expect(&self, text: &str) {
        let screen = self.screen.screen.lock().unwrap();
        let (screen, waited) = self
            .screen
            .changed
            .wait_timeout_while(screen, DEADLINE, |screen| !screen.text().contains(text))
            .unwrap();
        assert!(!waited.timed_out(), "no {text:?} on the screen:\n{}", screen.text());
    }

    pub(crate) fn text(&self) -> String {
        self.screen.screen.lock().unwrap().text()
    }

    /// Everything that was ever written to the terminal.
    pub(crate) fn written(&self) -> Vec<u8> {
        self.screen.screen.lock().unwrap().written.clone()
    }

    /// Whether the terminal is as a shell wants it: echoing, line by line.
    pub(crate) fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.line).unwrap().local_flags;
        flags.contains(LocalFlags::ECHO | LocalFlags::ICANON)
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        eventually("the end of the program", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for InTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a VT100 shows, as far as programs of ours use it.
#[derive(Default)]
struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    pending: Vec<u8>,
    written: Vec<u8>,
}

impl Screen {
    fn take(&mut self, bytes: &[u8]) {
        self.cells.resize(ROWS.into(), vec![' '; COLUMNS.into()]);
        self.written.extend_from_slice(bytes);
        self.pending.extend_from_slice(bytes);
        while let Some(used) = self.step() {
            self.pending.drain(..used);
        }
    }

    /// Carries out the first order of `pending`; none when it is not whole yet.
    fn step(&mut self) -> Option<usize> {
        match *self.pending.first()? {
            0x1b => self.escape(),
            b'\r' => {
                self.column = 0;
                Some(1)
            }
            b'\n' => {
                self.row = (self.row + 1).min(usize::from(ROWS) - 1);
                Some(1)
            }
            0x00..0x20 => Some(1),
            first => {
                let length = first.leading_ones().max(1) as usize;
                let text = self.pending.get(..length)?;
                let shown = std::str::from_utf8(text).unwrap().chars().next()?;
                if let Some(cell) = self.cells[self.row].get_mut(self.column) {
                    *cell = shown;
                }
                self.column += 1;
                Some(length)
            }
        }
    }

    fn escape(&mut self) -> Option<usize> {
        if *self.pending.get(1)? != b'[' {
            return Some(2);
        }
        let end = 2 + self.pending[2..].iter().position(|b| (0x40..0x7f).contains(b))?;
        let body = String::from_utf8(self.pending[2..end].to_vec()).unwrap();
        let numbers: Vec<usize> = body.split(';').map(|n| n.parse().unwrap_or(0)).collect();
        let number = |at: usize| numbers.get(at).copied().unwrap_or(0);
        match self.pending[end] {
            b'H' => {
                self.row = number(0).clamp(1, ROWS.into()) - 1;
                self.column = number(1).max(1) - 1;
            }
            b'J' if number(0) == 2 => self.cells.iter_mut().for_each(|row| row.fill(' ')),
            b'J' => {
                self.cells[self.row][self.column..].fill(' ');
                self.cells[self.row + 1..].iter_mut().for_each(|row| row.fill(' '));
            }
            b'K' if number(0) == 2 => self.cells[self.row].fill(' '),
            b'K' => self.cells[self.row][self.column..].fill(' '),
            // Colours and modes do not move text.
            _ => {}
        }
        Some(end + 1)
    }

    fn text(&self) -> String {
        let row = |row: &Vec<char>| row.iter().collect::<String>().trim_end().to_owned() + "\n";
        self.cells.iter().map(row).collect()
    }
}
