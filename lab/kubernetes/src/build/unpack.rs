//! Unpacks what was fetched, and puts together what is kept.

use super::{Build, BuildError, compile};
use crate::cache::Built;
use crate::recipe;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What runs at build time, from the packages.
pub(super) fn compiler(build: &Build, dir: &Path) -> Result<(), BuildError> {
    debs(build, dir, |name| recipe::BUILD_PACKAGES.contains(&name))
}

/// Where Kubernetes lies below a GOPATH.
pub(super) const TREE: &str = "src/k8s.io/kubernetes";

/// Kubernetes with Debian's changes, ours, and our programs.
pub(super) fn sources(build: &Build, dir: &Path) -> Result<(), BuildError> {
    let packages = build.dir("packages");
    let tree = dir.join(TREE);
    std::fs::create_dir_all(&tree).map_err(BuildError::file("make", &tree))?;
    let one = |ending: &str| {
        files(&packages)?.into_iter().find(|path| name(path).ends_with(ending)).ok_or_else(|| {
            BuildError::Download { why: format!("the source package has no file *{ending}") }
        })
    };
    run(build, "tar", |tar| {
        tar.arg("-xf").arg(one(".orig.tar.gz")?).arg("--strip-components=1").current_dir(&tree);
        Ok(())
    })?;
    run(build, "tar", |tar| {
        tar.arg("-xf").arg(one(".debian.tar.xz")?).current_dir(dir);
        Ok(())
    })?;
    let series = dir.join("debian/patches/series");
    let listed = std::fs::read_to_string(&series).map_err(BuildError::file("read", &series))?;
    for line in
        listed.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        run(build, "patch", |patch| {
            patch
                .args(["-p1", "-s", "-i"])
                .arg(dir.join("debian/patches").join(line))
                .current_dir(&tree);
            Ok(())
        })?;
    }
    for change in recipe::CHANGES {
        let path = tree.join(change.file);
        let text = std::fs::read_to_string(&path).map_err(BuildError::file("read", &path))?;
        if text.matches(change.old).count() != 1 {
            return Err(BuildError::Changed { file: change.file, why: change.why });
        }
        holdfast_durable::write(&path, text.replace(change.old, change.new).as_bytes(), 0o644)?;
    }
    for (path, content) in recipe::GO_FILES {
        holdfast_durable::write(&tree.join(path), content.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// What is kept: programs in `bin`, the packages' `/usr`, and the record.
pub(super) fn assemble(build: &Build, dir: &Path) -> Result<(), BuildError> {
    let root = dir.join("root");
    debs(build, &root, |name| recipe::RUN_PACKAGES.contains(&name))?;
    let usr = dir.join("usr");
    std::fs::rename(root.join("usr"), &usr).map_err(BuildError::file("make", &usr))?;
    // Packages of before the merge of / and /usr still put things beside it.
    for name in ["bin", "sbin", "lib"] {
        let from = root.join(name);
        if from.is_dir() {
            run(build, "cp", |cp| {
                cp.arg("-a").arg("-T").arg(&from).arg(usr.join(name));
                Ok(())
            })?;
        }
    }
    std::fs::remove_dir_all(&root).map_err(BuildError::file("remove", &root))?;
    for useless in ["share/doc", "share/man", "share/locale"] {
        let path = usr.join(useless);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(BuildError::file("remove", &path))?;
        }
    }
    // The packages leave these links to Debian's alternatives.
    for family in ["iptables", "ip6tables"] {
        for ending in ["", "-save", "-restore"] {
            let link = usr.join("sbin").join(format!("{family}{ending}"));
            let _absent = std::fs::remove_file(&link);
            symlink("xtables-nft-multi", &link).map_err(BuildError::file("make", &link))?;
        }
    }
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin).map_err(BuildError::file("make", &bin))?;
    for (program, _) in recipe::PROGRAMS {
        let (from, to) = (compile::output(build, program), bin.join(program));
        std::fs::copy(&from, &to).map_err(BuildError::file("copy", &to))?;
    }
    let packages = build.dir("packages");
    let record = json!({
        "kubernetes": recipe::KUBERNETES,
        "source": format!("{}={}", recipe::SOURCE, recipe::SOURCE_VERSION),
        "packages": files(&packages)?.iter().map(|path| name(path)).collect::<Vec<_>>(),
    });
    // Everything else must be on the disk before the record says so.
    nix::unistd::sync();
    holdfast_durable::write(&dir.join(Built::RECORD), format!("{record:#}\n").as_bytes(), 0o644)?;
    Ok(())
}

/// Unpacks the packages whose name is wanted.
fn debs(build: &Build, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), BuildError> {
    std::fs::create_dir_all(to).map_err(BuildError::file("make", to))?;
    for path in files(&build.dir("packages"))? {
        let is_wanted = name(&path)
            .strip_suffix(".deb")
            .and_then(|name| name.split('_').next())
            .is_some_and(&wanted);
        if is_wanted {
            run(build, "dpkg-deb", |dpkg| {
                dpkg.arg("-x").arg(&path).arg(to);
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, BuildError> {
    let entries = std::fs::read_dir(dir).map_err(BuildError::file("read", dir))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Runs a program to its end; what it writes goes to the log of its name.
pub(super) fn run(
    build: &Build,
    program: &'static str,
    prepare: impl FnOnce(&mut Command) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let mut command = Command::new(program);
    let tools = build.dir("go").join("usr/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:{}", tools.display())).env("LC_ALL", "C");
    prepare(&mut command)?;
    let output = command.output().map_err(|source| BuildError::Start { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let log = build.dir(&format!("{program}.log"));
    holdfast_durable::write(&log, &said, 0o644)?;
    let said = String::from_utf8_lossy(&said);
    let said =
        said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it wrote nothing").to_owned();
    Err(BuildError::Failed { program, said, log })
}
