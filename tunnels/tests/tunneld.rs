//! The real `tunneld` in a network namespace, with real packets.

mod world;

use nix::sys::signal::Signal;
use world::{World, active, of, wait_for};

macro_rules! need_rights {
    () => {
        if let Some(why) = world::missing() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}

#[test]
fn two_nearest_tunnels_come_up_and_traffic_flows() {
    need_rights!();
    let world = World::three().up();
    let state = world.state().unwrap();
    assert_eq!(state.candidates[0].edge, "re-1");
    let chosen: Vec<_> = state.candidates.iter().filter(|c| c.chosen).map(|c| c.edge.as_str()).collect();
    assert_eq!(chosen, ["re-1", "re-2"], "the nearest two");
    assert_eq!(state.reason, None, "{}", state.message);
    assert!(world.ping());
}
