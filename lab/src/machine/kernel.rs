//! Debian's kernel: fetched once as a package, unpacked in the user's cache, never installed.

use super::error::{MachineError, io_at};
use super::need;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Stands for the newest kernel for virtual machines; it depends on the package that has it. It
/// lacks drivers of hardware and has the kinds of links.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
const PREFIX: &str = "linux-image-";

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub(super) version: String,
    /// The file to boot.
    pub(super) image: PathBuf,
    /// `lib/modules/<version>`, with the indexes of depmod(8).
    pub(super) modules: PathBuf,
}

impl Kernel {
    fn in_dir(dir: &Path, package: &str) -> Result<Kernel, MachineError> {
        let version = package.strip_prefix(PREFIX).unwrap_or(package).to_owned();
        let image = dir.join("boot").join(format!("vmlinuz-{version}"));
        let modules = dir.join("lib/modules").join(&version);
        for path in [&image, &modules.join("modules.dep")] {
            if !path.is_file() {
                let why = format!("{} is missing", path.display());
                return Err(MachineError::BadKernel { dir: dir.to_path_buf(), why });
            }
        }
        Ok(Kernel { version, image, modules })
    }
}

/// The kernel that this machine's package sources have; without them, the one of last time.
pub(super) fn obtain(cache: &Path, say: &mut dyn FnMut(&str)) -> Result<Kernel, MachineError> {
    let package = match newest() {
        Ok(package) => package,
        Err(error) => kept(cache).ok_or(error)?,
    };
    let dir = cache.join(&package);
    if dir.is_dir() {
        return Kernel::in_dir(&dir, &package);
    }
    match fetch(cache, &package, say) {
        Ok(kernel) => Ok(kernel),
        Err(error @ MachineError::NoKernel { .. }) => {
            let Some(old) = kept(cache) else { return Err(error) };
            say(&format!("{error}; going on with {old}, which is here from before"));
            Kernel::in_dir(&cache.join(&old), &old)
        }
        Err(error) => Err(error),
    }
}

/// The package that the meta package stands for.
fn newest() -> Result<String, MachineError> {
    let missing = |why: String| MachineError::NoKernel { package: META_PACKAGE.to_owned(), why };
    let depends = || run("apt-cache", &["depends", META_PACKAGE], Path::new("/"));
    let find = |output: &Output| dependency(&String::from_utf8_lossy(&output.stdout));
    let output = depends().map_err(|error| missing(format!("apt-cache: {error}")))?;
    if let Some(package) = find(&output) {
        return Ok(package);
    }
    // A fresh machine has no lists. Only root may fetch them.
    let updated = run("apt-get", &["update", "-q"], Path::new("/"));
    if updated.is_ok_and(|output| output.status.success())
        && let Ok(output) = depends()
        && let Some(package) = find(&output)
    {
        return Ok(package);
    }
    Err(missing(complaint(&output)))
}

/// Reads `apt-cache depends`.
fn dependency(answer: &str) -> Option<String> {
    let names = answer.lines().filter_map(|line| line.trim().strip_prefix("Depends:"));
    names.map(str::trim).find(|name| name.starts_with(PREFIX)).map(str::to_owned)
}

/// The newest kernel of earlier runs.
fn kept(cache: &Path) -> Option<String> {
    let entries = std::fs::read_dir(cache).ok()?.flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| name.starts_with(PREFIX))?;
        Some((entry.metadata().and_then(|meta| meta.modified()).ok()?, name))
    });
    named.max().map(|(_, name)| name)
}

fn fetch(cache: &Path, package: &str, say: &mut dyn FnMut(&str)) -> Result<Kernel, MachineError> {
    say(&format!(
        "fetching {package} (about 27 MB; unpacked into {}, not installed)",
        cache.display()
    ));
    let new = Unfinished(cache.join(format!(".new-{}", std::process::id())));
    let (root, packed) = (new.0.join("root"), new.0.join("packed"));
    for dir in [&root, &packed] {
        std::fs::create_dir_all(dir).map_err(io_at("make the folder", dir))?;
    }
    let missing = |why| MachineError::NoKernel { package: package.to_owned(), why };
    // As root, apt-get would hand over to a user that may not write here, and complain.
    let arguments = ["-o", "APT::Sandbox::User=root", "-q", "download", package];
    let output = run("apt-get", &arguments, &packed).map_err(|error| missing(error.to_string()))?;
    if !output.status.success() {
        return Err(missing(complaint(&output)));
    }
    let mut files = std::fs::read_dir(&packed).map_err(io_at("read", &packed))?.flatten();
    let file = files.next().ok_or_else(|| missing("apt-get fetched nothing".into()))?.path();

    let (file, root_text) = (file.display().to_string(), root.display().to_string());
    must("dpkg-deb", "dpkg", &["-x", &file, &root_text])?;
    let version = package.strip_prefix(PREFIX).unwrap_or(package);
    must("depmod", "kmod", &["-b", &root_text, version])?;
    Kernel::in_dir(&root, package)?;
    let dir = cache.join(package);
    // Last, so that a folder of this name is always whole.
    std::fs::rename(&root, &dir).map_err(io_at("move the kernel to", &dir))?;
    Kernel::in_dir(&dir, package)
}

/// A folder that goes unless it was moved away.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> std::io::Result<Output> {
    Command::new(program)
        .args(arguments)
        .current_dir(dir)
        // The answers are read.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
}

fn must(
    program: &'static str,
    package: &'static str,
    arguments: &[&str],
) -> Result<(), MachineError> {
    let path = need(program, package)?;
    let output = Command::new(&path)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(io_at("run", &path))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(MachineError::Program {
            program,
            argument: arguments.join(" "),
            answer: complaint(&output),
        }),
    }
}

/// The line that says why.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next();
    let why = lines.find(|line| line.starts_with("E: ")).or(first);
    why.map_or_else(|| "it gave no reason".to_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_behind_the_meta_package_is_found() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-9-cloud-amd64\n";
        assert_eq!(dependency(answer).as_deref(), Some("linux-image-6.1.0-9-cloud-amd64"));
        let virtual_package = "x\n  Depends: <linux-image-nothing>\n";
        assert_eq!(dependency(virtual_package), None);
        assert_eq!(dependency(""), None);
    }

    #[test]
    fn a_kernel_without_its_parts_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Kernel::in_dir(dir.path(), "linux-image-1.2-x").unwrap_err();
        assert!(
            matches!(&error, MachineError::BadKernel { why, .. } if why.contains("vmlinuz-1.2-x")),
            "{error}"
        );
        assert!(!error.skips(), "a broken cache must not look like a skipped test");
    }

    #[test]
    fn the_newest_of_earlier_kernels_serves_without_a_network() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kept(dir.path()), None);
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::fs::create_dir(dir.path().join("linux-image-1")).unwrap();
        assert_eq!(kept(dir.path()).as_deref(), Some("linux-image-1"));
    }
}
