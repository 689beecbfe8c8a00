//! Generates and compiles, with the compiler from the package and nothing from the network.

use super::unpack::{TREE, run};
use super::{Build, BuildError, Progress, progress};
use crate::recipe;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Where a compiled program is.
pub(super) fn output(build: &Build, program: &str) -> PathBuf {
    build.dir("compiled").join(program)
}

fn go_root(build: &Build) -> PathBuf {
    build.dir("go").join("usr/lib/go-1.19")
}

fn environment(build: &Build, command: &mut Command) {
    command
        .current_dir(build.dir("gopath").join(TREE))
        .env("GOROOT", go_root(build))
        .env("GOPATH", build.dir("gopath"))
        .env("GOCACHE", build.dir("gocache"))
        .env("GOTMPDIR", build.dir("compiled"))
        .env("HOME", &build.work)
        .envs([
            ("GO111MODULE", "off"),
            ("CGO_ENABLED", "0"),
            ("GOFLAGS", ""),
            ("GOPROXY", "off"),
            ("GOTOOLCHAIN", "local"),
        ]);
}

fn go(build: &Build) -> Command {
    let mut go = Command::new(go_root(build).join("bin/go"));
    environment(build, &mut go);
    go
}

/// The source package leaves out the schema of the API, which its own generator makes from the
/// types that are marked for it.
pub(super) fn generate(build: &Build, dir: &Path) -> Result<(), BuildError> {
    let compiled = build.dir("compiled");
    std::fs::create_dir_all(&compiled).map_err(BuildError::file("make", &compiled))?;
    let generator = dir.join("openapi-gen");
    compile(build, &generator, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen", &mut |_| {})?;
    let tree = build.dir("gopath").join(TREE);
    let mut marked = BTreeSet::new();
    for root in ["pkg", "staging/src/k8s.io"] {
        marked_packages(&tree.join(root), &tree, &mut marked)?;
    }
    let packages: Vec<String> = marked
        .iter()
        .map(|path| {
            let path = path.replacen("staging/src/", "vendor/", 1);
            format!("k8s.io/kubernetes/{path}")
        })
        .collect();
    // The link to the generator's own program cannot be in a const: it lies in `dir`.
    let link = tree.join("openapi-gen");
    let _absent = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&generator, &link).map_err(BuildError::file("make", &link))?;
    run(build, "./openapi-gen", |command| {
        environment(build, command);
        command
            .args(["-i", &packages.join(","), "-p", "k8s.io/kubernetes/pkg/generated/openapi"])
            .args([
                "-O",
                "zz_generated.openapi",
                "-h",
                "hack/boilerplate/boilerplate.generatego.txt",
            ])
            .arg("-r")
            .arg(dir.join("violations"));
        Ok(())
    })
}

/// Folders whose Go files are marked for the generator, relative to the tree.
fn marked_packages(
    dir: &Path,
    tree: &Path,
    found: &mut BTreeSet<String>,
) -> Result<(), BuildError> {
    for entry in std::fs::read_dir(dir).map_err(BuildError::file("read", dir))?.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir {
            // Examples and templates are marked, too, and have no place in the API.
            if !["_examples", "code-generator", "sample-apiserver", "testdata"]
                .contains(&name.as_str())
            {
                marked_packages(&path, tree, found)?;
            }
        } else if name.ends_with(".go")
            && !name.ends_with("_test.go")
            && !name.starts_with("zz_generated")
        {
            let text = std::fs::read(&path).map_err(BuildError::file("read", &path))?;
            let mark = b"+k8s:openapi-gen=";
            if text.windows(mark.len()).any(|window| window == mark)
                && let Ok(relative) = dir.strip_prefix(tree)
            {
                found.insert(relative.to_string_lossy().into_owned());
            }
        }
    }
    Ok(())
}

/// Everything that the recipe compiles.
pub(super) fn programs(build: &Build, say: &mut dyn FnMut(&Progress)) -> Result<(), BuildError> {
    let compiled = build.dir("compiled");
    std::fs::create_dir_all(&compiled).map_err(BuildError::file("make", &compiled))?;
    for (program, package) in recipe::PROGRAMS {
        let output = output(build, program);
        if !output.exists() {
            let unfinished = compiled.join(format!("{program}.unfinished"));
            compile(build, &unfinished, package, say)?;
            std::fs::rename(&unfinished, &output).map_err(BuildError::file("make", &output))?;
        }
    }
    Ok(())
}

/// Compiles one program; the compiler names every package that it has finished.
fn compile(
    build: &Build,
    output: &Path,
    package: &str,
    say: &mut dyn FnMut(&Progress),
) -> Result<(), BuildError> {
    let start = |source| BuildError::Start { program: "go", source };
    let listed = go(build)
        .args(["list", "-deps", "-tags", recipe::TAGS, package])
        .output()
        .map_err(start)?;
    let total = listed.stdout.split(|byte| *byte == b'\n').count();
    let started = Instant::now();
    let mut child = go(build)
        .args([
            "build",
            "-v",
            "-trimpath",
            "-tags",
            recipe::TAGS,
            "-ldflags",
            &recipe::linker_flags(),
        ])
        .arg("-o")
        .arg(output)
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let mut lines = Vec::new();
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        lines.push(line.map_err(start)?);
        let done = lines.len().min(total);
        if done % 20 == 0 {
            say(&Progress::Compiling {
                done,
                total,
                left: progress::left(done, total, started.elapsed()),
            });
        }
    }
    if child.wait().map_err(start)?.success() {
        return Ok(());
    }
    let log = build.dir("go.log");
    holdfast_durable::write(&log, lines.join("\n").as_bytes(), 0o644)?;
    // The compiler's complaints have a position, the names of packages have none.
    let said =
        lines.iter().find(|line| line.contains(": ")).or(lines.last()).cloned().unwrap_or_default();
    Err(BuildError::Failed { program: "go", said, log })
}
