//! Why there is no machine.

use crate::packages::AptError;
use std::io;
use std::path::{Path, PathBuf};

/// Why tests could not be run in a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Machines of this architecture are not made.
    #[error("test machines are x86-64 so far, and this machine is {architecture}")]
    Architecture {
        /// This machine's, as Rust calls it.
        architecture: &'static str,
    },
    /// There is no place for kernels and logs.
    #[error("neither XDG_CACHE_HOME nor HOME says where to keep the kernel")]
    NoCache,
    /// QEMU is missing and cannot be installed.
    #[error("QEMU is missing; install Debian's package {package} (`apt-get install {package}`)")]
    NoQemu {
        /// Debian's package.
        package: &'static str,
        /// Why it could not be installed.
        #[source]
        source: AptError,
    },
    /// Something small that Debian always has.
    #[error("the program {program} is missing; install Debian's package {package}")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
    },
    /// There is no kernel and none can be fetched.
    #[error("no kernel for the machine: package {package} cannot be fetched: {why}")]
    NoKernel {
        /// Debian's package.
        package: String,
        /// The first line of what apt-get says.
        why: String,
    },
    /// A fetched kernel is of no use.
    #[error("the kernel in {} cannot be used: {why}", dir.display())]
    BadKernel {
        /// Where it was unpacked.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The tests do not compile.
    #[error("the tests of {packages} cannot be built; the compiler says why above")]
    Build {
        /// Which packages.
        packages: String,
    },
    /// A program that was started did not do its work.
    #[error("{program} {argument} failed: {answer}")]
    Program {
        /// The program.
        program: &'static str,
        /// What it was to work on.
        argument: String,
        /// What it wrote to stderr, or how it ended.
        answer: String,
    },
    /// A file.
    #[error("cannot {attempt} {}", path.display())]
    File {
        /// What was tried.
        attempt: &'static str,
        /// The file or program.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

impl MachineError {
    /// Whether this machine merely cannot have a test machine, so that the tests count as
    /// skipped, with this error as the reason.
    pub fn skips(&self) -> bool {
        match self {
            MachineError::Architecture { .. }
            | MachineError::NoCache
            | MachineError::NoQemu { .. }
            | MachineError::NoProgram { .. }
            | MachineError::NoKernel { .. } => true,
            MachineError::BadKernel { .. }
            | MachineError::Build { .. }
            | MachineError::Program { .. }
            | MachineError::File { .. } => false,
        }
    }
}

pub(super) fn io_at(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MachineError {
    let path = path.to_path_buf();
    move |source| MachineError::File { attempt, path, source }
}
