//! The registration token's envelope: one format for cloud-init, console, TPM and USB stick.
//!
//! Bytes: version (1) · length of tenant (1) · tenant · fingerprint of the controller's CA (16,
//! the first half of SHA-256 over its DER) · id (5) · secret (10). Text: base32 with the letters
//! I, L, O and U left out, in groups of five, the fifth being the check digit of its group:
//!
//! ```text
//! 045GC-0DM52-...
//! ```
//!
//! The check digit is a weighted sum over GF(32) of the four characters and the position of the
//! group. It finds every single wrong character, every swap of neighbours inside a group and every
//! swap of groups, so that a person learns *which* group to look at before any network is used.
//!
//! The secret has 80 bits: it can only be guessed online, against a controller that counts.

use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const VERSION: u8 = 1;
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Data characters in a group; the check digit follows them.
const GROUP: usize = 4;
/// Longest tenant name, a DNS label (RFC 1123).
pub const TENANT_MAX: usize = 63;

/// First half of the SHA-256 of a CA certificate's DER: 128 bits against second preimages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaFingerprint(pub [u8; 16]);

impl CaFingerprint {
    /// The fingerprint of the certificate with this DER.
    pub fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut half = [0; 16];
        half.copy_from_slice(&digest.as_ref()[..16]);
        CaFingerprint(half)
    }
}

impl fmt::Display for CaFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CaFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The public name of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 5]);

impl TokenId {
    /// The id with this text form, eight characters.
    pub fn parse(text: &str) -> Option<Self> {
        let values: Vec<u8> = text.bytes().map(value_of).collect::<Option<_>>()?;
        unpack(&values).and_then(|bytes| bytes.as_slice().try_into().ok()).map(TokenId)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            &pack(&self.0).iter().map(|v| symbol(*v).to_ascii_lowercase()).collect::<String>(),
        )
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret of a token. Wiped on drop, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TokenSecret([u8; 10]);

impl TokenSecret {
    /// A secret of these bytes.
    pub fn new(bytes: [u8; 10]) -> Self {
        TokenSecret(bytes)
    }

    /// The bytes, for hashing and comparing.
    pub fn expose(&self) -> &[u8; 10] {
        &self.0
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(redacted)")
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The tenant that the node will belong to: a DNS label.
    pub tenant: String,
    /// The CA that the controller's certificate must come from.
    pub ca: CaFingerprint,
    /// The token's public name.
    pub id: TokenId,
    /// What proves that the bearer was given the token.
    pub secret: TokenSecret,
}

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// A group's check digit does not match. Counted from 1.
    #[error("group {group} of the token ({text}) is mistyped")]
    MistypedGroup {
        /// Position, from 1.
        group: usize,
        /// The group as typed.
        text: String,
    },
    /// A character that no token has.
    #[error("group {group} of the token has the character {character:?}, which no token has")]
    BadCharacter {
        /// Position of the group, from 1.
        group: usize,
        /// The character.
        character: char,
    },
    /// The groups are right and the whole is not.
    #[error("the token is incomplete or damaged: {0}")]
    Malformed(&'static str),
    /// A version that we do not know.
    #[error("the token is of version {0}, this firmware knows version {VERSION}")]
    Version(u8),
}

impl TokenError {
    /// The reason code to report.
    pub fn reason(&self) -> crate::Reason {
        match self {
            TokenError::MistypedGroup { .. } | TokenError::BadCharacter { .. } => {
                crate::Reason::TokenMistypedGroup
            }
            TokenError::Malformed(_) => crate::Reason::TokenMalformed,
            TokenError::Version(_) => crate::Reason::TokenVersion,
        }
    }
}

impl Envelope {
    /// The text form, in upper case with a dash between groups.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut bytes =
            Zeroizing::new(vec![VERSION, u8::try_from(self.tenant.len()).unwrap_or(u8::MAX)]);
        bytes.extend_from_slice(self.tenant.as_bytes());
        bytes.extend_from_slice(&self.ca.0);
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(self.secret.expose());
        let mut values = Zeroizing::new(pack(&bytes));
        let whole = values.len().next_multiple_of(GROUP);
        values.resize(whole, 0);
        let mut text = Zeroizing::new(String::with_capacity(values.len() * 3 / 2));
        for (index, group) in values.chunks(GROUP).enumerate() {
            if index > 0 {
                text.push('-');
            }
            text.extend(group.iter().map(|v| symbol(*v)));
            text.push(symbol(check(index, group)));
        }
        text
    }

