//! Facts and profile of this box, read again at each pass that asks for them.
//!
//! Probing never fails as a whole: an unreadable `/sys` gives few facts, complaints, and the generic
//! profile.

use crate::settings::Settings;
use holdfast_api::local::{ItemReport, ItemState};
use holdfast_api::paths::Root;
use holdfast_api::resources::DeviceFacts;
use holdfast_api::{Reason, Severity};
use hw_profiles::{Catalogue, Facts, Profile, check, probe, select};
use std::sync::Arc;

/// What the box is, and what was decided from it.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// What was found.
    pub facts: Arc<Facts>,
    /// The profile that fits.
    pub profile: Arc<Profile>,
    /// Why this profile.
    pub explanation: Vec<String>,
    /// How far the box is what its profile promises.
    pub item: ItemReport,
}

/// Reads the box below `root` and chooses its profile.
pub fn look(root: &Root, settings: &Settings) -> Hardware {
    let (facts, complaints) = probe(root.dir());
    let catalogue = Catalogue::load(&root.profile_dirs());
    let mut notes: Vec<(Reason, String)> =
        complaints.into_iter().map(|complaint| (complaint.reason, complaint.to_string())).collect();
    notes.extend(
        catalogue.problems().iter().map(|problem| (Reason::ProfileInvalid, problem.to_string())),
    );
    let selection = select(&catalogue, &facts);
    notes.extend(selection.warning.map(|reason| (reason, reason.sentence().to_owned())));
    let mut explanation = selection.explanation;
    let profile = match settings.profile.as_deref() {
        None => selection.profile,
        Some(name) => match catalogue.get(name) {
            Some(profile) => {
                explanation = vec![format!("{name}: named by the configuration")];
                profile.clone()
            }
            None => {
                notes.push((
                    Reason::ProfileInvalid,
                    format!("the configuration names the profile {name}, which is not there"),
                ));
                selection.profile
            }
        },
    };
    for result in check(&profile, &facts) {
        if !result.holds {
            notes.push((result.reason.unwrap_or(Reason::HwAssertionFailed), result.to_string()));
        }
    }
    Hardware { facts: Arc::new(facts), profile: Arc::new(profile), explanation, item: item(notes) }
}

fn item(notes: Vec<(Reason, String)>) -> ItemReport {
    let worst = notes.iter().map(|(reason, _)| *reason).max_by_key(|reason| reason.severity());
    let state = match worst.map(Reason::severity) {
        None | Some(Severity::Info) => ItemState::Ok,
        // A box that is less than promised works as well as it can.
        Some(Severity::Warning) => ItemState::Waiting,
        Some(Severity::Error) => ItemState::Failed,
    };
    let message = notes.into_iter().map(|(_, message)| message).collect::<Vec<_>>().join("; ");
    ItemReport { domain: "hardware".into(), state, reason: worst, message }
}

/// What an operator needs to recognise the box.
pub fn device_facts(hardware: &Hardware) -> DeviceFacts {
    let facts = &hardware.facts;
    DeviceFacts {
        vendor: facts.dmi.sys_vendor.clone(),
        product: facts.dmi.product_name.clone(),
        serial: facts.dmi.product_serial.clone(),
        profile: hardware.profile.name.clone(),
        cpus: facts.cpus.count,
        memory_bytes: facts.memory_bytes,
        macs: facts.nics.iter().filter_map(|nic| nic.mac.clone()).collect(),
        cloud: facts
            .cloud
            .and_then(|cloud| serde_json::to_value(cloud).ok()?.as_str().map(str::to_owned)),
    }
}
