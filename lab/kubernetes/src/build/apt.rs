//! Debian's packages without touching the machine's package management: apt with folders of its
//! own, and with sources made from those of the machine.

use super::BuildError;
use crate::recipe::SUITE;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// apt in a folder.
pub(super) struct Apt {
    root: PathBuf,
}

/// The sources of our own: what goes into a `.list` and what into a `.sources` file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sources {
    lines: String,
    stanzas: String,
}

impl Sources {
    /// What the machine's files say about [`SUITE`], binary packages and sources both asked for.
    pub(super) fn derive(files: &[(PathBuf, String)]) -> Self {
        let mut sources = Self::default();
        for (path, text) in files {
            if path.extension().is_some_and(|extension| extension == "sources") {
                text.split("\n\n")
                    .filter_map(stanza)
                    .for_each(|one| sources.stanzas.push_str(&one));
            } else {
                text.lines().filter_map(line).for_each(|one| sources.lines.push_str(&one));
            }
        }
        sources
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.stanzas.is_empty()
    }
}

/// `deb [options] URI suite component...` (sources.list(5)) for binaries and for sources.
fn line(line: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (options, rest) = rest.split_once(']')?;
            (format!("[{options}] "), rest)
        }
        None => (String::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    (suite == SUITE && words.any(|component| component == "main"))
        .then(|| format!("deb {options}{uri} {suite} main\ndeb-src {options}{uri} {suite} main\n"))
}

/// The same for a stanza in the style of RFC 822; lines that continue a field stay with it.
fn stanza(text: &str) -> Option<String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            let field: &mut String = fields.get_mut(last.as_ref()?)?;
            field.push('\n');
            field.push_str(line);
        } else if let Some((name, value)) = line.split_once(':') {
            let name = name.trim().to_ascii_lowercase();
            fields.insert(name.clone(), value.trim().to_owned());
            last = Some(name);
        }
    }
    let has = |name: &str, word: &str| {
        fields.get(name).is_some_and(|value| value.split_whitespace().any(|one| one == word))
    };
    let off = fields.get("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if off || !has("types", "deb") || !has("suites", SUITE) || !has("components", "main") {
        return None;
    }
    fields.insert("types".into(), "deb deb-src".into());
    fields.insert("suites".into(), SUITE.into());
    fields.insert("components".into(), "main".into());
    let mut stanza: String =
        fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    stanza.push('\n');
    Some(stanza)
}

impl Apt {
    /// Makes the folders and the sources.
    pub(super) fn prepare(root: &Path) -> Result<Self, BuildError> {
        for dir in ["lists/partial", "cache/archives/partial", "sources"] {
            let path = root.join(dir);
            std::fs::create_dir_all(&path).map_err(BuildError::file("make", &path))?;
        }
        let sources = Sources::derive(&machine_files());
        if sources.is_empty() {
            return Err(BuildError::NoSuite);
        }
        for (name, text) in [("own.list", &sources.lines), ("own.sources", &sources.stanzas)] {
            holdfast_durable::write(&root.join("sources").join(name), text.as_bytes(), 0o644)?;
        }
        Ok(Self { root: root.to_path_buf() })
    }

    /// Runs `apt-get` there, in the folder `dir`.
    pub(super) fn get(&self, dir: &Path, arguments: &[&str]) -> Result<(), BuildError> {
        let place = |name: &str, dir: &str| format!("{name}={}", self.root.join(dir).display());
        let output = Command::new("apt-get")
            .current_dir(dir)
            .args(["-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root"])
            .args(["-o", "Acquire::Retries=3", "-o", "Dir::Etc::SourceList=/dev/null"])
            .args(["-o", &place("Dir::Etc::SourceParts", "sources")])
            .args(["-o", &place("Dir::State::Lists", "lists")])
            .args(["-o", &place("Dir::Cache", "cache")])
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => BuildError::NoApt,
                _ => BuildError::Start { program: "apt-get", source },
            })?;
        let said = [output.stdout, output.stderr]
            .map(|out| String::from_utf8_lossy(&out).into_owned())
            .concat();
        // `update` succeeds without having fetched anything.
        let unreachable =
            ["Could not resolve", "Could not connect", "Temporary failure", "Failed to fetch"];
        let complaint = |words: &[&str]| {
            said.lines()
                .find(|line| words.iter().any(|word| line.contains(word)))
                .map(|line| line.trim().to_owned())
        };
        match (output.status.success(), complaint(&unreachable)) {
            (_, Some(why)) => Err(BuildError::Download { why }),
            (true, None) => Ok(()),
            (false, None) => Err(BuildError::Download {
                why: complaint(&["E: "]).unwrap_or_else(|| "apt-get gave no reason".into()),
            }),
        }
    }
}

/// The machine's files of package sources, in apt's order.
fn machine_files() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.retain(|path| path.extension().is_some_and(|name| name == "list" || name == "sources"));
    paths.sort();
    paths.insert(0, "/etc/apt/sources.list".into());
    // What cannot be read cannot be used; that nothing is left is told by the caller.
    paths
        .into_iter()
        .filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(name: &str, text: &str) -> Sources {
        Sources::derive(&[(PathBuf::from(name), text.into())])
    }

    #[test]
    fn lines_of_the_suite_are_taken_with_their_options() {
        let text = "# deb http://m/debian bookworm main\n\
                    deb [signed-by=/k.gpg arch=amd64] http://m/debian bookworm main contrib\n\
                    deb http://m/debian trixie main\n\
                    deb http://m/other stable main\n";
        let sources = derive("/etc/apt/sources.list", text);
        assert_eq!(
            sources.lines,
            "deb [signed-by=/k.gpg arch=amd64] http://m/debian bookworm main\n\
             deb-src [signed-by=/k.gpg arch=amd64] http://m/debian bookworm main\n"
        );
        assert!(sources.stanzas.is_empty());
    }

    #[test]
    fn stanzas_keep_their_keys_and_gain_sources() {
        let text = "Types: deb\n# a remark\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By:\n -----BEGIN\n .\n\n\
                    Types: deb\nURIs: http://m/security\nSuites: bookworm-security\nComponents: main\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://n\nSuites: bookworm\nComponents: main\n";
        let sources = derive("/etc/apt/sources.list.d/debian.sources", text);
        assert!(sources.lines.is_empty());
        assert_eq!(
            sources.stanzas,
            "components: main\nsigned-by: \n -----BEGIN\n .\nsuites: bookworm\ntypes: deb deb-src\n\
             uris: http://m/debian\n\n"
        );
    }

    #[test]
    fn a_machine_without_the_suite_is_told() {
        assert!(derive("x.list", "deb http://m/debian trixie main\n").is_empty());
    }
}
