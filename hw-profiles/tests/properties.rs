//! Laws that hold whatever the profiles, the machine and the text.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use hw_profiles::facts::{Dmi, Nic, NicKind};
use hw_profiles::matching::{Pattern, Rule};
use hw_profiles::roles::{PortKind, Role, Selector};
use hw_profiles::select::select_among;
use hw_profiles::{Bytes, Catalogue, Facts, Profile, check, resolve_nics, shipped, validate};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeSet;

/// Few words, so that rules often match.
const WORDS: [&str; 6] = ["", "A", "AB", "ABC", "b", "Box 1"];

fn word() -> impl Strategy<Value = String> {
    select(&WORDS[..]).prop_map(str::to_owned)
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        word().prop_map(Pattern::Exact),
        word().prop_map(Pattern::Prefix),
        "[ABb*?]{0,4}".prop_map(Pattern::Glob),
        vec(word(), 0..3).prop_map(Pattern::OneOf),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    (option::of(pattern()), option::of(pattern()), option::of(pattern())).prop_map(
        |(sys_vendor, product_name, board_name)| Rule {
            sys_vendor,
            product_name,
            board_name,
            ..Rule::default()
        },
    )
}

fn facts() -> impl Strategy<Value = Facts> {
    (word(), word(), word()).prop_map(|(sys_vendor, product_name, board_name)| Facts {
        dmi: Dmi { sys_vendor, product_name, board_name, ..Dmi::default() },
        ..Facts::default()
    })
}

fn blank(name: &str) -> Profile {
    let generic = Catalogue::shipped().get("generic").unwrap().clone();
    Profile { name: name.to_owned(), nics: Default::default(), ..generic }
}

/// A family tree: each profile's base is an earlier one, or none.
fn profiles() -> impl Strategy<Value = Vec<Profile>> {
    vec((vec(rule(), 0..3), any::<prop::sample::Index>(), any::<bool>()), 1..8).prop_map(
        |sketches| {
            let blank = blank("");
            let mut profiles: Vec<Profile> = Vec::new();
            for (rules, base, has_base) in sketches {
                let bases = match has_base && !profiles.is_empty() {
                    true => {
                        let base = &profiles[base.index(profiles.len())];
                        std::iter::once(base.name.clone()).chain(base.bases.clone()).collect()
                    }
                    false => Vec::new(),
                };
                let name = format!("p{}", profiles.len());
                profiles.push(Profile { name, rules, bases, ..blank.clone() });
            }
            profiles
        },
    )
}

fn matches(profile: &Profile, facts: &Facts) -> bool {
    profile.rules.iter().any(|rule| rule.matches(&facts.dmi))
}

