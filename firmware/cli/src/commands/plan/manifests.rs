//! A release on this machine: a YAML file, or a folder of `*.yaml` and `*.yml`.
//!
//! Only what can be known without a cluster is checked here: that there is something, that it is
//! text, and that it is not too large to send. What the text says is checked by the manager.

use holdfast_api::Reason;
use holdfast_api::local::ReleaseInput;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of all names and texts together. A controller takes 768 KiB.
const MAX: usize = 1 << 20;

/// Why manifests cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestsError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The folder has nothing that could be sent.
    #[error("no *.yaml or *.yml file is in {}", dir.display())]
    Nothing { dir: PathBuf },
    /// Not UTF-8.
    #[error("{} is no text (UTF-8)", path.display())]
    NoText { path: PathBuf },
    /// Together too large; `path` is the file that was one too many.
    #[error("the manifests have more than {} KiB; too many with {}", MAX >> 10, path.display())]
    TooLarge { path: PathBuf },
}

impl ManifestsError {
    pub(crate) fn reason(&self) -> Reason {
        match self {
            ManifestsError::Read { .. }
            | ManifestsError::Nothing { .. }
            | ManifestsError::NoText { .. }
            | ManifestsError::TooLarge { .. } => Reason::ReleaseInvalid,
        }
    }

    pub(crate) fn next_step(&self) -> &'static str {
        match self {
            ManifestsError::Read { .. } => "Check the path and who may read it.",
            ManifestsError::Nothing { .. } => {
                "Name the folder that holds the manifests; folders below it are not looked into."
            }
            ManifestsError::NoText { .. } => "Remove the file, or write it as UTF-8.",
            ManifestsError::TooLarge { .. } => {
                "Split the release, or leave out what it can do without."
            }
        }
    }
}

/// The manifests at `path`, by file name, called after the file or folder.
pub(super) fn read(path: &Path) -> Result<ReleaseInput, ManifestsError> {
    let fail = |source| ManifestsError::Read { path: path.into(), source };
    let is_dir = std::fs::metadata(path).map_err(fail)?.is_dir();
    let files = if is_dir { list(path)? } else { vec![path.to_owned()] };
    if files.is_empty() {
        return Err(ManifestsError::Nothing { dir: path.into() });
    }
    let mut manifests = BTreeMap::new();
    let mut room = MAX;
    for file in files {
        let (name, text) = read_one(&file, room)?;
        room = room.saturating_sub(name.len() + text.len());
        manifests.insert(name, text);
    }
    Ok(ReleaseInput { manifests, name: name_of(path, is_dir) })
}

/// The files of a folder that are manifests by their names, hidden ones left out.
fn list(dir: &Path) -> Result<Vec<PathBuf>, ManifestsError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        |source| ManifestsError::Read { path, source }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail(dir))? {
        let path = entry.map_err(fail(dir))?.path();
        let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
        if yaml && !hidden && std::fs::metadata(&path).map_err(fail(&path))?.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_one(path: &Path, room: usize) -> Result<(String, String), ManifestsError> {
    let fail = |source| ManifestsError::Read { path: path.into(), source };
    let no_text = || ManifestsError::NoText { path: path.into() };
    let name = path.file_name().unwrap_or_default().to_str().ok_or_else(no_text)?.to_owned();
    let too_large = || ManifestsError::TooLarge { path: path.into() };
    let most = room.checked_sub(name.len()).ok_or_else(too_large)?;
    let mut bytes = Vec::new();
    // One byte more than fits tells a file that is too large, and an endless one ends.
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(fail)?.take(limit).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > most {
        return Err(too_large());
    }
    let text = String::from_utf8(bytes).map_err(|_| no_text())?;
    Ok((name, text))
}

/// The name of the folder, or of the file without its ending.
fn name_of(path: &Path, is_dir: bool) -> String {
    // `.` and `..` have a name only in full.
    let full = std::fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let name = if is_dir { full.file_name() } else { path.file_stem() };
    name.map_or_else(|| "release".into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            File::create(dir.path().join(name)).unwrap().write_all(bytes).unwrap();
        }
        dir
    }

    #[test]
    fn a_folder_gives_its_yaml_and_nothing_else() {
        let dir = folder(&[
            ("b.yml", b"b: 1"),
            ("a.yaml", b"a: 1"),
            (".hidden.yaml", b"x"),
            ("README.md", b"\xff"),
            ("c.yaml.orig", b"x"),
        ]);
        std::fs::create_dir(dir.path().join("d.yaml")).unwrap();
        let input = read(dir.path()).unwrap();
        let want = [("a.yaml", "a: 1"), ("b.yml", "b: 1")].map(|(n, t)| (n.into(), t.into()));
        assert_eq!(input.manifests, BTreeMap::from(want));
        assert_eq!(input.name, dir.path().file_name().unwrap().to_str().unwrap());
    }

    #[test]
    fn a_file_is_taken_whatever_its_ending() {
        let dir = folder(&[("edge.yaml.new", b"a: 1")]);
        let input = read(&dir.path().join("edge.yaml.new")).unwrap();
        assert_eq!(input.manifests["edge.yaml.new"], "a: 1");
        assert_eq!(input.name, "edge.yaml");
    }

    #[test]
    fn what_cannot_be_sent_is_told() {
        let dir = folder(&[("README.md", b"x")]);
        assert!(matches!(read(dir.path()), Err(ManifestsError::Nothing { .. })));
        let missing = read(&dir.path().join("no.yaml"));
        assert!(matches!(missing, Err(ManifestsError::Read { .. })), "{missing:?}");
        let dir = folder(&[("a.yaml", b"a: \xff")]);
        assert!(matches!(read(dir.path()), Err(ManifestsError::NoText { .. })));
    }

    #[test]
    fn a_link_that_leads_nowhere_is_told_by_its_name() {
        let dir = folder(&[("a.yaml", b"a: 1")]);
        let link = dir.path().join("b.yaml");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let Err(ManifestsError::Read { path, .. }) = read(dir.path()) else { panic!() };
        assert_eq!(path, link);
    }

    #[test]
    fn the_limit_counts_names_and_texts_of_all_files() {
        let half = vec![b'x'; MAX / 2 - "a.yaml".len()];
        let dir = folder(&[("a.yaml", &half), ("b.yaml", &half)]);
        assert_eq!(read(dir.path()).unwrap().manifests.len(), 2, "just as much as fits");
        File::create(dir.path().join("c.yaml")).unwrap();
        let Err(ManifestsError::TooLarge { path }) = read(dir.path()) else { panic!() };
        assert_eq!(path, dir.path().join("c.yaml"));
        let endless = read(Path::new("/dev/zero"));
        assert!(matches!(endless, Err(ManifestsError::TooLarge { .. })), "{endless:?}");
    }
}
