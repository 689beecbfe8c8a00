//! What a scenario found out.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Of the JSON. It rises when a reader of the version before would misunderstand a report.
pub const VERSION: u32 = 1;

/// A scenario's results with the setup they hold for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`]; others are refused.
    #[serde(deserialize_with = "known")]
    pub version: u32,
    /// Name of the scenario.
    pub scenario: String,
    /// Kernel, processor, versions and parameters.
    pub setup: BTreeMap<String, String>,
    /// One entry for each thing measured.
    pub results: Vec<Series>,
    /// What must not be, of a scenario that judges; most only measure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

/// Samples of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What was measured.
    pub name: String,
    /// `ms`, `us`, `ratio`, …
    pub unit: String,
    /// The sample in the middle; of an even number the mean of the two there.
    pub median: f64,
    /// The smallest sample that 95 of 100 do not exceed (nearest rank).
    pub p95: f64,
    /// The smallest sample that 99 of 100 do not exceed (nearest rank).
    pub p99: f64,
    /// Number of samples.
    pub n: usize,
    /// Where the median lies in 95 of 100 draws, of a ratio between neighbours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Seconds between two samples, of what is watched over time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<f64>,
    /// All samples, in the order they were taken.
    pub samples: Vec<f64>,
}

impl Report {
    /// A report without results, with the machine's part of the setup.
    pub fn new(scenario: &str) -> Self {
        let mut report = Report {
            version: VERSION,
            scenario: scenario.into(),
            setup: BTreeMap::new(),
            results: Vec::new(),
            faults: Vec::new(),
        };
        if let Ok(name) = nix::sys::utsname::uname() {
            report.set("kernel", name.release().to_string_lossy());
            report.set("machine", name.machine().to_string_lossy());
        }
        report.set("cpus", std::thread::available_parallelism().map_or(0, usize::from));
        report.set("processor", processor().unwrap_or_default());
        report.set("load before", load().unwrap_or_else(|| "unknown".into()));
        report.set("version", env!("CARGO_PKG_VERSION"));
        let own = std::env::current_exe().ok();
        report.set("bench built", built(own.as_deref().and_then(Path::parent)));
        report
    }

    /// Reads what was printed as JSON: one report, or a list.
    ///
    /// # Errors
    /// It is no report, or one of a version that is not known.
    pub fn parse(text: &str) -> serde_json::Result<Vec<Report>> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.is_array() {
            true => serde_json::from_value(value),
            false => Ok(vec![serde_json::from_value(value)?]),
        }
    }

    /// Notes how the programs that are measured were built; not where they lie, which is nobody's
    /// business in a report that is handed on.
    pub(crate) fn set_programs(&mut self, dir: &Path) {
        self.set("programs built", built(Some(dir)));
    }

    /// Notes a parameter.
    pub fn set(&mut self, key: &str, value: impl ToString) {
        self.setup.insert(key.into(), value.to_string());
    }
}

impl Series {
    /// Sums up `samples`; none of them gives zeros and `n` 0.
    pub fn new(name: impl Into<String>, unit: &str, samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        Series {
            name: name.into(),
            unit: unit.into(),
            median: median(&sorted),
            p95: quantile(&sorted, 95),
            p99: quantile(&sorted, 99),
            n: samples.len(),
            interval: None,
            every: None,
            samples,
        }
    }

    /// Sums up what was sampled every so many seconds.
    pub fn course(name: impl Into<String>, unit: &str, every: Duration, samples: Vec<f64>) -> Self {
        Series { every: Some(every.as_secs_f64()), ..Series::new(name, unit, samples) }
    }

    /// Times in milliseconds.
    pub fn millis(name: impl Into<String>, samples: &[Duration]) -> Self {
        Series::new(name, "ms", samples.iter().map(|time| time.as_secs_f64() * 1e3).collect())
    }

    /// Times in microseconds.
    pub fn micros(name: impl Into<String>, samples: &[Duration]) -> Self {
        Series::new(name, "us", samples.iter().map(|time| time.as_secs_f64() * 1e6).collect())
    }
}

