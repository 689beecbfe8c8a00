//! From what is installed to what is wanted. Pure.

use super::model::{Have, Revoked, Want};
use super::set::{Set, SetId};
use std::fmt;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the set's files; nothing reads them yet.
    Stage {
        /// The set.
        set: Set,
        /// What is in it, for people.
        summary: String,
    },
    /// Ask sshd whether it accepts the set, and whether the set would be in force.
    Check(Set),
    /// Make the drop-in point to the set.
    Install(Set),
    /// Remove the drop-in: no authority is trusted any more.
    Withdraw,
    /// Make the running sshd read its configuration.
    Reload(Option<SetId>),
    /// Remove sets that are neither in force nor the last good one.
    Sweep(Vec<SetId>),
}

/// The steps from `have` to `want`; none without an sshd.
pub fn plan(want: &Want, have: &Have) -> Vec<Step> {
    if !have.sshd {
        return vec![];
    }
    let mut steps = Vec::new();
    let set = (!want.authorities.is_empty()).then(|| Set::render(want, &have.place));
    let mut last_good = have.last_good.clone();
    match &set {
        Some(set) => {
            let whole = have.sets.get(set.id()).copied().unwrap_or(false);
            let installed = have.drop_in.as_deref() == Some(set.drop_in().as_bytes());
            if !whole {
                steps.push(Step::Stage { set: set.clone(), summary: summary(want) });
            }
            if !whole || !installed {
                steps.push(Step::Check(set.clone()));
            }
            if !installed {
                steps.push(Step::Install(set.clone()));
                last_good = in_force(have).or(last_good);
            }
        }
        None => {
            last_good = None;
            if have.drop_in.is_some() {
                steps.push(Step::Withdraw);
            }
        }
    }
    let id = set.as_ref().map(|set| set.id().clone());
    // A machine that never had a set of ours has nothing to reload.
    let never = id.is_none() && have.drop_in.is_none() && have.loaded.is_none();
    if !never
        && (have.loaded.as_ref() != Some(&id)
            || steps.iter().any(|step| matches!(step, Step::Install(_))))
    {
        steps.push(Step::Reload(id.clone()));
    }
    let kept = |found: &SetId| Some(found) == id.as_ref() || Some(found) == last_good.as_ref();
    let old: Vec<SetId> = have.sets.keys().filter(|found| !kept(found)).cloned().collect();
    if !old.is_empty() {
        steps.push(Step::Sweep(old));
    }
    steps
}

/// The set that the installed drop-in points to.
pub(crate) fn in_force(have: &Have) -> Option<SetId> {
    let text = std::str::from_utf8(have.drop_in.as_deref()?).ok()?;
    let place = have.place.to_string_lossy();
    let (_, rest) = text.split_once(&format!("TrustedUserCAKeys \"{place}/"))?;
    SetId::parse(rest.get(..16)?).filter(|id| have.sets.contains_key(id))
}

fn summary(want: &Want) -> String {
    let prints: Vec<String> = want.authorities.iter().map(super::PublicKey::fingerprint).collect();
    let revoked = match &want.revoked {
        Revoked::Nothing => String::new(),
        Revoked::Keys(keys) => format!(", {} revoked keys", keys.len()),
        Revoked::Krl(list) => format!(", a revocation list of {} bytes", list.len()),
    };
    format!(
        "authorities {}, principals of {} users{revoked}",
        prints.join(" "),
        want.principals.len()
    )
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Stage { set, summary } => write!(f, "stage SSH set {}: {summary}", set.id()),
            Step::Check(set) => write!(f, "check SSH set {} with sshd -t", set.id()),
            Step::Install(set) => write!(f, "put SSH set {} in force", set.id()),
            Step::Withdraw => f.write_str("withdraw all SSH authorities"),
            Step::Reload(_) => f.write_str("reload sshd"),
            Step::Sweep(ids) => write!(f, "remove {} old SSH sets", ids.len()),
        }
    }
}

#[cfg(test)]
mod tests;
