//! `udp`, `imix` and `pps`: the highest rate of UDP datagrams that a tunnel carries without losing
//! one, both ends the same program, beside the others.
//!
//! The rate is searched ([`search`]), in trials of a second; each turn has a rig of its own and
//! begins its search where the turn before found its rate. Queues take up what a tunnel cannot do for
//! a moment, and each program's are of another size: what was found must hold in a longer trial, or
//! two hundredths less in another one, and so on. Beside it: what both programs take of the processor
//! for a datagram in that trial, what the larger of both has of memory after it, and how far the
//! generator comes without a tunnel.

use super::{Options, Scenario, mib};
use crate::tunnel::datagrams::{Generator, Trial};
use crate::tunnel::pairs::{self, What};
use crate::tunnel::program::{self, Beside, Kind, Program};
use crate::tunnel::rig::Rig;
use crate::tunnel::search::{Care, STEP_DOWN, Search, confirmations};
use crate::{Report, Series};
use std::time::Duration;

pub(super) const UDP: Scenario = Scenario {
    name: "udp",
    about: "the highest rate of 1200-byte datagrams without loss through a tunnel of ours; beside the others",
    run: |options| run("udp", &[1200], Beside::All, options),
};

pub(super) const IMIX: Scenario = Scenario {
    name: "imix",
    about: "the highest rate of datagrams of mixed sizes, IMIX 7:4:1, without loss; beside the others",
    run: |options| run("imix", &IMIX_PAYLOADS, Beside::WireguardGo, options),
};

pub(super) const PPS: Scenario = Scenario {
    name: "pps",
    about: "the highest rate of 64-byte datagrams without loss; beside the others",
    run: |options| run("pps", &[64], Beside::WireguardGo, options),
};

const PAIRS: u32 = 10;
const TRIAL: Duration = Duration::from_secs(1);
const QUICK_TRIAL: Duration = Duration::from_millis(200);
/// That confirms the rate that was found.
const CONFIRMATION: Duration = Duration::from_secs(5);
const QUICK_CONFIRMATION: Duration = Duration::from_millis(500);
/// Where the first search of all begins, in datagrams a second.
const GUESS: u64 = 50_000;
const BARE_ROUNDS: u32 = 2;
/// What IPv4 and UDP add to a payload.
const HEADERS: usize = 28;
/// Packets of simple IMIX, of 40, 576 and 1500 bytes, seven to four to one, the largest cut to the
/// tunnel's MTU; as RFC 6985 asks, the order is told: no two of the larger in a row.
const IMIX_PAYLOADS: [usize; 12] = {
    let (small, middle, large) = (40 - HEADERS, 576 - HEADERS, 1420 - HEADERS);
    [small, middle, small, middle, small, large, small, middle, small, middle, small, small]
};

/// What a turn found.
struct Turn {
    trial: Option<Trial>,
    /// Processor time of both programs for a datagram, in microseconds.
    micros_per_datagram: f64,
    /// PSS of the larger of both, in MiB.
    memory: f64,
}

impl Turn {
    fn thousands(&self) -> f64 {
        self.trial.as_ref().map_or(0.0, |trial| trial.offered / 1e3)
    }
}

/// How a rate is searched.
#[derive(Clone, Copy)]
struct How<'a> {
    trial: Duration,
    confirmation: Duration,
    care: Care,
    /// Of payloads, in turns.
    sizes: &'a [usize],
}

