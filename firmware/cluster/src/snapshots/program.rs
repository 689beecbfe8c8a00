//! Programs run to their end, with a deadline. They end with the wait: whoever drops it kills them.

use super::error::SnapshotError;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// What of a program's words is kept.
const LAST_WORDS: usize = 600;

/// Runs it; what it wrote to its output.
///
/// # Errors
/// It cannot be started, failed, or took longer than `patience` and was killed.
pub(super) async fn run(
    mut command: Command,
    attempt: &'static str,
    patience: Duration,
) -> Result<Vec<u8>, SnapshotError> {
    let shown = command.as_std().get_program().to_string_lossy().into_owned();
    command
        // A supervisor of ours is not to be told of their readiness.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child =
        command.spawn().map_err(|source| SnapshotError::Start { program: shown, source })?;
    match tokio::time::timeout(patience, child.wait_with_output()).await {
        Err(_) => Err(SnapshotError::Late { attempt, patience }),
        Ok(Err(source)) => Err(SnapshotError::Start { program: attempt.into(), source }),
        Ok(Ok(output)) if output.status.success() => Ok(output.stdout),
        Ok(Ok(output)) => Err(failed(attempt, &output)),
    }
}

/// A program that ended badly.
pub(super) fn failed(attempt: &'static str, output: &Output) -> SnapshotError {
    SnapshotError::Failed { attempt, status: output.status, said: last_words(&output.stderr) }
}

/// The end of what a program said, in one line.
pub(super) fn last_words(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut words = lines[lines.len().saturating_sub(3)..].join("; ");
    if words.len() > LAST_WORDS {
        let from = (words.len() - LAST_WORDS..words.len())
            .find(|at| words.is_char_boundary(*at))
            .unwrap_or(words.len());
        words = format!("…{}", &words[from..]);
    }
    if words.is_empty() { "it gave no reason".into() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_program_is_told_by_how_it_ends() {
        let patience = Duration::from_secs(20);
        assert_eq!(run(shell("echo a"), "saying a", patience).await.unwrap(), b"a\n");
        let error = run(shell("echo b >&2; exit 3"), "saying b", patience).await.unwrap_err();
        assert!(
            matches!(&error, SnapshotError::Failed { status, said, .. } if status.code() == Some(3) && said == "b"),
            "{error}"
        );
        let error = run(shell("exec sleep 60"), "sleeping", Duration::from_millis(50)).await;
        assert!(matches!(error, Err(SnapshotError::Late { attempt: "sleeping", .. })), "{error:?}");
        let error = run(Command::new("/nowhere/age"), "encrypting", patience).await.unwrap_err();
        assert!(
            matches!(&error, SnapshotError::Start { source, .. } if source.kind() == io::ErrorKind::NotFound),
            "{error}"
        );
    }

    #[test]
    fn last_words_are_short_whatever_was_said() {
        assert_eq!(last_words(b""), "it gave no reason");
        assert_eq!(last_words(b"a\n\nb\nc\nd\n"), "b; c; d");
        assert!(last_words("ä".repeat(5000).as_bytes()).len() < LAST_WORDS + 8);
    }
}
