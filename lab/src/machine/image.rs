//! The machine's first and only root: what it holds, and writing it as a cpio archive.
//!
//! Files lie where they lie on this machine, since tests know the paths of their programs;
//! `/bin`, `/lib` and the like are links into `/usr` as Debian has them.

use super::cpio::Archive;
use super::error::{MachineError, io_at};
use super::executables::Built;
use super::kernel::Kernel;
use super::need;
use super::wire::{JOB_FILE, Job};
use crate::packages;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

/// Where this program is in the machine; the kernel starts it first.
pub(super) const INIT: &str = "/lab";

/// Programs that tests start, or that the kernel does (modprobe). Those that this machine lacks
/// are left out, and the tests that want them say that they are skipped.
const PROGRAMS: &[&str] = &[
    "bird", "birdc", "bridge", "cat", "dnsmasq", "env", "ip", "iperf3", "mkdir", "modprobe",
    "mount", "nft", "ping", "setpriv", "sh", "sleep", "ss", "sysctl", "tc", "tcpdump", "true",
    "unshare", "wg", "which",
];

/// Folders of the kernel's modules: all about networks, and what these rest on.
const MODULES: &[&str] = &["arch", "crypto", "drivers/net", "lib", "net"];

/// Names of numbers for ip(8), where distributions have them.
const IPROUTE2: &[&str] = &["/etc/iproute2", "/usr/share/iproute2"];

/// What the C library wants to know.
const TEXTS: &[(&str, &str)] = &[
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    ),
];

/// Writes the image to `to` and gives its size in bytes. Stripped copies of programs are put
/// into `scratch`.
pub(super) fn assemble(
    to: &Path,
    scratch: &Path,
    kernel: &Kernel,
    built: &Built,
    job: &Job,
    say: &mut dyn FnMut(&str),
) -> Result<u64, MachineError> {
    std::fs::create_dir_all(scratch).map_err(io_at("make the folder", scratch))?;
    let mut tree = Tree::new();
    for (path, text) in TEXTS {
        tree.text(Path::new(path), (*text).into());
    }
    let job = serde_json::to_vec(job).expect("a job has only text keys");
    tree.text(Path::new(JOB_FILE), job);

    // By its process: building the tests may have replaced the file that it was started from.
    let own = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let tests = built.tests.iter().map(|test| &test.path);
    let ours: Vec<&PathBuf> = tests.chain(&built.programs).chain([&own]).collect();
    for (number, program) in ours.iter().enumerate() {
        let at = if **program == own { Path::new(INIT) } else { program };
        tree.file(at, slim(program, &scratch.join(number.to_string())), 0o755);
    }
    for test in &built.tests {
        tree.directory(&test.dir);
    }
    let (there, missing): (Vec<_>, Vec<_>) = PROGRAMS
        .iter()
        .map(|name| (*name, packages::find(name)))
        .partition(|(_, path)| path.is_some());
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        say(&format!("not on this machine, so not in the other: {}", names.join(", ")));
    }
    let theirs: Vec<PathBuf> = there.into_iter().filter_map(|(_, path)| path).collect();
    for program in &theirs {
        tree.file(program, program.clone(), 0o755);
    }
    for library in libraries(ours.into_iter().chain(&theirs))? {
        tree.file(&library, library.clone(), 0o755);
    }

    let modules = Path::new("/lib/modules").join(&kernel.version);
    for folder in MODULES {
        let folder = Path::new("kernel").join(folder);
        tree.folder(&modules.join(&folder), &kernel.modules.join(&folder))?;
    }
    for entry in list(&kernel.modules)? {
        if entry.is_file() {
            tree.file(&modules.join(entry.file_name().unwrap_or_default()), entry.clone(), 0o644);
        }
    }
    for dir in IPROUTE2.iter().map(Path::new).filter(|dir| dir.is_dir()) {
        tree.folder(dir, dir)?;
    }
    tree.write(to)
}

/// What is at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory { mode: u32 },
    Link { target: &'static str },
    File { source: PathBuf, mode: u32 },
    Text { content: Vec<u8> },
}

/// Everything in the image by path without the slash in front; sorted, so each folder comes
/// before what is in it.
#[derive(Debug)]
struct Tree(BTreeMap<PathBuf, Node>);

