//! Gathers profiles: those compiled in, then those of directories, the later one winning by name.
//!
//! A broken file never takes a profile away: it is reported, and the next weaker file of that
//! name (in the end the one compiled in) is used. The same holds for a file that is good by
//! itself and does not fit its base: the file of the strongest layer in the chain is the one that
//! is set aside, because it is the one that somebody changed.

use crate::file::ProfileFile;
use crate::profile::Profile;
use crate::validate::{Problem, faults, is_profile_name, parse, position, problem_at};
use holdfast_api::Reason;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The profile for machines that no other one knows.
pub const GENERIC: &str = "generic";

/// Bases above one another; more is a mistake.
const MAX_DEPTH: usize = 8;

/// A file larger than this is not a profile.
const MAX_FILE_BYTES: u64 = 256 * 1024;

macro_rules! shipped_profiles {
    ($($name:literal),+ $(,)?) => {
        /// Name and text of every profile that is compiled in.
        pub const fn shipped() -> &'static [(&'static str, &'static str)] {
            &[ $( ($name, include_str!(concat!("../profiles/", $name, ".toml"))), )+ ]
        }
    };
}

shipped_profiles![
    "advantech",
    "advantech-uno",
    "appliance",
    "aws",
    "azure",
    "cloud",
    "dell-edge-gateway",
    "dell-edge-gateway-3000",
    "gcp",
    "generic",
    "intel-nuc",
    "intel-nuc-10",
    "intel-nuc-11",
    "intel-nuc-12",
    "intel-nuc-13",
    "intel-nuc-7",
    "intel-nuc-8",
    "kvm",
    "onlogic",
    "onlogic-helix-300",
    "supermicro-e300",
    "supermicro-e300-9d",
    "virtual",
    "vmware",
];

/// Where a profile was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in.
    Shipped,
    /// A file, in the layer with this number (0 is the weakest directory).
    File {
        /// Its path.
        path: PathBuf,
        /// Its layer.
        layer: usize,
        /// Whether the file is broken by now and this is what it said when it was good.
        last_good: bool,
    },
}

impl Origin {
    fn strength(&self) -> (usize, bool) {
        match self {
            Origin::Shipped => (0, false),
            Origin::File { layer, last_good, .. } => (layer + 1, !last_good),
        }
    }

    fn shown(&self, name: &str) -> String {
        match self {
            Origin::Shipped => format!("(shipped) {name}.toml"),
            Origin::File { path, .. } => path.display().to_string(),
        }
    }
}

/// One file that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    origin: Origin,
    text: String,
    file: ProfileFile,
}

/// All profiles by name, and what was wrong with files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    profiles: BTreeMap<String, Profile>,
    sources: BTreeMap<String, Source>,
    problems: Vec<Problem>,
}

impl Catalogue {
    /// Only what is compiled in.
    pub fn shipped() -> Catalogue {
        Catalogue::load(&[])
    }

    /// What is compiled in, overridden by the files `*.toml` of these directories, the weakest
    /// first. A directory that is not there is empty.
    pub fn load(dirs: &[PathBuf]) -> Catalogue {
        Catalogue::default().reload(dirs)
    }

    /// As [`load`](Self::load); a file that is broken now and was good in `self` keeps standing
    /// as it was.
    #[must_use]
    pub fn reload(&self, dirs: &[PathBuf]) -> Catalogue {
        let mut layers = Layers::default();
        for (name, text) in shipped() {
            layers.add(name, Origin::Shipped, text.to_string());
        }
        for (layer, dir) in dirs.iter().enumerate() {
            layers.add_dir(dir, layer, self);
        }
        layers.settle()
    }

    /// The profile of this name.
    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// All profiles, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.profiles.values()
    }

    /// Where the profile of this name was read from.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.sources.get(name).map(|source| &source.origin)
    }

    /// What was wrong with files; the profiles stand nevertheless.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Every mistake in a file that is to be put beside these profiles: those of
    /// [`validate`](crate::validate()), and those that show when it is put on top of its base.
    pub fn validate(&self, text: &str, file_name: &str) -> Vec<Problem> {
        let stem =
            Path::new(file_name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let origin =
            Origin::File { path: file_name.into(), layer: usize::MAX - 1, last_good: false };
        let file = match named(stem, text, file_name) {
            Ok(file) => file,
            Err(problems) => return problems,
        };
        let mut sources = self.sources.clone();
        sources.insert(stem.to_owned(), Source { origin, text: text.to_owned(), file });
        match resolve(stem, &sources) {
            Ok(_) => Vec::new(),
            Err(Broken { problem, .. }) => vec![Problem { file: file_name.to_owned(), ..problem }],
        }
    }
}

/// The files of all layers, the strongest last.
#[derive(Default)]
struct Layers {
    candidates: BTreeMap<String, Vec<Source>>,
    problems: Vec<Problem>,
}

impl Layers {
    fn add(&mut self, name: &str, origin: Origin, text: String) -> bool {
        match named(name, &text, &origin.shown(name)) {
            Ok(file) => {
                self.candidates.entry(name.to_owned()).or_default().push(Source {
                    origin,
                    text,
                    file,
                });
                true
            }
            Err(problems) => {
                self.problems.extend(problems);
                false
            }
        }
    }

