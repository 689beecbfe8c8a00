//! Lists of processors as the kernel writes them: `0-3,8,10-11`.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Processors that a list may name: CONFIG_NR_CPUS is at most 8192 on the machines we run on.
const MAX_CPU: u32 = 8191;

/// Reads a list; an empty text is the empty set.
pub(crate) fn parse(text: &str) -> Option<BTreeSet<u32>> {
    let mut cpus = BTreeSet::new();
    for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (number(first)?, number(last)?);
        if first > last || last > MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

// `u32::from_str` takes a leading plus, which the kernel never writes.
fn number(text: &str) -> Option<u32> {
    text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The shortest list of these processors.
pub(crate) fn render(cpus: &BTreeSet<u32>) -> String {
    let mut text = String::new();
    let mut rest = cpus.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.next_if(|next| *next == last + 1).is_some() {
            last += 1;
        }
        let comma = if text.is_empty() { "" } else { "," };
        // Writing into a String cannot fail.
        let _ = match last - first {
            0 => write!(text, "{comma}{first}"),
            _ => write!(text, "{comma}{first}-{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for text in ["", "0", "0-3", "0-3,8", "0-3,8,10-11"] {
            assert_eq!(render(&parse(text).unwrap()), text);
        }
        assert_eq!(parse("0-1,2,3\n").map(|cpus| render(&cpus)), Some("0-3".into()));
        for text in ["x", "3-1", "0,", "-1", "0-99999999", "+1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
