//! Where a registration token may have been left for us.
//!
//! Strongest first:
//!
//! 1. what a person typed: `var/lib/holdfast/token`, written by [`store_typed`];
//! 2. the administrator's file: `etc/holdfast/token`;
//! 3. cloud-init's NoCloud seeds: `run/cloud-init/seed/nocloud/user-data`,
//!    `run/cloud-init/seed/nocloud-net/user-data`, then the same below `var/lib/cloud/seed`;
//! 4. what cloud-init got from any other data source: `var/lib/cloud/instance/user-data.txt`.
//!
//! The first source that speaks of us decides, also when it is wrong: using a weaker source behind
//! the back of whoever wrote the stronger one could register the box with another tenant. A
//! document that we cannot look into (MIME, gzip, an archive, Jinja) is passed over, and reported
//! only when no other source has a token.
//!
//! A new source gets a line in [`SOURCES`] and, when its format is new, a reader in `formats`.
//! Sources are read only; nothing here is logged but paths and positions.

mod formats;

use crate::IdentityError;
use holdfast_api::Reason;
use holdfast_api::paths::Root;
use holdfast_api::token::{Envelope, TokenError};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Longest source that is read, bytes. Clouds allow at most 64 KiB of user data.
pub const SOURCE_MAX: u64 = 128 * 1024;
/// Where a typed token is kept, below the root.
pub const TYPED: &str = "var/lib/holdfast/token";

/// Every place, strongest first.
pub const SOURCES: &[(SourceKind, &str)] = &[
    (SourceKind::Typed, TYPED),
    (SourceKind::File, "etc/holdfast/token"),
    (SourceKind::CloudInit, "run/cloud-init/seed/nocloud/user-data"),
    (SourceKind::CloudInit, "run/cloud-init/seed/nocloud-net/user-data"),
    (SourceKind::CloudInit, "var/lib/cloud/seed/nocloud/user-data"),
    (SourceKind::CloudInit, "var/lib/cloud/seed/nocloud-net/user-data"),
    (SourceKind::CloudInit, "var/lib/cloud/instance/user-data.txt"),
];

/// What kind of place a token was left in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// Typed on the console or by `holdfast token set`.
    Typed,
    /// The administrator's file.
    File,
    /// cloud-init's user data.
    CloudInit,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its kind.
    pub kind: SourceKind,
    /// The file.
    pub path: PathBuf,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SourceKind::Typed => "typed",
            SourceKind::File => "file",
            SourceKind::CloudInit => "cloud-init",
        };
        write!(f, "{kind} ({})", self.path.display())
    }
}

/// A token that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundToken {
    /// What it says.
    pub envelope: Envelope,
    /// The controller named beside it: `https://host[:port]`.
    pub controller: Option<String>,
    /// Where it was found.
    pub source: Source,
}

/// What a search found.
#[derive(Debug)]
pub enum Search {
    /// A token.
    Found(FoundToken),
    /// No source has one.
    Missing,
    /// A source speaks of us and cannot be used, or none that we can look into does.
    Invalid {
        /// The source.
        source: Source,
        /// What is wrong with it.
        error: TokenSourceError,
    },
}

impl Search {
    /// The reason to report when there is no token to use.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Search::Found(_) => None,
            Search::Missing => Some(Reason::TokenMissing),
            Search::Invalid { error, .. } => Some(error.reason()),
        }
    }
}

