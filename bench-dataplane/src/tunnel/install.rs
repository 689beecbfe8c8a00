//! Gets the programs that ours is compared with into the user's cache.
//!
//! wireguard-go comes from the newest suite of the distribution that this machine has its packages
//! from, since the stable one's has no offloads; it is one program without dependencies, and is
//! unpacked, not installed. The others are built by cargo.

use super::program::{Kind, peers_dir};
use anyhow::{Context, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// What cargo builds: crate and version.
const CRATES: [(Kind, &str, &str); 2] =
    [(Kind::Boringtun, "boringtun-cli", "0.7.1"), (Kind::Gotatun, "gotatun-cli", "0.10.2")];
const SUITE: &str = "sid";

/// Installs what is not there yet; says what it does.
pub(crate) fn install(say: fn(&str)) -> anyhow::Result<()> {
    let bin = peers_dir().context("there is no home directory for the cache")?;
    let root = bin.parent().context("no directory")?;
    std::fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    for (kind, name, version) in CRATES {
        if kind.file().is_some_and(|file| bin.join(file).exists()) {
            say(&format!("{name} is there"));
            continue;
        }
        say(&format!("building {name} {version} (some minutes)"));
        let mut command = Command::new("cargo");
        command.args(["install", "--locked", "--quiet", name, "--version", version, "--root"]);
        run(command.arg(root))?;
    }
    if bin.join("wireguard-go").exists() {
        say("wireguard-go is there");
        return Ok(());
    }
    say(&format!("fetching wireguard-go from the distribution's suite {SUITE}"));
    let dir = root.join("apt");
    let fetched = wireguard_go(&dir, &bin);
    let _ = std::fs::remove_dir_all(&dir);
    fetched
}

fn wireguard_go(dir: &Path, bin: &Path) -> anyhow::Result<()> {
    let at = |name: &str| dir.join(name);
    for name in ["lists/partial", "cache/archives/partial", "unpacked"] {
        std::fs::create_dir_all(at(name))?;
    }
    let text = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)|$(COMPONENT)|$(SIGNED_BY)",
    ]))?;
    let source = source(&text).context("apt knows no archive of the distribution")?;
    holdfast_durable::write(&at("sources.list"), source.as_bytes(), 0o644)?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command.current_dir(dir).arg("--quiet").arg("--quiet");
        for (option, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "none"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", at(path).display()));
        }
        // The private lists belong to whoever runs this.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    };
    run(apt().arg("update"))?;
    run(apt().args(["download", "wireguard-go"]))?;
    let package = std::fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    run(Command::new("dpkg").arg("--extract").arg(package).arg(at("unpacked")))?;
    let program = at("unpacked/usr/bin/wireguard-go");
    std::fs::copy(&program, bin.join("wireguard-go"))
        .with_context(|| format!("cannot copy {}", program.display()))?;
    Ok(())
}

/// The line for apt, from what it says of its own archives: the first with `main`.
fn source(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut fields = line.split('|');
        let (uri, component, key) = (fields.next()?, fields.next()?, fields.next()?);
        let is_base = component == "main" && !uri.contains("security");
        // What an older apt does not know it leaves as it is.
        let is_unknown = key.is_empty() || key.starts_with("$(");
        let key = if is_unknown { String::new() } else { format!("[signed-by={key}] ") };
        is_base.then(|| format!("deb {key}{uri} {SUITE} main\n"))
    })
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    let error = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{program}: {}", error.trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_that_of_the_machine() {
        let text = "http://a/debian-security/|main|/k.gpg\nhttp://a/debian/|contrib|/k.gpg\n\
                    http://a/debian/|main|/k.gpg\n";
        assert_eq!(source(text).unwrap(), "deb [signed-by=/k.gpg] http://a/debian/ sid main\n");
        assert_eq!(source("http://a/debian/|main|\n").unwrap(), "deb http://a/debian/ sid main\n");
        let old = "http://a/debian/|main|$(SIGNED_BY)\n";
        assert_eq!(source(old).unwrap(), "deb http://a/debian/ sid main\n");
        assert_eq!(source("nonsense\n"), None);
    }
}
