//! Reads the machine: our files, the logs since the start, and the facts for a diagnosis.
//! Nothing here fails as a whole; what cannot be read is missing.

use super::diagnose::{Facts, Listener, Log, Program, Validity};
use super::launch::{Places, Record};
use super::plan::{Elsewhere, FileState};
use super::render::{self, HEADER, Rendered};
use crate::paths::ClusterPaths;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Of each log so much of its end is read.
const TAIL: u64 = 64 << 10;

/// A file in a place of ours.
pub fn file(path: &Path) -> FileState {
    match std::fs::read_to_string(path) {
        Ok(content) if content.lines().next() == Some(HEADER) => {
            FileState::Ours(Rendered { path: path.to_path_buf(), content })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => FileState::Absent,
        // What cannot be read is not known to be ours.
        Ok(_) | Err(_) => FileState::Foreign,
    }
}

/// The first of the administrator's files that puts the data elsewhere, by its long or short name
/// (docs.k3s.io, "Configuration File"). What is no YAML k3s refuses by itself.
pub fn elsewhere(paths: &ClusterPaths) -> Option<Elsewhere> {
    let ours = render::config_path(paths);
    let fragments = std::fs::read_dir(ours.parent()?).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = fragments.map(|entry| entry.path()).collect();
    files.retain(|path| {
        *path != ours && path.extension().is_some_and(|end| end == "yaml" || end == "yml")
    });
    files.push(paths.config_dir().join("config.yaml"));
    files.sort();
    files.into_iter().find_map(|file| {
        let text = std::fs::read_to_string(&file).ok()?;
        let options: BTreeMap<String, serde_yaml_ng::Value> =
            serde_yaml_ng::from_str(&text).ok()?;
        let mut named = ["data-dir", "d"].iter().filter_map(|name| options.get(*name)?.as_str());
        let other = named.find(|named| Path::new(named) != paths.data_dir())?;
        Some(Elsewhere { data_dir: other.to_owned(), file })
    })
}

/// What it and its parts logged since the start in `record`.
pub fn log(places: &Places, record: &Record) -> Log {
    let mut log = Log::default();
    for path in places.logs() {
        let text = since(&path, record.logs.get(&path).copied().unwrap_or(0)).unwrap_or_default();
        let by = match path == places.containerd_log() {
            true => &mut log.containerd,
            false => &mut log.kubernetes,
        };
        by.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
    }
    log
}

fn since(path: &Path, start: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A shorter one was begun anew.
    let start = if length < start { 0 } else { start };
    file.seek(SeekFrom::Start(start.max(length.saturating_sub(TAIL))))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    Ok(text)
}

/// The facts.
pub fn facts(paths: &ClusterPaths) -> Facts {
    Facts {
        free_bytes: free_bytes(&paths.data_dir()),
        listeners: listeners(Path::new("/proc")),
        certificates: certificates(&paths.data_dir()),
    }
}

/// Of the file system that `path` is on, or would be on.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let stat = nix::sys::statvfs::statvfs(there).ok()?;
    // Unsigned longs, which are narrower on 32-bit machines.
    #[allow(clippy::useless_conversion)]
    Some(u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size())))
}

/// TCP ports that somebody listens on, in our network namespace (proc_net(5)).
fn listeners(proc: &Path) -> Vec<Listener> {
    let mut ports: BTreeMap<u16, u64> = BTreeMap::new();
    for table in ["net/tcp", "net/tcp6"] {
        let text = std::fs::read_to_string(proc.join(table)).unwrap_or_default();
        ports.extend(text.lines().skip(1).filter_map(listening));
    }
    let programs = sockets(proc, &ports.values().copied().collect::<Vec<_>>());
    let listener = |(port, inode)| Listener { port, program: programs.get(&inode).cloned() };
    ports.into_iter().map(listener).collect()
}

/// Port and inode out of a line of `/proc/net/tcp`, when it is a listening socket's.
fn listening(line: &str) -> Option<(u16, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, port) = fields.get(1)?.rsplit_once(':')?;
    let inode = fields.get(9)?.parse().ok()?;
    (*fields.get(3)? == "0A").then_some((u16::from_str_radix(port, 16).ok()?, inode))
}

/// Who holds these sockets.
fn sockets(proc: &Path, inodes: &[u64]) -> BTreeMap<u64, Program> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        for descriptor in std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten()
        {
            let Some(inode) = std::fs::read_link(descriptor.path()).ok().and_then(socket_inode)
            else {
                continue;
            };
            if inodes.contains(&inode) {
                let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.entry(inode).or_insert(Program { name: name.trim().into(), pid });
            }
        }
    }
    found
}

