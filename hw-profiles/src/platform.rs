//! Which hypervisor and which cloud, from what the firmware says and nothing else.
//!
//! No metadata service is ever asked: a box in a shop must not send packets to 169.254.169.254
//! to find out that it is a box in a shop.

use crate::facts::{Cloud, Dmi, Virtualisation};

/// Every Azure machine carries this chassis asset tag (it spells "MSFT AZURE VM" in the digits
/// of its characters).
const AZURE_ASSET_TAG: &str = "7783-7084-3265-9085-8269-3286-77";

/// The cloud that the firmware names.
pub fn cloud(dmi: &Dmi) -> Option<Cloud> {
    // EC2 on Nitro names Amazon as vendor; the older Xen machines only in the BIOS version.
    if dmi.sys_vendor == "Amazon EC2"
        || dmi.chassis_asset_tag == "Amazon EC2"
        || dmi.bios_version.to_ascii_lowercase().ends_with(".amazon")
    {
        return Some(Cloud::Aws);
    }
    if dmi.chassis_asset_tag == AZURE_ASSET_TAG {
        return Some(Cloud::Azure);
    }
    if dmi.product_name == "Google Compute Engine" {
        return Some(Cloud::Gcp);
    }
    if dmi.sys_vendor == "OpenStack Foundation" || dmi.product_name.starts_with("OpenStack") {
        return Some(Cloud::OpenStack);
    }
    None
}

/// The hypervisor that the firmware names.
///
/// `flagged` is whether the processor says that there is one (`hypervisor` in the flags of
/// `/proc/cpuinfo`): it turns a nameless machine into [`Virtualisation::Other`], never a named one.
pub fn virtualisation(dmi: &Dmi, flagged: bool) -> Virtualisation {
    let vendor = dmi.sys_vendor.as_str();
    let product = dmi.product_name.as_str();
    // Amazon's bare-metal instances carry the same vendor as its virtual ones and ".metal" in the
    // product name.
    let ec2_virtual = vendor == "Amazon EC2" && !product.contains(".metal");
    if vendor == "QEMU"
        || product == "KVM"
        || product.starts_with("Standard PC (")
        || product == "Google Compute Engine"
        || ec2_virtual
        || cloud(dmi) == Some(Cloud::OpenStack)
        || dmi.bios_vendor == "SeaBIOS"
    {
        Virtualisation::Kvm
    } else if vendor.starts_with("VMware") {
        Virtualisation::Vmware
    } else if vendor == "Microsoft Corporation" && product == "Virtual Machine" {
        Virtualisation::HyperV
    } else if vendor == "Xen" || product == "HVM domU" {
        Virtualisation::Xen
    } else if vendor == "innotek GmbH" || product == "VirtualBox" {
        Virtualisation::VirtualBox
    } else if flagged {
        Virtualisation::Other
    } else {
        Virtualisation::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dmi(sys_vendor: &str, product_name: &str) -> Dmi {
        Dmi { sys_vendor: sys_vendor.into(), product_name: product_name.into(), ..Dmi::default() }
    }

    #[test]
    fn every_cloud_and_hypervisor_is_known_by_its_firmware() {
        let azure = Dmi {
            chassis_asset_tag: AZURE_ASSET_TAG.into(),
            ..dmi("Microsoft Corporation", "Virtual Machine")
        };
        let xen_ec2 = Dmi { bios_version: "4.11.amazon".into(), ..dmi("Xen", "HVM domU") };
        let cases = [
            (dmi("Amazon EC2", "t3.large"), Some(Cloud::Aws), Virtualisation::Kvm),
            (dmi("Amazon EC2", "m5.metal"), Some(Cloud::Aws), Virtualisation::None),
            (xen_ec2, Some(Cloud::Aws), Virtualisation::Xen),
            (azure, Some(Cloud::Azure), Virtualisation::HyperV),
            (dmi("Microsoft Corporation", "Virtual Machine"), None, Virtualisation::HyperV),
            (dmi("Google", "Google Compute Engine"), Some(Cloud::Gcp), Virtualisation::Kvm),
            (
                dmi("OpenStack Foundation", "OpenStack Nova"),
                Some(Cloud::OpenStack),
                Virtualisation::Kvm,
            ),
            (dmi("VMware, Inc.", "VMware7,1"), None, Virtualisation::Vmware),
            (dmi("QEMU", "Standard PC (Q35 + ICH9, 2009)"), None, Virtualisation::Kvm),
            (dmi("innotek GmbH", "VirtualBox"), None, Virtualisation::VirtualBox),
            (dmi("Dell Inc.", "Edge Gateway 3001"), None, Virtualisation::None),
        ];
        for (dmi, want_cloud, want_virtualisation) in cases {
            assert_eq!(cloud(&dmi), want_cloud, "{dmi:?}");
            assert_eq!(virtualisation(&dmi, false), want_virtualisation, "{dmi:?}");
        }
    }

    #[test]
    fn the_processor_flag_only_speaks_where_the_firmware_is_silent() {
        assert_eq!(virtualisation(&Dmi::default(), true), Virtualisation::Other);
        assert_eq!(virtualisation(&dmi("QEMU", "x"), true), Virtualisation::Kvm);
    }
}
