//! What has to be done so that the machine runs what is wanted. Pure.
//!
//! k3s reads its files when it starts and never again, the kubelet counts huge pages when it
//! starts; so whatever differs from what the running process was started with takes a restart,
//! and nothing else does. Files come before the process that reads them.
//!
//! Labels and taints are no part of that ([`super::render`]). The other exception is whom to join, which a member of the datastore is past: when the first server of
//! a site goes, all others are told of another one at the same time, and restarting them all would
//! cost the site its datastore for a while.

use super::render::Rendered;
use super::want::Wanted;
use crate::distribution::model::WantsError;
use holdfast_api::Reason;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

/// Something that a process was started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// `server` or `agent`, and other arguments.
    Arguments,
    /// Our fragment of the configuration.
    Configuration,
    /// Pools of huge pages.
    HugePages,
    /// Which server is joined, if any.
    Join,
    /// The program's file.
    Program,
    /// `registries.yaml`.
    Registries,
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Aspect::Arguments => "its arguments",
            Aspect::Configuration => "its configuration",
            Aspect::HugePages => "the huge pages",
            Aspect::Join => "the server that it joins",
            Aspect::Program => "its program",
            Aspect::Registries => "the registries",
        })
    }
}

/// What each aspect was; digests where it may be secret.
pub type Aspects = BTreeMap<Aspect, String>;

/// A file of ours, as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// Not there.
    Absent,
    /// It carries our header, and has this content.
    Ours(Rendered),
    /// Somebody else wrote it.
    Foreign,
}

/// The process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// None, and none was started by us.
    None,
    /// It ended and waits for its next start; with what it ran last.
    Pausing(Aspects),
    /// It runs and is supervised.
    Supervised {
        /// Its process.
        pid: u32,
        /// With what it was started.
        aspects: Aspects,
    },
    /// It runs since an earlier manager.
    Found {
        /// Its process.
        pid: u32,
        /// With what it was started; nothing when that is not known.
        aspects: Aspects,
    },
}

/// What is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Have {
    /// Where our fragment of the configuration belongs, and what is there.
    pub config: (PathBuf, FileState),
    /// The same of the registries.
    pub registries: (PathBuf, FileState),
    /// The process.
    pub running: Running,
    /// The datastore here has become a member.
    pub is_member: bool,
    /// A file of somebody else that puts the data elsewhere.
    pub elsewhere: Option<Elsewhere>,
}

/// A file that names another data directory than ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The file.
    pub file: PathBuf,
    /// What it names.
    pub data_dir: String,
}

/// One step. `Display` is the line of a dry run and of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write a file.
    Write(Rendered),
    /// Remove a file of ours.
    Remove(PathBuf),
    /// Watch a process of an earlier manager.
    Adopt(u32),
    /// Start it.
    Start,
    /// End it and start it again; on a site of several nodes when it is its turn, while it is ready.
    Restart(BTreeSet<Aspect>),
    /// End it.
    Stop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Write(file) => write!(f, "write {}", file.path.display()),
            Step::Remove(path) => write!(f, "remove {}", path.display()),
            Step::Adopt(pid) => write!(f, "adopt Kubernetes, process {pid}"),
            Step::Start => f.write_str("start Kubernetes"),
            Step::Restart(changed) => {
                let changed: Vec<String> = changed.iter().map(ToString::to_string).collect();
                write!(f, "restart Kubernetes: {} changed", changed.join(" and "))
            }
            Step::Stop => f.write_str("stop Kubernetes"),
        }
    }
}

/// Why nothing can be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// What is wanted cannot be.
    #[error("the controller's wish cannot be used")]
    Wants(#[from] WantsError),
    /// A file in the place of ours is somebody else's.
    #[error(
        "{} was not written by holdfastd, and is not replaced; remove it, or keep mirrors there only",
        .0.display()
    )]
    Foreign(PathBuf),
    /// k3s would find no datastore where it is, and begin another one.
    #[error(
        "{} puts the data of Kubernetes into {}; it is below /var/lib/rancher/k3s: remove the line, \
         and mount another disk there",
        .0.file.display(), .0.data_dir
    )]
    DataElsewhere(Elsewhere),
}

impl PlanError {
    /// The code for it.
    pub fn reason(&self) -> Reason {
        Reason::KubernetesConfigRefused
    }
}