/// `socket:[4711]`.
fn socket_inode(link: PathBuf) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Validity of the certificates that k3s keeps, of servers and of agents.
pub(super) fn certificates(data: &Path) -> Vec<Validity> {
    let mut found: Vec<Validity> = ["server/tls", "server/tls/etcd", "agent"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(data.join(folder)).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "crt"))
        .filter_map(|path| validity(&path))
        .collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Of the first certificate in a file: the one that is shown to others.
fn validity(path: &Path) -> Option<Validity> {
    let text = std::fs::read(path).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let moment = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    let validity = certificate.validity();
    Some(Validity {
        path: path.to_path_buf(),
        from: moment(validity.not_before)?,
        to: moment(validity.not_after)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::plan::Aspects;
    use holdfast_api::paths::Root;

    fn put(path: &Path, content: &[u8]) {
        holdfast_durable::write(path, content, 0o600).unwrap();
    }

    #[test]
    fn a_file_is_ours_by_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registries.yaml");
        assert_eq!(file(&path), FileState::Absent);
        put(&path, format!("{HEADER}\nmirrors: {{}}\n").as_bytes());
        assert!(matches!(file(&path), FileState::Ours(_)));
        put(&path, format!("mirrors: {{}}\n{HEADER}\n").as_bytes());
        assert_eq!(file(&path), FileState::Foreign);
        put(&path, b"\xff");
        assert_eq!(file(&path), FileState::Foreign);
    }

    #[test]
    fn whoever_puts_the_data_elsewhere_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ClusterPaths::new(&Root::new(folder.path()));
        let etc = paths.config_dir();
        put(&render::config_path(&paths), b"data-dir: /ours\n");
        let here = format!("data-dir: {}/\n", paths.data_dir().display());
        put(&etc.join("config.yaml.d/90-here.yaml"), here.as_bytes());
        put(&etc.join("config.yaml.d/torn.yaml"), b"\"");
        assert_eq!(elsewhere(&paths), None);
        for (name, text) in
            [("config.yaml.d/90-a.yml", "d: /srv"), ("config.yaml", "data-dir: /srv")]
        {
            put(&etc.join(name), text.as_bytes());
            let want = Elsewhere { file: etc.join(name), data_dir: "/srv".into() };
            assert_eq!(elsewhere(&paths), Some(want));
        }
    }

    #[test]
    fn only_what_was_logged_since_the_start_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ClusterPaths::new(&Root::new(folder.path()));
        let places = Places::new(&paths);
        let part = paths.data_dir().join("log/kubernetes.log");
        put(&part, b"old\nnew\n");
        put(&places.log(), b"own\n");
        put(&places.containerd_log(), b"its\n");
        let record = |start| Record {
            aspects: Aspects::new(),
            process: None,
            logs: [(part.clone(), start)].into(),
        };
        assert_eq!(log(&places, &record(4)).kubernetes, ["new", "own"]);
        assert_eq!(log(&places, &record(0)).kubernetes, ["old", "new", "own"]);
        assert_eq!(log(&places, &record(900)).kubernetes, ["old", "new", "own"]);
        assert_eq!(log(&places, &record(0)).containerd, ["its"]);
        let long = vec![b'\n'; 1 << 20];
        put(&part, &[&long, b"end".as_slice()].concat());
        let found = log(&places, &record(0)).kubernetes;
        assert_eq!(found.last().unwrap(), "own");
        assert!(found.contains(&"end".to_owned()));
    }

    #[test]
    fn whoever_listens_is_found() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let found = listeners(Path::new("/proc"));
        let listener = found.iter().find(|listener| listener.port == port).unwrap();
        assert_eq!(listener.program.as_ref().unwrap().pid, std::process::id());
        drop(socket);
        assert!(listeners(Path::new("/proc")).iter().all(|listener| listener.port != port));
    }

    #[test]
    fn free_space_is_that_of_the_nearest_folder() {
        assert!(free_bytes(Path::new("/nowhere/at/all")).is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn certificates_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let pki = holdfast_lab_kubernetes::pki::Pki::below(folder.path());
        pki.prepare("node-1", &["10.0.0.1".parse().unwrap()], &[]).unwrap();
        put(&folder.path().join("server/tls/broken.crt"), b"no certificate");
        let found = certificates(folder.path());
        assert!(found.len() > 3, "{found:?}");
        assert!(found.iter().all(|one| one.from < one.to && one.to > Timestamp::now()));
    }
}
