//! A report for people.

use crate::{Report, Series};

/// The report as text: the setup, then one line for each series.
pub fn render(report: &Report) -> String {
    let mut text = format!("{}\n", report.scenario);
    for (key, value) in &report.setup {
        text += &format!("  {key}: {value}\n");
    }
    let width = report.results.iter().map(|series| series.name.len()).max().unwrap_or(0).max(4);
    text += &format!(
        "\n{:width$}  {:>6}  {:>12}  {:>12}  {:>12}  {:>6}\n",
        "what", "unit", "median", "p95", "p99", "n"
    );
    for Series { name, unit, median, p95, p99, n, interval, .. } in &report.results {
        text += &format!(
            "{name:width$}  {unit:>6}  {:>12}  {:>12}  {:>12}  {n:>6}",
            number(*median),
            number(*p95),
            number(*p99)
        );
        if let Some([low, high]) = interval {
            text += &format!("  median in {} to {}", number(*low), number(*high));
        }
        text += "\n";
    }
    text
}

/// Three digits that matter, as far as that makes sense.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_its_line_and_the_columns_stand_below_each_other() {
        let mut report = Report::new("x");
        report.results = vec![
            Series::new("a", "ms", vec![1.5]),
            Series::new("longer name", "us", vec![12345.0]),
        ];
        let text = render(&report);
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
        assert!(text.contains("12345") && text.contains("1.50"));
    }
}