/// The steps from `have` to `want`.
///
/// # Errors
/// A file of somebody else is in the way, or moves the data; nothing is to be done then.
pub fn plan(want: Option<&Wanted>, have: &Have) -> Result<Vec<Step>, PlanError> {
    let mut steps = Vec::new();
    let Some(want) = want else {
        match &have.running {
            Running::Found { pid, .. } => steps.extend([Step::Adopt(*pid), Step::Stop]),
            Running::Supervised { .. } | Running::Pausing(_) => steps.push(Step::Stop),
            Running::None => {}
        }
        // The configuration holds the token; nobody needs it any more.
        for (path, state) in [&have.config, &have.registries] {
            if matches!(state, FileState::Ours(_)) {
                steps.push(Step::Remove(path.clone()));
            }
        }
        return Ok(steps);
    };
    if let Some(elsewhere) = &have.elsewhere {
        return Err(PlanError::DataElsewhere(elsewhere.clone()));
    }
    steps.extend(file(Some(&want.config), &have.config)?);
    steps.extend(file(want.registries.as_ref(), &have.registries)?);
    match &have.running {
        Running::None => steps.push(Step::Start),
        Running::Pausing(aspects) | Running::Supervised { aspects, .. } => {
            steps.extend(restart(&want.aspects, aspects, have.is_member));
        }
        Running::Found { pid, aspects } => {
            steps.push(Step::Adopt(*pid));
            steps.extend(restart(&want.aspects, aspects, have.is_member));
        }
    }
    Ok(steps)
}

fn file(
    want: Option<&Rendered>,
    (path, state): &(PathBuf, FileState),
) -> Result<Option<Step>, PlanError> {
    Ok(match (want, state) {
        (Some(_), FileState::Foreign) => return Err(PlanError::Foreign(path.clone())),
        (Some(want), FileState::Ours(have)) if want == have => None,
        (Some(want), FileState::Absent | FileState::Ours(_)) => Some(Step::Write(want.clone())),
        (None, FileState::Ours(_)) => Some(Step::Remove(path.clone())),
        (None, FileState::Absent | FileState::Foreign) => None,
    })
}

