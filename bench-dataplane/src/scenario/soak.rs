//! `soak`: a tunnel of ours under full load for an hour.
//!
//! Flows of TCP, half of them each way, take what they get, beside a steady stream of datagrams.
//! Every ten seconds: memory of both ends, what each flow and the stream brought over, and how old
//! the session is. It judges: a flow that was lost or stood still, a session that was not renewed
//! and memory that grows are faults. Lost datagrams are none: they are how TCP finds the rate.

mod judge;

use super::{Options, Scenario, mib};
use crate::tunnel::datagrams::{Generator, Trial};
use crate::tunnel::flows::Flows;
use crate::tunnel::program;
use crate::tunnel::rig::Rig;
use crate::{Report, Series};
use anyhow::Context;
use judge::Sample;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "soak",
    about: "flows of TCP and a stream of datagrams through a tunnel of ours for an hour: memory, rates, lost flows; it judges",
    run,
};

const MINUTES: u32 = 60;
const EVERY: Duration = Duration::from_secs(10);
const FLOWS: usize = 4;
const DATAGRAM_BYTES: usize = 1200;
const DATAGRAMS_PER_SECOND: u64 = 10_000;
/// Of the stream, one after the other: it tells what arrived after each.
const PIECE: Duration = Duration::from_secs(2);

fn run(options: &Options) -> anyhow::Result<Report> {
    let minutes = options.minutes.unwrap_or(if options.quick { 1 } else { MINUTES });
    let (mut report, ours) = program::alone("soak")?;
    report.set("minutes", minutes);
    report.set("flows of TCP", FLOWS);
    report.set(
        "datagrams",
        format!("{DATAGRAMS_PER_SECOND} of {DATAGRAM_BYTES} bytes a second, one way"),
    );
    let rig = Rig::up(&ours)?;
    let time = Duration::from_secs(u64::from(minutes) * 60);
    let (samples, pieces, lost) = watch(options, &rig, time)?;
    report.faults = judge::faults(&samples, &lost);
    results(&mut report, &samples, &pieces);
    for fault in &report.faults {
        (options.progress)(&format!("fault: {fault}"));
    }
    if report.faults.is_empty() {
        (options.progress)("no fault: no flow was lost or stood still, memory is flat");
    }
    Ok(report)
}

/// Samples, pieces of the stream, and why flows were lost.
type Watched = (Vec<Sample>, Vec<Trial>, Vec<Option<String>>);

fn watch(options: &Options, rig: &Rig, time: Duration) -> anyhow::Result<Watched> {
    let mut generator = Generator::new(rig)?;
    let flows = Flows::start(rig, FLOWS)?;
    let stop = AtomicBool::new(false);
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| stream(&mut generator, &stop, tell));
        let watched = sample(options, rig, time, &flows, &told);
        stop.store(true, Ordering::Relaxed);
        let stream = stream.join().map_err(|_| anyhow::anyhow!("the stream panicked"))?;
        let (samples, pieces) = watched?;
        stream?;
        Ok((samples, pieces, flows.lost()))
    })
}

fn stream(generator: &mut Generator, stop: &AtomicBool, tell: Sender<Trial>) -> anyhow::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let piece = generator.trial(DATAGRAMS_PER_SECOND, PIECE, &[DATAGRAM_BYTES])?;
        // Nobody listens any more when the time is over.
        let _ = tell.send(piece);
    }
    Ok(())
}

fn sample(
    options: &Options,
    rig: &Rig,
    time: Duration,
    flows: &Flows,
    told: &Receiver<Trial>,
) -> anyhow::Result<(Vec<Sample>, Vec<Trial>)> {
    let (mut samples, mut pieces) = (Vec::new(), Vec::new());
    let (begin, mut before) = (Instant::now(), flows.bytes());
    let mut next = EVERY;
    while next <= time {
        std::thread::sleep(next.saturating_sub(begin.elapsed()));
        next += EVERY;
        let usage = rig.usage()?;
        let memory = |end: usize| usage.get(end).map_or(0.0, |usage| mib(usage.pss_bytes));
        let now = flows.bytes();
        let arrived = now.iter().zip(&before).map(|(now, before)| now - before).collect();
        before = now;
        let new: Vec<Trial> = told.try_iter().collect();
        samples.push(Sample {
            at: begin.elapsed(),
            memory: [memory(0), memory(1)],
            flows: arrived,
            datagrams: new.iter().map(|piece| piece.arrived).sum(),
            session: session_age(rig)?,
        });
        pieces.extend(new);
        if samples.len() % 6 == 0 || options.quick {
            (options.progress)(&line(&samples, flows));
        }
    }
    Ok((samples, pieces))
}

/// Since the last handshake of the first end, as wg(8) tells it.
fn session_age(rig: &Rig) -> anyhow::Result<Duration> {
    let end = &rig.ends[0];
    let text = end.run("wg", &["show", end.link(), "latest-handshakes"])?;
    let seconds = text.split_whitespace().last().and_then(|seconds| seconds.parse().ok());
    let then = Duration::from_secs(seconds.context("wg tells no handshake")?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(now.saturating_sub(then))
}

fn gigabits(sample: &Sample) -> f64 {
    sample.flows.iter().sum::<u64>() as f64 * 8.0 / EVERY.as_secs_f64() / 1e9
}

fn line(samples: &[Sample], flows: &Flows) -> String {
    let Some(sample) = samples.last() else { return String::new() };
    let lost = flows.lost().iter().flatten().count();
    format!(
        "{:4} s: {:.2} Gbit/s, {} datagrams, {:.1} and {:.1} MiB, session {} s old, {lost} flows lost",
        sample.at.as_secs(),
        gigabits(sample),
        sample.datagrams,
        sample.memory[0],
        sample.memory[1],
        sample.session.as_secs(),
    )
}

fn results(report: &mut Report, samples: &[Sample], pieces: &[Trial]) {
    let course = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).collect::<Vec<f64>>();
    let rates = course(&gigabits);
    let (first, last) = judge::quarters(&rates);
    let renewals = samples.windows(2).filter(|two| two[1].session < two[0].session).count();
    let lost: Vec<f64> = pieces
        .iter()
        .map(|piece| (piece.sent - piece.arrived) as f64 / piece.sent.max(1) as f64 * 100.0)
        .collect();
    let count = |of: fn(&Trial) -> u64| pieces.iter().map(of).sum::<u64>() as f64;
    let mut results = vec![
        Series::course("soak.rate, all flows", "Gbit/s", EVERY, rates),
        Series::new("soak.rate, last quarter over first", "ratio", vec![last / first]),
    ];
    for end in [0, 1] {
        let name = format!("soak.memory, end {}", end + 1);
        let memory = course(&|sample| sample.memory[end]);
        results.push(Series::course(name, "MiB", EVERY, memory));
        let rise = judge::rise(&judge::memory_by_hours(samples, end));
        let name = format!("soak.memory.slope, end {}", end + 1);
        results.push(Series::new(name, "MiB/h", vec![rise.slope]));
    }
    results.extend([
        Series::new("soak.datagrams lost", "%", lost),
        Series::new("soak.datagrams doubled", "datagrams", vec![count(|piece| piece.doubled)]),
        Series::new("soak.datagrams reordered", "datagrams", vec![count(|piece| piece.reordered)]),
        Series::new("soak.renewals of the session", "times", vec![renewals as f64]),
        Series::new("soak.faults", "faults", vec![report.faults.len() as f64]),
    ]);
    report.results = results;
}
