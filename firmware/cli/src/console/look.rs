//! What a terminal can show, from its environment alone: it is never asked.

use crate::output::colour_wanted;

/// What may be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Borders of lines and not of `+`, `-` and `|`.
    pub(crate) lines: bool,
    /// Colours, the second screen and bracketed paste: a terminal of the last thirty years.
    pub(crate) modern: bool,
    /// Colours are wanted and there are some.
    pub(crate) colour: bool,
}

impl Look {
    pub(crate) fn of_this_terminal() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
        Look::of(
            variable("TERM").as_deref().unwrap_or(""),
            locale.as_deref().unwrap_or(""),
            colour_wanted(),
        )
    }

    fn of(term: &str, locale: &str, colour_wanted: bool) -> Self {
        let old = ["", "dumb", "ansi", "unknown"].contains(&term)
            || ["vt", "wyse", "wy", "cons"].iter().any(|family| term.starts_with(family));
        let locale = locale.to_ascii_lowercase();
        let unicode = locale.contains("utf-8") || locale.contains("utf8");
        Look { lines: unicode && !old, modern: !old, colour: colour_wanted && !old }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_terminals_get_plain_characters() {
        let plain = Look { lines: false, modern: false, colour: false };
        for term in ["", "vt100", "vt102", "vt220", "dumb", "wy50"] {
            assert_eq!(Look::of(term, "C.UTF-8", true), plain, "{term}");
        }
        let full = Look { lines: true, modern: true, colour: true };
        assert_eq!(Look::of("xterm-256color", "en_US.utf8", true), full);
        assert_eq!(Look::of("linux", "C.UTF-8", true), full);
        assert!(!Look::of("xterm", "C", true).lines);
        assert!(!Look::of("xterm", "C.UTF-8", false).colour);
    }
}
