//! Draws a [`Model`]: a pure function of it and of the size of the screen.

use super::look::Look;
use super::model::{Entry, Model, Step};
use crate::commands::kube::words;
use crate::commands::tunnels::failover;
use crate::failure::stage_name;
use crate::token_entry::Group;
use crate::units::{bytes, clean, rtt, span};
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesState};
use holdfast_api::local::{ItemState, NodeReport, Stage};
use holdfast_api::tunnel::{BfdState, TunnelsState};
use holdfast_api::{Reason, Severity};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table, Wrap};

/// Below this, nothing useful fits.
const SMALLEST: (u16, u16) = (40, 12);
/// Columns of a group of the token: five characters, its mark and a gap.
const GROUP_COLUMNS: u16 = 7;

const ASCII: border::Set<'static> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

pub(crate) fn draw(model: &Model, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("This screen needs {} x {} characters.", SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let [title, rest, footer] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)])
            .areas(area);
    draw_title(model, frame, title);
    draw_footer(model, frame, footer);
    match &model.report {
        None => draw_waiting(model, frame, rest),
        Some(report) => draw_node(model, report, frame, rest),
    }
}

fn draw_title(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let look = model.look;
    let (who, stage) = match &model.report {
        None => (String::new(), String::new()),
        Some(report) => {
            let named = [(&report.node, ""), (&report.site, "site "), (&report.tenant, "tenant ")];
            let who: Vec<String> = named
                .iter()
                .filter(|(name, _)| !name.is_empty())
                .map(|(name, what)| format!("{what}{}", clean(name)))
                .collect();
            let who = format!("{}  {}", clean(&report.version), who.join(", "));
            (who, format!(" {} ", stage_name(report.stage)))
        }
    };
    let bar = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(format!(" Holdfast {who}")).style(bar), area);
    let width = u16::try_from(stage.len()).unwrap_or(0).min(area.width);
    let right = Rect { x: area.right() - width, width, ..area };
    let colour = model.report.as_ref().map_or(Style::new(), |r| stage_style(look, r.stage));
    let style = bar.patch(colour).add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(stage).style(style), right);
}

fn draw_footer(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let keys = match &model.entry {
        Some(Entry { step: Step::Token, .. }) => {
            "Enter send  Backspace  Arrows move  Ctrl-U clear  Esc close  Ctrl-C quit"
        }
        Some(Entry { step: Step::Controller(_), .. }) => "Enter send  Esc back  Ctrl-C quit",
        Some(Entry { step: Step::Sending, .. }) => "Sending...  Ctrl-C quit",
        None => "t token  r refresh  Up/Down scroll  Ctrl-L redraw  q quit",
    };
    let text = model.notice.unwrap_or(keys);
    frame.render_widget(Paragraph::new(format!(" {text}")), area);
}

/// Before the manager's first answer.
fn draw_waiting(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let lines = match &model.trouble {
        None => vec![Line::raw("Asking the manager...")],
        Some(problem) => {
            complaint(model.look, problem.reason, &problem.message, &problem.next_step)
        }
    };
    let widget = Paragraph::new(lines).wrap(Wrap { trim: true }).block(block(model.look, "State"));
    frame.render_widget(widget, area);
}

