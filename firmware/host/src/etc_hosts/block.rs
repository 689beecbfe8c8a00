//! Finding and replacing our block within arbitrary bytes. Pure.
//!
//! Ours are: everything from a BEGIN line to the next END line with no other BEGIN between them;
//! stray marker lines; pieces of a marker line; and, anywhere, lines that are exactly what
//! [`line`] renders (they end with [`TAG`]). Anything else is foreign.

use super::model::{Entry, HostName, Want};
use holdfast_api::marks::{HOSTS_BEGIN, HOSTS_END};
use std::fmt;
use std::net::IpAddr;

/// The end of each of our lines.
pub const TAG: &str = "# holdfast";

/// A marker line cut at any place behind this is still known as ours.
const SHORTEST_BEGIN: usize = "# BEGIN holdfast".len();

/// What was wrong with the markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// A marker without its other half, or a piece of one.
    Stray,
    /// More than one block.
    Duplicate,
    /// Lines of ours outside of the block.
    Loose,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::Stray => "a marker line was damaged or lost",
            Damage::Duplicate => "the block was there more than once",
            Damage::Loose => "lines of the block were outside of it",
        })
    }
}

/// The file with our block as wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) content: Vec<u8>,
    pub(super) added: usize,
    pub(super) removed: usize,
    pub(super) damage: Option<Damage>,
}

/// The whole block, nothing when there are no entries.
pub(super) fn render(want: &Want) -> String {
    if want.entries.is_empty() {
        return String::new();
    }
    let lines: String = want.entries.iter().map(|entry| line(entry) + "\n").collect();
    format!("{HOSTS_BEGIN}\n{lines}{HOSTS_END}\n")
}

/// Puts the wanted block into `content`.
pub(super) fn edit(content: &[u8], want: &Want) -> Edit {
    let lines: Vec<&[u8]> = content.split_inclusive(|byte| *byte == b'\n').collect();
    let kinds: Vec<Kind> = lines.iter().map(|line| kind(line)).collect();
    let blocks = blocks(&kinds);
    let damage = damage(&kinds, &blocks);
    let ours = |at: usize| {
        kinds[at] != Kind::Foreign
            || blocks.iter().any(|(begin, end)| (*begin..=*end).contains(&at))
    };
    let block = render(want);
    let place = place(&lines, &kinds, &blocks);

    let mut new = Vec::with_capacity(content.len() + block.len());
    for (at, line) in lines.iter().enumerate() {
        if at == place {
            new.extend_from_slice(block.as_bytes());
        }
        if !ours(at) {
            new.extend_from_slice(line);
        }
    }
    if place >= lines.len() {
        new.extend_from_slice(block.as_bytes());
    }
    let old: Vec<&[u8]> =
        (0..lines.len()).filter(|at| ours(*at)).map(|at| trim(lines[at])).collect();
    let fresh: Vec<&[u8]> = block.lines().map(str::as_bytes).collect();
    Edit {
        added: fresh.iter().filter(|line| !old.contains(line)).count(),
        removed: old.iter().filter(|line| !fresh.contains(line)).count(),
        content: new,
        damage,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Begin,
    End,
    /// A piece of a marker line.
    Piece,
    /// A line that [`line`] rendered.
    Tagged,
    Foreign,
}

fn kind(bytes: &[u8]) -> Kind {
    let Ok(text) = std::str::from_utf8(trim(bytes)) else { return Kind::Foreign };
    match text {
        HOSTS_BEGIN => Kind::Begin,
        HOSTS_END => Kind::End,
        piece if piece.len() >= SHORTEST_BEGIN && HOSTS_BEGIN.starts_with(piece) => Kind::Piece,
        text if parse(text).is_some_and(|entry| line(&entry) == text) => Kind::Tagged,
        _ => Kind::Foreign,
    }
}

/// Proper blocks: BEGIN and END with no marker between them, as indices of lines.
fn blocks(kinds: &[Kind]) -> Vec<(usize, usize)> {
    let mut blocks = Vec::new();
    let mut open = None;
    for (at, kind) in kinds.iter().enumerate() {
        match (kind, open) {
            (Kind::Begin, _) => open = Some(at),
            (Kind::End, Some(begin)) => {
                blocks.push((begin, at));
                open = None;
            }
            // A piece of a BEGIN inside would make the lines after it doubtful.
            (Kind::Piece, _) => open = None,
            (Kind::End, None) | (Kind::Tagged | Kind::Foreign, _) => {}
        }
    }
    blocks
}

fn damage(kinds: &[Kind], blocks: &[(usize, usize)]) -> Option<Damage> {
    let outside = |kind: Kind| {
        let is = |(at, found): (usize, &Kind)| {
            *found == kind && !blocks.iter().any(|(begin, end)| (*begin..=*end).contains(&at))
        };
        kinds.iter().enumerate().any(is)
    };
    if outside(Kind::Begin) || outside(Kind::End) || outside(Kind::Piece) {
        Some(Damage::Stray)
    } else if blocks.len() > 1 {
        Some(Damage::Duplicate)
    } else if outside(Kind::Tagged) {
        Some(Damage::Loose)
    } else {
        None
    }
}

/// Before which line the block goes: where it stands, else where a stray line of ours stands,
/// else after the last complete line.
fn place(lines: &[&[u8]], kinds: &[Kind], blocks: &[(usize, usize)]) -> usize {
    let stray = || kinds.iter().position(|kind| *kind != Kind::Foreign);
    let unfinished = lines.last().is_some_and(|line| !line.ends_with(b"\n"));
    let end = lines.len() - usize::from(unfinished);
    let place = blocks.first().map(|(begin, _)| *begin).or_else(stray).unwrap_or(end);
    // In front of an unfinished line of ours there is nothing to keep apart from it.
    place.min(lines.len())
}

fn line(entry: &Entry) -> String {
    let aliases: String = entry.aliases.iter().map(|alias| format!(" {alias}")).collect();
    format!("{}\t{}{aliases}\t{TAG}", entry.address, entry.name)
}

/// Reads back what [`line`] writes.
fn parse(text: &str) -> Option<Entry> {
    let mut words = text.strip_suffix(TAG)?.split_ascii_whitespace();
    let address: IpAddr = words.next()?.parse().ok()?;
    let mut names = words.map(HostName::try_from);
    Some(Entry {
        address,
        name: names.next()?.ok()?,
        aliases: names.collect::<Result<_, _>>().ok()?,
    })
}

/// Without blanks and the end of the line, whichever it is.
fn trim(line: &[u8]) -> &[u8] {
    line.trim_ascii()
}
