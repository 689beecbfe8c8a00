//! A set: the files that sshd reads, and their name. Pure.

use super::model::{Revoked, Want};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// File with the authorities.
pub(crate) const AUTHORITIES: &str = "user_ca_keys";
/// Directory with one file per user.
pub(crate) const PRINCIPALS: &str = "principals";
/// File with what is refused.
pub(crate) const REVOKED: &str = "revoked_keys";
/// The drop-in as it is checked and installed.
pub(crate) const DROP_IN: &str = "drop-in.conf";

/// The name of a set: the first 16 hexadecimal digits of the SHA-256 of its content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetId(String);

impl SetId {
    /// The id in `text`, when it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 16 && text.bytes().all(hex)).then(|| SetId(text.to_string()))
    }
}

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Files below the set's directory, without the drop-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    id: SetId,
    dir: PathBuf,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Set {
    /// The set that `want` asks for, below `place`.
    pub fn render(want: &Want, place: &Path) -> Self {
        let mut files = BTreeMap::new();
        let lines = |keys: &[super::PublicKey]| {
            keys.iter().map(|key| format!("{key}\n")).collect::<String>()
        };
        files.insert(PathBuf::from(AUTHORITIES), lines(&want.authorities).into_bytes());
        for (user, principals) in &want.principals {
            let text: String =
                principals.iter().map(|principal| format!("{principal}\n")).collect();
            files.insert(Path::new(PRINCIPALS).join(user.as_str()), text.into_bytes());
        }
        match &want.revoked {
            Revoked::Nothing => {}
            Revoked::Keys(keys) => drop(files.insert(REVOKED.into(), lines(keys).into_bytes())),
            Revoked::Krl(list) => drop(files.insert(REVOKED.into(), list.clone())),
        }
        Set::of_files(files, place)
    }

    /// The set with these files, named by their content.
    pub(crate) fn of_files(files: BTreeMap<PathBuf, Vec<u8>>, place: &Path) -> Self {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        for (path, content) in &files {
            // Lengths in front, so that no two sets have the same stream of bytes.
            let path = path.as_os_str().as_encoded_bytes();
            for part in [path, content] {
                hash.update(&(part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        let hex = holdfast_api::hex(&hash.finish().as_ref()[..8]);
        let dir = place.join(&hex);
        Set { id: SetId(hex), dir, files }
    }

    /// Its name.
    pub fn id(&self) -> &SetId {
        &self.id
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its files, relative to the directory.
    pub fn files(&self) -> &BTreeMap<PathBuf, Vec<u8>> {
        &self.files
    }

    /// What sshd's configuration shall say, by keyword in lower case.
    pub fn settings(&self) -> BTreeMap<&'static str, String> {
        let at = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let mut settings = BTreeMap::from([
            ("trustedusercakeys", at(AUTHORITIES)),
            // Percent signs are tokens in this one (sshd_config(5) TOKENS).
            ("authorizedprincipalsfile", format!("{}/%u", at(PRINCIPALS).replace('%', "%%"))),
        ]);
        if self.files.contains_key(Path::new(REVOKED)) {
            settings.insert("revokedkeys", at(REVOKED));
        }
        settings
    }

    /// The drop-in that puts the set in force.
    pub fn drop_in(&self) -> String {
        let setting = |keyword: &str| match keyword {
            "trustedusercakeys" => "TrustedUserCAKeys",
            "authorizedprincipalsfile" => "AuthorizedPrincipalsFile",
            _ => "RevokedKeys",
        };
        let lines = self
            .settings()
            .into_iter()
            .map(|(key, value)| format!("{} \"{value}\"\n", setting(key)));
        format!("# Written by holdfast; edits are replaced.\n{}", lines.collect::<String>())
    }
}
