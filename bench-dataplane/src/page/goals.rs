//! What is asked of the numbers, and how each of them is measured.

use crate::{Report, Series};

/// What a number is to be.
pub(super) struct Goal {
    pub(super) series: &'static str,
    pub(super) what: &'static str,
    /// How it is measured.
    pub(super) method: &'static str,
    pub(super) bound: Bound,
}

/// The goal, and one beyond it.
pub(super) enum Bound {
    AtLeast(f64, Option<f64>),
    AtMost(f64, Option<f64>),
    /// It is told as it is, and only when it was measured.
    None,
}

impl Goal {
    /// What goals are about. A ratio is one to the peer of exactly that name; what ours takes is its
    /// own, whatever it was measured beside.
    pub(super) fn is_about(&self, series: &Series) -> bool {
        let name = series.name.as_str();
        series.n > 0
            && match self.series.ends_with(BESIDE) {
                true => name.starts_with(self.series),
                false => name == self.series,
            }
    }

    /// All that was measured of it; of what ours takes all turns, beside whomever.
    pub(super) fn measured(&self, reports: &[Report]) -> Option<Series> {
        let all = reports.iter().flat_map(|report| &report.results);
        let mut found = all.filter(|series| self.is_about(series)).cloned();
        let first = found.next()?;
        Some(found.fold(first, |mut one, next| {
            one.samples.extend(next.samples);
            Series::new(one.name, &one.unit, one.samples)
        }))
    }
}

/// How series of ours end, before the name of the peer.
const BESIDE: &str = ", holdfast beside ";

pub(super) const GOALS: &[Goal] = &[
    Goal {
        series: "tcp.ratio.wireguard-go",
        what: "TCP, one stream, against wireguard-go with offloads",
        method: "iperf3, what arrived in a turn, the first second left out",
        bound: Bound::AtLeast(1.5, Some(2.5)),
    },
    Goal {
        series: "tcp.ratio.boringtun-cli",
        what: "the same against boringtun-cli",
        method: "the same",
        bound: Bound::AtLeast(6.0, Some(10.0)),
    },
    Goal {
        series: "udp.ratio.wireguard-go",
        what: "UDP, 1200 bytes, rate without loss, against wireguard-go",
        method: "searched by halves in trials of a second in which not one datagram may be lost, and \
                 confirmed by one of five seconds",
        bound: Bound::AtLeast(1.3, Some(2.0)),
    },
    Goal {
        series: "imix.ratio.wireguard-go",
        what: "packets of 40, 576 and 1420 bytes (IMIX), rate without loss, against wireguard-go",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "pps.ratio.wireguard-go",
        what: "datagrams of 64 bytes, rate without loss, against wireguard-go",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "tcp.tax, holdfast beside ",
        what: "tax: processor time per byte of the data path over that of bare seal and open",
        method: "processor time of both programs for a byte of the stream of TCP, over that of `ring` \
                 sealing and opening packets of 1420 bytes in the bench's own process, warmed up: the \
                 median of ten passes, half of them before the turn and half after it; the same clock on \
                 both sides, which is not a counter of cycles",
        bound: Bound::AtMost(3.0, Some(2.0)),
    },
    Goal {
        series: "memory.load, holdfast beside ",
        what: "memory under load, PSS in MiB",
        method: "the most of the larger end, looked at every 200 ms under a stream of TCP",
        bound: Bound::AtMost(24.0, Some(12.0)),
    },
    Goal {
        series: "memory.load.ratio.wireguard-go",
        what: "the same against wireguard-go",
        method: "the same",
        bound: Bound::AtMost(0.2, None),
    },
    Goal {
        series: "latency.rest.p99.ratio.wireguard-go",
        what: "latency that the tunnel adds at rest, p99, against wireguard-go",
        method: "64 bytes there and back, less the time of a neighbour past the tunnel over the same \
                 wire; one that is lost counts half a second",
        bound: Bound::AtMost(1.0, Some(0.5)),
    },
    Goal {
        series: "memory.wakeups, holdfast beside ",
        what: "at rest with one tunnel, wake-ups a second",
        method: "voluntary context switches of all threads over ten seconds, of the end with more; the \
                 program for wg(8), without BFD",
        bound: Bound::AtMost(2.0, None),
    },
    Goal {
        series: "many-tunnels.configure, holdfast beside ",
        what: "10,000 peers configured, in seconds",
        method: "`wg setconf` from start to end, on the program for wg(8); each peer has a preshared key \
                 and three prefixes",
        bound: Bound::AtMost(1.0, None),
    },
    Goal {
        series: "many-tunnels.idle, holdfast beside ",
        what: "memory per idle peer, in bytes",
        method: "PSS a second after that, less PSS before, for each of them",
        bound: Bound::AtMost(2048.0, None),
    },
    Goal {
        series: "many-tunnels.idle.ratio.wireguard-go",
        what: "memory per idle peer against wireguard-go",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "handshakes.restart, holdfast beside ",
        what: "handshakes of 6,000 tunnels after a restart, in seconds",
        method: "from the start of the program for wg(8), before it is set up, until the last is answered; \
                 the other side is one thread on the same machine, and says nothing of BFD",
        bound: Bound::AtMost(5.0, None),
    },
    Goal {
        series: "many-tunnels.6000.up.ratio.wireguard-go",
        what: "data through 6,000 tunnels to their edge, against wireguard-go",
        method: "datagrams of 1,200 bytes through all of them in turns, what arrives",
        bound: Bound::None,
    },
    Goal {
        series: "many-tunnels.6000.down.ratio.wireguard-go",
        what: "the same from their edge",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "many-tunnels.6000.memory, holdfast beside ",
        what: "memory of 6,000 tunnels with data through all, PSS in MiB",
        method: "at the end of a turn",
        bound: Bound::None,
    },
    Goal {
        series: "soak.faults",
        what: "an hour at full rate: flows lost, memory that grows, and other faults",
        method: "four flows of TCP and 10,000 datagrams a second; what counts as a fault: [soak](reference/bench.md#soak)",
        bound: Bound::AtMost(0.0, None),
    },
    Goal {
        series: "soak.memory.slope, end 1",
        what: "how memory rose meanwhile, in MiB an hour",
        method: "the median of the slopes between twelfths of the hour",
        bound: Bound::None,
    },
    Goal {
        series: "hugepages.ratio.2M",
        what: "TCP with packets in pages of 2 MiB, against the usual ones",
        method: "as TCP above",
        bound: Bound::None,
    },
    Goal {
        series: "hugepages.ratio.1G",
        what: "the same in pages of 1 GiB",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "helpers.ratio.1",
        what: "TCP with one thread that helps, against none",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "helpers.ratio.2",
        what: "the same with two",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "time without traffic, BFD 3 × 100 ms",
        what: "failover, BFD 3 × 100 ms, in milliseconds without traffic",
        method: "the link of the active edge cut both ways under one datagram per millisecond",
        bound: Bound::None,
    },
    Goal {
        series: "time without traffic, BFD 3 × 20 ms",
        what: "the same, BFD 3 × 20 ms",
        method: "the same",
        bound: Bound::None,
    },
    Goal {
        series: "program, 100000 routes, netd",
        what: "two tunnels and 100,000 routes programmed, in milliseconds",
        method: "by netlink, from an empty kernel until everything stands",
        bound: Bound::None,
    },
    Goal {
        series: "switch, 100000 routes / 1 route, in turns",
        what: "traffic switched to the other tunnel, 100,000 routes against one",
        method: "one message that replaces the group of nexthops",
        bound: Bound::None,
    },
];
