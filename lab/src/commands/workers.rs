//! What `up` starts in the background.

use anyhow::Context;
use clap::Args;
use lab::emulator::{self, Link};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Emulate {
    /// Where to listen for changes.
    #[arg(long)]
    socket: PathBuf,
    /// File with the links, JSON.
    #[arg(long)]
    links: PathBuf,
}

impl Emulate {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let text = std::fs::read(&self.links)
            .with_context(|| format!("cannot read {}", self.links.display()))?;
        let links: Vec<Link> = serde_json::from_slice(&text).context("the links make no sense")?;
        Ok(emulator::run(&self.socket, &links)?)
    }
}

#[derive(Debug, Args)]
pub(super) struct Forward {
    /// Where to listen on this machine.
    #[arg(long)]
    listen: SocketAddr,
    /// Namespace to connect in.
    #[arg(long)]
    netns: String,
    /// Where to connect to.
    #[arg(long)]
    to: SocketAddr,
    /// Where to write the address that is listened on.
    #[arg(long)]
    address_file: PathBuf,
}

impl Forward {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        Ok(lab::forward::run(self.listen, &self.netns, self.to, &self.address_file)?)
    }
}