proptest! {
    #[test]
    fn selection_does_not_depend_on_the_order(
        (profiles, shuffled) in profiles().prop_flat_map(|p| (Just(p.clone()), Just(p).prop_shuffle())),
        facts in facts(),
    ) {
        prop_assert_eq!(select_among(&profiles, None, &facts), select_among(&shuffled, None, &facts));
    }

    #[test]
    fn the_chosen_profile_matches_or_nothing_does(profiles in profiles(), facts in facts()) {
        let selection = select_among(&profiles, None, &facts);
        let someone = profiles.iter().any(|profile| matches(profile, &facts));
        prop_assert_eq!(selection.warning.is_none(), someone);
        prop_assert_eq!(matches(&selection.profile, &facts), someone);
        // One sentence for each profile that has rules, and the verdict.
        let candidates = profiles.iter().filter(|profile| !profile.rules.is_empty()).count();
        prop_assert_eq!(selection.explanation.len(), candidates + 1);
    }

    #[test]
    fn nobody_who_matches_is_more_specific_or_a_descendant(profiles in profiles(), facts in facts()) {
        let chosen = select_among(&profiles, None, &facts);
        for rival in profiles.iter().filter(|profile| matches(profile, &facts)) {
            for rule in rival.rules.iter().filter(|rule| rule.matches(&facts.dmi)) {
                prop_assert!(rule.specificity() <= chosen.specificity, "{} {rule}", rival.name);
            }
            prop_assert!(!rival.bases.contains(&chosen.profile.name), "{} descends from the chosen", rival.name);
        }
    }

    #[test]
    fn a_more_demanding_rule_is_more_specific_and_matches_less(rule in rule(), more in pattern(), facts in facts()) {
        let narrower = Rule { chassis_type: Some(more), ..rule.clone() };
        prop_assert!(narrower.specificity() > rule.specificity());
        if rule.fields().next().is_some() {
            prop_assert!(!narrower.matches(&facts.dmi) || rule.matches(&facts.dmi));
        }
    }

    #[test]
    fn a_glob_agrees_with_its_definition(pattern in "[ab*?]{0,6}", text in "[ab]{0,6}") {
        fn slow(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern.first(), text.first()) {
                (None, None) => true,
                (Some(b'*'), _) => slow(&pattern[1..], text) || (!text.is_empty() && slow(pattern, &text[1..])),
                (Some(b'?'), Some(_)) => slow(&pattern[1..], &text[1..]),
                (Some(p), Some(t)) if p == t => slow(&pattern[1..], &text[1..]),
                _ => false,
            }
        }
        let want = slow(pattern.as_bytes(), text.as_bytes());
        prop_assert_eq!(Pattern::Glob(pattern).matches(&text), want);
    }

    #[test]
    fn any_text_is_judged_without_a_panic(text in any::<String>()) {
        for problem in validate(&text, "x.toml") {
            prop_assert!(problem.line >= 1 && problem.column >= 1);
            prop_assert!(problem.line <= text.matches('\n').count() + 1);
        }
    }

    #[test]
    fn a_damaged_profile_is_judged_without_a_panic(
        (_, text) in select(shipped()), at in any::<prop::sample::Index>(), cut in 0usize..40, put in "[\\[\\]{}='\"\n .,0-9a-zé]{0,6}",
    ) {
        let characters: Vec<char> = text.chars().collect();
        let at = at.index(characters.len());
        let rest = &characters[(at + cut).min(characters.len())..];
        let damaged: String = characters[..at].iter().copied().chain(put.chars()).chain(rest.iter().copied()).collect();
        for problem in Catalogue::shipped().validate(&damaged, "acme.toml") {
            prop_assert!(problem.line >= 1 && problem.line <= damaged.matches('\n').count() + 1);
        }
    }

    #[test]
    fn a_size_reads_back_as_written(bytes in any::<u64>()) {
        let json = serde_json::to_string(&Bytes(bytes)).unwrap();
        prop_assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), Bytes(bytes));
    }

    #[test]
    fn roles_are_disjoint_or_refused_and_order_does_not_matter(
        (nics, shuffled) in nics().prop_flat_map(|n| (Just(n.clone()), Just(n).prop_shuffle())),
        roles in btree_map(select(&Role::ALL[..]), vec(selector(), 0..3), 0..4),
    ) {
        let profile = Profile { nics: roles, ..blank("p") };
        let facts = Facts { nics, ..Facts::default() };
        let resolved = resolve_nics(&profile, &facts);
        prop_assert_eq!(&resolved, &resolve_nics(&profile, &Facts { nics: shuffled, ..Facts::default() }));
        let results = check(&profile, &facts);
        prop_assert_eq!(resolved.is_ok(), results.iter().all(|result| result.holds));
        if let Ok(roles) = resolved {
            let mut seen = BTreeSet::new();
            prop_assert!(roles.values().flatten().all(|nic| seen.insert(nic.name.clone())));
            prop_assert!(roles.keys().eq(profile.nics.keys()));
        }
    }
}

fn nics() -> impl Strategy<Value = Vec<Nic>> {
    btree_set(0u8..12, 0..8).prop_map(|numbers| {
        let nic = |number: u8| Nic {
            name: format!("eth{number}"),
            // Every third one is on USB.
            pci_address: (!number.is_multiple_of(3))
                .then(|| format!("0000:{:02x}:00.0", 20 - number)),
            driver: Some(if number.is_multiple_of(2) { "igb" } else { "igc" }.to_owned()),
            kind: if number == 7 { NicKind::Wifi } else { NicKind::Ethernet },
            ..Nic::default()
        };
        numbers.into_iter().map(nic).collect()
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    (
        option::of(select(&["igb", "igc", "ig?", "*"][..])),
        option::of(select(&["0000:0*", "0000:1?:00.0"][..])),
        option::of(Just(PortKind::Wifi)),
        option::of(0u32..4),
        option::of(0u32..4),
    )
        .prop_map(|(driver, pci, kind, order, from)| Selector {
            driver: driver.map(str::to_owned),
            pci: pci.map(str::to_owned),
            kind,
            order,
            from: from.filter(|_| order.is_none()),
            ..Selector::default()
        })
}