    /// Reads a token as a person types it: any case, O for 0, I or L for 1, dashes and white space
    /// anywhere.
    ///
    /// # Errors
    /// The first wrong group, or what is wrong with the whole.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let typed: Vec<char> = text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        let mut values = Zeroizing::new(Vec::with_capacity(typed.len()));
        for (index, group) in typed.chunks(GROUP + 1).enumerate() {
            values.extend_from_slice(&parse_group(index, group)?);
        }
        let bytes = Zeroizing::new(
            unpack_padded(&values).ok_or(TokenError::Malformed("it does not end cleanly"))?,
        );
        decode(&bytes)
    }

    /// What goes into the `Authorization: Bearer` header when the node registers.
    pub fn credential(&self) -> Zeroizing<String> {
        let secret: String =
            pack(self.secret.expose()).iter().map(|v| symbol(*v).to_ascii_lowercase()).collect();
        Zeroizing::new(format!("hft1.{}.{secret}", self.id))
    }
}

/// Reads what [`Envelope::credential`] wrote.
pub fn parse_credential(text: &str) -> Option<(TokenId, TokenSecret)> {
    let (id, secret) = text.strip_prefix("hft1.")?.split_once('.')?;
    let values = Zeroizing::new(secret.bytes().map(value_of).collect::<Option<Vec<u8>>>()?);
    let secret = Zeroizing::new(unpack(&values)?);
    Some((TokenId::parse(id)?, TokenSecret(secret.as_slice().try_into().ok()?)))
}

/// Checks one group while it is being typed; `index` counts from 0.
///
/// # Errors
/// The group is not five characters, has a foreign one, or its check digit is wrong.
pub fn check_group(index: usize, text: &str) -> Result<(), TokenError> {
    let typed: Vec<char> = text.chars().collect();
    parse_group(index, &typed).map(|_| ())
}

fn parse_group(index: usize, typed: &[char]) -> Result<[u8; GROUP], TokenError> {
    let mut values = [0; GROUP + 1];
    for (value, character) in values.iter_mut().zip(typed) {
        *value = u8::try_from(*character)
            .ok()
            .and_then(value_of)
            .ok_or(TokenError::BadCharacter { group: index + 1, character: *character })?;
    }
    let [a, b, c, d, digit] = values;
    if typed.len() != GROUP + 1 || check(index, &[a, b, c, d]) != digit {
        return Err(TokenError::MistypedGroup { group: index + 1, text: typed.iter().collect() });
    }
    Ok([a, b, c, d])
}

fn decode(bytes: &[u8]) -> Result<Envelope, TokenError> {
    let short = TokenError::Malformed("groups are missing at its end");
    let (&version, rest) = bytes.split_first().ok_or(TokenError::Malformed("it is empty"))?;
    if version != VERSION {
        return Err(TokenError::Version(version));
    }
    let (&length, rest) = rest.split_first().ok_or(short.clone())?;
    let (tenant, rest) = rest.split_at_checked(length.into()).ok_or(short.clone())?;
    let (ca, rest) = rest.split_first_chunk().ok_or(short.clone())?;
    let (id, rest) = rest.split_first_chunk().ok_or(short.clone())?;
    let (secret, rest) = rest.split_first_chunk().ok_or(short)?;
    // Groups are padded to a multiple of 20 bits: at most two zero bytes can follow.
    if rest.len() > 2 || rest.iter().any(|b| *b != 0) {
        return Err(TokenError::Malformed("something follows its end"));
    }
    let tenant = std::str::from_utf8(tenant)
        .ok()
        .filter(|name| crate::meta::is_dns_label(name))
        .ok_or(TokenError::Malformed("its tenant is not a name"))?;
    Ok(Envelope {
        tenant: tenant.into(),
        ca: CaFingerprint(*ca),
        id: TokenId(*id),
        secret: TokenSecret(*secret),
    })
}

fn symbol(value: u8) -> char {
    char::from(ALPHABET[usize::from(value & 31)])
}

fn value_of(character: u8) -> Option<u8> {
    let character = match character.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    ALPHABET.iter().position(|c| *c == character).and_then(|at| u8::try_from(at).ok())
}

/// Eight-bit bytes to five-bit values, the last one padded with zero bits.
fn pack(bytes: &[u8]) -> Vec<u8> {
    let bit = |n: usize| bytes.get(n / 8).map_or(0, |byte| byte >> (7 - n % 8) & 1);
    (0..(bytes.len() * 8).div_ceil(5))
        .map(|v| (0..5).fold(0, |value, b| value << 1 | bit(v * 5 + b)))
        .collect()
}

/// Five-bit values to whole bytes; `None` when the bits left over are not zero or make a symbol.
fn unpack(values: &[u8]) -> Option<Vec<u8>> {
    (values.len() * 5 % 8 < 5).then(|| unpack_padded(values)).flatten()
}

