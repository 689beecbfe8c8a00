//! The kinds as data: what fields there are, of which form, and what they mean.
//!
//! One description serves three ends: checking what clients write (with the path of each wrong
//! field), dropping what is not known, and telling clients by OpenAPI. A test holds it against the
//! types of `holdfast_api`, so that the two cannot drift apart.

mod check;
mod kinds;
mod openapi;
pub mod reference;
#[cfg(test)]
mod tests;

pub(crate) use check::shorten;
pub use check::{FieldError, Report, check, key_path};
pub use kinds::{doc_of, spec_of, status_of};
pub use openapi::{definition, json_schema};

/// The form of a value.
#[derive(Debug)]
pub enum Schema {
    /// Any text.
    Text,
    /// True or false.
    Bool,
    /// A whole number from the first to the second, both included.
    Int(i64, i64),
    /// One of these words.
    Enum(&'static [&'static str]),
    /// A text of a certain format.
    Format(Format),
    /// A list.
    List(&'static Schema),
    /// Texts by text.
    Map(&'static Schema),
    /// Named fields.
    Object(&'static [Field]),
    /// Whatever JSON.
    Any,
}

/// A format of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 3339.
    Time,
    /// IPv4 or IPv6 address.
    Ip,
    /// Address and prefix length.
    Prefix,
    /// Address and port.
    Socket,
    /// 32 bytes in base64.
    WireguardKey,
}

impl Format {
    /// The name under which OpenAPI knows it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Time => "date-time",
            Format::Ip => "ip",
            Format::Prefix => "cidr",
            Format::Socket => "address-and-port",
            Format::WireguardKey => "wireguard-public-key",
        }
    }
}

/// A field of an object.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its form.
    pub schema: &'static Schema,
    /// What it means.
    pub doc: &'static str,
    /// It may not be absent.
    pub required: bool,
}

const fn field(name: &'static str, schema: &'static Schema, doc: &'static str) -> Field {
    Field { name, schema, doc, required: false }
}

const fn required(name: &'static str, schema: &'static Schema, doc: &'static str) -> Field {
    Field { name, schema, doc, required: true }
}
