//! What ends up in files and settings of a site's nodes, checked by what the nodes check it with:
//! a site that a node would refuse in part makes all of its nodes degraded.
//!
//! What is stored already is let through, or an older object that breaks a rule could be changed
//! in no other way than whole.

use crate::schema::{FieldError, key_path, shorten};
use holdfast_api::chain;
use holdfast_api::resources::{HostEntry, SiteSpec, SshAuthorities};
use holdfast_host::etc_hosts::HostName;
use holdfast_host::ssh_ca::{Principal, PublicKey, UserName};
use holdfast_host::sysctl;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

/// Bytes, as JSON, of all that is checked here. Nodes follow their configuration by a watch whose
/// lines are at most 1 MiB long (`holdfast_client::Options::max_line`), tunnels included.
const ALL_MAX: usize = 512 << 10;

/// What is wrong with `new` and was not in `old`. Pure.
pub(super) fn check(old: &SiteSpec, new: &SiteSpec) -> Vec<FieldError> {
    let mut errors = hosts(&old.hosts, &new.hosts);
    errors.extend(ssh(&old.ssh, &new.ssh));
    errors.extend(sysctls(&old.sysctls, &new.sysctls));
    let parts = |spec: &SiteSpec| bytes(&spec.hosts) + bytes(&spec.ssh) + bytes(&spec.sysctls);
    let size = parts(new);
    if size > ALL_MAX.max(parts(old)) {
        let message = format!(
            "Too long: hosts, ssh and sysctls have {size} bytes, nodes take at most {ALL_MAX}"
        );
        errors.push(FieldError::invalid("spec", message));
    }
    errors
}

fn hosts(old: &[HostEntry], new: &[HostEntry]) -> Vec<FieldError> {
    let known: BTreeSet<&HostEntry> = old.iter().collect();
    let mut errors = Vec::new();
    for (index, entry) in new.iter().enumerate().filter(|(_, entry)| !known.contains(entry)) {
        let field = format!("spec.hosts[{index}].names");
        if entry.names.is_empty() {
            errors.push(FieldError::required(&field));
        }
        for (at, name) in entry.names.iter().enumerate() {
            if HostName::try_from(name.as_str()).is_err() {
                let want = "must be a host name (RFC 1123): letters, digits, hyphens and dots";
                errors.push(invalid(format!("{field}[{at}]"), name, want));
            }
        }
    }
    errors
}

fn ssh(old: &SshAuthorities, new: &SshAuthorities) -> Vec<FieldError> {
    let known: BTreeSet<&String> = old.authorities.iter().collect();
    let mut errors = Vec::new();
    for (index, line) in new.authorities.iter().enumerate().filter(|(_, l)| !known.contains(l)) {
        if let Err(error) = PublicKey::parse(line) {
            errors.push(because(format!("spec.ssh.authorities[{index}]"), line, &error));
        }
    }
    for (user, names) in &new.principals {
        let field = key_path("spec.ssh.principals", user);
        let before = old.principals.get(user);
        if before.is_none()
            && let Err(error) = UserName::try_from(user.as_str())
        {
            errors.push(because(field.clone(), user, &error));
        }
        let known: BTreeSet<&String> = before.into_iter().flatten().collect();
        for (at, name) in names.iter().enumerate().filter(|(_, name)| !known.contains(name)) {
            if let Err(error) = Principal::try_from(name.as_str()) {
                errors.push(because(format!("{field}[{at}]"), name, &error));
            }
        }
    }
    errors
}

fn sysctls(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // The kernel's settings, as several names can mean one; those that stay come first.
    let mut named: BTreeMap<sysctl::Name, &String> = BTreeMap::new();
    let stays = |(name, value): &(&String, &String)| old.get(*name) == Some(value);
    for (text, _) in new.iter().filter(stays) {
        named.extend(sysctl::Name::try_from(text.as_str()).map(|name| (name, text)));
    }
    for (text, value) in new.iter().filter(|entry| !stays(entry)) {
        let field = key_path("spec.sysctls", text);
        match sysctl::from_afar(text, value) {
            Err(error @ sysctl::FromAfarError::Value(_)) => {
                errors.push(because(field, value, &error));
            }
            Err(error) => errors.push(because(field, text, &error)),
            Ok(name) => {
                if let Some(other) = named.insert(name, text) {
                    let message = format!("Duplicate value: {other:?} is the same setting");
                    errors.push(FieldError::invalid(field, message));
                }
            }
        }
    }
    errors
}

fn because(field: String, value: &str, error: &dyn Error) -> FieldError {
    invalid(field, value, &chain(error))
}

fn invalid(field: String, value: &str, want: &str) -> FieldError {
    FieldError::invalid(field, format!("Invalid value: {}: {want}", shorten(&value.into())))
}

