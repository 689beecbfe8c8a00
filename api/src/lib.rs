//! The vocabulary between site, controller and edge.
//!
//! Pure types: no sockets, files or clocks. What one process says to another (the resources of
//! the controller's API, the token envelope, the state that the node's daemons publish) and the
//! words that all of them share (reason codes, ownership marks, paths) live here, so that every
//! other crate can point at this one and this one points at nobody.
//!
//! Readers of these types ignore fields they do not know, so that an old node understands a
//! new controller. Files that people write are strict instead, and are parsed elsewhere.
#![warn(missing_docs)]

pub mod kubernetes;
pub mod local;
pub mod marks;
pub mod meta;
pub mod paths;
pub mod reason;
pub mod resources;
pub mod token;
pub mod tunnel;

pub use reason::{Reason, Severity};

/// An error and everything below it in one line, joined by colons: what logs and reports print. A
/// cause that the line tells already is left out: some libraries put their causes in their text.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// `text` in one line and in at most `most` bytes, for what is kept, sent and shown: others' words have
/// no end of their own. Of a longer one the middle is left out: its beginning says where, its end why.
pub fn brief(text: &str, most: usize) -> String {
    const LEFT_OUT: &str = " … ";
    let line = |part: &str| -> String {
        part.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    };
    if text.len() <= most {
        return line(text);
    }
    let room = most.saturating_sub(LEFT_OUT.len());
    let head = &text[..text.floor_char_boundary(room - room / 3)];
    let tail = &text[text.ceil_char_boundary(text.len() - room / 3)..];
    format!("{}{LEFT_OUT}{}", line(head), line(tail))
}

/// Bytes as hexadecimal digits, lower case, two for each. Not for secrets: nothing wipes the text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::brief;
    use proptest::prelude::*;

    #[test]
    fn what_is_short_stays_and_of_the_rest_both_ends_are_told() {
        assert_eq!(brief("a.yaml: no", 10), "a.yaml: no");
        assert_eq!(brief("two\nlines", 10), "two lines");
        assert_eq!(brief(&format!("a.yaml: {}: no", "x".repeat(99)), 20), "a.yaml: xx … x: no");
    }

    proptest! {
        /// Wherever characters of several bytes are.
        #[test]
        fn it_is_never_longer(text in any::<String>(), most in 8usize..200) {
            let told = brief(&text, most);
            prop_assert!(told.len() <= most);
            prop_assert!(!told.contains(char::is_control));
        }
    }
}