fn run(
    scenario: &str,
    sizes: &[usize],
    others: Beside,
    options: &Options,
) -> anyhow::Result<Report> {
    let pairs = options.rounds_or(PAIRS, 1);
    let (how, bare_rounds) = match options.quick {
        true => (
            How { trial: QUICK_TRIAL, confirmation: QUICK_CONFIRMATION, care: Care::QUICK, sizes },
            1,
        ),
        false => (
            How { trial: TRIAL, confirmation: CONFIRMATION, care: Care::WHOLE, sizes },
            pairs.min(BARE_ROUNDS),
        ),
    };
    let (mut report, ours, peers) = program::side_by_side(scenario, options, others)?;
    report.set("pairs", pairs);
    let How { trial, confirmation, care: Care { again, precision }, .. } = how;
    report.set("trial", format!("{trial:?} or until one is lost, waits for all that was sent"));
    let tries = again + 1;
    let less =
        format!("{confirmation:?}, {tries} tries, then at {STEP_DOWN} of the rate and so on");
    report.set("trial of what was found", less);
    report.set("search", format!("until {precision} apart; lost {} times in a row", again + 1));
    report.set("payloads in turns", format!("{sizes:?} bytes"));
    let mut guesses = [GUESS; 3];
    let bare = Kind::Bare.find()?;
    let [wire] = pairs::turns(options, bare_rounds, [&bare], |_, program| {
        turn(program, how, &mut guesses[2])
    })?;
    let wire = wire.iter().map(Turn::thousands).collect();
    report.results.push(Series::new(format!("{scenario}, the wire alone"), "k/s", wire));
    for peer in peers {
        guesses[1] = GUESS;
        let turns = pairs::turns(options, pairs, [&ours, &peer], |side, program| {
            turn(program, how, &mut guesses[side])
        })?;
        let (cpu, memory) = (format!("{scenario}.cpu"), format!("{scenario}.memory"));
        let whats: [What<Turn>; 3] = [
            (scenario, "k/s", Turn::thousands),
            (&cpu, "us", |turn| turn.micros_per_datagram),
            (&memory, "MiB", |turn| turn.memory),
        ];
        pairs::add(&mut report, peer.name(), &turns, &whats);
        disorder(&mut report, scenario, peer.name(), &turns);
    }
    Ok(report)
}

/// What arrived, but not as it was sent; told when there was any.
fn disorder(report: &mut Report, scenario: &str, peer: &str, turns: &[Vec<Turn>; 2]) {
    let sides = [format!("holdfast beside {peer}"), peer.to_owned()];
    for (turns, who) in turns.iter().zip(sides) {
        let trials = || turns.iter().filter_map(|turn| turn.trial.as_ref());
        let reordered = trials().map(|trial| trial.reordered as f64).collect();
        let doubled = trials().map(|trial| trial.doubled as f64).collect();
        for (what, samples) in [("reordered", reordered), ("doubled", doubled)] {
            let samples: Vec<f64> = samples;
            if samples.iter().any(|count| *count > 0.0) {
                let name = format!("{scenario}.{what}, {who}");
                report.results.push(Series::new(name, "datagrams", samples));
            }
        }
    }
}

/// Searches; the guess becomes what was found.
fn turn(program: &Program, how: How, guess: &mut u64) -> anyhow::Result<Turn> {
    let rig = Rig::up(program)?;
    let mut generator = Generator::new(&rig)?;
    let cpu_micros = || -> anyhow::Result<f64> {
        Ok(rig.usage()?.iter().map(|usage| usage.cpu_ms as f64 * 1e3).sum())
    };
    let mut search = Search::around(*guess, how.care);
    while let Some(rate) = search.rate() {
        search.on(generator.trial_until_lost(rate, how.trial, how.sizes)?.is_lossless());
    }
    *guess = search.found().unwrap_or(*guess);
    let (mut best, mut micros_per_datagram): (Option<Trial>, f64) = (None, 0.0);
    let found = search.found().into_iter();
    for rate in found.flat_map(|found| confirmations(found, how.care)) {
        let before = cpu_micros()?;
        let trial = generator.trial_until_lost(rate, how.confirmation, how.sizes)?;
        if trial.is_lossless() {
            micros_per_datagram = (cpu_micros()? - before) / trial.sent.max(1) as f64;
            best = Some(trial);
            break;
        }
    }
    let memory = rig.usage()?.iter().map(|usage| mib(usage.pss_bytes)).fold(0.0, f64::max);
    Ok(Turn { trial: best, micros_per_datagram, memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_seven_four_one_within_the_mtu() {
        let count = |bytes: usize| {
            IMIX_PAYLOADS.iter().filter(|payload| **payload + HEADERS == bytes).count()
        };
        assert_eq!([count(40), count(576), count(1420)], [7, 4, 1]);
    }
}
