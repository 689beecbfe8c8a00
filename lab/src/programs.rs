//! The programs that a world runs, and how they are built.

use crate::packages::cargo;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Packages whose programs a world runs.
const PACKAGES: [&str; 6] = [
    "holdfast-controller",
    "regional-edge",
    "holdfastd",
    "tunnels",
    "holdfast-cli",
    "holdfast-lab-kubernetes",
];

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    dir: PathBuf,
}

/// Why the programs cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// One is not there.
    #[error("there is no program {program} in {}", dir.display())]
    Absent {
        /// Its name.
        program: &'static str,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// cargo could not be run.
    #[error("cannot run cargo")]
    Cargo(#[source] std::io::Error),
    /// They do not build.
    #[error("the programs do not build; cargo's messages are above")]
    Build,
    /// cargo built them and does not say where.
    #[error("cargo does not say where it put the programs")]
    NoAnswer,
}

impl Programs {
    /// Names of all programs.
    pub const ALL: [&'static str; 6] =
        ["holdfast-controller", "regional-edge", "holdfastd", "tunneld", "holdfast", "lab-k3s"];

    /// The programs in this directory.
    ///
    /// # Errors
    /// [`ProgramsError::Absent`] names the first that is not there.
    pub fn in_dir(dir: &Path) -> Result<Self, ProgramsError> {
        match Programs::ALL.iter().find(|program| !dir.join(program).is_file()) {
            Some(program) => Err(ProgramsError::Absent { program, dir: dir.into() }),
            None => Ok(Programs { dir: dir.into() }),
        }
    }

    /// Builds the programs from the sources that this program was built from, in the profile `profile`.
    /// cargo's own progress goes to standard error.
    ///
    /// # Errors
    /// cargo cannot be run, or the programs do not build.
    pub fn build(profile: &str) -> Result<Self, ProgramsError> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = cargo();
        command.current_dir(workspace).args(["build", "--profile", profile]);
        command.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
        command.args(["--bins", "--message-format", "json-render-diagnostics"]);
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(ProgramsError::Cargo)?;
        let out = child.stdout.take().ok_or(ProgramsError::NoAnswer)?;
        // Read to the end before waiting: cargo stops when the pipe is full.
        let programs: Vec<PathBuf> = BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| executable(&line))
            .collect();
        if !child.wait().map_err(ProgramsError::Cargo)?.success() {
            return Err(ProgramsError::Build);
        }
        let dir =
            programs.first().and_then(|program| program.parent()).ok_or(ProgramsError::NoAnswer)?;
        Programs::in_dir(dir)
    }

    /// Where they are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of one, by its name.
    pub fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }
}

/// The program that a message of cargo announces
/// (<https://doc.rust-lang.org/cargo/reference/external-tools.html#json-messages>).
fn executable(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message.get("executable")?.as_str()?;
    (message.get("reason")? == "compiler-artifact").then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let library = r#"{"reason":"compiler-artifact","executable":null}"#;
        let program = r#"{"reason":"compiler-artifact","executable":"/t/lab/holdfastd"}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("not json"), None);
        assert_eq!(executable(program), Some("/t/lab/holdfastd".into()));
    }

    #[test]
    fn what_is_absent_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Programs::in_dir(dir.path()).unwrap_err();
        assert!(matches!(error, ProgramsError::Absent { program: "holdfast-controller", .. }));
    }
}
