//! `lab break` and `lab heal`.

use super::{Global, Output, need_root, print_json};
use clap::{Args, ValueEnum};
use lab::emulator::{Change, Cut, LinkModel, check_loss};
use lab::faults::{self, Fault, Target};

#[derive(Debug, Args)]
pub(super) struct Break {
    /// What: an edge or node (`re-1`: its link), `controller` (its process), `active` (the link of
    /// the edge that carries node-1's traffic; `active:2` for node-2), a process (`node-1.holdfastd`,
    /// `process:re-1`), or a link by name (`link:controller`, `re-1-bb`).
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<String>,
    /// How; a link is cut and a process is killed when nothing is said.
    #[arg(long, value_name = "HOW")]
    how: Option<How>,
    /// Lose this share of a link's frames at random, 0.0 to 1.0.
    #[arg(long, value_name = "SHARE", conflicts_with = "how", value_parser = share)]
    loss: Option<f64>,
    /// Give a link this one-way delay in milliseconds, 0 to 60000.
    #[arg(long, value_name = "MS", conflicts_with = "how", value_parser = milliseconds())]
    delay_ms: Option<u64>,
    /// Delay each frame of a link by up to this much more, in milliseconds, 0 to 60000.
    #[arg(long, value_name = "MS", conflicts_with = "how", value_parser = milliseconds())]
    jitter_ms: Option<u64>,
    /// Let a link carry at most this many megabits per second; 0 for no limit.
    #[arg(long, value_name = "MBIT", conflicts_with = "how")]
    rate_mbit: Option<u64>,
}

/// How something is broken.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum How {
    /// The link passes nothing.
    Cut,
    /// The link passes nothing from the host outwards.
    CutOut,
    /// The link passes nothing inwards to the host.
    CutIn,
    /// The process is killed without warning.
    Kill,
    /// The process is stopped and keeps what it has.
    Freeze,
}

#[derive(Debug, Args)]
pub(super) struct Heal {
    /// What; everything when nothing is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

impl Break {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<()> {
        need_root()?;
        let world = global.open()?;
        let _lock = world.home().lock()?;
        let mut done = Vec::new();
        for text in &self.targets {
            let target = read(text);
            let fault = self.fault().unwrap_or_else(|| faults::usual(&target));
            done.push(faults::inject(&world, &target, &fault)?);
        }
        tell(global, &done)
    }

    fn fault(&self) -> Option<Fault> {
        let change = Change {
            delay_us: self.delay_ms.map(|ms| ms.saturating_mul(1000)),
            jitter_us: self.jitter_ms.map(|ms| ms.saturating_mul(1000)),
            loss: self.loss,
            rate_bits: self.rate_mbit.map(|mbit| mbit.saturating_mul(1_000_000)),
            ..Change::default()
        };
        match self.how {
            // A link's first end is the host that it is named after.
            Some(How::Cut) => Some(Fault::Cut(Cut::Both)),
            Some(How::CutOut) => Some(Fault::Cut(Cut::AToB)),
            Some(How::CutIn) => Some(Fault::Cut(Cut::BToA)),
            Some(How::Kill) => Some(Fault::Kill),
            Some(How::Freeze) => Some(Fault::Freeze),
            None => (change != Change::default()).then_some(Fault::Degrade(change)),
        }
    }
}

impl Heal {
    pub(super) fn run(&self, global: &Global) -> anyhow::Result<()> {
        need_root()?;
        let mut world = global.open()?;
        let _lock = world.home().lock()?;
        let mut done = Vec::new();
        for text in &self.targets {
            let target = read(text);
            done.extend(faults::heal(&mut world, Some(&target))?);
        }
        if self.targets.is_empty() {
            done = faults::heal(&mut world, None)?;
        }
        if done.is_empty() {
            done.push("nothing was broken".into());
        }
        tell(global, &done)
    }
}

/// The longest delay that the emulator takes.
fn milliseconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(..=LinkModel::LONGEST_US / 1000)
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    match check_loss(share) {
        Ok(()) => Ok(share),
        Err(error) => Err(error.to_string()),
    }
}

fn read(text: &str) -> Target {
    let Ok(target) = text.parse();
    target
}

fn tell(global: &Global, done: &[String]) -> anyhow::Result<()> {
    match global.output {
        Output::Json => print_json(&done),
        Output::Text => {
            done.iter().for_each(|line| say!("{line}"));
            Ok(())
        }
    }
}
