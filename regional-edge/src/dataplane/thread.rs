//! The thread itself: wait, take in, do, publish.

use super::ends::{self, Ends};
use super::error::EndsError;
use super::model::{Due, Model};
use super::rounds::Rounds;
use super::{Event, Options};
use crate::nodes::NodeKey;
use crate::state::{DataState, Handshakes, NeighbourState, NodeState, Way};
use holdfast_api::Reason;
use holdfast_api::tunnel::BfdState;
use netd::watch::Watch;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tunnels::wireguard::HandshakeCounts;

/// Counters are published this often.
const TICK: Duration = Duration::from_secs(1);
/// The state is not told more often than this, however much happens.
const PUBLISH: Duration = Duration::from_millis(50);

pub(super) struct Thread {
    options: Options,
    model: Model,
    ends: Option<Ends>,
    drift: Option<Watch>,
    events: Sender<Event>,
    up: watch::Sender<Arc<BTreeSet<NodeKey>>>,
    state: watch::Sender<Arc<DataState>>,
    rounds: Rounds,
    /// When the counters were looked at.
    counted_at: Option<Instant>,
    published_at: Option<Instant>,
    /// Something is new that was not published yet.
    unpublished: bool,
    switches: u64,
    last_switch: Option<Duration>,
}

impl Thread {
    pub(super) fn new(
        options: Options,
        events: Sender<Event>,
        up: watch::Sender<Arc<BTreeSet<NodeKey>>>,
        state: watch::Sender<Arc<DataState>>,
    ) -> Self {
        Thread {
            model: Model::new(&options.edge, options.overlay),
            options,
            ends: None,
            drift: Watch::open().ok(),
            events,
            up,
            state,
            rounds: Rounds::new(Instant::now()),
            counted_at: None,
            published_at: None,
            unpublished: false,
            switches: 0,
            last_switch: None,
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Event>) {
        loop {
            let now = Instant::now();
            let longest = if self.unpublished { PUBLISH } else { TICK };
            let wait = match self.model.knows_peers() {
                true => longest.min(self.rounds.due_in(now)),
                false => longest,
            };
            let first = match inbox.recv_timeout(wait) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let ticked = first.is_none();
            // What came together is done together.
            let mut events: Vec<Event> = first.into_iter().chain(inbox.try_iter()).collect();
            if events.iter().any(|event| matches!(event, Event::Stop)) {
                return;
            }
            let begun = Instant::now();
            for event in events.extract_if(.., |event| matches!(event, Event::Device(_))) {
                if let (Event::Device(status), Some(ends)) = (event, &mut self.ends) {
                    ends.take_status(status);
                    self.unpublished = true;
                }
            }
            let mut due = self.model.take(events);
            if ticked && let Some(ends) = &self.ends {
                let missed = self.model.set_all_up(ends.up());
                due.destinations.extend(missed.destinations);
                due.told_up |= missed.told_up;
            }
            self.act(&due, begun);
            self.look_for_drift(begun);
            let counted = self.look_at_traffic(begun);
            self.publish(counted || !due.is_nothing());
        }
    }

    fn act(&mut self, due: &Due, begun: Instant) {
        if due.told_up {
            self.up.send_replace(Arc::new(self.model.up().clone()));
        }
        if due.everything {
            self.rounds.ask(begun);
        }
        if !due.destinations.is_empty()
            && let Some(ends) = &mut self.ends
        {
            let view = self.model.view();
            match ends.reroute(&due.destinations, &view) {
                Ok(0) => {}
                Ok(_) => {
                    self.switches += 1;
                    self.last_switch = Some(begun.elapsed());
                }
                // What we believed was wrong: look around.
                Err(error) => {
                    tracing::debug!(error = holdfast_api::chain(&error), "routes");
                    self.rounds.ask(begun);
                }
            }
            // A prefix that nodes share may be another one's now.
            if due.told_up && ends.set_peers(&view) {
                self.rounds.ask(begun);
            }
        }
        if self.model.knows_peers() && self.rounds.due_in(Instant::now()).is_zero() {
            let done = self.everything();
            self.rounds.done(done, Instant::now());
        }
    }

    fn everything(&mut self) -> Result<usize, EndsError> {
        if self.ends.as_ref().is_some_and(|ends| !ends.is_alive()) {
            // Its link is gone, and with it every session and route.
            self.ends = None;
            let lost = self.model.set_all_up(BTreeSet::new());
            if lost.told_up {
                self.up.send_replace(Arc::default());
            }
        }
        let ends = match &mut self.ends {
            Some(ends) => ends,
            None => {
                let ends = Ends::open(&self.options, self.events.clone())?;
                tracing::info!(kind = ?ends.kind(), port = ends.listen_port(), "tunnels end here");
                self.ends.insert(ends)
            }
        };
        if let Some(address) = self.options.backbone {
            let link = ends.link_with(address)?;
            if let Some(link) = &link {
                ends::loosen(link)?;
            } else {
                tracing::warn!(%address, "no link has this edge's address on the backbone");
            }
            self.model.set_backbone_link(link);
        }
        self.model.set_ipv6(ends.has_ipv6());
        // A neighbour that cannot be reached keeps nobody else from being served.
        let mut first = None;
        loop {
            let error = match ends.reconcile(&self.model.view()) {
                Ok(changed) => return first.map_or(Ok(changed), Err),
                Err(error) => error,
            };
            let neighbour = error.refused_step().zip(self.model.view().backbone);
            let Some(edge) = neighbour
                .and_then(|(step, backbone)| crate::routing::neighbour(step, backbone))
                .map(str::to_owned)
            else {
                return Err(error);
            };
            self.model.leave_out(&edge);
            if first.is_none() {
                first = Some(error);
            } else {
                // The first is told with what came of all this.
                tracing::warn!(
                    edge,
                    error = holdfast_api::chain(&error),
                    "nothing goes over this edge"
                );
            }
        }
    }

    fn look_for_drift(&mut self, now: Instant) {
        if self.ends.as_ref().is_some_and(|ends| !ends.is_alive()) {
            if self.rounds.trouble().is_none() {
                self.rounds.ask(now);
            }
            return;
        }
        let touched = self.drift.as_mut().is_some_and(|drift| drift.changed().unwrap_or(true));
        if touched {
            self.rounds.drifted(now);
        }
    }

    /// True when it was time to.
    fn look_at_traffic(&mut self, now: Instant) -> bool {
        let is_due = self.counted_at.is_none_or(|at| now.duration_since(at) >= TICK);
        if is_due {
            self.counted_at = Some(now);
            self.ends.iter_mut().for_each(Ends::look_at_traffic);
        }
        is_due
    }

    fn publish(&mut self, news: bool) {
        let now = Instant::now();
        self.unpublished |= news;
        let soon = self.published_at.is_some_and(|at| now.duration_since(at) < PUBLISH);
        if !self.unpublished || soon {
            return;
        }
        (self.published_at, self.unpublished) = (Some(now), false);
        let state = self.describe(now);
        self.state.send_replace(Arc::new(state));
    }

    fn describe(&mut self, now: Instant) -> DataState {
        let mut liveness = self.ends.as_ref().map(Ends::liveness).unwrap_or_default();
        let ends = self.ends.as_ref();
        let view = self.model.view();
        let nodes = self.model.nodes().iter().map(|node| {
            let status = liveness.remove(&node.key);
            let since = status.map_or(Duration::ZERO, |s| now.saturating_duration_since(s.since));
            let traffic = ends.map(|ends| ends.traffic(&node.public_key)).unwrap_or_default();
            let way = if view.up.contains(&node.key) {
                Way::Tunnel
            } else {
                let edge = crate::routing::backup(&node.overlay.into(), &view);
                edge.map_or(Way::Nowhere, |edge| Way::Backbone { edge: edge.into() })
            };
            NodeState {
                node: node.key.to_string(),
                site: node.site.clone(),
                overlay: node.overlay,
                prefixes: node.prefixes.iter().copied().collect(),
                state: status.map_or(BfdState::Down, |s| s.state),
                since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
                way,
                endpoint: traffic.endpoint,
                rx_bytes: traffic.rx_bytes,
                tx_bytes: traffic.tx_bytes,
                handshake_age_secs: traffic.handshake_age.map(|age| age.as_secs()),
            }
        });
        let edges = self.model.edges().map(|(edge, backbone, up)| NeighbourState {
            edge: edge.into(),
            backbone,
            heard: up.is_some(),
            nodes_up: up.unwrap_or(0),
        });
        let (reason, message) = match (self.rounds.trouble(), tunnels::ipv6::told(view.left_out()))
        {
            (Some(error), _) => (Some(error.reason()), holdfast_api::chain(error)),
            (None, Some(left_out)) => (Some(Reason::NetIpv6Off), left_out),
            (None, None) => (None, String::new()),
        };
        DataState {
            overlay: Some(self.options.overlay),
            link: crate::names::LINK.into(),
            kind: self.ends.as_ref().map(Ends::kind),
            listen_port: self.ends.as_ref().map_or(0, Ends::listen_port),
            packet_pages: self.ends.as_ref().and_then(Ends::packet_pages),
            nodes: nodes.collect(),
            edges: edges.collect(),
            refusals: self.model.refusals().to_vec(),
            reason,
            message,
            switches: self.switches,
            last_switch_us: self
                .last_switch
                .map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
            handshakes: self.ends.as_ref().and_then(Ends::handshakes).map(
                |HandshakeCounts { taken, cookies, dropped }| Handshakes {
                    taken,
                    cookies,
                    dropped,
                },
            ),
        }
    }
}
