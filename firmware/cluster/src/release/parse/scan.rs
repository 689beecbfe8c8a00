//! Whether a YAML text can be read in reasonable time, and as it is meant, found out in one walk before
//! it is read.
//!
//! libyaml looks at every open bracket for each token (scanner.c, `yaml_parser_fetch_more_tokens`),
//! wipes its buffers for white space, as large as they have become, at every gap within a scalar
//! (`CLEAR`), and compares every `%TAG` with all others. A text of 1 MiB can so take many minutes, on
//! the only thread that this program has.
//!
//! serde_yaml_ng numbers anchors by how many names there are (loader.rs), so that after a name that is
//! used again the next anchor gets the same number, and aliases of one mean the other.
//!
//! The walk goes from token to token as libyaml does (YAML 1.2.2, chapters 5 to 9), so that brackets
//! in comments, quotes, plain and block scalars count for nothing. Where libyaml gives up it may
//! go astray: such a text is refused in any case.

use super::{MAX_DEPTH, NAME_SHOWN};
use holdfast_api::brief;
use std::collections::BTreeMap;

/// `%TAG` lines of one file. Manifests have none.
const MAX_TAGS: usize = 64;
/// Bytes of white space that may be wiped in one file, half a second's worth at most.
const MAX_WIPED: usize = 1 << 29;
/// A key on one line is no longer than this (YAML 1.2.2, 7.4.2).
const KEY_BYTES: usize = 1024;

/// Where a text cannot be read, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    /// Line, from 1.
    pub(super) line: usize,
    /// What is wrong.
    pub(super) problem: String,
}

/// Walks through `text`.
///
/// # Errors
/// [`Unfit`], at the first place.
pub(super) fn check(text: &str) -> Result<(), Unfit> {
    Walk::new(text).walk().map(drop)
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    at: usize,
    line: usize,
    column: isize,
}

struct Walk<'a> {
    text: &'a str,
    mark: Mark,
    /// Brackets that are open, now and at most.
    open: usize,
    deepest: usize,
    /// Columns of the block collections around this place; -1 outside of all.
    indent: isize,
    indents: Vec<isize>,
    /// Where something began that is a key when a colon follows, outside of brackets.
    key: Option<Mark>,
    /// Whether a key may begin here.
    may_begin_key: bool,
    tags: usize,
    wiped: usize,
    /// Numbers of the document's anchors by their names, and whose each number was last.
    anchors: BTreeMap<&'a str, usize>,
    named: BTreeMap<usize, &'a str>,
    /// An anchor that would be taken for another one.
    mixed_up: Option<&'a str>,
}

/// What libyaml cannot read either.
struct GivesUp;

impl<'a> Walk<'a> {
    fn new(text: &'a str) -> Self {
        Walk {
            text,
            mark: Mark { at: 0, line: 1, column: 0 },
            open: 0,
            deepest: 0,
            indent: -1,
            indents: Vec::new(),
            key: None,
            may_begin_key: true,
            tags: 0,
            wiped: 0,
            anchors: BTreeMap::new(),
            named: BTreeMap::new(),
            mixed_up: None,
        }
    }

    /// How many brackets are open at the same time at most.
    fn walk(mut self) -> Result<usize, Unfit> {
        while let Ok(true) = self.token() {
            let problem = if self.open > MAX_DEPTH {
                format!("more than {MAX_DEPTH} levels of brackets")
            } else if self.tags > MAX_TAGS {
                format!("more than {MAX_TAGS} %TAG lines")
            } else if self.wiped > MAX_WIPED {
                "long runs of white space in values of many words or lines".to_owned()
            } else if let Some(name) = self.mixed_up {
                let name = brief(name, NAME_SHOWN);
                format!(
                    "&{name} would be taken for another anchor; give each one of a document its own name"
                )
            } else {
                continue;
            };
            return Err(Unfit { line: self.mark.line, problem });
        }
        Ok(self.deepest)
    }