fn known<'de, D: Deserializer<'de>>(of: D) -> Result<u32, D::Error> {
    match u32::deserialize(of)? {
        VERSION => Ok(VERSION),
        other => Err(serde::de::Error::custom(format!(
            "reports of version {other}; this bench knows version {VERSION}"
        ))),
    }
}

/// The sample in the middle, or the mean of the two there; zero of none.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    let upper = sorted.len() / 2;
    let lower = sorted.len().saturating_sub(1) / 2;
    match (sorted.get(lower), sorted.get(upper)) {
        (Some(lower), Some(upper)) => lower.midpoint(*upper),
        _ => 0.0,
    }
}

/// The smallest sample that `percent` of all samples do not exceed (nearest rank).
pub(crate) fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// In which profile of cargo the programs in `dir` were built: where they lie tells it, as long as
/// they lie where cargo put them
/// (<https://doc.rust-lang.org/cargo/reference/build-cache.html>).
pub(crate) fn built(dir: Option<&Path>) -> String {
    let of_cargo = |target: &&Path| target.join(".rustc_info.json").exists();
    let placed = dir.filter(|dir| dir.parent().as_ref().is_some_and(of_cargo));
    match placed.and_then(Path::file_name).and_then(|name| name.to_str()) {
        // The directory of this profile alone has another name.
        Some("debug") => "profile dev".into(),
        Some(profile) => format!("profile {profile}"),
        None => "unknown: they do not lie where cargo put them".into(),
    }
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// How many wanted a processor in the last one, five and fifteen minutes (proc_loadavg(5)).
fn load() -> Option<String> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_median_is_in_the_middle_and_quantiles_are_samples_by_nearest_rank() {
        let series = Series::new("x", "ms", (1..=100).map(f64::from).collect());
        assert_eq!((series.median, series.p95, series.p99, series.n), (50.5, 95.0, 99.0, 100));
        assert_eq!(Series::new("x", "ms", vec![4.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Series::new("x", "ms", vec![4.0, 1.0]).median, 2.5);
        let one = Series::new("x", "ms", vec![7.0]);
        assert_eq!((one.median, one.p95, one.p99), (7.0, 7.0, 7.0));
        let none = Series::new("x", "ms", Vec::new());
        assert_eq!((none.median, none.n), (0.0, 0));
    }

    #[test]
    fn a_report_is_read_as_it_was_written_and_no_other_version_is() {
        let mut report = Report::new("x");
        report.results = vec![
            Series::new("a", "ms", vec![1.5]),
            Series::course("b", "MiB", Duration::from_secs(10), vec![1.0, 2.0]),
        ];
        let one = serde_json::to_string(&report).unwrap();
        assert_eq!(Report::parse(&one).unwrap(), [report.clone()]);
        let two = serde_json::to_string(&[&report, &report]).unwrap();
        assert_eq!(Report::parse(&two).unwrap().len(), 2);
        let next = one.replacen(r#""version":1"#, r#""version":2"#, 1);
        assert!(Report::parse(&next).unwrap_err().to_string().contains("version 2"), "{next}");
        let none = one.replacen(r#""version":1,"#, "", 1);
        assert!(Report::parse(&none).unwrap_err().to_string().contains("version"), "{none}");
    }

    #[test]
    fn a_build_is_named_only_when_it_is_known() {
        let target = tempfile::tempdir().unwrap();
        let dir = |name: &str| target.path().join(name);
        assert!(built(Some(&dir("lab"))).starts_with("unknown"));
        std::fs::File::create(dir(".rustc_info.json")).unwrap();
        assert_eq!(built(Some(&dir("lab"))), "profile lab");
        assert_eq!(built(Some(&dir("debug"))), "profile dev");
        assert!(built(None).starts_with("unknown"));
    }

    proptest! {
        #[test]
        fn quantiles_rise_and_stay_within(samples in prop::collection::vec(-1e9f64..1e9, 1..200)) {
            let series = Series::new("x", "ms", samples.clone());
            let most = samples.iter().copied().fold(f64::MIN, f64::max);
            prop_assert!(series.median <= series.p95 && series.p95 <= series.p99 && series.p99 <= most);
        }
    }
}