fn restart(want: &Aspects, have: &Aspects, is_member: bool) -> Option<Step> {
    let keys: BTreeSet<Aspect> = want.keys().chain(have.keys()).copied().collect();
    let mut changed: BTreeSet<Aspect> =
        keys.into_iter().filter(|key| want.get(key) != have.get(key)).collect();
    if is_member {
        changed.remove(&Aspect::Join);
    }
    (!changed.is_empty()).then_some(Step::Restart(changed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(path: &str, content: &str) -> Rendered {
        Rendered { path: path.into(), content: content.into() }
    }

    fn aspects(config: &str, pages: &str) -> Aspects {
        [(Aspect::Configuration, config.to_owned()), (Aspect::HugePages, pages.to_owned())].into()
    }

    fn wanted() -> impl Strategy<Value = Option<Wanted>> {
        proptest::option::of(("[ab]", proptest::option::of("[ab]"), "[12]").prop_map(
            |(config, registries, pages)| Wanted {
                config: rendered("/c", &config),
                registries: registries.map(|text| rendered("/r", &text)),
                aspects: aspects(&config, &pages),
            },
        ))
    }

    fn state(path: &'static str) -> impl Strategy<Value = FileState> {
        prop_oneof![
            Just(FileState::Absent),
            Just(FileState::Foreign),
            "[ab]".prop_map(move |text| FileState::Ours(rendered(path, &text))),
        ]
    }

    fn running() -> impl Strategy<Value = Running> {
        ("[ab]", "[12]", 0..5u8).prop_map(|(config, pages, kind)| {
            let aspects = if kind == 4 { Aspects::new() } else { aspects(&config, &pages) };
            match kind {
                0 => Running::None,
                1 => Running::Pausing(aspects),
                2 => Running::Supervised { pid: 7, aspects },
                _ => Running::Found { pid: 7, aspects },
            }
        })
    }

    /// The machine after the steps.
    fn carry_out(steps: &[Step], want: Option<&Wanted>, mut have: Have) -> Have {
        for step in steps {
            match step {
                Step::Write(file) => {
                    let slot = if file.path == have.config.0 {
                        &mut have.config
                    } else {
                        &mut have.registries
                    };
                    slot.1 = FileState::Ours(file.clone());
                }
                Step::Remove(path) => {
                    let slot = if *path == have.config.0 {
                        &mut have.config
                    } else {
                        &mut have.registries
                    };
                    assert!(matches!(slot.1, FileState::Ours(_)), "removed what is not ours");
                    slot.1 = FileState::Absent;
                }
                Step::Adopt(pid) => match have.running {
                    Running::Found { pid: found, aspects } if found == *pid => {
                        have.running = Running::Supervised { pid: found, aspects };
                    }
                    other => panic!("nothing to adopt: {other:?}"),
                },
                Step::Start | Step::Restart(_) => {
                    assert_eq!(*step == Step::Start, have.running == Running::None);
                    assert!(!matches!(have.running, Running::Found { .. }), "a second copy");
                    let aspects = want.unwrap().aspects.clone();
                    have.running = Running::Supervised { pid: 8, aspects };
                }
                Step::Stop => have.running = Running::None,
            }
        }
        have
    }

    proptest! {
        /// After the steps nothing is left to do, what is not ours was not touched, and the
        /// process is the one that ran when nothing changed for it.
        #[test]
        fn steps_lead_there_and_no_further(want in wanted(), config in state("/c"), registries in state("/r"), running in running(), is_member: bool) {
            let have = Have {
                config: ("/c".into(), config),
                registries: ("/r".into(), registries),
                running,
                is_member,
                elsewhere: None,
            };
            let Ok(steps) = plan(want.as_ref(), &have) else {
                let foreign = have.config.1 == FileState::Foreign || have.registries.1 == FileState::Foreign;
                prop_assert!(foreign && want.is_some());
                return Ok(());
            };
            let after = carry_out(&steps, want.as_ref(), have.clone());
            let rest = plan(want.as_ref(), &after).unwrap();
            prop_assert!(
                rest.is_empty() || matches!((&want, &after.running), (Some(_), Running::Pausing(_))),
                "{rest:?}"
            );
            for (before, after) in [(&have.config, &after.config), (&have.registries, &after.registries)] {
                if before.1 == FileState::Foreign {
                    prop_assert_eq!(&after.1, &FileState::Foreign);
                }
            }
            if let (Some(want), Running::Found { aspects, .. }) = (&want, &have.running)
                && want.aspects == *aspects
            {
                prop_assert_eq!(after.running, Running::Supervised { pid: 7, aspects: aspects.clone() });
            }
        }
    }

    #[test]
    fn a_plan_can_be_read() {
        let want = Wanted {
            config: rendered("/c", "a"),
            registries: None,
            aspects: aspects("a", "2M=64"),
        };
        let have = Have {
            config: ("/c".into(), FileState::Ours(rendered("/c", "b"))),
            registries: ("/r".into(), FileState::Ours(rendered("/r", "x"))),
            running: Running::Found { pid: 7, aspects: aspects("b", "") },
            is_member: true,
            elsewhere: None,
        };
        let steps: Vec<String> =
            plan(Some(&want), &have).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "write /c",
                "remove /r",
                "adopt Kubernetes, process 7",
                "restart Kubernetes: its configuration and the huge pages changed",
            ]
        );
        let steps = plan(None, &have).unwrap();
        assert_eq!(
            steps,
            [Step::Adopt(7), Step::Stop, Step::Remove("/c".into()), Step::Remove("/r".into())]
        );
    }

    #[test]
    fn whom_to_join_matters_until_the_node_has_joined() {
        let joins = |server: &str| {
            let mut aspects = aspects("a", "");
            aspects.insert(Aspect::Join, server.into());
            aspects
        };
        let want =
            Wanted { config: rendered("/c", "a"), registries: None, aspects: joins("second") };
        let mut have = Have {
            config: ("/c".into(), FileState::Ours(rendered("/c", "of the first"))),
            registries: ("/r".into(), FileState::Absent),
            running: Running::Supervised { pid: 7, aspects: joins("first") },
            is_member: false,
            elsewhere: None,
        };
        let write = Step::Write(want.config.clone());
        let restart = Step::Restart([Aspect::Join].into());
        assert_eq!(plan(Some(&want), &have).unwrap(), [write.clone(), restart]);
        have.is_member = true;
        assert_eq!(plan(Some(&want), &have).unwrap(), [write], "read at its next start");
    }

    #[test]
    fn nothing_is_started_on_data_that_is_elsewhere() {
        let elsewhere = Elsewhere { file: "/f".into(), data_dir: "/srv".into() };
        let mut have = Have {
            config: ("/c".into(), FileState::Absent),
            registries: ("/r".into(), FileState::Absent),
            running: Running::None,
            is_member: false,
            elsewhere: Some(elsewhere.clone()),
        };
        let want =
            Wanted { config: rendered("/c", "a"), registries: None, aspects: aspects("a", "") };
        assert_eq!(plan(Some(&want), &have), Err(PlanError::DataElsewhere(elsewhere)));
        have.running = Running::Supervised { pid: 7, aspects: aspects("a", "") };
        assert_eq!(plan(None, &have).unwrap(), [Step::Stop], "it can always be ended");
    }

    #[test]
    fn a_foreign_file_is_in_the_way_only_when_ours_is_needed() {
        let mut want =
            Wanted { config: rendered("/c", "a"), registries: None, aspects: aspects("a", "") };
        let have = Have {
            config: ("/c".into(), FileState::Absent),
            registries: ("/r".into(), FileState::Foreign),
            running: Running::None,
            is_member: false,
            elsewhere: None,
        };
        assert_eq!(plan(Some(&want), &have).unwrap().len(), 2);
        want.registries = Some(rendered("/r", "a"));
        assert_eq!(plan(Some(&want), &have), Err(PlanError::Foreign("/r".into())));
    }
}
