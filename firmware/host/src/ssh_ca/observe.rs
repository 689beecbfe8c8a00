//! Reads what of ours is installed.

use super::Places;
use super::apply::SshError;
use super::daemon::Sshd;
use super::model::Have;
use super::set::{DROP_IN, Set, SetId};
use holdfast_api::paths::Root;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The word in [`Places::loaded`] for a reload without a set.
pub(crate) const NO_SET: &str = "none";

/// What is installed below `root`.
///
/// # Errors
/// [`SshError::Read`]; what is not there is no error.
pub fn observe(root: &Root, sshd: &impl Sshd) -> Result<Have, SshError> {
    let places = Places::new(root);
    let word = |path: &Path| {
        Ok(read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string()))
    };
    let mut sets = BTreeMap::new();
    for name in names(&places.sets)? {
        if let Some(id) = SetId::parse(&name) {
            let whole = is_whole(&places.sets, &id)?;
            sets.insert(id, whole);
        }
    }
    let last_good = word(&places.last_good)?.and_then(|text| SetId::parse(&text));
    let loaded = word(&places.loaded)?.and_then(|text| match text.as_str() {
        NO_SET => Some(None),
        id => SetId::parse(id).map(Some),
    });
    let drop_in = read(&places.drop_in)?;
    Ok(Have { sshd: sshd.installed(), place: places.sets, drop_in, sets, last_good, loaded })
}

/// Whether a set's files are exactly those that its name stands for.
fn is_whole(place: &Path, id: &SetId) -> Result<bool, SshError> {
    let dir = place.join(id.to_string());
    let mut files = BTreeMap::new();
    for path in tree(&dir, Path::new(""))? {
        let content = read(&dir.join(&path))?.unwrap_or_default();
        files.insert(path, content);
    }
    let drop_in = files.remove(Path::new(DROP_IN));
    let set = Set::of_files(files, place);
    Ok(set.id() == id && drop_in.is_some_and(|bytes| bytes == set.drop_in().as_bytes()))
}

/// Every file below `dir`, relative to it.
pub(crate) fn tree(dir: &Path, below: &Path) -> Result<Vec<PathBuf>, SshError> {
    let mut files = Vec::new();
    for name in names(&dir.join(below))? {
        let path = below.join(name);
        let full = dir.join(&path);
        if full.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            files.extend(tree(dir, &path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// Names in a directory, in order; none when it is not there.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, SshError> {
    let fail = |source| SshError::Read { path: dir.to_path_buf(), source };
    let listing = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        result => result.map_err(fail)?,
    };
    let name = |entry: io::Result<std::fs::DirEntry>| {
        entry.map(|e| e.file_name().to_string_lossy().into_owned())
    };
    let mut names =
        listing.map(|entry| name(entry).map_err(fail)).collect::<Result<Vec<_>, _>>()?;
    names.sort();
    Ok(names)
}

pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, SshError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SshError::Read { path: path.to_path_buf(), source }),
    }
}
