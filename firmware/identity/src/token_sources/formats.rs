//! The formats in which a token is left: a plain file, and cloud-init's user data.

use super::TokenSourceError;
use crate::cloud_config::{self, Refusal};
use zeroize::Zeroizing;

/// The token and the controller beside it, as written.
type Written = Option<(Zeroizing<String>, Option<String>)>;

/// How cloud-init names the kinds of user data in their first line or header
/// (<https://cloudinit.readthedocs.io/en/latest/explanation/format.html>), as far as they may
/// carry a `#cloud-config` that we do not look into.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("#cloud-config-archive", "a #cloud-config-archive"),
    ("#cloud-config-jsonp", "#cloud-config-jsonp"),
    ("## template:", "a Jinja template"),
    ("#part-handler", "a part handler"),
];
/// As [`UNSUPPORTED`], for kinds whose text may hide the word that we look for.
const OPAQUE: &[(&str, &str)] = &[
    ("#include", "an #include file"),
    ("content-type:", "multi-part MIME user data"),
    ("mime-version:", "multi-part MIME user data"),
    ("from ", "multi-part MIME user data"),
];

/// A plain file: the token, then perhaps `controller=…`. Empty lines and lines that begin with `#`
/// are skipped. An empty file says nothing.
pub(super) fn token_file(content: &[u8]) -> Result<Written, TokenSourceError> {
    let text = std::str::from_utf8(content).map_err(|_| TokenSourceError::Line {
        line: 1 + content.iter().take_while(|b| b.is_ascii()).filter(|b| **b == b'\n').count(),
        why: "it is not text",
    })?;
    let (mut token, mut controller) = (None, None);
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let wrong = |why| Err(TokenSourceError::Line { line: index + 1, why });
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            None if token.is_none() => token = Some(Zeroizing::new(line.to_owned())),
            None => return wrong("only one token can be given"),
            Some((name, value)) if name.trim() == "controller" && controller.is_none() => {
                controller = Some(value.trim().to_owned());
            }
            Some((name, _)) if name.trim() == "controller" => {
                return wrong("only one controller can be given");
            }
            Some(_) => return wrong("only a token and `controller=` can be given"),
        }
    }
    match (token, controller) {
        (Some(token), controller) => Ok(Some((token, controller))),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(TokenSourceError::Line { line: 1, why: "the token is missing" }),
    }
}

/// cloud-init's user data: the section `holdfast` of a `#cloud-config` document. Scripts and other
/// kinds that cannot carry one say nothing.
pub(super) fn user_data(content: &[u8]) -> Result<Written, TokenSourceError> {
    // RFC 1952 §2.3.1; cloud-init unpacks such user data by itself.
    if content.starts_with(&[0x1f, 0x8b]) {
        return Err(TokenSourceError::Unsupported("compressed user data"));
    }
    let Ok(text) = std::str::from_utf8(content) else {
        return Err(TokenSourceError::Unsupported("user data that is not UTF-8 text"));
    };
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let first = text.lines().next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let kind = |kinds: &[(&str, &'static str)]| {
        kinds.iter().find(|(head, _)| first.starts_with(head)).map(|(_, what)| *what)
    };
    if let Some(what) = kind(OPAQUE) {
        return Err(TokenSourceError::Unsupported(what));
    }
    // Whatever is wrong with a document that never names us is not for us to report.
    if !text.contains("holdfast") {
        return Ok(None);
    }
    if let Some(what) = kind(UNSUPPORTED) {
        return Err(TokenSourceError::Unsupported(what));
    }
    if first.starts_with("#!") || first.starts_with("#cloud-boothook") {
        return Ok(None);
    }
    if first != "#cloud-config" {
        let what = "user data without a first line `#cloud-config`";
        return Err(TokenSourceError::Unsupported(what));
    }
    match cloud_config::parse(text) {
        Ok(None) => Ok(None),
        Ok(Some(section)) => Ok(Some((section.token, section.controller))),
        Err(Refusal::NotYaml { line, column }) => Err(TokenSourceError::NotYaml { line, column }),
        Err(Refusal::TooManyBrackets) => {
            Err(TokenSourceError::Unsupported("a document with thousands of brackets"))
        }
        Err(Refusal::Field(why)) => Err(TokenSourceError::Section(why)),
    }
}
