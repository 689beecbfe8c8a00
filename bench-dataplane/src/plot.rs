//! A report as pictures: for each thing measured and its unit one SVG, with every program's series.

use crate::{Report, Series};
use anyhow::Context;
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SIZE: (u32, u32) = (960, 540);
/// Above the highest sample, for the names of the series.
const ROOM: f64 = 1.35;

/// Writes `<what>-<unit>.svg` files into `dir`: which share of samples (across) is at most how
/// large (up); of what was watched over time, when (across) it was how large. Series with fewer
/// than two samples are left out.
///
/// # Errors
/// The directory or a file cannot be written.
pub fn write(report: &Report, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut charts: BTreeMap<(&str, &str), Vec<&Series>> = BTreeMap::new();
    for series in report.results.iter().filter(|series| series.n >= 2) {
        let what = what(&report.scenario, &series.name);
        charts.entry((what, &series.unit)).or_default().push(series);
    }
    charts
        .into_iter()
        .map(|((what, unit), all)| {
            let path = dir.join(format!("{what}-{}.svg", unit.replace('/', "-per-")));
            draw(&path, what, unit, &all)
                .with_context(|| format!("cannot draw {}", path.display()))?;
            Ok(path)
        })
        .collect()
}

/// What a series is one of, by its name: `tcp.cpu` of `tcp.cpu, wireguard-go`, and `tcp.ratio` of
/// `tcp.ratio.wireguard-go`; the scenario of a name that is not made like these.
fn what<'a>(scenario: &'a str, name: &'a str) -> &'a str {
    const RATIO: &str = ".ratio";
    let head = name.split(',').next().unwrap_or(name);
    let is_made_so = head.strip_prefix(scenario).is_some_and(|rest| {
        rest.is_empty() || rest.starts_with('.') && !rest.contains(char::is_whitespace)
    });
    match head.find(&format!("{RATIO}.")) {
        _ if !is_made_so => scenario,
        Some(at) => &head[..at + RATIO.len()],
        None => head,
    }
}

fn draw(path: &Path, what: &str, unit: &str, all: &[&Series]) -> anyhow::Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let is_course = all.iter().all(|series| series.every.is_some());
    let lines: Vec<(&str, Vec<(f64, f64)>)> = all
        .iter()
        .map(|series| {
            (series.name.as_str(), if is_course { course(series) } else { shares(series) })
        })
        .collect();
    let points = || lines.iter().flat_map(|(_, points)| points);
    let top = points().map(|point| point.1).fold(0.0, f64::max) * ROOM;
    let right = points().map(|point| point.0).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{what} ({unit})"), ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right.max(f64::MIN_POSITIVE), 0.0..top.max(f64::MIN_POSITIVE))?;
    let across = if is_course { "seconds" } else { "% of samples" };
    chart.configure_mesh().x_desc(across).y_desc(unit).draw()?;
    for (index, (name, points)) in lines.into_iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?.label(name).legend(
            move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)),
        );
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

/// Samples by size, over the share of those that come before.
fn shares(series: &Series) -> Vec<(f64, f64)> {
    let mut sorted = series.samples.clone();
    sorted.sort_by(f64::total_cmp);
    let last = (sorted.len() - 1).max(1) as f64;
    sorted.into_iter().enumerate().map(|(at, value)| (at as f64 / last * 100.0, value)).collect()
}

/// Samples as they came, over the seconds.
fn course(series: &Series) -> Vec<(f64, f64)> {
    let every = series.every.unwrap_or(1.0);
    let samples = series.samples.iter().enumerate();
    samples.map(|(at, value)| ((at + 1) as f64 * every, *value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_gets_a_picture_that_names_its_series() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::new("demo");
        report.results = vec![
            Series::new("one", "ms", vec![1.0, 2.0]),
            Series::new("two", "us", vec![1.0, 2.0, 3.0]),
            Series::new("single", "ms", vec![1.0]),
        ];
        let paths = write(&report, dir.path()).unwrap();
        assert_eq!(paths.len(), 2);
        let svg = std::fs::read_to_string(&paths[0]).unwrap();
        assert!(svg.contains("one") && !svg.contains("single"));
    }
    #[test]
    fn what_is_measured_beside_each_other_is_one_picture() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::new("tcp");
        let series = |name: &str, unit| Series::new(name, unit, vec![1.0, 2.0]);
        report.results = vec![
            series("tcp.ratio.a", "ratio"),
            series("tcp.ratio.b", "ratio"),
            series("tcp.memory.ratio.a", "ratio"),
            series("tcp, a", "Gbit/s"),
            Series::course(
                "tcp.memory, end 1",
                "MiB",
                std::time::Duration::from_secs(10),
                vec![1.0; 3],
            ),
        ];
        let paths = write(&report, dir.path()).unwrap();
        let names: Vec<_> =
            paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(
            names,
            [
                "tcp-Gbit-per-s.svg",
                "tcp.memory-MiB.svg",
                "tcp.memory.ratio-ratio.svg",
                "tcp.ratio-ratio.svg"
            ]
        );
        let read = |at: usize| std::fs::read_to_string(&paths[at]).unwrap();
        assert!(read(3).contains("tcp.ratio.a") && read(3).contains("tcp.ratio.b"));
        assert!(read(1).contains("seconds") && read(0).contains("% of samples"));
        assert_eq!(what("program", "switch, all routes"), "program");
        assert_eq!(what("rest", "rest. of it"), "rest");
    }
}
