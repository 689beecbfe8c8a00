//! Is the machine as it should be? Asked at every boot and after every pass. Pure.

use crate::boot::KernelArguments;
use crate::model::{Have, NodeId, PageSize, Pool, Want};
use crate::mounts;
use crate::plan::Refusal;
use crate::report::Finding;
use holdfast_api::Reason;
use std::collections::BTreeSet;

/// Everything that is not as wanted; empty when all is well.
pub fn verify(want: &Want, have: &Have) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, sizes) in &want.pools {
        findings.extend(
            sizes.iter().filter_map(|(size, pages)| verify_pool(want, have, *node, *size, *pages)),
        );
    }
    if !want.pools.is_empty() && have.huge().plus(want.floor) > have.memory.total {
        let message = format!(
            "huge pages take {} of {}, which leaves less than the floor of {}",
            have.huge(),
            have.memory.total,
            want.floor
        );
        findings.push(Finding { reason: Reason::HugepagesFloor, message, node: None, size: None });
    }
    for mount in &want.mounts {
        let found =
            have.mounts.iter().rfind(|found| found.path == mount.path).map(|found| found.hugetlb);
        let message = match found {
            Some(Some(found)) if mounts::fits(mount, found) => continue,
            Some(Some(_)) => format!("the hugetlbfs at {} has other options", mount.path.display()),
            Some(None) => Refusal::MountTaken { path: mount.path.clone() }.to_string(),
            None => format!("no hugetlbfs is mounted at {}", mount.path.display()),
        };
        findings.push(Finding {
            reason: Reason::HugepagesMount,
            message,
            node: None,
            size: Some(mount.size),
        });
    }
    findings
}

fn verify_pool(
    want: &Want,
    have: &Have,
    node: NodeId,
    size: PageSize,
    pages: u64,
) -> Option<Finding> {
    let got = have.pool(node, size).map_or(0, Pool::persistent);
    let finding =
        |reason, message| Some(Finding { reason, message, node: Some(node), size: Some(size) });
    if got == pages {
        return None;
    }
    let numbers = format!("{node} has {got} pages of {size} instead of {pages}");
    if got > pages {
        return match have.held(node, size) {
            held if held > pages => {
                finding(Reason::HugepagesInUse, format!("{numbers}; {held} are in use"))
            }
            _ => finding(Reason::HugepagesExcess, numbers),
        };
    }
    if have.pool(node, size).is_none() && !have.boot_only.contains(&size) {
        return finding(Reason::HugepagesUnsupported, numbers);
    }
    if have.arguments.covers(want, size) {
        return finding(
            Reason::HugepagesShort,
            format!("{numbers}, though the kernel was asked at boot"),
        );
    }
    let arguments = KernelArguments::asking_for(want, have, &BTreeSet::from([size]));
    // A pool that is there may still be filled at run time; that is found out by trying.
    let reason = match have.pool(node, size) {
        Some(_) => Reason::HugepagesShort,
        None => Reason::HugepagesNeedReboot,
    };
    finding(reason, format!("{numbers}; a boot with {arguments} gives them"))
}
