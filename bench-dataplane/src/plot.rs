//! A report as pictures: for each unit one SVG with the distribution of every series.

use crate::{Report, Series};
use anyhow::Context;
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SIZE: (u32, u32) = (960, 540);

/// Writes `<scenario>-<unit>.svg` files into `dir`: which share of samples (across) is at most how
/// large (up). Series with fewer than two samples have no distribution and are left out.
///
/// # Errors
/// The directory or a file cannot be written.
pub fn write(report: &Report, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut by_unit: BTreeMap<&str, Vec<&Series>> = BTreeMap::new();
    for series in report.results.iter().filter(|series| series.n >= 2) {
        by_unit.entry(&series.unit).or_default().push(series);
    }
    by_unit
        .into_iter()
        .map(|(unit, all)| {
            let path = dir.join(format!("{}-{unit}.svg", report.scenario));
            draw(&path, &report.scenario, unit, &all)
                .with_context(|| format!("cannot draw {}", path.display()))?;
            Ok(path)
        })
        .collect()
}

fn draw(path: &Path, scenario: &str, unit: &str, all: &[&Series]) -> anyhow::Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let top = all.iter().flat_map(|series| &series.samples).copied().fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{scenario} ({unit})"), ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..100.0, 0.0..top.max(f64::MIN_POSITIVE))?;
    chart.configure_mesh().x_desc("% of samples").y_desc(unit).draw()?;
    for (index, series) in all.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let mut sorted = series.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let last = f64::from(u32::try_from(sorted.len() - 1).unwrap_or(u32::MAX));
        let points =
            sorted.iter().zip(0u32..).map(|(value, at)| (f64::from(at) / last * 100.0, *value));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(series.name.clone())
            .legend(move |(x, y)| {
                PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
            });
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
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
}