    fn add_dir(&mut self, dir: &Path, layer: usize, before: &Catalogue) {
        let paths = match profile_files(dir) {
            Ok(paths) => paths,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.unreadable(dir, &error),
        };
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let last_good = before.sources.get(&name).filter(
                |source| matches!(&source.origin, Origin::File { path: known, .. } if *known == path),
            );
            // Below the new text, so that it is there to fall back on.
            if let Some(source) = last_good {
                let origin = Origin::File { path: path.clone(), layer, last_good: true };
                self.candidates
                    .entry(name.clone())
                    .or_default()
                    .push(Source { origin, ..source.clone() });
            }
            match read(&path) {
                Ok(text) => {
                    self.add(&name, Origin::File { path, layer, last_good: false }, text);
                }
                Err(error) => self.unreadable(&path, &error),
            }
        }
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        let message = format!("cannot be read: {error}");
        self.problems.push(problem_at(
            "",
            &path.display().to_string(),
            0,
            Reason::ProfileInvalid,
            message,
        ));
    }

    /// Sets files aside until all that are left fit together.
    fn settle(mut self) -> Catalogue {
        loop {
            let sources: BTreeMap<String, Source> = self
                .candidates
                .iter()
                .filter_map(|(name, stack)| {
                    stack.last().map(|source| (name.clone(), source.clone()))
                })
                .collect();
            let resolved: Result<BTreeMap<String, Profile>, Broken> =
                sources.keys().map(|name| Ok((name.clone(), resolve(name, &sources)?))).collect();
            match resolved {
                Ok(profiles) => {
                    self.problems.sort();
                    self.problems.dedup();
                    return Catalogue { profiles, sources, problems: self.problems };
                }
                Err(Broken { culprit, problem }) => {
                    self.problems.push(problem);
                    // Each turn removes one file, so this ends.
                    if let Some(stack) = self.candidates.get_mut(&culprit) {
                        stack.pop();
                    }
                }
            }
        }
    }
}

fn named(name: &str, text: &str, shown: &str) -> Result<ProfileFile, Vec<Problem>> {
    if !is_profile_name(name) {
        let message =
            "the name of a profile's file is lower-case letters, digits and hyphens, at most 63";
        return Err(vec![problem_at(text, shown, 0, Reason::ProfileInvalid, message.to_owned())]);
    }
    parse(text, shown)
}

fn profile_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{size} bytes is no profile"),
        ));
    }
    std::fs::read_to_string(path)
}

/// A chain of files that does not fit together, and which of them is to be set aside.
struct Broken {
    culprit: String,
    problem: Problem,
}

/// The chain from a profile to its last base, merged and checked.
fn resolve(name: &str, sources: &BTreeMap<String, Source>) -> Result<Profile, Broken> {
    let mut chain: Vec<&str> = Vec::new();
    let mut next = Some(name);
    while let Some(current) = next {
        let Some((key, source)) = sources.get_key_value(current) else {
            let asker = chain.last().copied().unwrap_or(name);
            return Err(broken(
                asker,
                &["inherit"],
                sources,
                format!("there is no profile `{current}` to inherit from"),
            ));
        };
        if chain.contains(&current) || chain.len() == MAX_DEPTH {
            let culprit = strongest(&chain, sources);
            let way = format!("{} → {current}", chain.join(" → "));
            let fault = if chain.contains(&current) {
                "inherits from itself"
            } else {
                "inherits too deeply"
            };
            return Err(broken(culprit, &["inherit"], sources, format!("{fault}: {way}")));
        }
        chain.push(key);
        next = source.file.inherit.as_deref();
    }
    let bases: Vec<String> = chain[1..].iter().map(|base| (*base).to_owned()).collect();
    let merged = chain
        .iter()
        .rev()
        .filter_map(|link| sources.get(*link))
        .fold(ProfileFile::default(), |base, source| source.file.clone().over(base));
    if let Some(fault) = faults(&merged).into_iter().next() {
        let culprit = strongest(&chain, sources);
        let mut broken = broken(culprit, &[], sources, String::new());
        let text = sources.get(culprit).map_or("", |source| source.text.as_str());
        let on_top = format!("{} ({name}, on top of {})", fault.message, bases.join(", "));
        broken.problem = Problem { message: on_top, ..fault.locate(text, &broken.problem.file) };
        return Err(broken);
    }
    Ok(merged.resolve(name, bases))
}

fn broken(
    culprit: &str,
    path: &[&str],
    sources: &BTreeMap<String, Source>,
    message: String,
) -> Broken {
    let path: Vec<String> = path.iter().map(|step| (*step).to_owned()).collect();
    let (text, file) = sources.get(culprit).map_or(("", culprit.to_owned()), |source| {
        (source.text.as_str(), source.origin.shown(culprit))
    });
    let problem = problem_at(text, &file, position(text, &path), Reason::ProfileInvalid, message);
    Broken { culprit: culprit.to_owned(), problem }
}

/// The file that somebody changed: of the strongest layer, the one nearest to the child.
fn strongest<'a>(chain: &[&'a str], sources: &BTreeMap<String, Source>) -> &'a str {
    let strength = |name: &str| sources.get(name).map(|source| source.origin.strength());
    let mut best = chain[0];
    for link in chain {
        if strength(link) > strength(best) {
            best = link;
        }
    }
    best
}
