//! A stream of TCP by iperf3 through a rig.

use super::rig::Rig;
use anyhow::{Context, ensure};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PORT: &str = "5201";

/// What a stream was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    /// Bits that arrived in a second, the first second left out.
    pub(crate) bits_per_second: f64,
    /// Bytes in all, with the first second.
    pub(crate) bytes: f64,
}

/// How often a stream is tried: on a busy machine iperf3's server is not always ready for its
/// client, and then the client reports a stream without a rate.
const TRIES: u32 = 3;

/// One stream of TCP over `seconds`, after one that is not in the rate.
pub(crate) fn tcp(rig: &Rig, seconds: u32) -> anyhow::Result<Stream> {
    let mut tries = 1;
    loop {
        match stream(rig, seconds) {
            Err(_) if tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

fn stream(rig: &Rig, seconds: u32) -> anyhow::Result<Stream> {
    let [from, to] = &rig.ends;
    let address = to.address.to_string();
    let mut server = to
        .netns
        .enter(|| {
            Command::new("iperf3")
                .args(["--server", "--one-off", "--bind", &address, "--port", PORT])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        })
        .context("namespace")?
        .context("iperf3, package iperf3")?;
    let seconds = seconds.to_string();
    let run = || {
        let arguments =
            ["--client", &address, "--port", PORT, "--time", &seconds, "--omit", "1", "--json"];
        read(&from.run("iperf3", &arguments)?)
    };
    // The server takes a moment until it listens.
    let end = Instant::now() + Duration::from_secs(5);
    let report = loop {
        match run() {
            Err(error) if Instant::now() >= end => {
                stop(&mut server);
                return Err(error);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(report) => break report,
        }
    };
    stop(&mut server);
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits_per_second = bits.context("iperf3 reports no rate")?;
    ensure!(bits_per_second > 0.0, "nothing arrived");
    let intervals = report["intervals"].as_array().context("iperf3 reports no intervals")?;
    let bytes = intervals.iter().filter_map(|interval| interval["sum"]["bytes"].as_f64()).sum();
    Ok(Stream { bits_per_second, bytes })
}

/// A report of a stream; with `--json` the client ends well whatever happened, and says so in there.
fn read(text: &str) -> anyhow::Result<serde_json::Value> {
    let report: serde_json::Value = serde_json::from_str(text).context("iperf3's report")?;
    match report["error"].as_str() {
        Some(error) => anyhow::bail!("iperf3: {error}"),
        None => Ok(report),
    }
}

fn stop(server: &mut Child) {
    let _ = server.kill();
    let _ = server.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_found_no_server_is_tried_again() {
        let refused = r#"{"start":{},"intervals":[],"end":{},"error":"unable to connect to server: Connection refused"}"#;
        assert!(read(refused).unwrap_err().to_string().contains("Connection refused"));
        assert!(read("").is_err(), "it was killed");
        assert!(read(r#"{"intervals":[],"end":{}}"#).is_ok());
    }
}
