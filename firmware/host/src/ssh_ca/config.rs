//! sshd's main configuration as it would be with a staged drop-in. Pure.
//!
//! The `Include` that would pick up our drop-in is written out file by file, in the order of
//! glob(7), with the staged file in the place of the installed one. Everything else stays as it is.

use holdfast_api::marks::SSHD_DROP_IN;
use std::path::Path;

/// `main` with its include of `drop_ins` written out. `present` are the names in `drop_ins`.
pub(crate) fn candidate(
    main: &str,
    home: &Path,
    drop_ins: &Path,
    present: &[String],
    staged: &Path,
) -> String {
    let mut out = String::with_capacity(main.len() + 256);
    for line in main.split_inclusive('\n') {
        match included(line) {
            Some(patterns) => {
                let files = patterns
                    .iter()
                    .flat_map(|pattern| expand(pattern, home, drop_ins, present, staged));
                let quoted: Vec<String> = files.map(|file| format!("\"{file}\"")).collect();
                if !quoted.is_empty() {
                    out += &format!("Include {}\n", quoted.join(" "));
                }
            }
            None => out += line,
        }
    }
    out
}

/// The patterns of an `Include` line; a word may be quoted, and `=` may follow the keyword.
fn included(line: &str) -> Option<Vec<String>> {
    let line = line.trim();
    let end = line.find([' ', '\t', '=', '"'])?;
    if !line[..end].eq_ignore_ascii_case("include") {
        return None;
    }
    let rest = line[end..].trim_start_matches([' ', '\t', '=']);
    let mut words = vec![];
    let mut word = String::new();
    let mut quoted = false;
    for c in rest.chars() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted && word.is_empty() => break,
            ' ' | '\t' if !quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    Some(words)
}

fn expand(
    pattern: &str,
    home: &Path,
    drop_ins: &Path,
    present: &[String],
    staged: &Path,
) -> Vec<String> {
    // sshd takes relative patterns from its own directory.
    let absolute = home.join(pattern);
    let name =
        absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if absolute.parent() != Some(drop_ins) || !matches(&name, SSHD_DROP_IN) {
        return vec![pattern.to_string()];
    }
    let mut names: Vec<&str> =
        present.iter().map(String::as_str).filter(|file| *file != SSHD_DROP_IN).collect();
    names.push(SSHD_DROP_IN);
    names.sort_unstable();
    // A leading dot has to be named (glob(7)).
    let visible =
        |file: &&str| matches(&name, file) && (!file.starts_with('.') || name.starts_with('.'));
    let path = |file: &str| match file {
        SSHD_DROP_IN => staged.to_string_lossy().into_owned(),
        other => drop_ins.join(other).to_string_lossy().into_owned(),
    };
    names.into_iter().filter(visible).map(path).collect()
}

/// `*` and `?` of glob(7). A pattern with brackets matches nothing here; such an include is
/// left as it is, and the check of what is in force then tells whether it works.
fn matches(pattern: &str, name: &str) -> bool {
    fn at(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                at(rest, name) || name.split_first().is_some_and(|(_, n)| at(pattern, n))
            }
            (Some((b'?', rest)), Some((_, name))) => at(rest, name),
            (Some((want, rest)), Some((have, name))) => want == have && at(rest, name),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }
    at(pattern.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(main: &str, present: &[&str]) -> String {
        let present: Vec<String> = present.iter().map(|name| name.to_string()).collect();
        let (home, staged) = (Path::new("/etc/ssh"), Path::new("/staged"));
        candidate(main, home, Path::new("/etc/ssh/sshd_config.d"), &present, staged)
    }

    #[test]
    fn the_staged_file_takes_its_place_in_the_order() {
        let debian = "# head\n\nInclude /etc/ssh/sshd_config.d/*.conf\n\nUsePAM yes\n";
        let present = ["90-z.conf", "60-holdfast.conf", "10-a.conf", ".hidden.conf", "README"];
        let want = "# head\n\nInclude \"/etc/ssh/sshd_config.d/10-a.conf\" \"/staged\" \
                    \"/etc/ssh/sshd_config.d/90-z.conf\"\n\nUsePAM yes\n";
        assert_eq!(with(debian, &present), want);
    }

    #[test]
    fn includes_are_known_however_they_are_written() {
        for line in [
            "  include sshd_config.d/*",
            "INCLUDE=\"/etc/ssh/sshd_config.d/60-*.conf\"",
            "Include\tsshd_config.d/??-holdfast.conf # ours",
        ] {
            assert_eq!(with(line, &[]), "Include \"/staged\"\n", "{line}");
        }
    }

    #[test]
    fn other_lines_stay() {
        for line in [
            "#Include /etc/ssh/sshd_config.d/*.conf",
            "IncludeX a\n",
            "Port 22",
            "\r\n",
            "Match User x\n",
        ] {
            assert_eq!(with(line, &[]), line);
        }
        assert_eq!(
            with("Include /elsewhere/*.conf a\n", &[]),
            "Include \"/elsewhere/*.conf\" \"a\"\n"
        );
    }
}
