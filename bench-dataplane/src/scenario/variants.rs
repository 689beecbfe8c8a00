//! `hugepages` and `helpers`: one stream of TCP through a tunnel of ours, beside ours that was told
//! otherwise: packets in other pages, or sealed and opened without help.
//!
//! Huge pages are put into the system's pool for the time of the run, and taken out again. Where
//! the kernel has no free memory in one piece for them, or a program takes none of that size, that
//! size is left out, and the setup says so. Fails: when no size is left.

use super::{Options, Scenario, tcp};
use crate::Report;
use crate::tunnel::pairs;
use crate::tunnel::program::{self, Program};
use crate::tunnel::rig::Rig;
use anyhow::{Context, ensure};
use std::path::PathBuf;

pub(super) const HUGEPAGES: Scenario = Scenario {
    name: "hugepages",
    about: "one stream of TCP with packets in pages of 2 MiB and of 1 GiB; beside the usual ones",
    run: hugepages,
};

pub(super) const HELPERS: Scenario = Scenario {
    name: "helpers",
    about: "one stream of TCP with helping threads; beside none",
    run: helpers,
};

const PAIRS: u32 = 10;
const SECONDS: u32 = 5;
const QUICK_SECONDS: u32 = 1;
/// What both ends of a tunnel take of huge pages of 2 MiB at most.
const PAGES_2M: u64 = 8;

fn begin(name: &str, options: &Options) -> anyhow::Result<(Report, Program)> {
    let (mut report, ours) = program::alone(name)?;
    report.set("seconds per turn", seconds(options));
    if options.quick {
        report.set("quick", "few and short turns");
    }
    Ok((report, ours))
}

fn seconds(options: &Options) -> u32 {
    if options.quick { QUICK_SECONDS } else { SECONDS }
}

/// Turns of ours with `arguments` beside ours with `usual`, told as `name`.
fn compare(
    options: &Options,
    report: &mut Report,
    ours: &Program,
    (name, arguments, usual): (&str, &[&str], &[&str]),
) -> anyhow::Result<()> {
    let pairs = options.rounds_or(PAIRS, 2);
    report.set("pairs", pairs);
    (options.progress)(name);
    let programs = [&ours.with(arguments), &ours.with(usual)];
    let turns =
        pairs::turns(options, pairs, programs, |_, program| tcp::turn(program, seconds(options)))?;
    let scenario = report.scenario.clone();
    for (what, unit, of) in tcp::WHATS {
        let what = what.replacen("tcp", &scenario, 1);
        let [told, plain] = [0, 1].map(|side| turns[side].iter().map(of).collect::<Vec<f64>>());
        pairs::add_ratio(report, &format!("{what}.ratio.{name}"), &told, &plain);
        for (who, samples) in [(name, told), ("usual", plain)] {
            let who = format!("{what}, {who} beside {name}");
            report.results.push(crate::Series::new(who, unit, samples));
        }
    }
    Ok(())
}

fn helpers(options: &Options) -> anyhow::Result<Report> {
    let (mut report, ours) = begin("helpers", options)?;
    for number in ["1", "2"] {
        let told = ["--helpers", number];
        compare(options, &mut report, &ours, (number, &told, &["--helpers", "0"]))?;
    }
    Ok(report)
}

fn hugepages(options: &Options) -> anyhow::Result<Report> {
    let (mut report, ours) = begin("hugepages", options)?;
    for (name, kib, count) in [("2M", 2048, PAGES_2M), ("1G", 1 << 20, 2)] {
        let told = ["--pages", name];
        let tried = Pool::with_free(kib, count)
            .and_then(|pool| Ok((pool, Rig::up(&ours.with(&told))?.huge_kib()?)))
            .and_then(|(pool, taken)| Ok((pool, huge(kib, &taken)?)));
        let key = format!("pages of {name}");
        match tried {
            Ok((_pool, taken)) => {
                report.set(&key, format!("{taken} in each program at least"));
                compare(options, &mut report, &ours, (name, &told, &["--pages", "usual"]))?;
            }
            Err(error) => report.set(&key, format!("skipped: {error:#}")),
        }
    }
    ensure!(!report.results.is_empty(), "this machine has no huge pages: {:?}", report.setup);
    Ok(report)
}

/// How many pages of so many KiB each program has at least, of what it has of huge ones in KiB: one
/// that gets none takes the usual ones, and would be compared with itself.
fn huge(kib: u64, taken: &[u64]) -> anyhow::Result<u64> {
    let least = taken.iter().min().copied().unwrap_or_default();
    ensure!(least >= kib, "a program has {least} KiB of huge pages, not even one of {kib} KiB");
    Ok(least / kib)
}

/// Pages in the system's pool (Documentation/admin-guide/mm/hugetlbpage.rst); as many as before
/// when dropped.
struct Pool {
    path: PathBuf,
    before: u64,
}

impl Pool {
    /// So many that nobody uses, of so many KiB each.
    fn with_free(kib: u64, count: u64) -> anyhow::Result<Self> {
        let folder = PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB"));
        let read = |name: &str| -> anyhow::Result<u64> {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(text.trim().parse()?)
        };
        let before = read("nr_hugepages")?;
        let pool = Pool { path: folder.join("nr_hugepages"), before };
        let missing = count.saturating_sub(read("free_hugepages")?);
        pool.set(before + missing)?;
        let free = read("free_hugepages")?;
        ensure!(free >= count, "the kernel finds memory for {free} of {count} pages");
        Ok(pool)
    }

    fn set(&self, count: u64) -> anyhow::Result<()> {
        // A file of the kernel: written in place.
        let mut file = std::fs::File::options().write(true).open(&self.path)?;
        std::io::Write::write_all(&mut file, count.to_string().as_bytes())
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = self.set(self.before) {
            eprintln!("huge pages are left in the pool: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_the_usual_pages_is_no_one_with_huge_ones() {
        assert_eq!(huge(2048, &[4096, 6144]).unwrap(), 2);
        for taken in [&[4096, 0][..], &[1024, 4096], &[]] {
            assert!(huge(2048, taken).is_err(), "{taken:?}");
        }
        assert!(huge(1 << 20, &[4096, 4096]).is_err(), "pages of 2 MiB are not of 1 GiB");
    }
}
