//! Tests of the whole crate, by subject.

mod certificates;
mod keys;
mod time;
mod tokens;

use crate::DeviceKey;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair, date_time_ymd,
};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A CA that issues client certificates, in the controller's place.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    /// Valid for the year 2026.
    fn issue(&self, key: &DeviceKey) -> crate::NodeCertificate {
        let csr = key.csr_pem("node-a").unwrap();
        let mut request = CertificateSigningRequestParams::from_pem(&csr).unwrap();
        request.params.not_before = date_time_ymd(2026, 1, 1);
        request.params.not_after = date_time_ymd(2027, 1, 1);
        let chain_pem = request.signed_by(&self.issuer).unwrap().pem();
        crate::NodeCertificate { chain_pem, ca_pem: self.pem.clone() }
    }
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    holdfast_durable::write(path, content.as_ref(), 0o600).unwrap();
}

/// What `program` answers to `input`; none (and a word about it) when it is not installed.
fn ask(program: &str, args: &[&str], input: &str) -> Option<(bool, String)> {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text.into_owned()))
}
