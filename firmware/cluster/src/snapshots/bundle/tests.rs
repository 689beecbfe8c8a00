use super::super::fake::Fake;
use super::*;
use std::process::Command as Blocking;

/// Name and content.
type File<'a> = (&'a str, &'a [u8]);

struct Keys {
    _dir: tempfile::TempDir,
    identity: Secret,
    file: PathBuf,
    public: String,
}

fn keys() -> Option<Keys> {
    let dir = tempfile::tempdir().unwrap();
    let identity = dir.path().join("key");
    let made = Blocking::new("age-keygen").arg("-o").arg(&identity).output();
    if !made.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: age is not installed");
        return None;
    }
    let public = Blocking::new("age-keygen").arg("-y").arg(&identity).output().unwrap().stdout;
    let text = Secret(std::fs::read_to_string(&identity).unwrap());
    Some(Keys {
        _dir: dir,
        identity: text,
        file: identity,
        public: String::from_utf8(public).unwrap().trim().into(),
    })
}

fn server(dir: &Path) -> (Fake, Record) {
    let fake = Fake::below(&dir.join("node"));
    fake.secret("server/token", "K10abc::server:secret");
    fake.secret("server/tls/etcd/server-ca.crt", "authority");
    fake.snapshot(1, 5);
    let record = Records::new(&fake.paths).observe().unwrap().remove(0);
    (fake, record)
}

/// Encrypts a tar of these files by hand, as somebody else could.
fn by_hand(dir: &Path, keys: &Keys, files: &[File<'_>]) -> PathBuf {
    let inside = dir.join("by-hand");
    files::fresh_dir(&inside).unwrap();
    for (name, content) in files {
        holdfast_durable::write(&inside.join(name), content, 0o600).unwrap();
    }
    encrypt(dir, keys, &inside)
}

fn encrypt(dir: &Path, keys: &Keys, inside: &Path) -> PathBuf {
    let out = dir.join("by-hand.age");
    let script = format!(
        "tar czf - -C {} . | age -r {} -o {}",
        inside.display(),
        keys.public,
        out.display()
    );
    assert!(Blocking::new("sh").args(["-c", &script]).status().unwrap().success());
    out
}

#[tokio::test]
async fn what_was_packed_is_opened_here_and_by_the_programs_themselves() {
    let Some(keys) = keys() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fake, record) = server(dir.path());
    let out = dir.path().join("deep/out.tar.gz.age");
    pack(&fake.paths, &record, &keys.public, &out).await.unwrap();
    let head = std::fs::read(&out).unwrap();
    assert!(head.starts_with(b"age-encryption.org/v1\n"));
    assert!(!files::is_there(&fake.paths.state_dir().join("pack")), "plain secrets stay");

    let into = dir.path().join("into");
    let unpacked = unpack(&out, &keys.identity, &into).await.unwrap();
    assert_eq!(unpacked.record, record);
    assert_eq!(etcd_file::verify(&unpacked.snapshot).unwrap().sha256, record.sha256);
    let names: Vec<_> = unpacked.carried.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["server/tls/etcd/server-ca.crt", "server/token"]);

    let script = format!("age -d -i {} {} | tar tz", keys.file.display(), out.display());
    let listed = Blocking::new("sh").args(["-c", &script]).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.starts_with("holdfast-snapshot.json\netcd.db\n"), "{listed}");
}

#[tokio::test]
async fn keys_that_are_none_or_another_are_told() {
    let (Some(keys), Some(other)) = (keys(), keys()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fake, record) = server(dir.path());
    let out = dir.path().join("out");
    for key in ["", "ssh-ed25519 AAAA", "age1", "--help", "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqq"] {
        let error = pack(&fake.paths, &record, key, &out).await.unwrap_err();
        assert!(matches!(error, SnapshotError::KeyInvalid { .. }), "{key}: {error}");
    }
    assert!(!out.exists());
    pack(&fake.paths, &record, &keys.public, &out).await.unwrap();
    let into = dir.path().join("into");
    let error = unpack(&out, &other.identity, &into).await.unwrap_err();
    assert!(matches!(error, SnapshotError::WrongKey { .. }), "{error}");
    for identity in ["", "hello\n", "AGE-SECRET-KEY-1QQQQ\n", &"x".repeat(1 << 20)] {
        let error = unpack(&out, &Secret(identity.into()), &into).await.unwrap_err();
        assert!(matches!(error, SnapshotError::WrongKey { .. }), "{error}");
    }
    let error = unpack(Path::new("/nowhere"), &keys.identity, &into).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
    assert!(!into.exists());
}

