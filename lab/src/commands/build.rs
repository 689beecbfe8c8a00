//! Where the programs of a world come from, for the commands that need them.

use clap::Args;
use lab::programs::Programs;
use std::path::PathBuf;

/// Which programs a world runs.
#[derive(Debug, Clone, Args)]
pub(super) struct Source {
    /// Directory with the programs; they are built when it is not given.
    #[arg(long, env = "HOLDFAST_BIN_DIR", value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Cargo profile to build the programs in.
    #[arg(long, default_value = "lab", value_name = "PROFILE")]
    profile: String,
}

impl Source {
    pub(super) fn programs(&self) -> anyhow::Result<Programs> {
        match &self.bin_dir {
            Some(dir) => Ok(Programs::in_dir(&std::path::absolute(dir)?)?),
            None => {
                eprintln!("building the programs (profile {})", self.profile);
                Ok(Programs::build(&self.profile)?)
            }
        }
    }
}
