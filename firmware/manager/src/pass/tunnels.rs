//! The tunnels in the pass: the file that `tunneld` follows. The kernel side of the uplinks is
//! planned and applied by `tunneld` itself, so that it goes on without us.

use super::{Domain, DomainPlan, chain, live, problem};
use crate::inputs::Inputs;
use crate::intent::tunnels::config;
use holdfast_api::Reason;
use holdfast_api::local::{Problem, TrafficImpact};
use holdfast_api::tunnel::TunnelsConfig;
use holdfast_identity::WireguardKey;

/// The file for `tunneld`.
#[derive(Debug)]
pub(super) struct Tunnels;

impl Domain for Tunnels {
    fn name(&self) -> &'static str {
        "tunnels"
    }

    fn plan<'a>(&'a mut self, inputs: &'a Inputs) -> Result<DomainPlan<'a>, Problem> {
        let key = WireguardKey::load_or_create(&inputs.root.identity_dir())
            .map_err(|error| problem(error.reason(), &error))?;
        let Some(want) = config(inputs, key.path().to_path_buf()) else {
            return Ok(DomainPlan::nothing(Vec::new()));
        };
        let text = serde_json::to_string_pretty(&want)
            .map_err(|error| Problem::new(Reason::Internal, chain(&error)))?;
        let run = inputs.root.tunnels_config();
        let have = std::fs::read_to_string(&run).unwrap_or_default();
        if have == text {
            return Ok(DomainPlan::nothing(Vec::new()));
        }
        let have: Option<TunnelsConfig> = serde_json::from_str(&have).ok();
        let step = live("tunnels", describe(have.as_ref(), &want), impact(have.as_ref(), &want));
        let apply = Box::new(move || {
            holdfast_durable::write(&run, text.as_bytes(), 0o600)
                .map_err(|error| problem(disk_reason(&error), &error))
        });
        Ok(DomainPlan { steps: vec![step], problems: Vec::new(), apply })
    }
}

fn describe(have: Option<&TunnelsConfig>, want: &TunnelsConfig) -> String {
    let edges: Vec<&str> = want.intent.candidates.iter().map(|edge| edge.name.as_str()).collect();
    let verb = if have.is_some() { "change" } else { "give" };
    format!(
        "{verb} tunneld generation {}: {} tunnels among {} to {} prefixes",
        want.generation,
        want.intent.want,
        edges.join(", "),
        want.intent.routes.len(),
    )
}

/// `tunneld` keeps what stays the same; a tunnel to an edge that goes away costs a failover.
fn impact(have: Option<&TunnelsConfig>, want: &TunnelsConfig) -> TrafficImpact {
    let Some(have) = have else { return TrafficImpact::None };
    let kept = |name: &str| want.intent.candidates.iter().any(|edge| edge.name == name);
    let moved = have.intent.overlay_address != want.intent.overlay_address
        || have.private_key != want.private_key;
    match () {
        () if moved => TrafficImpact::Interrupted,
        () if have.intent.candidates.iter().all(|edge| kept(&edge.name)) => TrafficImpact::None,
        () => TrafficImpact::Brief,
    }
}

fn disk_reason(error: &holdfast_durable::WriteError) -> Reason {
    if error.disk_full() { Reason::StateDiskFull } else { Reason::StateUnwritable }
}
