//! Which Kubernetes the tests run on: a real k3s where there is one, else the laboratory's.

use crate::build::{self, BuildError, Progress};
use crate::cache::{Built, Cache};
use std::path::{Path, PathBuf};

/// Names a real k3s.
pub const K3S_VARIABLE: &str = "HOLDFAST_K3S";

/// Names the program `lab-k3s` where it is not beside the program that looks for it.
pub const PROGRAM_VARIABLE: &str = "HOLDFAST_LAB_K3S";

/// Why there is no Kubernetes.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// What [`K3S_VARIABLE`] names is not there.
    #[error("{K3S_VARIABLE} names {}, where there is no program", .0.display())]
    NoSuchK3s(PathBuf),
    /// `lab-k3s` is not built.
    #[error(
        "lab-k3s is not beside this program; build it with `cargo build -p holdfast-lab-kubernetes`, or name it with {PROGRAM_VARIABLE}"
    )]
    NoProgram,
    /// Kubernetes cannot be built.
    #[error("there is no k3s here and Kubernetes cannot be built")]
    Build(#[from] BuildError),
}

/// A Kubernetes to run tests on.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    real: Option<PathBuf>,
    program: PathBuf,
    built: Built,
}

impl Kubernetes {
    /// A real k3s (`HOLDFAST_K3S`, then `PATH`) or the laboratory's, which is built when it is not
    /// there; that takes minutes. The build is needed beside a real k3s too: the tests' registry is
    /// Debian's, and their images are made of its busybox and of the web server that is compiled with it.
    ///
    /// # Errors
    /// [`FindError`] with the next step.
    pub fn find_or_build(say: &mut dyn FnMut(&Progress)) -> Result<Self, FindError> {
        Self::with_program(&lab_k3s()?, say)
    }

    /// The same, with `lab-k3s` at a place that the caller knows.
    ///
    /// # Errors
    /// [`FindError`] with the next step.
    pub fn with_program(program: &Path, say: &mut dyn FnMut(&Progress)) -> Result<Self, FindError> {
        let real = match std::env::var_os(K3S_VARIABLE).map(PathBuf::from) {
            Some(path) if path.is_file() => Some(path),
            Some(path) => return Err(FindError::NoSuchK3s(path)),
            None => on_path("k3s"),
        };
        let built = match Built::of_environment() {
            Some(built) => built,
            None => build::build(&Cache::of_user().map_err(BuildError::NoCache)?, say)?,
        };
        Ok(Self { real, program: program.to_path_buf(), built })
    }

    /// Whether it is a real k3s.
    pub fn is_real(&self) -> bool {
        self.real.is_some()
    }

    /// What takes k3s' command line: `k3s`, or `lab-k3s`.
    pub fn k3s(&self) -> &Path {
        self.real.as_deref().unwrap_or(&self.program)
    }

    /// `lab-k3s`, which makes namespaces for either.
    pub fn lab_k3s(&self) -> &Path {
        &self.program
    }

    /// The build.
    pub fn built(&self) -> &Built {
        &self.built
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// Beside this program, or one folder above it, where cargo puts tests.
fn lab_k3s() -> Result<PathBuf, FindError> {
    if let Some(named) = std::env::var_os(PROGRAM_VARIABLE) {
        return Ok(named.into());
    }
    let own = std::env::current_exe().map_err(|_| FindError::NoProgram)?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("lab-k3s"))
        .find(|program| program.is_file())
        .ok_or(FindError::NoProgram)
}