/// As [`unpack`], for values padded to whole groups.
fn unpack_padded(values: &[u8]) -> Option<Vec<u8>> {
    let bit = |n: usize| values.get(n / 5).map_or(0, |value| value >> (4 - n % 5) & 1);
    let whole = values.len() * 5 / 8;
    let clean = (whole * 8..values.len() * 5).all(|n| bit(n) == 0);
    clean
        .then(|| (0..whole).map(|v| (0..8).fold(0, |byte, b| byte << 1 | bit(v * 8 + b))).collect())
}

/// Σ αⁱ·cᵢ + α⁴·index over GF(32): the weights differ and are not zero, hence the guarantees above.
fn check(index: usize, group: &[u8]) -> u8 {
    // A token has fewer than 32 groups, so the index is an element of the field.
    let index = u8::try_from(index % 32).unwrap_or(0);
    group
        .iter()
        .chain([&index])
        .fold((0, 1), |(sum, weight), value| (sum ^ gf_mul(weight, *value), gf_mul(weight, 2)))
        .0
}

/// Multiplication in GF(2⁵) with the primitive polynomial x⁵ + x² + 1.
fn gf_mul(a: u8, b: u8) -> u8 {
    let mut product = 0;
    let mut a = a;
    for shift in 0..5 {
        if b >> shift & 1 == 1 {
            product ^= a;
        }
        a = if a & 0x10 == 0 { a << 1 } else { (a << 1 ^ 0x25) & 0x1f };
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn envelopes()(tenant in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", ca: [u8; 16], id: [u8; 5], secret: [u8; 10]) -> Envelope {
            Envelope { tenant, ca: CaFingerprint(ca), id: TokenId(id), secret: TokenSecret(secret) }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(envelope in envelopes()) {
            let text = envelope.encode();
            prop_assert_eq!(Envelope::parse(&text).unwrap(), envelope.clone());
            let typed = text.to_lowercase().replace('0', "o").replace('1', "l").replace('-', " ");
            prop_assert_eq!(Envelope::parse(&typed).unwrap(), envelope.clone());
            let (id, secret) = parse_credential(&envelope.credential()).unwrap();
            prop_assert_eq!((id, secret), (envelope.id, envelope.secret.clone()));
        }

        #[test]
        fn a_wrong_character_names_its_group(envelope in envelopes(), at: prop::sample::Index, to in 0u8..32) {
            let mut text: Vec<char> = envelope.encode().chars().collect();
            let at = at.index(text.len());
            prop_assume!(text[at] != '-' && text[at] != symbol(to));
            text[at] = symbol(to);
            let error = Envelope::parse(&text.iter().collect::<String>()).unwrap_err();
            prop_assert_eq!(error.reason(), crate::Reason::TokenMistypedGroup);
            let TokenError::MistypedGroup { group, .. } = error else { panic!("{error}") };
            prop_assert_eq!(group, at / 6 + 1);
        }

        #[test]
        fn swapped_neighbours_and_groups_are_found(envelope in envelopes(), at: prop::sample::Index) {
            let text = envelope.encode();
            let mut groups: Vec<String> = text.split('-').map(str::to_owned).collect();
            let at = at.index(groups.len() - 1);
            prop_assume!(groups[at] != groups[at + 1]);
            groups.swap(at, at + 1);
            prop_assert!(Envelope::parse(&groups.join("-")).is_err());
            groups.swap(at, at + 1);
            let mut chars: Vec<char> = groups[at].chars().collect();
            prop_assume!(chars[1] != chars[2]);
            chars.swap(1, 2);
            groups[at] = chars.into_iter().collect();
            let mistyped = matches!(
                Envelope::parse(&groups.join("-")),
                Err(TokenError::MistypedGroup { group, .. }) if group == at + 1
            );
            prop_assert!(mistyped);
        }

        #[test]
        fn any_text_is_answered(text in ".{0,200}") {
            let _ = Envelope::parse(&text);
            let _ = parse_credential(&text);
        }
    }

    #[test]
    fn missing_groups_and_other_versions_are_told_apart() {
        let envelope = Envelope {
            tenant: "acme".into(),
            ca: CaFingerprint([7; 16]),
            id: TokenId([1; 5]),
            secret: TokenSecret([2; 10]),
        };
        let text = envelope.encode();
        let cut = &text[..text.rfind('-').unwrap()];
        assert!(matches!(Envelope::parse(cut), Err(TokenError::Malformed(_))));
        assert!(matches!(Envelope::parse(""), Err(TokenError::Malformed(_))));
        assert!(!format!("{envelope:?}").contains("2, 2"), "the secret must not be printed");
        assert!(matches!(decode(&[9, 0]), Err(TokenError::Version(9))));
    }
}