#[tokio::test]
async fn a_file_that_is_damaged_or_says_too_much_is_refused() {
    let Some(keys) = keys() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (fake, record) = server(dir.path());
    let out = dir.path().join("out");
    pack(&fake.paths, &record, &keys.public, &out).await.unwrap();
    let whole = std::fs::read(&out).unwrap();
    let into = dir.path().join("into");
    let refused = async |file: &Path| {
        let error = unpack(file, &keys.identity, &into).await.unwrap_err();
        let SnapshotError::Bundle { why, .. } = error else { panic!("{error}") };
        assert!(!into.exists(), "what was unpacked stays");
        why
    };
    for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
        holdfast_durable::write(&out, &whole[..cut], 0o600).unwrap();
        refused(&out).await;
    }
    let mut flipped = whole.clone();
    let last = flipped.len() - 40;
    flipped[last] ^= 1;
    holdfast_durable::write(&out, &flipped, 0o600).unwrap();
    assert!(refused(&out).await.contains("authenticate"));

    let snapshot = etcd_file::sample(5);
    let manifest = |files: &[(&str, &str)], format: u32| {
        let files =
            files.iter().map(|(name, sum)| ((*name).to_owned(), (*sum).to_owned())).collect();
        serde_json::to_vec(&Manifest { format, snapshot: record.clone(), files }).unwrap()
    };
    let good = [("etcd.db", record.sha256.as_str())];
    let token = "0".repeat(64);
    let cases: [(&[File<'_>], &str); 6] = [
        (&[("etcd.db", &snapshot)], "it has no holdfast-snapshot.json"),
        (
            &[("etcd.db", &snapshot), (MANIFEST, &manifest(&good, 2))],
            "its format 2 is newer than 1",
        ),
        (&[(MANIFEST, &manifest(&good, 1))], "etcd.db is missing"),
        (
            &[("etcd.db", &snapshot), ("server/token", b"x"), (MANIFEST, &manifest(&good, 1))],
            "server/token is in it and not in its holdfast-snapshot.json",
        ),
        (
            &[
                ("etcd.db", &snapshot),
                ("server/token", b"x"),
                (MANIFEST, &manifest(&[good[0], ("server/token", &token)], 1)),
            ],
            "server/token is not what its holdfast-snapshot.json says",
        ),
        (
            &[
                ("etcd.db", &snapshot),
                ("server/db/x", &snapshot),
                (MANIFEST, &manifest(&[good[0], ("server/db/x", &record.sha256)], 1)),
            ],
            "server/db/x has no place here",
        ),
    ];
    for (content, why) in cases {
        assert_eq!(refused(&by_hand(dir.path(), &keys, content)).await, why);
    }
}

#[tokio::test]
async fn what_is_no_plain_file_is_not_even_opened() {
    let Some(keys) = keys() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (inside, into) = (dir.path().join("inside"), dir.path().join("into"));
    for (is_pipe, name) in
        [(true, MANIFEST), (true, SNAPSHOT), (false, "server"), (false, MANIFEST)]
    {
        files::fresh_dir(&inside).unwrap();
        let path = inside.join(name);
        if is_pipe {
            assert!(Blocking::new("mkfifo").arg(path).status().unwrap().success());
        } else {
            std::os::unix::fs::symlink("etcd.db", path).unwrap();
        }
        let file = encrypt(dir.path(), &keys, &inside);
        let opened = unpack(&file, &keys.identity, &into);
        let error = tokio::time::timeout(Duration::from_secs(60), opened).await.unwrap();
        let SnapshotError::Bundle { why, .. } = error.unwrap_err() else { panic!("{name}") };
        assert_eq!(why, format!("{name} is no plain file"));
    }
}
