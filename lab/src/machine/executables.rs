//! The tests as cargo builds them, and the programs that they start.

use super::error::{MachineError, io_at};
use super::wire::Executable;
use crate::packages;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What cargo built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Built {
    /// Programs of integration tests.
    pub(super) tests: Vec<Executable>,
    /// Programs of the packages: their tests know them by path (`CARGO_BIN_EXE_…`).
    pub(super) programs: Vec<PathBuf>,
}

/// The lines of `cargo --message-format json` that matter here.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

/// Builds the integration tests of packages of this workspace, in the profile of tests. The whole
/// workspace is built: `lab test` has done so already, and a part of it would need some
/// dependencies again, with fewer features.
pub(super) fn build(wanted: &[&str]) -> Result<Built, MachineError> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = packages::cargo();
    command.args(["test", "--no-run", "--quiet", "--message-format", "json-render-diagnostics"]);
    command.args(["--workspace", "--test", "*"]).current_dir(&workspace).stderr(Stdio::inherit());
    // `cargo lab` sets it for us, and it would make cargo build everything anew.
    command.env_remove("CARGO_MANIFEST_DIR");
    let output = command.output().map_err(io_at("run cargo in", &workspace))?;
    let built = artifacts(&String::from_utf8_lossy(&output.stdout), wanted);
    if !output.status.success() || built.tests.is_empty() {
        return Err(MachineError::Build { packages: wanted.join(", ") });
    }
    Ok(built)
}

/// Reads what cargo says it built: all programs, and the tests that are wanted.
fn artifacts(answer: &str, wanted: &[&str]) -> Built {
    let mut built = Built::default();
    for line in answer.lines() {
        let Ok(Message {
            reason,
            manifest_path: Some(manifest),
            target: Some(target),
            executable: Some(path),
        }) = serde_json::from_str::<Message>(line)
        else {
            continue;
        };
        let Some(dir) = manifest.parent().filter(|_| reason == "compiler-artifact") else {
            continue;
        };
        let package = dir.file_name().unwrap_or_default().to_string_lossy();
        match target.kind.first().map(String::as_str) {
            Some("test") => {
                let name = format!("{package}::{}", target.name);
                if wanted.contains(&&*package) || wanted.contains(&name.as_str()) {
                    built.tests.push(Executable { name, path, dir: dir.to_path_buf() });
                }
            }
            Some("bin") => built.programs.push(path),
            _ => {}
        }
    }
    built.tests.sort_by(|a, b| a.name.cmp(&b.name));
    built
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_programs_are_told_from_libraries() {
        let answer = r#"
{"reason":"compiler-artifact","manifest_path":"/w/netd/Cargo.toml","target":{"kind":["lib"],"name":"netd"},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/w/t/Cargo.toml","target":{"kind":["bin"],"name":"tunneld"},"executable":"/w/target/debug/tunneld"}
{"reason":"compiler-artifact","manifest_path":"/w/t/Cargo.toml","target":{"kind":["test"],"name":"loss"},"executable":"/w/target/debug/deps/loss-1"}
{"reason":"compiler-artifact","manifest_path":"/w/netd/Cargo.toml","target":{"kind":["test"],"name":"kernel"},"executable":"/w/target/debug/deps/kernel-1"}
{"reason":"compiler-artifact","manifest_path":"/w/t/Cargo.toml","target":{"kind":["test"],"name":"not-asked"},"executable":"/w/target/debug/deps/not-1"}
{"reason":"build-finished","success":true}
no json"#;
        let built = artifacts(answer, &["netd", "t::loss"]);
        let names: Vec<&str> = built.tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["netd::kernel", "t::loss"]);
        assert_eq!(built.tests[0].dir, Path::new("/w/netd"));
        assert_eq!(built.programs, [Path::new("/w/target/debug/tunneld")]);
    }
}
