//! Asks for a token on one line of a terminal, for `holdfast token set`.
//!
//! Typed characters are drawn by us, so the terminal keeps no history of them, and a group that is
//! right is hidden again.

use crate::failure::Failure;
use crate::token_entry::{Group, TokenEntry};
use crossterm::event::{self, Event, KeyEventKind};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use holdfast_api::token::Envelope;
use std::io::{self, Write};

use super::model::Key;

/// Cuts the line so that it never wraps on the narrowest terminal, which would break its redrawing.
const WIDTH: usize = 78;

/// The token that a person types.
///
/// # Errors
/// The terminal does not work, or the person gave up.
pub(crate) fn ask() -> Result<Envelope, Failure> {
    let fail = |source| Failure::Terminal { attempt: "ask for the token on the terminal", source };
    println!("Type or paste the token; each group of five is checked as it is complete.");
    println!("Backspace takes back, arrows move between groups, Ctrl-C gives up.");
    enable_raw_mode().map_err(fail)?;
    let answer = converse();
    let restored = disable_raw_mode();
    println!();
    let answer = answer.map_err(fail)?;
    restored.map_err(fail)?;
    answer.ok_or_else(|| Failure::Usage("no token was given".into()))
}

fn converse() -> io::Result<Option<Envelope>> {
    let mut entry = TokenEntry::new();
    let mut note = String::new();
    loop {
        let line: String = line(&entry, &note).chars().take(WIDTH).collect();
        let mut out = io::stdout().lock();
        write!(out, "\r\x1b[K{line}")?;
        out.flush()?;
        drop(out);
        let key = match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => super::understand(key),
            Event::Paste(text) => {
                entry.paste(&text);
                None
            }
            _ => None,
        };
        note.clear();
        match key {
            Some(Key::Char(character)) => entry.put(character),
            Some(Key::Backspace) => entry.backspace(),
            Some(Key::Left | Key::Up) => entry.left(),
            Some(Key::Right | Key::Down) => entry.right(),
            Some(Key::Clear) => entry.clear(),
            Some(Key::Quit | Key::Escape) => return Ok(None),
            Some(Key::Enter) => match entry.envelope() {
                Ok(token) => return Ok(Some(token)),
                Err(error) => note = error.to_string(),
            },
            Some(Key::Repaint) | None => {}
        }
    }
}

/// The line as it is drawn: the group being typed, how it stands, and what is left.
fn line(entry: &TokenEntry, note: &str) -> String {
    let (text, state) = entry.groups().nth(entry.cursor()).unwrap_or(("", Group::Partial));
    let wrong = entry.wrong();
    let said = match (note, state) {
        ("", Group::Wrong(_)) => "wrong: type this group again".into(),
        ("", _) if entry.envelope().is_ok() => "complete: press Enter".into(),
        ("", _) if !wrong.is_empty() => format!("still wrong: group {}", wrong[0]),
        (note, _) => note.to_owned(),
    };
    format!("Group {:>2}: {text:<5}  {said}", entry.cursor() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::token::{CaFingerprint, TokenId, TokenSecret};

    #[test]
    fn the_line_shows_one_group_and_what_is_wrong() {
        let token = Envelope {
            tenant: "acme".into(),
            ca: CaFingerprint([7; 16]),
            id: TokenId([1; 5]),
            secret: TokenSecret::new([2; 10]),
        };
        let text = token.encode();
        let mut entry = TokenEntry::new();
        assert_eq!(line(&entry, ""), "Group  1:        ");
        text[..6].chars().for_each(|c| entry.put(c));
        assert_eq!(line(&entry, ""), "Group  2:        ");
        text[6..11].chars().rev().for_each(|c| entry.put(c));
        assert!(line(&entry, "").ends_with("wrong: type this group again"));
        entry.put('-');
        assert!(line(&entry, "").ends_with("still wrong: group 2"));
        entry.clear();
        entry.paste(&text);
        assert!(line(&entry, "").ends_with("complete: press Enter"));
        assert!(!line(&entry, "").contains(&text[..5]), "right groups are hidden");
    }
}
