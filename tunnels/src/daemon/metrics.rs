//! The state as Prometheus text (exposition format 0.0.4).

use super::control::Control;
use crate::bfd::State;
use std::fmt::{Display, Write as _};
use std::time::Instant;

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Control {
    /// The state as text for Prometheus.
    pub(super) fn metrics(&mut self, now: Instant) -> String {
        let state = self.state(now);
        let mut text = Text(String::new());
        text.family("holdfast_tunnel_up", "gauge", "Whether data passes through the tunnel.");
        for tunnel in &state.tunnels {
            let labels = [("edge", tunnel.edge.as_str()), ("link", tunnel.link.as_str())];
            text.sample("holdfast_tunnel_up", &labels, u8::from(tunnel.state == State::Up));
        }
        text.family("holdfast_tunnel_active", "gauge", "Whether traffic uses the tunnel.");
        for tunnel in &state.tunnels {
            text.sample(
                "holdfast_tunnel_active",
                &[("edge", &tunnel.edge)],
                u8::from(tunnel.active),
            );
        }
        type Bytes = fn(&holdfast_api::tunnel::TunnelState) -> u64;
        let bytes: [(&str, &str, Bytes); 2] = [
            ("holdfast_tunnel_receive_bytes_total", "Bytes of datagrams received.", |t| t.rx_bytes),
            ("holdfast_tunnel_transmit_bytes_total", "Bytes of datagrams sent.", |t| t.tx_bytes),
        ];
        for (name, help, of) in bytes {
            text.family(name, "counter", help);
            for tunnel in &state.tunnels {
                text.sample(name, &[("edge", &tunnel.edge)], of(tunnel));
            }
        }
        text.family(
            "holdfast_tunnel_handshake_age_seconds",
            "gauge",
            "Time since the last handshake.",
        );
        for tunnel in &state.tunnels {
            if let Some(age) = tunnel.handshake_age_secs {
                text.sample(
                    "holdfast_tunnel_handshake_age_seconds",
                    &[("edge", &tunnel.edge)],
                    age,
                );
            }
        }
        self.edge_metrics(&mut text);
        let (switches, last) = self.liveness.switches();
        text.family(
            "holdfast_tunnel_failovers_total",
            "counter",
            "Times that traffic left a tunnel.",
        );
        text.sample("holdfast_tunnel_failovers_total", &[], switches);
        if let Some(last) = last {
            text.family(
                "holdfast_tunnel_last_switch_seconds",
                "gauge",
                "From the last decision to the kernel's confirmation.",
            );
            text.sample("holdfast_tunnel_last_switch_seconds", &[], last.took.as_secs_f64());
        }
        text.family(
            "holdfast_tunnel_network_mended_total",
            "counter",
            "Times that somebody's change of the network was put back.",
        );
        text.sample("holdfast_tunnel_network_mended_total", &[], self.mended);
        text.family(
            "holdfast_tunnel_config_generation",
            "gauge",
            "Generation of the configuration in force.",
        );
        text.sample("holdfast_tunnel_config_generation", &[], state.generation);
        text.family("holdfast_tunnel_reason", "gauge", "1 for the worst thing to say.");
        if let Some(reason) = state.reason.filter(|reason| super::report::is_bad(*reason)) {
            text.sample("holdfast_tunnel_reason", &[("reason", reason.code())], 1);
        }
        text.0
    }

    fn edge_metrics(&self, text: &mut Text) {
        let edges: Vec<_> = self
            .settings
            .iter()
            .flat_map(|settings| &settings.candidates)
            .filter_map(|edge| Some((edge.name.as_str(), self.prober.measured(&edge.name)?)))
            .collect();
        text.family("holdfast_edge_rtt_seconds", "gauge", "Smoothed round-trip time to the edge.");
        for (name, measured) in &edges {
            if let Some(rtt) = measured.rtt {
                text.sample("holdfast_edge_rtt_seconds", &[("edge", name)], rtt.as_secs_f64());
            }
        }
        text.family("holdfast_edge_probes_total", "counter", "Probes sent to the edge.");
        for (name, measured) in &edges {
            text.sample("holdfast_edge_probes_total", &[("edge", name)], measured.sent);
        }
        text.family("holdfast_edge_probes_lost_total", "counter", "Probes without an answer.");
        for (name, measured) in &edges {
            text.sample("holdfast_edge_probes_lost_total", &[("edge", name)], measured.lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text(String::new());
        text.sample("a", &[("edge", "x\"\\\n")], 1);
        assert_eq!(text.0, "a{edge=\"x\\\"\\\\\\n\"} 1\n");
    }
}