/// Why a source cannot be used. Never repeats what the source says.
#[derive(Debug, thiserror::Error)]
pub enum TokenSourceError {
    /// The file cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// The file is longer than [`SOURCE_MAX`].
    #[error("it is longer than {} KiB", SOURCE_MAX / 1024)]
    TooLong,
    /// The file is of a kind that we do not read.
    #[error("{0} is not supported: give a plain `#cloud-config` document, or /etc/holdfast/token")]
    Unsupported(&'static str),
    /// A `#cloud-config` document that is not YAML.
    #[error("it is not valid YAML near line {line}, column {column}")]
    NotYaml {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The `holdfast:` section is wrong.
    #[error("its section `holdfast` is wrong: {0}")]
    Section(&'static str),
    /// A line of a token file is wrong.
    #[error("line {line}: {why}")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// A group of the token is wrong.
    #[error("group {group} of the token is mistyped")]
    MistypedGroup {
        /// Position, from 1.
        group: usize,
    },
    /// The groups are right and the whole is not.
    #[error("the token is incomplete or damaged: {0}")]
    Malformed(&'static str),
    /// A token of a version that we do not know.
    #[error("the token is of version {0}, which this firmware does not know")]
    Version(u8),
    /// The controller's address is wrong.
    #[error("the controller's address is wrong: {0}")]
    Controller(&'static str),
}

impl TokenSourceError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        match self {
            TokenSourceError::MistypedGroup { .. } => Reason::TokenMistypedGroup,
            TokenSourceError::Malformed(_) => Reason::TokenMalformed,
            TokenSourceError::Version(_) => Reason::TokenVersion,
            TokenSourceError::Read(_)
            | TokenSourceError::TooLong
            | TokenSourceError::Unsupported(_)
            | TokenSourceError::NotYaml { .. }
            | TokenSourceError::Section(_)
            | TokenSourceError::Line { .. }
            | TokenSourceError::Controller(_) => Reason::ConfigInvalid,
        }
    }
}

impl From<TokenError> for TokenSourceError {
    /// Drops the text of the group: this error goes to logs.
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::MistypedGroup { group, .. } | TokenError::BadCharacter { group, .. } => {
                TokenSourceError::MistypedGroup { group }
            }
            TokenError::Malformed(why) => TokenSourceError::Malformed(why),
            TokenError::Version(version) => TokenSourceError::Version(version),
        }
    }
}

/// Looks through every source below `root`, strongest first.
pub fn find(root: &Root) -> Search {
    let mut passed_over = None;
    for (kind, path) in SOURCES {
        let source = Source { kind: *kind, path: root.join(path) };
        match examine(&source) {
            Ok(None) => {}
            Ok(Some((envelope, controller))) => {
                return Search::Found(FoundToken { envelope, controller, source });
            }
            Err(error @ TokenSourceError::Unsupported(_)) => {
                passed_over.get_or_insert(Search::Invalid { source, error });
            }
            Err(error) => return Search::Invalid { source, error },
        }
    }
    passed_over.unwrap_or(Search::Missing)
}

/// The controller that the strongest source names which names one, whatever became of its token: a
/// token that is typed to replace a used-up one is for the same controller, unless it says so.
pub fn controller(root: &Root) -> Option<String> {
    let sources = SOURCES.iter().map(|(kind, path)| Source { kind: *kind, path: root.join(path) });
    sources.filter_map(|source| examine(&source).ok().flatten()?.1).next()
}

/// What a document of this kind says; none when it does not speak of us. Bounded in time and
/// memory by the length of `content`, for any content.
///
/// # Errors
/// It speaks of us and cannot be used, or is of a kind that we do not read.
pub fn parse(
    kind: SourceKind,
    content: &[u8],
) -> Result<Option<(Envelope, Option<String>)>, TokenSourceError> {
    let Some((token, controller)) = (match kind {
        SourceKind::Typed | SourceKind::File => formats::token_file(content)?,
        SourceKind::CloudInit => formats::user_data(content)?,
    }) else {
        return Ok(None);
    };
    let envelope = Envelope::parse(&token)?;
    let controller = controller.as_deref().map(check_controller).transpose()?;
    Ok(Some((envelope, controller)))
}

/// The address of a controller as typed, in the form `https://host[:port]`. The scheme may be left
/// out; anything but HTTPS, and anything behind host and port, is refused.
///
/// # Errors
/// [`TokenSourceError::Controller`].
pub fn check_controller(typed: &str) -> Result<String, TokenSourceError> {
    let wrong = |why| Err(TokenSourceError::Controller(why));
    let typed = typed.trim();
    let rest = match typed.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
        Some(_) => return wrong("it must begin with https://"),
        None => typed,
    };
    let place = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match place.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (place, None),
    };
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return wrong("its port is not a number from 1 to 65535");
    }
    let name = host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    if !name && !address {
        return wrong("it is not a host name or an IP address, with an optional port behind it");
    }
    Ok(format!("https://{place}"))
}

/// Keeps what a person typed, mode 0600; it is the strongest source from then on.
///
/// # Errors
/// [`IdentityError::Write`] when the disk refuses; what was kept before still is.
pub fn store_typed(
    root: &Root,
    envelope: &Envelope,
    controller: Option<&str>,
) -> Result<(), IdentityError> {
    let mut content = Zeroizing::new(String::with_capacity(256));
    content.push_str(&envelope.encode());
    content.push('\n');
    if let Some(controller) = controller {
        content.push_str("controller=");
        content.push_str(controller);
        content.push('\n');
    }
    let path = root.join(TYPED);
    holdfast_durable::write(&path, content.as_bytes(), 0o600)
        .map_err(|source| IdentityError::Write { path, source })
}

/// Forgets what a person typed, if anything.
///
/// # Errors
/// [`IdentityError::Write`] when the disk refuses.
pub fn remove_typed(root: &Root) -> Result<(), IdentityError> {
    let path = root.join(TYPED);
    holdfast_durable::remove(&path)
        .map(|_| ())
        .map_err(|source| IdentityError::Write { path, source })
}

fn examine(source: &Source) -> Result<Option<(Envelope, Option<String>)>, TokenSourceError> {
    match read(&source.path)? {
        None => Ok(None),
        Some(content) => parse(source.kind, &content),
    }
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, TokenSourceError> {
    // Looked at before it is opened: opening a named pipe would wait for its writer.
    let meta = match std::fs::metadata(path) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        meta => meta.map_err(TokenSourceError::Read)?,
    };
    if !meta.is_file() {
        return Err(TokenSourceError::Read(io::Error::other("not a file")));
    }
    if meta.len() > SOURCE_MAX {
        return Err(TokenSourceError::TooLong);
    }
    let file = File::open(path).map_err(TokenSourceError::Read)?;
    let size = usize::try_from(meta.len()).unwrap_or(0);
    let mut content = Zeroizing::new(Vec::with_capacity(size + 1));
    file.take(SOURCE_MAX + 1).read_to_end(&mut content).map_err(TokenSourceError::Read)?;
    match content.len() as u64 > SOURCE_MAX {
        true => Err(TokenSourceError::TooLong),
        false => Ok(Some(content)),
    }
}
