//! `holdfast tunnels`: the tunnels held, the edges to choose from, the last failover.

use crate::failure::Failure;
use crate::output::{Context, Paint, Table};
use crate::units::{bytes, clean, rtt, span};
use holdfast_api::tunnel::{BfdState, LastFailover, TunnelKind, TunnelState, TunnelsState};
use std::fmt::Write;

pub(crate) async fn run(context: &Context) -> Result<u8, Failure> {
    let answer = context.manager().get::<TunnelsState>("/v1/tunnels").await?;
    context.show(&answer.raw, |paint| render(&answer.known, paint))?;
    Ok(0)
}

pub(super) fn render(state: &TunnelsState, paint: Paint) -> String {
    // Writing to a String cannot fail.
    let mut text = table(state, paint);
    if !state.candidates.is_empty() {
        let _ = writeln!(text, "\n{}", paint.bold("Regional edges, nearest first"));
        let mut table = Table::new(&["EDGE", "RTT", "TUNNEL"]);
        for candidate in &state.candidates {
            table.row([
                clean(&candidate.edge),
                candidate.rtt_us.map_or_else(|| paint.warn("no answer"), rtt),
                if candidate.chosen { "held".into() } else { "-".into() },
            ]);
        }
        text += &table.render();
    }
    text.push('\n');
    match &state.last_failover {
        None => text += "No failover since tunneld started.\n",
        Some(last) => {
            let _ = writeln!(text, "{}", failover(last, state.failovers));
        }
    }
    if !state.pending.is_empty() {
        let _ = writeln!(text, "\n{}", paint.bold("About to be changed in the kernel"));
        for step in &state.pending {
            let _ = writeln!(text, "  {}", clean(step));
        }
    }
    if let Some(reason) = state.reason {
        let code = paint.severity(reason.severity(), reason.code());
        let said = if state.message.is_empty() { reason.sentence() } else { &state.message };
        let _ = writeln!(text, "\n{code}  {}\n  Next: {}", clean(said), reason.next_step());
    }
    text
}

/// The heading and the table, also for `holdfast status`.
pub(super) fn table(state: &TunnelsState, paint: Paint) -> String {
    let heading = match state.tunnels.len() {
        0 => paint.bold("No tunnel"),
        held => paint.bold(&format!("Tunnels, {} of {held} up", state.up())),
    };
    let mut table =
        Table::new(&["EDGE", "STATE", "USE", "RTT", "RX", "TX", "HANDSHAKE", "LINK", "KIND"]);
    for tunnel in &state.tunnels {
        table.row(row(tunnel, paint));
    }
    let mut text = heading + "\n";
    if !state.tunnels.is_empty() {
        text += &table.render();
    }
    for tunnel in &state.tunnels {
        if let Some(reason) = tunnel.reason {
            let code = paint.severity(reason.severity(), reason.code());
            let _ = writeln!(text, "  {}: {code}  {}", clean(&tunnel.edge), reason.sentence());
        }
    }
    text
}

fn row(tunnel: &TunnelState, paint: Paint) -> [String; 9] {
    let ago = |seconds| format!("{} ago", span(seconds));
    [
        clean(&tunnel.edge),
        match tunnel.state {
            BfdState::Up => paint.good("up"),
            BfdState::Init => paint.warn("init"),
            BfdState::Down => paint.bad("down"),
            BfdState::AdminDown => paint.warn("held down"),
        },
        if tunnel.active { paint.bold("active") } else { "standby".into() },
        tunnel.rtt_us.map_or_else(|| "-".into(), rtt),
        bytes(tunnel.rx_bytes),
        bytes(tunnel.tx_bytes),
        tunnel.handshake_age_secs.map_or_else(|| "never".into(), ago),
        clean(&tunnel.link),
        match tunnel.kind {
            TunnelKind::WireguardKernel => "wireguard, kernel".into(),
            TunnelKind::WireguardUserspace => "wireguard, userspace".into(),
        },
    ]
}

/// One sentence about the last switch.
pub(crate) fn failover(last: &LastFailover, count: u64) -> String {
    let way = match (&last.from, &last.to) {
        (Some(from), Some(to)) => format!("from {} to {}", clean(from), clean(to)),
        (None, Some(to)) => format!("to {}", clean(to)),
        (Some(from), None) => format!("away from {}, to no tunnel", clean(from)),
        (None, None) => "to no tunnel".into(),
    };
    format!(
        "Last failover {} ago: {way}, in {}.{:03} ms ({count} so far).",
        span(last.age_secs),
        last.switch_us / 1000,
        last.switch_us % 1000,
    )
}
