//! `/etc/hosts`, kernel settings and SSH authorities, as the `host` domain wants them.

use crate::inputs::Inputs;
use holdfast_api::Reason;
use holdfast_api::local::Problem;
use holdfast_host::{etc_hosts, ssh_ca, sysctl};

/// Our block of `/etc/hosts`; a name that is none leaves its line out and is reported.
pub fn hosts(inputs: &Inputs) -> (etc_hosts::Want, Vec<Problem>) {
    let mut want = etc_hosts::Want::default();
    let mut problems = Vec::new();
    for entry in inputs.desired.iter().flat_map(|spec| &spec.hosts) {
        let names: Result<Vec<_>, _> =
            entry.names.iter().map(|name| etc_hosts::HostName::try_from(name.as_str())).collect();
        match names.map(|names| {
            names.split_first().map(|(name, aliases)| (name.clone(), aliases.to_vec()))
        }) {
            Ok(Some((name, aliases))) => {
                want.entries.push(etc_hosts::Entry { address: entry.address, name, aliases });
            }
            Ok(None) => {
                let text = format!("the hosts entry for {} has no name", entry.address);
                problems.push(Problem::new(Reason::ConfigInvalid, text));
            }
            Err(error) => problems.push(Problem::new(Reason::ConfigInvalid, error.to_string())),
        }
    }
    (want, problems)
}

/// The profile's settings, with the controller's over them.
pub fn sysctls(inputs: &Inputs) -> (sysctl::Want, Vec<Problem>) {
    let profile = inputs.profile.kernel.sysctls.iter().map(|(name, value)| (name, &value.0));
    let desired = inputs.desired.iter().flat_map(|spec| &spec.sysctls);
    let mut want = sysctl::Want::new();
    let mut problems = Vec::new();
    let mut take = |name: Result<sysctl::Name, String>, value: &String| match name {
        Ok(name) => drop(want.insert(name, value.clone())),
        Err(error) => problems.push(Problem::new(Reason::ConfigInvalid, error)),
    };
    for (name, value) in profile {
        take(sysctl::Name::try_from(name.as_str()).map_err(|error| error.to_string()), value);
    }
    for (name, value) in desired {
        take(sysctl::from_afar(name, value).map_err(|error| error.to_string()), value);
    }
    (want, problems)
}

/// Whom sshd trusts. One bad part and nothing is wanted: the last good set stays.
///
/// # Errors
/// The part that is no key, user or principal.
pub fn ssh(inputs: &Inputs) -> Result<Option<ssh_ca::Want>, Problem> {
    let Some(spec) = &inputs.desired else { return Ok(None) };
    let authorities = spec.ssh.authorities.iter().map(String::as_str);
    let principals = spec
        .ssh
        .principals
        .iter()
        .map(|(user, names)| (user.as_str(), names.iter().map(String::as_str).collect()));
    ssh_ca::Want::parse(authorities, principals, None)
        .map(Some)
        .map_err(|error| crate::pass::problem(error.reason(), &error))
}
