//! Which profile a machine gets; pure.
//!
//! Every profile with a matching rule is a candidate; the most specific one wins. A profile is as
//! specific as its most specific matching rule, and at least as specific as any base of its that
//! matches too: it describes some of the base's machines more closely, however it recognises
//! them. Ties go to the one that inherits more deeply, then to the first by name, so that the
//! answer depends on nothing but the profiles and the facts.

use crate::facts::Facts;
use crate::load::{Catalogue, GENERIC};
use crate::matching::{Rule, Specificity};
use crate::profile::Profile;
use holdfast_api::Reason;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The answer, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Selection {
    /// The profile.
    pub profile: Profile,
    /// How specific it is for this machine; 0 for `generic`.
    pub specificity: Specificity,
    /// One sentence per candidate, the best first, then the verdict. For people.
    pub explanation: Vec<String>,
    /// `hw.no-profile` when nothing matched.
    pub warning: Option<Reason>,
}

/// The profile for this machine.
pub fn select(catalogue: &Catalogue, facts: &Facts) -> Selection {
    select_among(catalogue.iter(), catalogue.get(GENERIC), facts)
}

/// [`select`] on any set of profiles, in any order.
pub fn select_among<'a>(
    profiles: impl IntoIterator<Item = &'a Profile>,
    generic: Option<&Profile>,
    facts: &Facts,
) -> Selection {
    let named: Vec<&Profile> = profiles.into_iter().filter(|p| !p.rules.is_empty()).collect();
    let matching: BTreeMap<&str, (&Profile, &Rule)> =
        named.iter().filter_map(|p| Some((p.name.as_str(), (*p, best_rule(p, facts)?)))).collect();
    let mut candidates: Vec<Candidate<'_>> =
        matching.values().map(|(profile, rule)| Candidate::new(profile, rule, &matching)).collect();
    candidates.sort_by_key(Candidate::rank);

    let mut explanation: Vec<String> = candidates.iter().map(Candidate::explain).collect();
    let mut losers: Vec<&Profile> =
        named.into_iter().filter(|p| !matching.contains_key(p.name.as_str())).collect();
    losers.sort_by_key(|profile| profile.name.as_str());
    explanation.extend(losers.into_iter().map(|profile| why_not(profile, facts)));

    let Some(best) = candidates.first() else {
        explanation.push(format!("chosen: {GENERIC}, because nothing else matches"));
        return Selection {
            profile: generic.cloned().unwrap_or_else(bare),
            specificity: Specificity::default(),
            explanation,
            warning: Some(Reason::HwNoProfile),
        };
    };
    explanation.push(verdict(best, &candidates[1..]));
    Selection {
        profile: best.profile.clone(),
        specificity: best.specificity,
        explanation,
        warning: None,
    }
}

/// A profile that matches.
struct Candidate<'a> {
    profile: &'a Profile,
    rule: &'a Rule,
    specificity: Specificity,
    /// The base that lends it its specificity, when its own rule has less.
    lender: Option<&'a str>,
}

impl<'a> Candidate<'a> {
    fn new(
        profile: &'a Profile,
        rule: &'a Rule,
        matching: &BTreeMap<&'a str, (&'a Profile, &'a Rule)>,
    ) -> Self {
        let mut candidate =
            Candidate { profile, rule, specificity: rule.specificity(), lender: None };
        for base in &profile.bases {
            if let Some((name, (_, rule))) = matching.get_key_value(base.as_str())
                && rule.specificity() > candidate.specificity
            {
                candidate.specificity = rule.specificity();
                candidate.lender = Some(*name);
            }
        }
        candidate
    }

    fn rank(&self) -> (Reverse<Specificity>, Reverse<usize>, &'a str) {
        (Reverse(self.specificity), Reverse(self.profile.bases.len()), self.profile.name.as_str())
    }

    fn explain(&self) -> String {
        let Candidate { profile, rule, specificity, lender } = self;
        let lent = lender.map_or(String::new(), |base| format!(" (that of its base {base})"));
        format!("{}: matches with specificity {specificity}{lent}: {rule}", profile.name)
    }
}

/// `generic` is compiled in, so this is only for sets of profiles that a caller made up.
fn bare() -> Profile {
    crate::file::ProfileFile::default().resolve(GENERIC, Vec::new())
}

/// The most specific rule of a profile that matches; the first of equals.
fn best_rule<'a>(profile: &'a Profile, facts: &Facts) -> Option<&'a Rule> {
    profile
        .rules
        .iter()
        .filter(|rule| rule.matches(&facts.dmi))
        .min_by_key(|rule| Reverse(rule.specificity()))
}

fn why_not(profile: &Profile, facts: &Facts) -> String {
    // Of several rules, the one that came furthest says the most.
    let mismatch = profile.rules.iter().filter_map(|rule| {
        let fields = rule.fields().count();
        let mismatch = rule.mismatch(&facts.dmi)?;
        let passed = rule.fields().position(|(field, _)| field == mismatch.field).unwrap_or(fields);
        Some((passed, mismatch))
    });
    match mismatch.min_by_key(|(passed, _)| Reverse(*passed)) {
        Some((_, mismatch)) => format!("{}: does not match: {mismatch}", profile.name),
        None => format!("{}: does not match", profile.name),
    }
}

fn verdict(best: &Candidate<'_>, others: &[Candidate<'_>]) -> String {
    let name = &best.profile.name;
    match others.first() {
        None => format!("chosen: {name}, the only one that matches"),
        Some(second) if second.specificity < best.specificity => {
            format!("chosen: {name}, the most specific of {}", others.len() + 1)
        }
        Some(second) if best.profile.bases.contains(&second.profile.name) => {
            format!("chosen: {name}, which describes its base {} more closely", second.profile.name)
        }
        Some(second) if second.profile.bases.len() < best.profile.bases.len() => {
            format!(
                "chosen: {name}, as specific as {} but more deeply inherited",
                second.profile.name
            )
        }
        Some(second) => {
            format!("chosen: {name}, as specific as {} and first by name", second.profile.name)
        }
    }
}
