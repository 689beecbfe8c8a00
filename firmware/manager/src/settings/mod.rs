//! Settings of the manager: configuration fragments, in three types.
//!
//! [`Fragment`] is what one file may say, [`Merged`] what all files say together, [`Settings`] what
//! the program may rely on. Only the last leaves this module.
//!
//! Directories, weakest first: `/usr/lib/holdfast/config.d` (vendor), `/etc/holdfast/config.d`
//! (administrator), `/run/holdfast/config.d` (runtime). A file replaces one of the same name in a
//! weaker directory; then files are read in the order of their names, and later keys win. A link in
//! `[network]` replaces the one of the same name or role.
//!
//! A file that cannot be used is an error with file and line. What the files said when they could
//! last be used is kept on the disk and stays in force meanwhile ([`load_or_last_good`]): a typo
//! must not cost a box that nobody visits its network.

mod fragment;
mod merged;

pub use fragment::{Fragment, KubernetesFragment, NetworkFragment, TunneldFragment};
pub use merged::{
    KubernetesSettings, KubernetesStart, Merged, Settings, TunneldStart, merge, validate,
};

use holdfast_api::local::Problem;
use holdfast_api::paths::Root;
use holdfast_api::{Reason, chain};
use holdfast_durable::{Loaded, Slots};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be; the source names the line.
    #[error("{} line {line}: {message}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A value is impossible.
    #[error("{key}: {message}")]
    Value {
        /// The key, dotted.
        key: String,
        /// What is wrong.
        message: String,
    },
}

impl SettingsError {
    /// The reason code to report.
    pub fn reason(&self) -> Reason {
        Reason::ConfigInvalid
    }
}

/// The texts of the files that count, by name.
type Texts = BTreeMap<String, String>;

/// Reads, merges and validates all fragments below `root`; when they cannot be used, what they
/// said when they last could, and what is wrong with them. A box whose files never could be used
/// gets the defaults.
pub fn load_or_last_good(root: &Root) -> (Settings, Option<Problem>) {
    let kept = Slots::new(root.state_dir().join("settings.json"), 0o600);
    let last_good = || match kept.load::<Texts>() {
        Ok(Loaded::Newest(texts) | Loaded::LastGood(texts, _)) => Some(texts),
        Ok(Loaded::Empty) | Err(_) => None,
    };
    let error = match read_all(root) {
        Ok((settings, texts)) => {
            if last_good().as_ref() != Some(&texts)
                && let Err(error) = kept.store(&texts)
            {
                tracing::warn!(error = chain(&error), "the last good settings are not kept");
            }
            return (settings, None);
        }
        Err(error) => error,
    };
    let (settings, instead) = match last_good().and_then(|texts| settings_of(&texts).ok()) {
        Some(settings) => (settings, "the last good settings stay in force"),
        None => (defaults(), "nothing is known from before, so the defaults are in force"),
    };
    (settings, Some(Problem::new(error.reason(), format!("{}; {instead}", chain(&error)))))
}

fn defaults() -> Settings {
    validate(merge([])).expect("what nobody said cannot be wrong")
}

/// What kept texts say.
fn settings_of(texts: &Texts) -> Result<Settings, SettingsError> {
    let fragments = texts.iter().map(|(name, text)| parse(Path::new(name), text));
    validate(merge(fragments.collect::<Result<Vec<_>, _>>()?))
}

/// The first file or value that cannot be used is the error.
fn read_all(root: &Root) -> Result<(Settings, Texts), SettingsError> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in root.config_dirs() {
        for path in toml_files(&dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, path);
        }
    }
    let (mut fragments, mut texts) = (Vec::new(), Texts::new());
    for (name, path) in files {
        let text = std::fs::read_to_string(&path)
            .map_err(|source| SettingsError::Read { path: path.clone(), source })?;
        fragments.push(parse(&path, &text)?);
        texts.insert(name, text);
    }
    Ok((validate(merge(fragments))?, texts))
}

fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    let fail = |source| SettingsError::Read { path: dir.into(), source };
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn parse(path: &Path, text: &str) -> Result<Fragment, SettingsError> {
    toml::from_str(text).map_err(|error| SettingsError::Parse {
        path: path.into(),
        line: error
            .span()
            .map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
        message: error.message().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Root, path: &str, text: &str) {
        holdfast_durable::write(&root.join(path), text.as_bytes(), 0o644).unwrap();
    }

    #[test]
    fn stronger_directories_replace_files_and_later_names_win() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        put(
            &root,
            "usr/lib/holdfast/config.d/10-a.toml",
            "poll_secs = 10\ncontroller = 'https://vendor:1'\n",
        );
        put(&root, "etc/holdfast/config.d/10-a.toml", "poll_secs = 20\n");
        put(&root, "run/holdfast/config.d/20-b.toml", "poll_secs = 30\n");
        put(&root, "run/holdfast/config.d/README", "not a fragment");
        let (settings, _) = read_all(&root).unwrap();
        assert_eq!(settings.poll.as_secs(), 30);
        assert_eq!(settings.controller, None, "the vendor's file is replaced whole");
    }

    #[test]
    fn what_the_files_said_last_stays_in_force_while_they_cannot_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let file = "etc/holdfast/config.d/10-a.toml";
        put(&root, file, "poll_sec = 1\n");
        let (settings, problem) = load_or_last_good(&root);
        assert_eq!(settings, defaults());
        assert!(problem.unwrap().message.contains("10-a.toml line 1"));

        put(&root, file, "poll_secs = 77\n");
        assert_eq!(load_or_last_good(&root).1, None);
        for bad in ["poll_secs = 0\n", "poll_secs = 5\nx = 1\n", "[[["] {
            put(&root, file, bad);
            let (settings, problem) = load_or_last_good(&root);
            assert_eq!(settings.poll.as_secs(), 77, "{bad}");
            assert_eq!(problem.unwrap().reason, Reason::ConfigInvalid);
        }
        std::fs::remove_file(root.join(file)).unwrap();
        std::fs::remove_dir(root.join("etc/holdfast/config.d")).unwrap();
        put(&root, "etc/holdfast/config.d", "a file where the directory should be");
        assert_eq!(load_or_last_good(&root).0.poll.as_secs(), 77);

        std::fs::remove_file(root.join("etc/holdfast/config.d")).unwrap();
        let (settings, problem) = load_or_last_good(&root);
        assert_eq!((settings, problem), (defaults(), None), "files may be taken away");
    }

    #[test]
    fn a_misspelt_key_names_file_and_line() {
        let error = parse(Path::new("50-x.toml"), "poll_secs = 10\npol_secs = 3\n").unwrap_err();
        assert!(matches!(&error, SettingsError::Parse { line: 2, .. }), "{error}");
        let text = "[[network.links]]\nname = 'eth0'\nadresses = ['192.0.2.1/24']\n";
        let inner = parse(Path::new("50-x.toml"), text).unwrap_err();
        assert!(matches!(&inner, SettingsError::Parse { line: 1..=3, .. }), "{inner}");
        assert_eq!(error.reason(), Reason::ConfigInvalid);
    }

    #[test]
    fn impossible_values_name_their_key() {
        for (text, key) in [
            ("poll_secs = 0", "poll_secs"),
            ("controller = 'http://plain'", "controller"),
            ("[tunneld]\nstart = 'perhaps'", "tunneld.start"),
            ("[kubernetes]\nstart = 'perhaps'", "kubernetes.start"),
            ("[kubernetes]\nprogram = 'k3s'", "kubernetes.program"),
            ("[[network.links]]\naddresses = ['10.0.0.1/24']", "network.links"),
        ] {
            let fragment = parse(Path::new("x.toml"), text).unwrap();
            match validate(merge([fragment])) {
                Err(SettingsError::Value { key: found, .. }) => assert_eq!(found, key),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn packets_are_in_the_usual_pages_unless_the_last_file_says_otherwise() {
        use holdfast_api::tunnel::Pages;
        let pages = |texts: &[&str]| {
            let fragments = texts.iter().map(|text| parse(Path::new("x.toml"), text).unwrap());
            validate(merge(fragments)).unwrap().packet_pages
        };
        let (small, large) = ("[tunneld]\npacket_pages = '2M'", "[tunneld]\npacket_pages = '1G'");
        assert_eq!(pages(&[]), Pages::Usual);
        assert_eq!(pages(&[large, small, "[tunneld]\nstart = 'child'"]), Pages::Huge2M);
        assert!(parse(Path::new("x.toml"), "[tunneld]\npacket_pages = '4k'").is_err());
    }
}
