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

/// Bytes as hexadecimal digits, lower case, two for each. Not for secrets: nothing wipes the text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
