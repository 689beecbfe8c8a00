//! `holdfast kube restore`: puts the datastore back to a snapshot. Says what will happen and asks,
//! since what was changed after the snapshot is lost.

use super::super::wait::Verdict;
use super::snapshots::{LOCAL, News, begun};
use super::{STATE, Waiting, identity, status, words};
use crate::failure::Failure;
use crate::output::Context;
use crate::units::{bytes, clean};
use holdfast_api::Reason;
use holdfast_api::kubernetes::{KubernetesPhase, KubernetesState, SnapshotInfo};
use holdfast_api::local::RestoreInput;
use jiff::Timestamp;
use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of a snapshot of this node (`holdfast kube snapshots`), `NODE/NAME` of one in the
    /// site's storage, or path of one in a file.
    #[arg(value_name = "NAME|NODE/NAME|FILE", value_hint = clap::ValueHint::FilePath)]
    snapshot: String,
    /// File with the age identity that opens a portable snapshot, or `-` for standard input.
    #[arg(long, value_name = "FILE|-", value_hint = clap::ValueHint::FilePath)]
    identity: Option<PathBuf>,
    /// Restore although another server of the site answers.
    #[arg(long)]
    force: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<u8, Failure> {
    let may_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
    let on_input = args.identity.as_deref() == Some(Path::new("-"));
    if !args.yes && (!may_ask || on_input) {
        let why = match on_input {
            true => "the identity comes on standard input, so nothing can be asked there",
            false => "there is no terminal to ask on",
        };
        return Err(Failure::Usage(format!("{why}: say --yes")));
    }
    let manager = context.manager();
    let before = manager.get::<KubernetesState>(STATE).await?.known;
    let source = find(&args.snapshot, &before)?;
    if args.identity.is_none() && source.is_far() {
        let text = "it is only in the site's storage, encrypted: give --identity";
        return Err(Failure::Usage(format!("{}: {text}", args.snapshot)));
    }
    let identity = match &args.identity {
        None => None,
        Some(from) => {
            let read = identity::read(from).map_err(|source| Failure::Identity { source })?;
            if read.exposed {
                eprintln!(
                    "{} can be read by others: chmod 600 it.",
                    clean(&from.to_string_lossy())
                );
            }
            Some(read.secret)
        }
    };
    eprint!("{}", explain(&source, &before, Timestamp::now()));
    if !args.yes && !agreed()? {
        return Err(Failure::Usage("nothing was restored".into()));
    }
    let input = RestoreInput { snapshot: source.sent()?, identity, force: args.force };
    manager.restore(&input).await?;
    // The identity is not needed while waiting.
    drop(input);
    if !args.waiting.wait {
        return begun(context, "The snapshot is put back.", "status --wait");
    }
    let mut watch = Watch::after(&before);
    let answer = args
        .waiting
        .on(&manager)
        .until(status::progress, |state, after| watch.judge(state, after))
        .await?;
    context.show(&answer.raw, |paint| status::render(&answer.known, Timestamp::now(), paint))?;
    Ok(0)
}

/// Where the snapshot is.
#[derive(Debug, PartialEq)]
enum Source {
    /// One that the manager knows.
    Known(SnapshotInfo),
    /// In the site's storage, `<node>/<name>`.
    Stored(String),
    /// A file.
    File(PathBuf),
}

impl Source {
    /// It has to be fetched, and opened with an identity.
    fn is_far(&self) -> bool {
        match self {
            Source::Known(one) => one.place != LOCAL,
            Source::Stored(_) => true,
            Source::File(_) => false,
        }
    }

    /// What the manager is told; it has another working directory, so a file gets its full path.
    fn sent(&self) -> Result<String, Failure> {
        match self {
            Source::Known(one) => Ok(one.name.clone()),
            Source::Stored(object) => Ok(object.clone()),
            Source::File(path) => path.to_str().map(Into::into).ok_or_else(|| {
                Failure::Usage(format!("the path {} is no text (UTF-8)", path.display()))
            }),
        }
    }
}

/// A name that the manager knows goes before a file that happens to be called the same here.
fn find(typed: &str, state: &KubernetesState) -> Result<Source, Failure> {
    let named = state.snapshots.snapshots.iter().filter(|one| one.name == typed);
    // The same one may be in the storage too.
    if let Some(one) = named.min_by_key(|one| one.place != LOCAL) {
        return Ok(Source::Known(one.clone()));
    }
    let path = Path::new(typed);
    // A path to a file that is not there is told by the manager.
    let in_a_folder = path.is_absolute() || typed.starts_with('.');
    if !in_a_folder && typed.split('/').count() == 2 && !path.is_file() {
        return Ok(Source::Stored(typed.to_owned()));
    }
    if !typed.contains('/') && !path.is_file() {
        let hint = "`holdfast kube snapshots` lists them";
        return Err(Failure::Usage(format!(
            "{typed:?} is no snapshot of this node and no file here; {hint}"
        )));
    }
    let full = std::path::absolute(path).map_err(|source| Failure::Terminal {
        attempt: "tell the full path of the file",
        source,
    })?;
    Ok(Source::File(full))
}