    /// Passes the next token; false at the end.
    fn token(&mut self) -> Result<bool, GivesUp> {
        self.skip_to_token();
        let Mark { at, line, column } = self.mark;
        self.key = self.key.filter(|key| key.line == line && at - key.at <= KEY_BYTES);
        self.unroll(column);
        let is_flow = self.open > 0;
        let before_gap = is_gap_or_end(self.peek_at(1));
        match self.peek() {
            '\0' => return Ok(false),
            '%' if column == 0 => self.directive(),
            '-' | '.' if self.is_document_mark() => {
                self.unroll(-1);
                (self.key, self.may_begin_key) = (None, false);
                self.anchors.clear();
                self.named.clear();
                self.skip(3);
            }
            '[' | '{' => {
                self.begin();
                self.open += 1;
                self.deepest = self.deepest.max(self.open);
                self.may_begin_key = true;
                self.skip(1);
            }
            ']' | '}' => {
                self.drop_key();
                self.open = self.open.saturating_sub(1);
                self.may_begin_key = false;
                self.skip(1);
            }
            ',' => {
                self.drop_key();
                self.may_begin_key = true;
                self.skip(1);
            }
            '-' if before_gap => {
                self.enter(column)?;
                self.may_begin_key = true;
                self.skip(1);
            }
            '?' if is_flow || before_gap => {
                self.enter(column)?;
                self.may_begin_key = !is_flow;
                self.skip(1);
            }
            ':' if is_flow || before_gap => {
                match self.key.filter(|_| !is_flow) {
                    Some(key) => {
                        self.roll(key.column);
                        (self.key, self.may_begin_key) = (None, false);
                    }
                    None => {
                        self.enter(column)?;
                        self.may_begin_key = !is_flow;
                    }
                }
                self.skip(1);
            }
            mark @ ('*' | '&') => {
                self.begin();
                self.skip(1);
                let from = self.rest();
                self.skip_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
                if mark == '&' {
                    self.anchor(&from[..from.len() - self.rest().len()]);
                }
            }
            '!' => {
                self.begin();
                if self.peek_at(1) == '<' {
                    self.skip_while(|c| !is_gap_or_end(c) && c != '>');
                }
                self.skip_while(|c| !(is_gap_or_end(c) || is_flow && c == ','));
            }
            '|' | '>' if !is_flow => {
                (self.key, self.may_begin_key) = (None, true);
                self.block_scalar()?;
            }
            quote @ ('\'' | '"') => {
                self.begin();
                self.quoted(quote)?;
            }
            '-' | '?' | ':' => self.plain()?,
            '#' | '|' | '>' | '%' | '@' | '`' => return Err(GivesUp),
            c if is_gap_or_end(c) => return Err(GivesUp),
            _ => self.plain()?,
        }
        Ok(true)
    }

    fn anchor(&mut self, name: &'a str) {
        let number = self.anchors.len();
        let other = self.named.insert(number, name);
        if other.is_some_and(|other| self.anchors.get(other) == Some(&number)) {
            self.mixed_up = Some(name);
        }
        self.anchors.insert(name, number);
    }

    /// To where the next token begins, past white space and comments.
    fn skip_to_token(&mut self) {
        loop {
            if self.mark.column == 0 && self.peek() == '\u{feff}' {
                self.pass();
            }
            let takes_tabs = self.open > 0 || !self.may_begin_key;
            self.skip_while(|c| c == ' ' || (takes_tabs && c == '\t'));
            if self.peek() == '#' {
                self.skip_line();
            }
            if !is_break(self.peek()) {
                return;
            }
            self.pass();
            self.may_begin_key |= self.open == 0;
        }
    }

    fn directive(&mut self) {
        self.unroll(-1);
        (self.key, self.may_begin_key) = (None, false);
        self.tags += usize::from(self.rest().starts_with("%TAG"));
        self.skip_line();
        self.pass();
    }

    /// Indented as YAML 1.2.2, 8.1.1.1 has it: by a digit, or as its first line that is not empty.
    fn block_scalar(&mut self) -> Result<(), GivesUp> {
        self.skip(1);
        let mut more = 0;
        for _ in 0..2 {
            match self.peek() {
                '+' | '-' => self.skip(1),
                digit @ '1'..='9' if more == 0 => {
                    more = isize::try_from(digit.to_digit(10).unwrap_or(0)).unwrap_or(0);
                    self.skip(1);
                }
                _ => break,
            }
        }
        self.skip_while(is_blank);
        if self.peek() == '#' {
            self.skip_line();
        }
        if !is_break(self.peek()) {
            return if self.peek() == '\0' { Ok(()) } else { Err(GivesUp) };
        }
        self.pass();
        let mut longest = 0;
        let mut indent = (more > 0).then(|| self.indent.max(0) + more);
        let first = self.empty_lines(indent, &mut longest)?;
        let indent = *indent.get_or_insert(first.max(self.indent + 1).max(1));
        while self.mark.column == indent && self.peek() != '\0' {
            self.skip_line();
            self.pass();
            self.empty_lines(Some(indent), &mut longest)?;
        }
        Ok(())
    }

    /// Past lines that are empty, and the indentation of the one that is not; the deepest of them.
    fn empty_lines(
        &mut self,
        indent: Option<isize>,
        longest: &mut usize,
    ) -> Result<isize, GivesUp> {
        let (mut deepest, mut breaks) = (0, 0);
        loop {
            let is_before = |column: isize| indent.is_none_or(|indent| column < indent);
            while is_before(self.mark.column) && self.peek() == ' ' {
                self.skip(1);
            }
            deepest = deepest.max(self.mark.column);
            if is_before(self.mark.column) && self.peek() == '\t' {
                return Err(GivesUp);
            }
            if !is_break(self.peek()) {
                self.wipe(longest, breaks);
                return Ok(deepest);
            }
            self.pass();
            breaks += 1;
        }
    }

