//! Where output goes and how it looks: colours only where they are wanted, tables, failures.

use crate::args::{Cli, Format};
use crate::failure::Failure;
use crate::manager::Manager;
use crate::units::clean;
use holdfast_api::Severity;
use holdfast_api::local::Stage;
use holdfast_api::paths::Root;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) root: Root,
    pub(crate) format: Format,
    pub(crate) paint: Paint,
}

impl Context {
    pub(crate) fn new(cli: &Cli) -> Self {
        let paint = Paint(io::stdout().is_terminal() && colour_wanted());
        Context { root: Root::new(&cli.root), format: cli.output, paint }
    }

    pub(crate) fn manager(&self) -> Manager {
        Manager::at(&self.root.manager_socket())
    }

    /// Prints `text` for people or `raw` for programs.
    pub(crate) fn show(
        &self,
        raw: &Value,
        text: impl FnOnce(Paint) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Text => print(&text(self.paint)),
            Format::Json => print(&format!("{raw:#}\n")),
        }
    }

    /// Says on standard error what failed: a sentence for people, a `Problem` for programs.
    pub(crate) fn complain(&self, failure: &Failure) {
        let problem = failure.problem();
        let text = match self.format {
            Format::Json => serde_json::to_string(&problem).unwrap_or_default() + "\n",
            Format::Text => {
                let paint = Paint(io::stderr().is_terminal() && colour_wanted());
                let code = match failure.reason() {
                    Some(reason) => format!(" [{reason}]"),
                    None => String::new(),
                };
                format!(
                    "{} {}{code}\n  Next: {}\n",
                    paint.bad("holdfast:"),
                    clean(&problem.message),
                    clean(&problem.next_step),
                )
            }
        };
        // Nothing is left to be said when standard error is gone.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Writes to standard output; a reader that went away (`| head`) is not a failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => {
            result.map_err(|source| Failure::Terminal { attempt: "write the output", source })
        }
    }
}

/// <https://no-color.org>: any value that is not empty means no.
pub(crate) fn colour_wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(crate) fn severity(self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Info => self.dim(text),
            Severity::Warning => self.warn(text),
            Severity::Error => self.bad(text),
        }
    }

    pub(crate) fn stage(self, stage: Stage, text: &str) -> String {
        match stage {
            Stage::Online => self.good(text),
            Stage::Refused => self.bad(text),
            Stage::NoToken
            | Stage::Registering
            | Stage::AwaitingApproval
            | Stage::Bootstrapping
            | Stage::Degraded => self.warn(text),
        }
    }
}

/// Columns of text below headings, two spaces in from the left.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Table { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// A row without headings above it.
    pub(crate) fn bare() -> Self {
        Table { rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| self.rows.iter().filter_map(|row| row.get(at)).map(|c| width(c)).max())
            .map(|widest| widest.unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::from(" ");
            for (cell, widest) in row.iter().zip(&widths) {
                let gap = widest - width(cell);
                // Writing to a String cannot fail.
                let _ = write!(line, " {cell}{:gap$} ", "");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Characters that show: those of colour sequences do not.
fn width(cell: &str) -> usize {
    let mut inside = false;
    cell.chars()
        .filter(|c| {
            let shows = !inside && *c != '\x1b';
            inside = if inside { *c != 'm' } else { *c == '\x1b' };
            shows
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_their_colour() {
        let mut table = Table::new(&["A", "LONGER"]);
        table.row([Paint(true).good("green"), "x".into()]);
        table.row(["y".into(), Paint(true).bad("")]);
        assert_eq!(
            table.render(),
            "  A      LONGER\n  \x1b[32mgreen\x1b[0m  x\n  y      \x1b[31m\x1b[0m\n"
        );
        assert_eq!(Table::bare().render(), "");
    }
}
