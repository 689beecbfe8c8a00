//! What `tunneld` is told.

use crate::inputs::Inputs;
use holdfast_api::tunnel::{TunnelKind, TunnelsConfig};
use std::path::PathBuf;

/// The file for `tunneld`; none while the controller has not given any tunnels.
pub fn config(inputs: &Inputs, private_key: PathBuf) -> Option<TunnelsConfig> {
    let desired = inputs.desired.as_ref()?;
    let intent = desired.tunnels.clone()?;
    Some(TunnelsConfig {
        generation: desired.generation,
        private_key,
        listen_port: 0,
        kinds: kinds(inputs),
        intent,
    })
}

/// The profile's kinds, as far as they are built; both kinds of WireGuard when it names none of
/// those, because a node without tunnels helps nobody.
fn kinds(inputs: &Inputs) -> Vec<TunnelKind> {
    let known: Vec<TunnelKind> = inputs
        .profile
        .tunnels
        .iter()
        .filter_map(|kind| match kind {
            hw_profiles::profile::TunnelKind::WireguardKernel => Some(TunnelKind::WireguardKernel),
            hw_profiles::profile::TunnelKind::WireguardUserspace => {
                Some(TunnelKind::WireguardUserspace)
            }
            hw_profiles::profile::TunnelKind::Ipsec | hw_profiles::profile::TunnelKind::Tls => None,
        })
        .collect();
    match known.is_empty() {
        true => vec![TunnelKind::WireguardKernel, TunnelKind::WireguardUserspace],
        false => known,
    }
}
