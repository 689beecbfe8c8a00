//! Who this machine is: its keys, its certificate, the time it trusts and the token it shows.
//!
//! Owns `var/lib/holdfast/identity` (mode 0700) and `var/lib/holdfast/token` (mode 0600) and reads
//! the places where a token may be left for us ([`token_sources`]). Keys are made here, once, and
//! never leave: only public keys, signatures and signing requests do. What is damaged is reported
//! as [`IdentityError`] and never replaced in silence, since a new key is a new device.
//!
//! Everything secret is wiped when dropped and left out of `Debug`. The copies that the parsers
//! of YAML and PEM make on the way are theirs and are not wiped.
//!
//! No sockets here, and time is an argument but in [`CheckedClock`], which TLS asks. Keys in a TPM are left out so far.
#![warn(missing_docs)]

mod certificate;
mod clock;
mod cloud_config;
mod device_key;
mod error;
mod files;
pub mod known_time;
pub mod token_sources;
mod wireguard_key;

pub use certificate::{CertificateFacts, CertificateStore, NodeCertificate};
pub use clock::CheckedClock;
pub use device_key::{DeviceKey, registration_name};
pub use error::IdentityError;
pub use known_time::{EffectiveTime, KnownTime, effective_now};
pub use token_sources::{FoundToken, Search, Source, SourceKind, TokenSourceError};
pub use wireguard_key::WireguardKey;

#[cfg(test)]
mod tests;
