//! A token while it is being typed: groups of five, each checked the moment it is complete.
//!
//! ```text
//!            char            5th char, check digit right
//!  Empty ──────────► Partial ────────────────────────────► Right   cursor to the next group
//!                       ▲      5th char, check digit wrong
//!                       │    ────────────────────────────► Wrong   cursor stays
//!                       └── char or backspace ────────────────┘    a char begins the group anew
//! ```
//!
//! A dash or a space leaves a full group also when it is wrong, so that a pasted token never
//! shifts: every wrong group is marked in its own place. Pure: no terminal here.

use holdfast_api::token::{Envelope, TokenError, check_group};
use zeroize::{Zeroize, Zeroizing};

/// Characters in a group, the check digit among them.
const GROUP: usize = 5;
/// More groups than the longest token has (a tenant of 63 letters makes 39).
const GROUPS_MAX: usize = 40;

/// How a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Group {
    Partial,
    Right,
    Wrong(TokenError),
}

/// What has been typed so far. Wiped on drop.
#[derive(Default)]
pub(crate) struct TokenEntry {
    groups: Vec<Zeroizing<String>>,
    cursor: usize,
}

impl TokenEntry {
    pub(crate) fn new() -> Self {
        TokenEntry { groups: vec![Zeroizing::default()], cursor: 0 }
    }

    /// One character from the keyboard, or of a paste that comes as if it were typed.
    pub(crate) fn put(&mut self, character: char) {
        if character == '-' || character.is_whitespace() {
            if self.groups[self.cursor].chars().count() == GROUP {
                self.step();
            }
            return;
        }
        if character.is_control() {
            return;
        }
        let group = &mut self.groups[self.cursor];
        if group.chars().count() == GROUP {
            group.zeroize();
        }
        // A Vec that grows leaves its old content behind in memory.
        if group.capacity() == 0 {
            group.reserve(GROUP * 4);
        }
        group.push(character.to_ascii_uppercase());
        if self.state(self.cursor) == Group::Right {
            self.step();
        }
    }

    /// A whole paste: every group in its own place, then the cursor at the first that is not right.
    pub(crate) fn paste(&mut self, text: &str) {
        for character in text.chars() {
            let full = self.groups[self.cursor].chars().count() == GROUP;
            if full && character != '-' && !character.is_whitespace() {
                self.step();
            }
            self.put(character);
        }
        let wrong = (0..self.groups.len()).find(|at| matches!(self.state(*at), Group::Wrong(_)));
        self.cursor = wrong.unwrap_or(self.groups.len() - 1);
    }

    /// Takes back one character, across groups.
    pub(crate) fn backspace(&mut self) {
        if self.groups[self.cursor].is_empty() && self.cursor > 0 {
            if self.cursor + 1 == self.groups.len() {
                self.groups.pop();
            }
            self.cursor -= 1;
        }
        self.groups[self.cursor].pop();
    }

    pub(crate) fn left(&mut self) {
        self.cursor = self.cursor.saturating_sub(1);
    }

    pub(crate) fn right(&mut self) {
        self.cursor = (self.cursor + 1).min(self.groups.len() - 1);
    }

    pub(crate) fn clear(&mut self) {
        *self = TokenEntry::new();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.iter().all(|group| group.is_empty())
    }

