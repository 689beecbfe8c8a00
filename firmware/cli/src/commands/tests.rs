//! Output for people, compared with files. `HOLDFAST_BLESS=1` writes them anew; read the
//! difference before it is committed.

use super::{health, plan, status, tunnels};
use crate::output::Paint;
use holdfast_api::local::{HealthReport, NodeReport, PlanReport};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::PathBuf;

pub(super) const PLAIN: Paint = Paint(false);

/// The moment at which the data of these tests is looked at.
pub(super) fn now() -> Timestamp {
    "2026-11-22T04:00:00Z".parse().unwrap()
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub(super) fn read<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(data(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

pub(super) fn golden(name: &str, have: &str) {
    let path = data(name);
    if std::env::var_os("HOLDFAST_BLESS").is_some() {
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(have.as_bytes()).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(have == want, "{name} differs; it is now:\n{have}");
}

#[test]
fn status_reads_well() {
    for name in ["status-online", "status-degraded", "status-no-token"] {
        let report: NodeReport = read(&format!("{name}.json"));
        golden(&format!("{name}.txt"), &status::render(&report, now(), PLAIN));
    }
}

#[test]
fn status_has_a_section_on_kubernetes_where_it_is_asked_for() {
    let mut report: NodeReport = read("status-online.json");
    report.kubernetes = Some(read("kube-applying.json"));
    golden("status-kubernetes.txt", &status::render(&report, now(), PLAIN));
}

#[test]
fn the_choice_of_the_profile_is_explained_on_demand() {
    let report: NodeReport = read("status-online.json");
    let text = status::explanation(&report, PLAIN);
    assert_eq!(text.lines().count(), 2 + report.profile_explanation.len(), "{text}");
    let brief = status::render(&report, now(), PLAIN);
    let [candidate, conclusion] = &report.profile_explanation[..] else { panic!() };
    assert!(brief.contains(conclusion) && !brief.contains(candidate), "{brief}");
}

#[test]
fn tunnels_read_well() {
    for name in ["online", "degraded"] {
        let report: NodeReport = read(&format!("status-{name}.json"));
        golden(&format!("tunnels-{name}.txt"), &tunnels::render(&report.tunnels.unwrap(), PLAIN));
    }
}

#[test]
fn plans_read_well() {
    let plan: PlanReport = read("plan-steps.json");
    golden("plan-steps.txt", &plan::render(&plan, plan::UNPLANNED, PLAIN));
    assert_eq!(plan::render(&PlanReport::default(), plan::UNPLANNED, PLAIN), "Nothing to do.\n");
    let problems = PlanReport { steps: Vec::new(), ..plan };
    for heading in [plan::UNPLANNED, plan::IN_THE_WAY] {
        let told = plan::render(&problems, heading, PLAIN);
        assert!(told.starts_with(&format!("{heading}\n")), "{told}");
    }
}

#[test]
fn health_reads_well() {
    let report: HealthReport = read("health-bad.json");
    golden("health-bad.txt", &health::render(&report, PLAIN));
}

/// Names of hardware and messages from other machines must not steer the terminal.
#[test]
fn output_has_no_control_characters_but_our_colours() {
    let report: NodeReport = read("status-degraded.json");
    assert!(report.hardware.contains('\x1b'));
    let plain = status::render(&report, now(), PLAIN);
    assert!(plain.chars().all(|c| c == '\n' || !c.is_control()));
    let coloured = status::render(&report, now(), Paint(true));
    assert_eq!(without_colours(&coloured), plain, "colours change nothing but colours");
}

/// `text` without our own colour sequences.
pub(super) fn without_colours(text: &str) -> String {
    let mut stripped = String::new();
    let mut inside = false;
    for c in text.chars() {
        match c {
            '\x1b' => inside = true,
            'm' if inside => inside = false,
            c if !inside => stripped.push(c),
            _ => {}
        }
    }
    stripped
}