/// What will happen, for a person who has to decide.
fn explain(source: &Source, state: &KubernetesState, now: Timestamp) -> String {
    // Writing to a String cannot fail.
    let mut text = match source {
        Source::Known(one) => format!(
            "The datastore of Kubernetes goes back to {},\ntaken {} ago ({}), {}.\n",
            clean(&one.name),
            words::age(now, one.taken),
            words::moment(one.taken),
            bytes(one.bytes),
        ),
        Source::Stored(object) => format!(
            "The datastore of Kubernetes goes back to {} in the site's storage.\n",
            clean(object)
        ),
        Source::File(path) => format!(
            "The datastore of Kubernetes goes back to the snapshot in\n{}.\n",
            clean(&path.to_string_lossy())
        ),
    };
    text += "  * What was changed in it since then is lost.\n  \
             * The API server is away until the snapshot is in force. Pods that run go on; those that\n    \
             the snapshot does not know are ended afterwards.\n  \
             * The datastore as it is now is kept until then, and comes back when the snapshot does not\n    \
             come up.\n  \
             * Other servers of the site must be stopped (`holdfast kube stop` on each), and join anew\n    \
             afterwards (`holdfast kube start --rejoin`).\n";
    let release = &state.release;
    let is_settled = words::settled(release) || words::doubted(release);
    if words::release_name(&release.wanted).is_some() && !is_settled {
        let _ = writeln!(
            text,
            "  * A release is under way: {}.",
            words::release_line(release, crate::output::Paint(false))
        );
    }
    text
}

fn agreed() -> Result<bool, Failure> {
    let fail = |source| Failure::Terminal { attempt: "ask on the terminal", source };
    eprint!("Type yes to go on: ");
    io::stderr().flush().map_err(fail)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(fail)?;
    Ok(line.trim().eq_ignore_ascii_case("yes"))
}

/// Reasons that only a restore gives; they go when one succeeds.
const OURS: &[Reason] = &[
    Reason::SnapshotRestoreFailed,
    Reason::SnapshotWrongKey,
    Reason::SnapshotOtherToken,
    Reason::SnapshotOtherServers,
    Reason::SnapshotDamaged,
];
/// Reasons that do not say that a restore failed.
const OTHERS: &[Reason] = &[
    Reason::SnapshotFailed,
    Reason::SnapshotUpload,
    Reason::SnapshotNoKey,
    Reason::SnapshotRebootsUnknown,
    Reason::SnapshotDrillFailed,
];

/// Tells a restore that is over from one that has not begun: both look `Ready`.
struct Watch {
    starts: u32,
    begun: bool,
    problems: News,
}

impl Watch {
    fn after(before: &KubernetesState) -> Self {
        let problems = News::after(&before.snapshots, OTHERS);
        Watch { starts: before.starts, begun: false, problems }
    }

