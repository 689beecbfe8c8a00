//! One program that is given thousands of peers which never say anything.

use super::program::Program;
use super::rig::{End, tempdir, wired};
use anyhow::Context;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};
use tunnels::wireguard::PrivateKey;

/// After which a program has let go of what it needed only to take them.
const SETTLE: Duration = Duration::from_secs(1);

/// What they are in a file for wg(8): each has a preshared key and three prefixes.
#[derive(Debug)]
pub(crate) struct Peers {
    count: u32,
    text: String,
}

/// What it took to know them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Configured {
    /// From the start of `wg setconf` to its end.
    pub(crate) time: Duration,
    /// PSS that the program has for each more than before, a second later; none of the kernel's.
    pub(crate) bytes_each: Option<f64>,
}

impl Peers {
    /// With new keys.
    pub(crate) fn new(count: u32) -> anyhow::Result<Self> {
        let mut text =
            format!("[Interface]\nPrivateKey = {}\n", *PrivateKey::generate()?.to_base64());
        for n in 0..count {
            let key = PrivateKey::generate()?.public();
            // 32 random bytes, as a private key is.
            let preshared = PrivateKey::generate()?.to_base64();
            let [host, site, site6] = prefixes(n);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "[Peer]\nPublicKey = {key}\nPresharedKey = {}\nAllowedIPs = {host}, {site}, {site6}",
                *preshared
            );
        }
        Ok(Peers { count, text })
    }

    /// Starts the program, and gives it all of them while its link is up.
    pub(crate) fn configure(&self, program: &Program) -> anyhow::Result<Configured> {
        let dir = tempdir()?;
        let result = self.configure_in(program, &dir);
        let _ = std::fs::remove_dir_all(&dir);
        result.with_context(|| format!("{} did not take {} peers", program.name(), self.count))
    }

    fn configure_in(&self, program: &Program, dir: &Path) -> anyhow::Result<Configured> {
        let config = dir.join("silent.conf");
        holdfast_durable::write(&config, self.text.as_bytes(), 0o600)?;
        let [mut end, _other] = wired()?;
        end.start(program)?;
        let link = end.link().to_owned();
        end.run("ip", &["link", "set", &link, "up"])?;
        let pss = |end: &End| -> anyhow::Result<Option<f64>> {
            Ok(end.usage()?.map(|usage| usage.pss_bytes as f64))
        };
        let before = pss(&end)?;
        let begin = Instant::now();
        end.run("wg", &["setconf", &link, &config.display().to_string()])?;
        let time = begin.elapsed();
        std::thread::sleep(SETTLE);
        let after = pss(&end)?;
        let each = |(before, after): (f64, f64)| (after - before) / f64::from(self.count.max(1));
        Ok(Configured { time, bytes_each: before.zip(after).map(each) })
    }
}

/// A host, eight addresses and an IPv6 network that no other peer has.
fn prefixes(n: u32) -> [String; 3] {
    let v4 = |first: Ipv4Addr, add: u32| Ipv4Addr::from(first.to_bits().wrapping_add(add));
    let v6 = Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n) << 64);
    [
        format!("{}/32", v4([10, 128, 0, 0].into(), n)),
        format!("{}/29", v4([10, 0, 0, 0].into(), n.wrapping_mul(8))),
        format!("{v6}/64"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::IpNet;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_peers_have_a_key_or_an_address_in_common() {
        let peers = Peers::new(3).unwrap();
        let of = |key: &str| -> BTreeSet<&str> {
            peers.text.lines().filter_map(|line| line.strip_prefix(key)).collect()
        };
        assert_eq!((of("PublicKey = ").len(), of("PresharedKey = ").len()), (3, 3));
        assert_eq!(of("AllowedIPs = ").len(), 3);
        let nets: Vec<IpNet> =
            (9_990..10_000).flat_map(prefixes).map(|net| net.parse().unwrap()).collect();
        for (at, net) in nets.iter().enumerate() {
            assert_eq!(net.trunc(), *net, "a host's bits are set");
            let others = &nets[at + 1..];
            assert!(
                others.iter().all(|other| !net.contains(other) && !other.contains(net)),
                "{net}"
            );
        }
    }
}
