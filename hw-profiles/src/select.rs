//! Which profile a machine gets; pure.
//!
//! Every profile with a matching rule is a candidate; the one whose rule is the most specific
//! wins. Ties go to the one that inherits more deeply, then to the first by name, so that the
//! answer depends on nothing but the profiles and the facts.

use crate::facts::Facts;
use crate::load::{Catalogue, GENERIC};
use crate::matching::{Rule, Specificity};
use crate::profile::Profile;
use holdfast_api::Reason;
use std::cmp::Reverse;

/// The answer, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The profile.
    pub profile: Profile,
    /// How specific its matching rule is; 0 for `generic`.
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
    let candidates: Vec<&Profile> = profiles.into_iter().filter(|p| !p.rules.is_empty()).collect();
    let mut matching: Vec<(&Profile, &Rule)> =
        candidates.iter().filter_map(|p| Some((*p, best_rule(p, facts)?))).collect();
    matching.sort_by_key(|(profile, rule)| {
        (Reverse(rule.specificity()), Reverse(profile.bases.len()), profile.name.as_str())
    });
    let mut explanation: Vec<String> = matching
        .iter()
        .map(|(p, rule)| format!("{}: matches with specificity {}: {rule}", p.name, rule.specificity()))
        .collect();
    let mut losers: Vec<&Profile> = candidates.into_iter().filter(|p| best_rule(p, facts).is_none()).collect();
    losers.sort_by_key(|profile| profile.name.as_str());
    explanation.extend(losers.into_iter().map(|profile| why_not(profile, facts)));

    let Some((best, rule)) = matching.first() else {
        explanation.push(format!("chosen: {GENERIC}, because nothing else matches"));
        return Selection {
            profile: generic.cloned().unwrap_or_else(bare),
            specificity: Specificity::default(),
            explanation,
            warning: Some(Reason::HwNoProfile),
        };
    };
    explanation.push(verdict(best, rule, &matching[1..]));
    Selection { profile: (*best).clone(), specificity: rule.specificity(), explanation, warning: None }
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

fn verdict(best: &Profile, rule: &Rule, others: &[(&Profile, &Rule)]) -> String {
    let name = &best.name;
    match others.first() {
        None => format!("chosen: {name}, the only one that matches"),
        Some((_, second)) if second.specificity() < rule.specificity() => {
            format!("chosen: {name}, the most specific of {}", others.len() + 1)
        }
        Some((second, _)) if second.bases.len() < best.bases.len() => {
            format!("chosen: {name}, as specific as {} but more deeply inherited", second.name)
        }
        Some((second, _)) => format!("chosen: {name}, as specific as {} and first by name", second.name),
    }
}