fn bytes(part: &impl Serialize) -> usize {
    serde_json::to_vec(part).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ca";

    fn spec(value: Value) -> SiteSpec {
        serde_json::from_value(value).unwrap()
    }

    fn fields(old: &SiteSpec, new: &SiteSpec) -> Vec<String> {
        check(old, new).into_iter().map(|error| error.field).collect()
    }

    fn good() -> SiteSpec {
        spec(json!({
            "hosts": [{"address": "10.0.0.1", "names": ["a", "a.example"]}],
            "ssh": {"authorities": [KEY], "principals": {"root": ["ops@example"]}},
            "sysctls": {"net.ipv4.ip_forward": "1", "net.ipv4.tcp_rmem": "1 2\t3"},
        }))
    }

    /// Every way that was found to have a node refuse what its controller said.
    fn bad() -> Vec<(Value, &'static str)> {
        vec![
            (
                json!({"hosts": [{"address": "10.0.0.1", "names": ["a", "x\n6.6.6.6 evil.example"]}]}),
                "spec.hosts[0].names[1]",
            ),
            (json!({"hosts": [{"address": "10.0.0.1", "names": []}]}), "spec.hosts[0].names"),
            (json!({"sysctls": {"vm.swappiness": "1\n2"}}), "spec.sysctls[vm.swappiness]"),
            (
                json!({"sysctls": {"kernel.core_pattern": "|/bin/sh"}}),
                "spec.sysctls[kernel.core_pattern]",
            ),
            (json!({"sysctls": {"../../x": "1"}}), "spec.sysctls[../../x]"),
            (json!({"sysctls": {"a\nb": "1"}}), r"spec.sysctls[a\nb]"),
            (
                json!({"sysctls": {"net.ipv4.ip_forward": "1", "net/ipv4/ip_forward": "0"}}),
                "spec.sysctls[net/ipv4/ip_forward]",
            ),
            (
                json!({"ssh": {"authorities": [KEY, format!("{KEY}\nPermitRootLogin yes")]}}),
                "spec.ssh.authorities[1]",
            ),
            (json!({"ssh": {"authorities": ["ssh-dss AAAA"]}}), "spec.ssh.authorities[0]"),
            (json!({"ssh": {"authorities": [""]}}), "spec.ssh.authorities[0]"),
            (
                json!({"ssh": {"principals": {"root": ["ops", "a b"]}}}),
                "spec.ssh.principals.root[1]",
            ),
            (json!({"ssh": {"principals": {"../root": ["ops"]}}}), "spec.ssh.principals[../root]"),
        ]
    }

    #[test]
    fn what_a_node_would_refuse_is_refused() {
        assert_eq!(fields(&SiteSpec::default(), &good()), [""; 0]);
        for (value, field) in bad() {
            let errors = check(&SiteSpec::default(), &spec(value.clone()));
            let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
            assert_eq!(fields, [field], "{value}");
            assert!(errors[0].message.chars().all(|c| !c.is_control()), "{:?}", errors[0]);
        }
    }

    #[test]
    fn what_was_stored_before_the_rule_may_stay_go_and_not_grow() {
        for (value, _) in bad() {
            let old = spec(value);
            assert_eq!(fields(&old, &old), [""; 0], "it may stay");
            assert_eq!(fields(&old, &good()), [""; 0], "it may go");
        }
        let old = spec(json!({"sysctls": {"kernel.core_pattern": "a", "kernel.modprobe": "b"}}));
        let mended = spec(json!({"sysctls": {"kernel.core_pattern": "a"}}));
        assert_eq!(fields(&old, &mended), [""; 0], "one after the other");
        let other = spec(json!({"sysctls": {"kernel.core_pattern": "c"}}));
        assert_eq!(fields(&old, &other), ["spec.sysctls[kernel.core_pattern]"]);
    }

    #[test]
    fn a_node_must_be_able_to_read_it_all() {
        let entry = |n: usize| json!({"address": "10.0.0.1", "names": [format!("host-{n}")]});
        let many = spec(json!({"hosts": (0..20_000).map(entry).collect::<Vec<_>>()}));
        assert_eq!(fields(&SiteSpec::default(), &many), ["spec"]);
        assert_eq!(fields(&many, &many), [""; 0]);
        let fewer = SiteSpec { hosts: many.hosts[1..].to_vec(), ..many.clone() };
        assert_eq!(fields(&many, &fewer), [""; 0]);
    }

    proptest! {
        /// The law: what is accepted, the node takes without a problem.
        #[test]
        fn what_is_accepted_suits_the_node(
            name in "[a-zA-Z0-9.\\-_ \n#]{0,8}", setting in "(net|vm|kernel)[./]{1,2}[a-z._/]{0,12}",
            value in "[0-9 \n\t~é]{0,5}", user in "[a-z0-9_/.\\-]{0,5}", principal in "[a-z@ ./,\"]{0,5}",
        ) {
            let site = spec(json!({
                "hosts": [{"address": "10.0.0.1", "names": [name]}],
                "ssh": {"principals": {&user: [principal]}}, "sysctls": {&setting: value},
            }));
            let fields = fields(&SiteSpec::default(), &site);
            let fine = |part: &str| !fields.iter().any(|field| field.starts_with(part));
            prop_assert_eq!(fine("spec.hosts"), HostName::try_from(name.as_str()).is_ok());
            prop_assert_eq!(fine("spec.sysctls"), sysctl::from_afar(&setting, &value).is_ok());
            let want = holdfast_host::ssh_ca::Want::parse([], [(user.as_str(), vec![principal.as_str()])], None);
            prop_assert_eq!(fine("spec.ssh"), want.is_ok());
        }
    }
}