    fn quoted(&mut self, quote: char) -> Result<(), GivesUp> {
        self.skip(1);
        let mut longest = 0;
        loop {
            if self.is_document_mark() || self.peek() == '\0' {
                return Err(GivesUp);
            }
            while !is_gap_or_end(self.peek()) {
                match (self.peek(), self.peek_at(1)) {
                    ('\'', '\'') if quote == '\'' => self.skip(2),
                    (c, _) if c == quote => {
                        self.skip(1);
                        return Ok(());
                    }
                    ('\\', _) if quote == '"' => {
                        self.skip(1);
                        let ends_line = is_break(self.peek());
                        self.pass();
                        if ends_line {
                            break;
                        }
                    }
                    _ => self.pass(),
                }
            }
            self.gap(&mut longest);
        }
    }

    fn plain(&mut self) -> Result<(), GivesUp> {
        self.begin();
        let is_flow = self.open > 0;
        let (mut longest, mut at_line_start) = (0, false);
        while !self.is_document_mark() && self.peek() != '#' {
            while !is_gap_or_end(self.peek()) {
                match (self.peek(), self.peek_at(1)) {
                    (':', ',' | '?' | '[' | ']' | '{' | '}') if is_flow => return Err(GivesUp),
                    (':', next) if is_gap_or_end(next) => break,
                    (',' | '[' | ']' | '{' | '}', _) if is_flow => break,
                    _ => {
                        self.pass();
                        at_line_start = false;
                    }
                }
            }
            if !is_gap(self.peek()) {
                break;
            }
            at_line_start |= self.gap(&mut longest);
            if !is_flow && self.mark.column <= self.indent {
                break;
            }
        }
        self.may_begin_key = at_line_start;
        Ok(())
    }

    /// Past white space within a scalar; whether lines end in it.
    fn gap(&mut self, longest: &mut usize) -> bool {
        let (mut blanks, mut breaks) = (0, 0);
        while is_gap(self.peek()) {
            if is_break(self.peek()) {
                breaks += 1;
            } else if breaks == 0 {
                blanks += 1;
            }
            self.pass();
        }
        self.wipe(longest, blanks.max(breaks));
        breaks > 0
    }

    /// A buffer is as large as the longest gap made it.
    fn wipe(&mut self, longest: &mut usize, gap: usize) {
        *longest = gap.max(*longest);
        self.wiped = self.wiped.saturating_add(*longest);
    }

    /// Something begins that may be a key.
    fn begin(&mut self) {
        if self.may_begin_key && self.open == 0 {
            self.key = Some(self.mark);
        }
        self.may_begin_key = false;
    }

    fn drop_key(&mut self) {
        if self.open == 0 {
            self.key = None;
        }
    }

    /// An entry or a key of a block collection begins in this column.
    fn enter(&mut self, column: isize) -> Result<(), GivesUp> {
        if self.open == 0 {
            if !self.may_begin_key {
                return Err(GivesUp);
            }
            self.roll(column);
            self.key = None;
        }
        Ok(())
    }

    fn roll(&mut self, column: isize) {
        if self.open == 0 && self.indent < column {
            self.indents.push(self.indent);
            self.indent = column;
        }
    }

    fn unroll(&mut self, column: isize) {
        while self.open == 0 && self.indent > column {
            self.indent = self.indents.pop().unwrap_or(-1);
        }
    }

    /// `---` or `...` alone at the beginning of a line.
    fn is_document_mark(&self) -> bool {
        let rest = self.rest();
        self.mark.column == 0
            && (rest.starts_with("---") || rest.starts_with("..."))
            && is_gap_or_end(self.peek_at(3))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.mark.at..]
    }

    /// The character here; NUL at the end, for libyaml takes no other.
    fn peek(&self) -> char {
        self.rest().chars().next().unwrap_or('\0')
    }

    /// The character after so many bytes, which are all of ASCII.
    fn peek_at(&self, bytes: usize) -> char {
        let rest = self.text.get(self.mark.at + bytes..);
        rest.and_then(|rest| rest.chars().next()).unwrap_or('\0')
    }

    /// Passes one character; a line's end is one.
    fn pass(&mut self) {
        let c = self.peek();
        if self.mark.at == self.text.len() {
            return;
        }
        let is_pair = c == '\r' && self.peek_at(1) == '\n';
        self.mark.at += c.len_utf8() + usize::from(is_pair);
        if is_break(c) {
            (self.mark.line, self.mark.column) = (self.mark.line + 1, 0);
        } else {
            self.mark.column += 1;
        }
    }

    fn skip(&mut self, characters: usize) {
        (0..characters).for_each(|_| self.pass());
    }

    fn skip_while(&mut self, is_so: impl Fn(char) -> bool) {
        while self.mark.at < self.text.len() && is_so(self.peek()) {
            self.pass();
        }
    }

    fn skip_line(&mut self) {
        self.skip_while(|c| !is_break(c) && c != '\0');
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// Those of YAML 1.1, which libyaml reads.
fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_gap(c: char) -> bool {
    is_blank(c) || is_break(c)
}

fn is_gap_or_end(c: char) -> bool {
    is_gap(c) || c == '\0'
}

#[cfg(test)]
mod tests;