impl Tree {
    /// What every machine has: empty folders to mount on, and the links into `/usr`.
    fn new() -> Tree {
        let mut tree = Tree(BTreeMap::new());
        for (name, target) in
            [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/sbin")]
        {
            tree.directory(Path::new(target));
            tree.0.insert(name.into(), Node::Link { target });
        }
        for name in ["dev", "etc", "proc", "root", "run", "sys", "var/tmp"] {
            tree.directory(Path::new(name));
        }
        // wg(8) looks for sockets there.
        tree.0.insert("var/run".into(), Node::Link { target: "../run" });
        tree.0.insert("tmp".into(), Node::Directory { mode: 0o1777 });
        tree
    }

    fn directory(&mut self, path: &Path) {
        let path = place(path);
        let above: Vec<&Path> = path.ancestors().filter(|dir| *dir != Path::new("")).collect();
        for dir in above {
            self.0.entry(dir.to_path_buf()).or_insert(Node::Directory { mode: 0o755 });
        }
    }

    fn insert(&mut self, path: &Path, node: Node) {
        if let Some(dir) = path.parent() {
            self.directory(dir);
        }
        self.0.insert(place(path), node);
    }

    fn file(&mut self, path: &Path, source: PathBuf, mode: u32) {
        self.insert(path, Node::File { source, mode });
    }

    fn text(&mut self, path: &Path, content: Vec<u8>) {
        self.insert(path, Node::Text { content });
    }

    /// Everything below `source`. A kernel may lack a folder of modules.
    fn folder(&mut self, path: &Path, source: &Path) -> Result<(), MachineError> {
        if !source.exists() {
            return Ok(());
        }
        for entry in list(source)? {
            let at = path.join(entry.file_name().unwrap_or_default());
            match entry.is_dir() {
                true => self.folder(&at, &entry)?,
                false => self.file(&at, entry, 0o644),
            }
        }
        Ok(())
    }

    fn write(&self, to: &Path) -> Result<u64, MachineError> {
        // Made anew at each run: nothing is lost when it is torn.
        let out = File::create(to).map_err(io_at("make", to))?;
        let mut archive = Archive::new(BufWriter::new(out));
        for (path, node) in &self.0 {
            let name = path.to_string_lossy();
            match node {
                Node::Directory { mode } => archive.directory(&name, *mode),
                Node::Link { target } => archive.symlink(&name, target),
                Node::Text { content } => {
                    archive.file(&name, 0o644, content.len() as u64, &mut &content[..])
                }
                Node::File { source, mode } => File::open(source)
                    .and_then(|mut file| {
                        let size = file.metadata()?.len();
                        archive.file(&name, *mode, size, &mut file)
                    })
                    .map_err(|error| named(source, &error)),
            }
            .map_err(io_at("write", to))?;
        }
        archive.finish().map_err(io_at("write", to))
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Where a path of this machine is in the image: without the slash in front, `/usr` merged.
fn place(path: &Path) -> PathBuf {
    let plain: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    match plain.iter().next().and_then(|first| first.to_str()) {
        // The link itself stays.
        Some("bin" | "lib" | "lib64" | "sbin") if plain.components().count() > 1 => {
            Path::new("usr").join(plain)
        }
        _ => plain,
    }
}

/// A copy without what only a debugger wants, which is most of it; the program itself when
/// there is no strip(1).
fn slim(program: &Path, to: &Path) -> PathBuf {
    let strip = Command::new("strip").args(["--strip-debug", "-o"]).args([to, program]).output();
    match strip {
        Ok(output) if output.status.success() => to.to_path_buf(),
        _ => program.to_path_buf(),
    }
}

/// The shared libraries of programs, with the loader.
fn libraries<'a>(
    programs: impl Iterator<Item = &'a PathBuf>,
) -> Result<BTreeSet<PathBuf>, MachineError> {
    let ldd = need("ldd", "libc-bin")?;
    // It fails when one of them is static, and tells of the others.
    let output = Command::new(&ldd)
        .args(programs)
        .stdin(Stdio::null())
        .output()
        .map_err(io_at("run", &ldd))?;
    Ok(parse_ldd(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads ldd(1): `name => /path (0x…)` or `/path (0x…)`; `name => not found` has no path, and
/// `/program:` no address.
fn parse_ldd(answer: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let (found, _) = line.rsplit_once(" (0x")?;
        let path = found.rsplit_once(" => ").map_or(found, |(_, path)| path).trim();
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    answer.lines().filter_map(path).collect()
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let entries = std::fs::read_dir(dir).map_err(io_at("read", dir))?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(io_at("read", dir))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_folder_comes_before_what_is_in_it(paths in prop::collection::vec("(/(bin|lib|a|b)){1,4}/f", 1..20)) {
            let mut tree = Tree::new();
            for path in &paths {
                tree.text(Path::new(path), vec![]);
            }
            let mut seen = BTreeSet::new();
            for (path, node) in &tree.0 {
                let dir = path.parent().unwrap();
                prop_assert!(dir == Path::new("") || seen.contains(dir), "{path:?} before its folder");
                if matches!(node, Node::Directory { .. }) {
                    seen.insert(path.as_path());
                }
            }
        }
    }

    #[test]
    fn paths_of_both_kinds_of_debian_are_the_same_place() {
        assert_eq!(place(Path::new("/bin/ip")), Path::new("usr/bin/ip"));
        assert_eq!(place(Path::new("/usr/bin/ip")), Path::new("usr/bin/ip"));
        assert_eq!(place(Path::new("/lib")), Path::new("lib"));
        assert_eq!(place(Path::new("/library/x")), Path::new("library/x"));
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let answer = "/bin/a:\n\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f1)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n\tlibgone.so => not found\n/bin/b:\n\tstatically linked\n";
        let found: Vec<PathBuf> = parse_ldd(answer).into_iter().collect();
        assert_eq!(
            found,
            [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
    }

    #[test]
    fn the_archive_is_what_cpio_understands() {
        let Some(cpio) = packages::find("cpio") else {
            return eprintln!("skipped: the program cpio is missing");
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        let mut tree = Tree::new();
        tree.text(Path::new("/etc/hosts"), b"127.0.0.1 localhost\n".to_vec());
        tree.file(Path::new("/bin/sh"), "/bin/sh".into(), 0o755);
        tree.write(&file).unwrap();
        let output =
            Command::new(cpio).args(["-itv"]).stdin(File::open(&file).unwrap()).output().unwrap();
        let listed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(listed.contains("bin -> usr/bin") && listed.contains("usr/bin/sh"), "{listed}");
    }

    #[test]
    fn a_file_that_went_away_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        tree.file(Path::new("/x"), dir.path().join("gone"), 0o644);
        let error = tree.write(&dir.path().join("image")).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("gone"), "{cause}");
    }
}