fn draw_node(model: &Model, report: &NodeReport, frame: &mut Frame<'_>, area: Rect) {
    let look = model.look;
    let state = state_lines(model, report);
    let inside = usize::from(area.width.saturating_sub(2)).max(1);
    let wrapped: usize = state.iter().map(|line| line.width().div_ceil(inside).max(1)).sum();
    let state_height = u16::try_from(wrapped).unwrap_or(u16::MAX).clamp(1, 5) + 2;
    let held = report.tunnels.as_ref().map_or(0, |state| state.tunnels.len()).min(3);
    let tunnels_height = u16::try_from(held).unwrap_or(3) + 4;
    let third = if model.entry.is_some() { 9 } else { tunnels_height };
    let mut facts = facts(look, report);
    // A line more is shown when an item still fits below it.
    if let Some(state) = &report.kubernetes
        && area.height >= state_height + 7 + third + 3
    {
        facts.push(kubernetes(look, state));
    }
    let facts_height = u16::try_from(facts.len()).unwrap_or(u16::MAX).saturating_add(2);
    let rows = [
        Constraint::Length(state_height),
        Constraint::Max(facts_height),
        Constraint::Length(third),
        Constraint::Fill(1),
    ];
    let parts = Layout::vertical(rows).split(area);
    let widget = Paragraph::new(state).wrap(Wrap { trim: true }).block(block(look, "State"));
    frame.render_widget(widget, parts[0]);
    let widget = Paragraph::new(facts).block(block(look, "Node"));
    frame.render_widget(widget, parts[1]);
    match &model.entry {
        Some(entry) => draw_entry(look, entry, frame, parts[2]),
        None => {
            draw_tunnels(look, report.tunnels.as_ref(), frame, parts[2]);
            draw_items(model, report, frame, parts[3]);
        }
    }
}

fn state_lines(model: &Model, report: &NodeReport) -> Vec<Line<'static>> {
    let look = model.look;
    // Without the manager, what is below is old: that comes first.
    if let Some(problem) = &model.trouble {
        return complaint(look, problem.reason, &problem.message, &problem.next_step);
    }
    match report.reason {
        Some(reason) => {
            let said = if report.message.is_empty() { reason.sentence() } else { &report.message };
            let next =
                if report.next_step.is_empty() { reason.next_step() } else { &report.next_step };
            complaint(look, reason, said, next)
        }
        None if report.message.is_empty() => {
            vec![Line::styled(stage_name(report.stage), stage_style(look, report.stage))]
        }
        None => vec![Line::raw(clean(&report.message))],
    }
}

fn complaint(look: Look, reason: Reason, said: &str, next: &str) -> Vec<Line<'static>> {
    let style = severity_style(look, reason.severity());
    vec![
        Line::from(vec![
            Span::styled(reason.code(), style),
            Span::raw("  "),
            Span::raw(clean(said)),
        ]),
        Line::raw(format!("Next: {}", clean(next))),
    ]
}

fn facts(look: Look, report: &NodeReport) -> Vec<Line<'static>> {
    let why = report.profile_explanation.last().map(|why| format!("  ({})", clean(why)));
    let (controller, style) = match (report.controller.as_str(), report.controller_reachable) {
        ("", _) => ("not known yet".into(), Style::new()),
        (address, true) => (format!("{}  answers", clean(address)), good(look)),
        (address, false) => (format!("{}  does not answer", clean(address)), warn(look)),
    };
    let generation = match report.generation {
        0 => "none yet".into(),
        number => format!("generation {number}"),
    };
    vec![
        fact("Hardware", clean(&report.hardware), Style::new()),
        fact("Profile", clean(&report.profile) + &why.unwrap_or_default(), Style::new()),
        fact("Controller", controller, style),
        fact("Configuration", generation, Style::new()),
    ]
}

fn fact(name: &str, value: String, style: Style) -> Line<'static> {
    Line::from(vec![Span::raw(format!("{name:14}")), Span::styled(value, style)])
}

/// Kubernetes in one line: what is wrong comes first, since the line is cut at the screen's edge.
fn kubernetes(look: Look, state: &KubernetesState) -> Line<'static> {
    let mut text = words::phase_name(state.phase).to_owned();
    let reason = state.reason.or(state.release.reason);
    if let Some(reason) = reason {
        text += &format!("  {reason}");
    }
    if state.pods.failed > 0 {
        text += &format!("  {} pods failed", state.pods.failed);
    }
    if let Some(name) = words::release_name(&state.release.wanted) {
        text += &format!("  {name} {}", words::release_phase_name(state.release.phase));
    }
    if state.pods.failed == 0 {
        text += &format!("  {} pods", state.pods.deployed.saturating_add(state.pods.in_progress));
    }
    let style = match (state.phase, reason) {
        (_, Some(reason)) => severity_style(look, reason.severity()),
        (KubernetesPhase::Ready, None) if state.pods.failed == 0 => good(look),
        (KubernetesPhase::Off, None) => Style::new(),
        (_, None) => warn(look),
    };
    fact("Kubernetes", text, style)
}