    /// Position of the group that is being typed, from 0.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    /// Every group with how it stands; the one being typed may be empty.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&str, Group)> {
        self.groups.iter().enumerate().map(|(at, group)| (group.as_str(), self.state(at)))
    }

    /// Positions of wrong groups, from 1.
    pub(crate) fn wrong(&self) -> Vec<usize> {
        self.groups()
            .enumerate()
            .filter_map(|(at, (_, state))| matches!(state, Group::Wrong(_)).then_some(at + 1))
            .collect()
    }

    /// What the token says once it is whole.
    ///
    /// # Errors
    /// The first wrong group, or what is missing at the whole.
    pub(crate) fn envelope(&self) -> Result<Envelope, TokenError> {
        let mut text = Zeroizing::new(String::with_capacity(GROUPS_MAX * GROUP * 4));
        self.groups.iter().for_each(|group| text.push_str(group));
        Envelope::parse(&text)
    }

    fn state(&self, at: usize) -> Group {
        let group = &self.groups[at];
        if group.chars().count() < GROUP {
            return Group::Partial;
        }
        check_group(at, group).map_or_else(Group::Wrong, |()| Group::Right)
    }

    /// On to the next group; a new one when this was the last.
    fn step(&mut self) {
        if self.cursor + 1 == self.groups.len() && self.groups.len() < GROUPS_MAX {
            self.groups.push(Zeroizing::default());
        }
        self.right();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::token::{CaFingerprint, TokenId, TokenSecret};
    use proptest::prelude::*;

    prop_compose! {
        fn tokens()(tenant in "[a-z][a-z0-9]{0,62}", ca: [u8; 16], id: [u8; 5], secret: [u8; 10]) -> Envelope {
            Envelope { tenant, ca: CaFingerprint(ca), id: TokenId(id), secret: TokenSecret::new(secret) }
        }
    }

    fn typed(text: &str) -> TokenEntry {
        let mut entry = TokenEntry::new();
        text.chars().for_each(|c| entry.put(c));
        entry
    }

    proptest! {
        /// The law: typed or pasted, with or without dashes, a token reads as itself.
        #[test]
        fn every_way_of_typing_gives_the_token(token in tokens()) {
            let text = token.encode();
            let ways = [text.to_string(), text.replace('-', ""), text.to_lowercase().replace('-', " ")];
            for way in ways {
                let entry = typed(&way);
                prop_assert_eq!(entry.envelope().unwrap(), token.clone());
                prop_assert!(entry.wrong().is_empty());
                let mut pasted = TokenEntry::new();
                pasted.paste(&format!("{way}\r\n"));
                prop_assert_eq!(pasted.envelope().unwrap(), token.clone());
            }
        }

        /// A wrong character marks its group and no other, and typing the group anew mends it.
        #[test]
        fn a_wrong_group_is_marked_at_once_and_can_be_typed_again(token in tokens(), at: prop::sample::Index, to in "[0-9A-HJKMNP-TV-Z]") {
            let text = token.encode().to_string();
            let at = at.index(text.len());
            prop_assume!(&text[at..=at] != "-" && text[at..=at] != to);
            let mut wrong = text.clone();
            wrong.replace_range(at..=at, &to);
            let group = at / 6 + 1;
            let mut pasted = TokenEntry::new();
            pasted.paste(&wrong);
            let mut without_dashes = TokenEntry::new();
            without_dashes.paste(&wrong.replace('-', ""));
            for mut entry in [typed(&wrong), pasted, without_dashes] {
                prop_assert_eq!(entry.wrong(), vec![group]);
                while entry.cursor() + 1 > group { entry.left(); }
                text.split('-').nth(group - 1).unwrap().chars().for_each(|c| entry.put(c));
                prop_assert!(entry.wrong().is_empty());
                prop_assert_eq!(entry.envelope().unwrap(), token.clone());
            }
        }

        #[test]
        fn any_keys_are_survived(keys in prop::collection::vec(prop_oneof![
            "\\PC".prop_map(|s| s.chars().next()),
            Just(Some('-')), Just(None),
        ], 0..300), paste in ".{0,400}") {
            let mut entry = TokenEntry::new();
            for (turn, key) in keys.into_iter().enumerate() {
                match key {
                    Some(key) => entry.put(key),
                    None if turn % 3 == 0 => entry.left(),
                    None if turn % 7 == 0 => entry.right(),
                    None => entry.backspace(),
                }
            }
            entry.paste(&paste);
            let _ = entry.envelope();
            prop_assert!(entry.groups().count() <= GROUPS_MAX);
            prop_assert!(entry.groups().all(|(text, _)| text.chars().count() <= GROUP));
            entry.clear();
            prop_assert!(entry.is_empty());
        }

        #[test]
        fn backspace_undoes_typing(token in tokens(), keep in 0usize..80) {
            let text = token.encode().replace('-', "");
            let mut entry = typed(&text);
            let keep = keep.min(text.len());
            (keep..text.len()).for_each(|_| entry.backspace());
            let left: String = entry.groups().map(|(text, _)| text.to_owned()).collect();
            prop_assert_eq!(&left, &text[..keep]);
        }
    }

    #[test]
    fn typing_goes_on_at_a_wrong_group_until_it_is_right() {
        let mut entry = typed("00000");
        assert_eq!(entry.groups().next().unwrap().1, Group::Right);
        assert_eq!(entry.cursor(), 1);
        "11112".chars().for_each(|c| entry.put(c));
        assert_eq!((entry.cursor(), entry.wrong()), (1, vec![2]));
        entry.put('7');
        assert_eq!(entry.groups().nth(1).unwrap(), ("7", Group::Partial));
        "1112-U".chars().for_each(|c| entry.put(c));
        assert_eq!((entry.cursor(), entry.wrong()), (2, vec![2]), "a dash leaves it for later");
    }
}
