//! The administrator's manifests below `server/manifests`, applied at the start and when they
//! change, as k3s does. A file whose name, without ending, is in `disable` is left alone. Left
//! out, against k3s: objects of a file that goes stay.

use super::{Manifests, Plan, routes};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

/// k3s looks every 15 seconds; tests have less time.
const PAUSE: Duration = Duration::from_secs(2);

type Seen = BTreeMap<PathBuf, SystemTime>;

/// Files to apply: those that are new or changed since `seen`, by name.
fn due(wish: &Manifests, seen: &Seen) -> Seen {
    let entries = std::fs::read_dir(&wish.folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        let (path, changed) = (entry.path(), entry.metadata().ok()?.modified().ok()?);
        let ending = path.extension()?.to_str()?;
        let name = path.file_stem()?.to_str()?;
        let is_wanted = ["yaml", "yml", "json"].contains(&ending)
            && !wish.disabled.iter().any(|one| one == name);
        (is_wanted && seen.get(&path) != Some(&changed)).then_some((path, changed))
    });
    files.collect()
}

/// Applies what is due for as long as this process lives. What is refused is tried again.
pub(super) fn follow(plan: &Plan, wish: &Manifests) {
    let mut seen = Seen::new();
    loop {
        for (path, changed) in due(wish, &seen) {
            match apply(plan, &path) {
                Ok(()) => {
                    seen.insert(path, changed);
                }
                Err(said) => eprintln!("{} is not applied: {said}", path.display()),
            }
        }
        thread::sleep(PAUSE);
    }
}

fn apply(plan: &Plan, path: &Path) -> Result<(), String> {
    let words = ["apply", "--filename", &path.display().to_string()];
    let output = routes::kubectl(plan, &words).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_files_are_due_and_disabled_ones_never() {
        let dir = tempfile::tempdir().unwrap();
        let write =
            |name: &str| holdfast_durable::write(&dir.path().join(name), b"", 0o600).unwrap();
        ["b.yaml", "a.json", "off.yaml", "notes.txt"].into_iter().for_each(write);
        let wish = Manifests {
            own: PathBuf::new(),
            folder: dir.path().into(),
            disabled: vec!["off".into()],
            elects: false,
            started: jiff::Timestamp::UNIX_EPOCH,
        };
        let seen = due(&wish, &Seen::new());
        let names: Vec<_> = seen.keys().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["a.json", "b.yaml"]);
        assert_eq!(due(&wish, &seen), Seen::new());
        let path = dir.path().join("b.yaml");
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(due(&wish, &seen), Seen::from([(path, SystemTime::UNIX_EPOCH)]));
    }
}