fn draw_tunnels(look: Look, state: Option<&TunnelsState>, frame: &mut Frame<'_>, area: Rect) {
    let Some(state) = state else {
        let widget = Paragraph::new("No word from tunneld.").block(block(look, "Tunnels"));
        frame.render_widget(widget, area);
        return;
    };
    let title = format!("Tunnels, {} of {} up", state.up(), state.tunnels.len());
    let block = block(look, title);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [table, last] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(inside);
    let rows = state.tunnels.iter().map(|tunnel| {
        let (word, style) = match tunnel.state {
            BfdState::Up => ("up", good(look)),
            BfdState::Init => ("init", warn(look)),
            BfdState::Down => ("down", bad(look)),
            BfdState::AdminDown => ("held down", warn(look)),
        };
        Row::new([
            Span::raw(clean(&tunnel.edge)),
            Span::styled(word, style),
            Span::raw(if tunnel.active { "active" } else { "standby" }),
            Span::raw(tunnel.rtt_us.map_or_else(|| "-".into(), rtt)),
            Span::raw(bytes(tunnel.rx_bytes)),
            Span::raw(bytes(tunnel.tx_bytes)),
            Span::raw(
                tunnel.handshake_age_secs.map_or_else(|| "never".into(), |s| span(s) + " ago"),
            ),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(13),
    ];
    let heading = Row::new(["EDGE", "STATE", "USE", "RTT", "RX", "TX", "HANDSHAKE"])
        .style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(Table::new(rows, widths).header(heading), table);
    let said = match &state.last_failover {
        Some(last) => failover(last, state.failovers),
        None => "No failover since tunneld started.".into(),
    };
    frame.render_widget(Paragraph::new(said), last);
}

fn draw_items(model: &Model, report: &NodeReport, frame: &mut Frame<'_>, area: Rect) {
    if area.height < 3 {
        return;
    }
    let look = model.look;
    let lines: Vec<Line<'_>> = report
        .items
        .iter()
        .map(|item| {
            let (word, style) = match item.state {
                ItemState::Ok => ("ok", good(look)),
                ItemState::Changed => ("changed", good(look)),
                ItemState::Waiting => ("waiting", warn(look)),
                ItemState::Failed => ("failed", bad(look)),
            };
            let code = item.reason.map(|reason| format!("{reason}  ")).unwrap_or_default();
            Line::from(vec![
                Span::raw(format!("{:12}", clean(&item.domain))),
                Span::styled(format!("{word:9}"), style),
                Span::raw(code + &clean(&item.message)),
            ])
        })
        .collect();
    let shown = usize::from(area.height - 2);
    // Scrolling ends when the last item is at the bottom.
    let most = u16::try_from(lines.len().saturating_sub(shown)).unwrap_or(u16::MAX);
    let scroll = model.scroll.min(most);
    let title = match most {
        0 => "Items".into(),
        _ => format!("Items {}-{} of {}", scroll + 1, usize::from(scroll) + shown, lines.len()),
    };
    frame.render_widget(Paragraph::new(lines).block(block(look, title)).scroll((scroll, 0)), area);
}

fn draw_entry(look: Look, entry: &Entry, frame: &mut Frame<'_>, area: Rect) {
    let title = match &entry.step {
        Step::Token => "Registration token",
        Step::Controller(_) => "Address of the controller",
        Step::Sending => "Sending the token",
    };
    let block = block(look, title);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [field, note] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(2)]).areas(inside);
    let said = match &entry.step {
        Step::Token => {
            draw_token(look, entry, frame, field);
            token_note(entry)
        }
        Step::Controller(text) => {
            let shown = usize::from(field.width.saturating_sub(1));
            let from = text.len().saturating_sub(shown);
            frame.render_widget(Paragraph::new(&text[from..]), field);
            let x = u16::try_from(text.len() - from).unwrap_or(0);
            frame.set_cursor_position(Position::new(field.x + x, field.y));
            "The node does not know its controller: https://host[:port]. \
             Leave it empty if it is configured elsewhere."
                .into()
        }
        Step::Sending => String::new(),
    };
    let style = if entry.note.is_some() { bad(look) } else { Style::new() };
    frame.render_widget(Paragraph::new(said).style(style).wrap(Wrap { trim: true }), note);
}

fn token_note(entry: &Entry) -> String {
    let wrong = entry.token.wrong();
    match (&entry.note, wrong.first()) {
        (Some(note), _) => clean(note),
        (None, Some(group)) => {
            format!(
                "Group {group} is mistyped (!): compare it with the original and type it again."
            )
        }
        (None, None) => match entry.token.envelope() {
            Ok(token) => format!("Complete, for tenant {}: press Enter.", token.tenant),
            Err(_) => "Type or paste it; every group of five is checked as it is complete.".into(),
        },
    }
}

/// Groups that are right are hidden: nobody has to compare them any more.
fn draw_token(look: Look, entry: &Entry, frame: &mut Frame<'_>, area: Rect) {
    let per_row = (area.width / GROUP_COLUMNS).max(1);
    let cursor = entry.token.cursor();
    for (at, (text, state)) in entry.token.groups().enumerate() {
        let at_column = u16::try_from(at).unwrap_or(u16::MAX);
        let (x, y) = (at_column % per_row * GROUP_COLUMNS, at_column / per_row);
        if y >= area.height {
            break;
        }
        let (shown, style) = match state {
            Group::Right => ("*****".to_owned(), good(look)),
            Group::Wrong(_) => {
                (format!("{}!", clean(text)), bad(look).add_modifier(Modifier::BOLD))
            }
            Group::Partial => (format!("{:_<5}", clean(text)), Style::new()),
        };
        let place = Rect::new(area.x + x, area.y + y, GROUP_COLUMNS.min(area.width - x), 1);
        frame.render_widget(Paragraph::new(shown).style(style), place);
        if at == cursor {
            let typed = u16::try_from(text.chars().count()).unwrap_or(0);
            frame.set_cursor_position(Position::new(place.x + typed, place.y));
        }
    }
}

fn block<'a>(look: Look, title: impl Into<String>) -> Block<'a> {
    let set = if look.lines { border::PLAIN } else { ASCII };
    Block::bordered().border_set(set).title(format!(" {} ", title.into()))
}

fn colour(look: Look, colour: Color) -> Style {
    if look.colour { Style::new().fg(colour) } else { Style::new() }
}

fn good(look: Look) -> Style {
    colour(look, Color::Green)
}

fn warn(look: Look) -> Style {
    colour(look, Color::Yellow)
}

/// Bold where there are no colours: what is wrong must stand out everywhere.
fn bad(look: Look) -> Style {
    colour(look, Color::Red).add_modifier(Modifier::BOLD)
}

fn severity_style(look: Look, severity: Severity) -> Style {
    match severity {
        Severity::Info => Style::new(),
        Severity::Warning => warn(look),
        Severity::Error => bad(look),
    }
}

fn stage_style(look: Look, stage: Stage) -> Style {
    match stage {
        Stage::Online => good(look),
        Stage::Refused => bad(look),
        Stage::NoToken
        | Stage::Registering
        | Stage::AwaitingApproval
        | Stage::Bootstrapping
        | Stage::Degraded => warn(look),
    }
}
