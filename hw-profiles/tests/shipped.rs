//! The profiles that are compiled in.

use hw_profiles::facts::Dmi;
use hw_profiles::matching::Pattern;
use hw_profiles::profile::TpmUse;
use hw_profiles::{Catalogue, Facts, PageSize, select, shipped};
use std::collections::BTreeSet;
use std::path::Path;

fn chosen(dmi: Dmi) -> String {
    select(&Catalogue::shipped(), &Facts { dmi, ..Facts::default() }).profile.name
}

fn system(sys_vendor: &str, product_name: &str) -> Dmi {
    Dmi { sys_vendor: sys_vendor.into(), product_name: product_name.into(), ..Dmi::default() }
}

#[test]
fn every_shipped_profile_loads_without_a_problem() {
    let catalogue = Catalogue::shipped();
    assert_eq!(catalogue.problems(), []);
    for (name, _) in shipped() {
        assert!(!catalogue.get(name).unwrap().description.is_empty(), "{name}");
    }
}

#[test]
fn every_file_of_the_directory_is_compiled_in() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let files: BTreeSet<String> = std::fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().to_str().unwrap().strip_suffix(".toml").map(str::to_owned)
        })
        .collect();
    let listed: BTreeSet<String> = shipped().iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, listed);
}

#[test]
fn product_names_as_firmware_writes_them_find_their_profile() {
    let intel = "Intel(R) Client Systems";
    for (vendor, product, want) in [
        ("Intel Corporation", "NUC7i5BNH", "intel-nuc-7"),
        ("Intel corporation", "NUC7i7DNHE", "intel-nuc-7"),
        ("Intel Corporation", "NUC7CJYH", "intel-nuc-7"),
        (intel, "NUC8i5BEH", "intel-nuc-8"),
        (intel, "NUC8CCHK", "intel-nuc-8"),
        (intel, "NUC10i7FNH", "intel-nuc-10"),
        (intel, "NUC10i3FNK", "intel-nuc-10"),
        (intel, "NUC11TNHi5", "intel-nuc-11"),
        (intel, "NUC11PAHi5", "intel-nuc-11"),
        (intel, "NUC11ATKC4", "intel-nuc-11"),
        (intel, "NUC12WSHi5", "intel-nuc-12"),
        ("ASUSTeK COMPUTER INC.", "NUC12WSH-B", "intel-nuc-12"),
        (intel, "NUC13ANHi7", "intel-nuc-13"),
        (intel, "NUC13RNGi9", "intel-nuc-13"),
        ("ASUSTeK COMPUTER INC.", "NUC13ANH-B", "intel-nuc-13"),
        ("ASUSTeK COMPUTER INC.", "MINIPC PN50", "generic"),
        (intel, "NUC9i7QNX", "generic"),
        ("Dell Inc.", "Edge Gateway 3001", "dell-edge-gateway-3000"),
        ("Dell Inc.", "Edge Gateway 3003", "dell-edge-gateway-3000"),
        ("Dell Inc.", "Edge Gateway 5000", "dell-edge-gateway"),
        ("Dell EMC", "Edge Gateway 3200", "dell-edge-gateway"),
        ("Dell Inc.", "OptiPlex 3000 Thin Client", "generic"),
        ("OnLogic", "K800", "onlogic"),
        ("OnLogic", "HX500", "onlogic"),
        ("OnLogic", "Helix3X0", "onlogic-helix-300"),
        ("Logic Supply", "N3160", "onlogic"),
        ("Advantech", "UNO-127", "advantech-uno"),
        ("Advantech", "ARK-1124", "advantech"),
        ("Supermicro", "SYS-E300-9A-4C", "supermicro-e300"),
        ("Supermicro", "SYS-E300-9D-8CN8TP", "supermicro-e300-9d"),
        ("Supermicro", "SYS-5039MS-H12TRF", "generic"),
        ("Amazon EC2", "m5.metal", "aws"),
        ("Microsoft Corporation", "Virtual Machine", "generic"),
        ("Google", "Google Compute Engine", "gcp"),
        ("VMware, Inc.", "VMware Virtual Platform", "vmware"),
        ("Red Hat", "KVM", "kvm"),
        ("OpenStack Foundation", "OpenStack Nova", "kvm"),
        ("", "", "generic"),
    ] {
        assert_eq!(chosen(system(vendor, product)), want, "{vendor} {product}");
    }
}

#[test]
fn a_board_without_a_case_and_an_old_cloud_machine_are_recognised_too() {
    let board = Dmi {
        board_vendor: "Intel Corporation".into(),
        board_name: "NUC7i5BNB".into(),
        ..system("", "")
    };
    assert_eq!(chosen(board), "intel-nuc-7");
    assert_eq!(
        chosen(Dmi { bios_version: "4.11.amazon".into(), ..system("Xen", "HVM domU") }),
        "aws"
    );
}

#[test]
fn no_pattern_of_a_shipped_profile_is_redundant_in_case() {
    for profile in Catalogue::shipped().iter() {
        for (field, pattern) in profile.rules.iter().flat_map(|rule| rule.fields()) {
            if let Pattern::OneOf(wants) = pattern {
                let distinct: BTreeSet<String> =
                    wants.iter().map(|want| want.to_ascii_lowercase()).collect();
                assert_eq!(distinct.len(), wants.len(), "{} {field}", profile.name);
            }
        }
    }
}

/// What every machine must survive: room for the system beside the pools.
#[test]
fn the_pools_leave_the_floor_free_on_the_smallest_machine_that_the_profile_promises() {
    for profile in Catalogue::shipped().iter() {
        let Some(smallest) = profile.assertions.memory.and_then(|range| range.min) else {
            continue;
        };
        let taken: u64 = profile
            .hugepages
            .pools
            .iter()
            .map(|(size, pool)| pool.each_node.pages(*size, smallest.0) * size.bytes())
            .sum();
        let left = smallest.0 - taken;
        assert!(
            left >= profile.hugepages.memory_floor.0.min(smallest.0 / 2),
            "{}: {left} left",
            profile.name
        );
    }
}

#[test]
fn nothing_shipped_bricks_a_box_that_lacks_a_tpm() {
    assert!(Catalogue::shipped().iter().all(|profile| profile.tpm != TpmUse::Required));
}

#[test]
fn a_small_virtual_machine_gives_128_mib() {
    let catalogue = Catalogue::shipped();
    let pool = &catalogue.get("kvm").unwrap().hugepages.pools[&PageSize::M2];
    assert_eq!(pool.on(0).pages(PageSize::M2, 2 << 30) * PageSize::M2.bytes(), 128 << 20);
}