    fn judge(&mut self, state: &KubernetesState, after: Duration) -> Verdict {
        // A manager that restarted counts from zero, so any other number is a sign.
        self.begun |= state.phase == KubernetesPhase::Restoring || state.starts != self.starts;
        // What the snapshot lacks of the release is seen a moment after Kubernetes is ready.
        let is_looked_at = !words::doubted(&state.release);
        let over = self.begun && state.phase == KubernetesPhase::Ready && is_looked_at;
        let ours = state.snapshots.problem.clone().filter(|p| OURS.contains(&p.reason));
        // The same failure as before the command is its own once it is over.
        let failed = self.problems.on(&state.snapshots).or_else(|| ours.clone().filter(|_| over));
        match failed {
            Some(problem) => Verdict::Hopeless(Failure::Failed { problem: Box::new(problem) }),
            None if over => Verdict::Reached,
            None => Verdict::NotYet(Failure::NotYet {
                what: format!(
                    "the restore is not over: Kubernetes is {}",
                    words::phase_name(state.phase)
                ),
                after,
                reason: ours
                    .map(|problem| problem.reason)
                    .or(state.reason)
                    .or(state.release.reason.filter(|_| !is_looked_at)),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_api::kubernetes::ReleasePhase;
    use holdfast_api::local::Problem;

    fn state(phase: KubernetesPhase, starts: u32) -> KubernetesState {
        KubernetesState { phase, starts, ..KubernetesState::default() }
    }

    fn look(watch: &mut Watch, state: &KubernetesState) -> &'static str {
        match watch.judge(state, Duration::ZERO) {
            Verdict::Reached => "reached",
            Verdict::NotYet(_) => "not yet",
            Verdict::Hopeless(_) => "hopeless",
        }
    }

    #[test]
    fn a_restore_is_over_when_it_began_and_kubernetes_is_ready() {
        use KubernetesPhase::{Ready, Restoring, Starting};
        let mut watch = Watch::after(&state(Ready, 3));
        for (phase, starts, want) in [
            (Ready, 3, "not yet"),
            (Restoring, 3, "not yet"),
            (Starting, 4, "not yet"),
            (Ready, 4, "reached"),
        ] {
            assert_eq!(look(&mut watch, &state(phase, starts)), want, "{phase:?} {starts}");
        }
        // So quick that only the number of starts tells.
        let mut watch = Watch::after(&state(Ready, 3));
        assert_eq!(look(&mut watch, &state(Ready, 4)), "reached");
    }

    #[test]
    fn a_restore_is_not_over_before_the_release_was_looked_at() {
        use KubernetesPhase::{Ready, Restoring};
        let mut watch = Watch::after(&state(Ready, 3));
        assert_eq!(look(&mut watch, &state(Restoring, 3)), "not yet");
        let mut ready = state(Ready, 4);
        ready.release.phase = ReleasePhase::Committed;
        ready.release.reason = Some(Reason::KubernetesApiUnavailable);
        assert_eq!(look(&mut watch, &ready), "not yet");
        ready.release.reason = None;
        assert_eq!(look(&mut watch, &ready), "reached");
    }

    fn with(phase: KubernetesPhase, reason: Reason) -> KubernetesState {
        let mut state = state(phase, 1);
        state.snapshots.problem = Some(Problem::new(reason, "x"));
        state
    }

    #[test]
    fn only_a_restores_own_problem_ends_it() {
        use KubernetesPhase::{Ready, Restoring};
        let before = with(Ready, Reason::SnapshotUpload);
        let mut watch = Watch::after(&before);
        assert_eq!(look(&mut watch, &before), "not yet");
        assert_eq!(look(&mut watch, &with(Ready, Reason::SnapshotFailed)), "not yet");
        assert_eq!(look(&mut watch, &with(Ready, Reason::StateDiskFull)), "hopeless");
        // Of another kind, and hidden behind the restore's own that is gone now.
        let mut watch = Watch::after(&with(Ready, Reason::SnapshotRestoreFailed));
        assert_eq!(look(&mut watch, &with(Restoring, Reason::SnapshotRestoreFailed)), "not yet");
        assert_eq!(look(&mut watch, &with(Ready, Reason::SnapshotDrillFailed)), "reached");
    }

    #[test]
    fn the_same_failure_once_more_is_no_success() {
        use KubernetesPhase::{Ready, Restoring};
        let before = with(Ready, Reason::SnapshotRestoreFailed);
        let mut watch = Watch::after(&before);
        assert_eq!(look(&mut watch, &before), "not yet");
        assert_eq!(look(&mut watch, &with(Restoring, Reason::SnapshotRestoreFailed)), "not yet");
        assert_eq!(look(&mut watch, &before), "hopeless");
        // So quick that only the problem came and went.
        let mut watch = Watch::after(&before);
        assert_eq!(look(&mut watch, &state(Ready, 1)), "not yet");
        assert_eq!(look(&mut watch, &before), "hopeless");
    }

    #[test]
    fn names_of_the_manager_go_before_files() {
        let one = SnapshotInfo {
            name: "Cargo.toml".into(),
            taken: Timestamp::UNIX_EPOCH,
            bytes: 1,
            place: "local".into(),
            portable: false,
        };
        let mut known = state(KubernetesPhase::Ready, 1);
        // Tests run in the folder of the crate, which has a Cargo.toml.
        let file = find("Cargo.toml", &known).unwrap();
        let Source::File(path) = &file else { panic!("{file:?}") };
        assert!(path.is_absolute() && path.is_file());
        known.snapshots.snapshots.push(one.clone());
        assert_eq!(find("Cargo.toml", &known).unwrap(), Source::Known(one));
        // Only the manager may be able to see a path; a bare name that nobody knows is a mistake.
        assert!(matches!(find("/no/such", &known), Ok(Source::File(_))));
        assert!(matches!(find("./n2/lost", &known), Ok(Source::File(_))));
        let far = find("n2/lost", &known).unwrap();
        assert_eq!(far, Source::Stored("n2/lost".into()));
        assert!(far.is_far() && !file.is_far());
        let unknown = find("no-such", &known).unwrap_err();
        assert!(matches!(&unknown, Failure::Usage(why) if why.contains("kube snapshots")));
    }
}
