//! Operators' bearer tokens: one small file each in `DATA/operators`, which holds a hash.
//!
//! The commands `kubeconfig` and `token create` write such a file beside a running server; the
//! server looks at the directory's modification time with every use, so that a new file counts at
//! once and a removed one counts no longer.
//!
//! The token has 256 random bits. That is why a plain SHA-256 is enough at rest: there is nothing
//! to guess, and a slow hash would only slow down every request.

use holdfast_api::Reason;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use zeroize::Zeroizing;

/// Every operator's bearer token begins with this.
pub const PREFIX: &str = "hfo1.";

/// Who an operator is and what is his.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// For logs and managed fields.
    pub name: String,
    /// His tenant; all when none.
    pub tenant: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    sha256: String,
}

/// An operator's file could not be handled.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the operator's credential")]
pub struct OperatorError(#[source] holdfast_durable::WriteError);

impl OperatorError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        if self.0.disk_full() { Reason::StateDiskFull } else { Reason::StateUnwritable }
    }
}

/// The operators of a data directory.
#[derive(Debug)]
pub struct Operators {
    dir: PathBuf,
    known: Mutex<(Option<SystemTime>, BTreeMap<String, Kept>)>,
}

impl Operators {
    /// The operators of `data`, read when first needed.
    pub fn new(data: &Path) -> Self {
        Operators { dir: data.join("operators"), known: Mutex::default() }
    }

    /// Makes a credential; answers the bearer token, which is kept nowhere, and its file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn issue(
        &self,
        operator: &Operator,
        expires_at: Option<Timestamp>,
    ) -> Result<(Zeroizing<String>, PathBuf), OperatorError> {
        let secret = Zeroizing::new(crate::random::<32>());
        let token =
            Zeroizing::new(format!("{PREFIX}{}", *Zeroizing::new(holdfast_api::hex(&*secret))));
        let kept = Kept {
            name: operator.name.clone(),
            tenant: operator.tenant.clone(),
            expires_at,
            sha256: hash(&token),
        };
        let path = self.dir.join(format!("{}-{}.json", operator.name, &kept.sha256[..12]));
        let text = serde_json::to_vec_pretty(&kept).unwrap_or_default();
        holdfast_durable::write(&path, &text, 0o600).map_err(OperatorError)?;
        Ok((token, path))
    }

    /// The operator with this bearer token.
    pub fn find(&self, token: &str, now: Timestamp) -> Option<Operator> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let modified = std::fs::metadata(&self.dir).and_then(|meta| meta.modified()).ok();
        let sha256 = hash(token);
        // Times of files are coarse: a stranger makes us look again, in case he is brand new.
        if modified.is_none() || known.0 != modified || !known.1.contains_key(&sha256) {
            *known = (modified, read_all(&self.dir));
        }
        // Looking up by hash leaks nothing by its timing that would help to find a token.
        let kept = known.1.get(&sha256)?;
        let valid = kept.expires_at.is_none_or(|end| now < end);
        valid.then(|| Operator { name: kept.name.clone(), tenant: kept.tenant.clone() })
    }
}

fn hash(token: &str) -> String {
    holdfast_api::hex(&crate::sha256(token.as_bytes()))
}

fn read_all(dir: &Path) -> BTreeMap<String, Kept> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let json = files.map(|file| file.path()).filter(|p| p.extension().is_some_and(|e| e == "json"));
    json.filter_map(|path| {
        let text = std::fs::read(&path).ok()?;
        serde_json::from_slice::<Kept>(&text)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "passed over"))
            .ok()
    })
    .map(|kept| (kept.sha256.clone(), kept))
    .collect()
}
