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
        packet_pages: inputs.settings.packet_pages,
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

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::resources::NodeConfigSpec;
    use holdfast_api::tunnel::{BfdTimers, Pages, TunnelIntent};
    use std::sync::Arc;

    #[test]
    fn what_the_settings_say_of_pages_is_told() {
        let intent = TunnelIntent {
            overlay_address: [100, 64, 1, 1].into(),
            site_prefixes: Vec::new(),
            routes: Vec::new(),
            candidates: Vec::new(),
            bfd: BfdTimers::default(),
            want: 2,
        };
        let desired = NodeConfigSpec { tunnels: Some(intent), ..NodeConfigSpec::default() };
        let mut inputs = Inputs { desired: Some(Arc::new(desired)), ..Inputs::for_tests() };
        let told = |inputs: &Inputs| config(inputs, "/key".into()).unwrap().packet_pages;
        assert_eq!(told(&inputs), Pages::Usual);
        Arc::make_mut(&mut inputs.settings).packet_pages = Pages::Huge2M;
        assert_eq!(told(&inputs), Pages::Huge2M);
    }
}
