use super::*;
use proptest::prelude::*;
use std::process::Command;

const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0FtVp0cMpPjkl0ABfdSRr4IS3ru4dKg3bxsx+Ez8Xx operator ca 2025";

/// Every kind of key that ssh-keygen makes is read, written back, and has the same fingerprint.
#[test]
fn keys_of_ssh_keygen_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, bits, name) in [
        ("ed25519", "256", "ssh-ed25519"),
        ("ecdsa", "256", "ecdsa-sha2-nistp256"),
        ("ecdsa", "384", "ecdsa-sha2-nistp384"),
        ("ecdsa", "521", "ecdsa-sha2-nistp521"),
        ("rsa", "2048", "ssh-rsa"),
        ("rsa", "3072", "ssh-rsa"),
    ] {
        let file = dir.path().join(format!("{kind}{bits}"));
        let flags = ["-q", "-N", "", "-C", "a comment", "-t", kind, "-b", bits, "-f"];
        match Command::new("ssh-keygen").args(flags).arg(&file).output() {
            Err(error) => return eprintln!("skipped: ssh-keygen cannot be run: {error}"),
            Ok(output) => assert!(output.status.success(), "{output:?}"),
        }
        let public = file.with_extension("pub");
        let line = std::fs::read_to_string(&public).unwrap();
        let key = PublicKey::parse(&line).unwrap();
        assert_eq!(key.to_string(), line.trim_end());
        assert_eq!(key.kind().name(), name);
        let listed = Command::new("ssh-keygen").arg("-lf").arg(&public).output().unwrap().stdout;
        assert!(String::from_utf8(listed).unwrap().contains(&key.fingerprint()));
    }
}

#[test]
fn what_is_no_authority_is_refused_by_name() {
    let parse = |line: &str| PublicKey::parse(line).unwrap_err();
    let body = ED25519.split(' ').nth(1).unwrap();
    assert_eq!(parse("  \n"), KeyError::Empty);
    assert_eq!(parse(&format!("{ED25519}\n{ED25519}")), KeyError::NotOneLine);
    assert_eq!(
        parse(&format!("cert-authority {ED25519}")),
        KeyError::Kind("cert-authority".into())
    );
    assert_eq!(parse("ssh-dss AAAA"), KeyError::Kind("ssh-dss".into()));
    let certificate = "ssh-ed25519-cert-v01@openssh.com";
    assert_eq!(parse(&format!("{certificate} {body}")), KeyError::Kind(certificate.into()));
    assert_eq!(parse("-----BEGIN OPENSSH PRIVATE KEY-----"), KeyError::Kind("-----BEGIN".into()));
    for damaged in ["", "!!!", &body[..body.len() - 1], &format!("{body}=")] {
        assert_eq!(parse(&format!("ssh-ed25519 {damaged}")), KeyError::Base64("ssh-ed25519"));
    }
    let blob = |line: &str| match parse(line) {
        KeyError::Blob { what, .. } => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(blob(&format!("ssh-rsa {body}")), "it says that it is of another type");
    let with = |fields: &[&[u8]]| {
        let blob: Vec<u8> = fields
            .iter()
            .flat_map(|field| {
                [&u32::try_from(field.len()).unwrap().to_be_bytes()[..], field].concat()
            })
            .collect();
        STANDARD.encode(blob)
    };
    assert_eq!(
        blob(&format!("ssh-ed25519 {}", with(&[b"ssh-ed25519", &[7; 31]]))),
        "it is not 32 bytes long"
    );
    assert_eq!(
        blob(&format!("ssh-ed25519 {}", with(&[b"ssh-ed25519", &[7; 32], b""]))),
        "there is more behind its end"
    );
    let (small, exponent) = ([0x7f; 128], [1, 0, 1]);
    assert_eq!(
        blob(&format!("ssh-rsa {}", with(&[b"ssh-rsa", &exponent, &small]))),
        "it is shorter than 2048 bits"
    );
    let minus = [0xff; 256];
    assert!(
        blob(&format!("ssh-rsa {}", with(&[b"ssh-rsa", &exponent, &minus]))).contains("positive")
    );
    let ecdsa = "ecdsa-sha2-nistp256";
    let point = [4; 65];
    assert!(
        PublicKey::parse(&format!("{ecdsa} {}", with(&[ecdsa.as_bytes(), b"nistp256", &point])))
            .is_ok()
    );
    assert_eq!(
        blob(&format!("{ecdsa} {}", with(&[ecdsa.as_bytes(), b"nistp384", &point]))),
        "it names another curve"
    );
    let sk = "sk-ssh-ed25519@openssh.com";
    assert!(
        PublicKey::parse(&format!("{sk} {}", with(&[sk.as_bytes(), &[7; 32], b"ssh:"]))).is_ok()
    );
    assert_eq!(blob(&format!("{sk} {}", with(&[sk.as_bytes(), &[7; 32]]))), "it is cut short");
}

proptest! {
    /// Whatever the bytes, there is an answer; and what is read is read again the same.
    #[test]
    fn any_text_gets_an_answer(line in "(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp256|.{0,10})[ \t]([A-Za-z0-9+/=]{0,200}|.{0,20})( .{0,9})?") {
        if let Ok(key) = PublicKey::parse(&line) {
            prop_assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        }
    }

    /// A key that was cut short anywhere is never taken for one.
    #[test]
    fn every_truncation_is_refused(cut in 0..51usize) {
        let blob = STANDARD.decode(ED25519.split(' ').nth(1).unwrap()).unwrap();
        prop_assert_eq!(blob.len(), 51);
        let line = format!("ssh-ed25519 {}", STANDARD.encode(&blob[..cut]));
        prop_assert!(PublicKey::parse(&line).is_err());
    }
}
