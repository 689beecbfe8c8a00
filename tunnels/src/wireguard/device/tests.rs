//! Two real devices over loopback; pairs of sockets stand in for the TUN devices.

use super::worker::{REST, without_rest};
use super::*;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

mod helpers;

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];
const PATIENCE: Duration = Duration::from_secs(10);

fn packet(from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from);
    packet.extend(to);
    packet.extend(payload);
    packet
}

struct End {
    device: Device,
    key: PublicKey,
    /// What the kernel would have in its hand.
    link: UnixDatagram,
}

impl End {
    fn new(name: &str) -> Self {
        Self::tuned(name, Tuning::default())
    }

    fn tuned(name: &str, tuning: Tuning) -> Self {
        let (link, tun) = UnixDatagram::pair().unwrap();
        tun.set_nonblocking(true).unwrap();
        for end in [&link, &tun] {
            // Packets of half a device's turn; without rights it is less.
            socket2::SockRef::from(end).set_send_buffer_size(1 << 20).unwrap();
            end.set_write_timeout(Some(PATIENCE)).unwrap();
        }
        link.set_read_timeout(Some(PATIENCE)).unwrap();
        End { link, ..End::over(name, LinkEnd::plain(tun.into()), tuning) }
    }

    /// What comes from `link` comes from elsewhere.
    fn over(name: &str, tun: LinkEnd, tuning: Tuning) -> Self {
        let (link, _) = UnixDatagram::pair().unwrap();
        let private_key = PrivateKey::generate().unwrap();
        let key = private_key.public();
        let options = Options {
            name: name.into(),
            private_key,
            listen_port: 0,
            fwmark: 0,
            handshakes_per_second: 100,
            tuning,
        };
        End { device: Device::start(tun, options).unwrap(), key, link }
    }

    fn knows(&self, other: &End, ip: [u8; 4]) {
        self.knows_at(other, ip, Ipv4Addr::LOCALHOST.into());
    }

    /// The same, where the other one is this address of the machine.
    fn knows_at(&self, other: &End, ip: [u8; 4], outside: IpAddr) {
        let endpoint = SocketAddr::from((outside, other.device.listen_port()));
        let config = PeerConfig {
            endpoint: Some(endpoint),
            allowed_ips: [IpAddr::from(ip).into()].into(),
            ..PeerConfig::default()
        };
        self.device.set_peer(other.key, config);
        // Whoever is asked has done what he was told before; packets that come earlier are nobody's.
        assert!(self.device.peer(&other.key).is_some());
    }

    fn read(&self) -> Vec<u8> {
        let mut buffer = [0; 2000];
        let bytes = self.link.recv(&mut buffer).unwrap();
        buffer[..bytes].to_vec()
    }
}

fn pair() -> (End, End) {
    let (a, b) = (End::new("a"), End::new("b"));
    a.knows(&b, B);
    b.knows(&a, A);
    (a, b)
}

/// Takes what begins with its mark after the header, and answers each with one of its own.
struct Echo {
    local: [u8; 4],
    remote: [u8; 4],
    due: AtomicUsize,
    heard: mpsc::Sender<Vec<u8>>,
    panics: bool,
}

const MARK: &[u8] = b"resident";

impl Resident for Echo {
    fn receive(&self, packet: &[u8], _now: Instant) -> bool {
        let ours = packet.get(20..).is_some_and(|payload| payload.starts_with(MARK));
        if ours {
            let _ = self.heard.send(packet.to_vec());
            self.due.fetch_add(1, Ordering::Relaxed);
        }
        ours
    }

    fn run(&self, now: Instant, send: &mut dyn FnMut(&[u8], Fragments)) -> Option<Instant> {
        assert!(!self.panics, "on purpose");
        for _ in 0..self.due.swap(0, Ordering::Relaxed) {
            send(&packet(self.local, self.remote, MARK), Fragments::Allowed);
        }
        Some(now + PATIENCE * 100)
    }

    fn ended(&self) {
        let _ = self.heard.send(b"ended".to_vec());
    }
}

fn echo(
    local: [u8; 4],
    remote: [u8; 4],
    due: usize,
    panics: bool,
) -> (Arc<Echo>, mpsc::Receiver<Vec<u8>>) {
    let (heard, hears) = mpsc::channel();
    (Arc::new(Echo { local, remote, due: due.into(), heard, panics }), hears)
}

#[test]
fn residents_talk_without_the_links_and_the_links_without_them() {
    let (a, b) = pair();
    let (begins, hears_a) = echo(A, B, 1, false);
    let (answers, hears_b) = echo(B, A, 0, false);
    b.device.set_resident(answers);
    a.device.set_resident(begins);
    for _ in 0..20 {
        assert_eq!(hears_b.recv_timeout(PATIENCE).unwrap(), packet(A, B, MARK));
        assert_eq!(hears_a.recv_timeout(PATIENCE).unwrap(), packet(B, A, MARK));
    }
    let other = packet(A, B, b"not yours");
    a.link.send(&other).unwrap();
    assert_eq!(b.read(), other);
}

/// There are four thousand millions of eight bytes to read here, none of them a packet.
#[test]
fn a_link_that_is_never_empty_leaves_the_network_its_turn() {
    assert_eq!(without_rest([false, false]), None);
    assert_eq!(without_rest([false, true]), Some([true, true]));
    assert_eq!(without_rest([true, false]), Some([true, true]));
    let flags = EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_NONBLOCK;
    let ones = EventFd::from_value_and_flags(u32::MAX, flags).unwrap();
    let (a, b) = (End::over("a", LinkEnd::plain(ones.into()), Tuning::default()), End::new("b"));
    a.knows(&b, B);
    b.knows(&a, A);
    let (answers, hears) = echo(A, B, 0, false);
    a.device.set_resident(answers);
    let (begins, hears_too) = echo(B, A, 1, false);
    b.device.set_resident(begins);
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), packet(B, A, MARK));
    assert_eq!(hears_too.recv_timeout(PATIENCE).unwrap(), packet(A, B, MARK));
}

/// After a rest one packet is taken for a beginning; those behind it must not wait.
#[test]
fn a_burst_after_a_rest_arrives_whole() {
    let (a, b) = pair();
    b.link.set_read_timeout(Some(REST * 2)).unwrap();
    for round in 0..5u8 {
        let nothing = b.link.recv(&mut [0; 10]);
        assert!(nothing.is_err(), "the rest");
        // The send buffer of the stand-in takes ten.
        for n in 0..8 {
            a.link.send(&packet(A, B, &[round, n])).unwrap();
        }
        b.link.set_read_timeout(Some(PATIENCE)).unwrap();
        for n in 0..8 {
            assert_eq!(b.read(), packet(A, B, &[round, n]));
        }
        b.link.set_read_timeout(Some(REST * 2)).unwrap();
    }
}

#[test]
fn however_the_thread_ends_its_resident_is_told() {
    let (a, b) = pair();
    let (quiet, hears) = echo(A, B, 0, false);
    a.device.set_resident(quiet);
    drop(a);
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), b"ended");
    let (broken, hears) = echo(B, A, 0, true);
    b.device.set_resident(broken);
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), b"ended");
    assert!(!b.device.is_alive());
    let (late, hears) = echo(B, A, 0, false);
    b.device.set_resident(late);
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), b"ended");
    assert!(b.device.peers().is_empty(), "it can still be asked");
}

/// Stands still until somebody says go.
struct Stuck(Mutex<mpsc::Receiver<()>>, mpsc::Sender<()>);

impl Resident for Stuck {
    fn receive(&self, _packet: &[u8], _now: Instant) -> bool {
        false
    }

    fn run(&self, _now: Instant, _send: &mut dyn FnMut(&[u8], Fragments)) -> Option<Instant> {
        let _ = self.1.send(());
        let _ = lock(&self.0).recv();
        None
    }

    fn ended(&self) {}
}

/// Has a device stand still until the first is dropped.
fn hold(device: &Device) -> mpsc::Sender<()> {
    let (go, goes) = mpsc::channel();
    let (stands, stood) = mpsc::channel();
    device.set_resident(Arc::new(Stuck(Mutex::new(goes), stands)));
    stood.recv_timeout(PATIENCE).unwrap();
    go
}

#[test]
fn a_thread_that_stands_still_does_not_hold_up_who_ends_it() {
    let (a, _b) = pair();
    let go = hold(&a.device);
    let weak = a.device.downgrade();
    // Once it is waited for, and not again.
    assert_eq!([(); 20].map(|()| a.device.peers().len()), [0; 20]);
    drop(a);
    assert!(weak.0.upgrade().is_some(), "the thread has it still");
    drop(go);
    holdfast_poll::until("its end", PATIENCE, || weak.0.upgrade().map_or(Ok(()), |_| Err("there")));
}

/// Those who decide, and watch others, must go on; what they want happens in the end.
#[test]
fn changes_wait_for_a_thread_that_stands_still_and_nobody_waits_with_them() {
    let (a, b) = pair();
    let others: Vec<PublicKey> = (0..200).map(|n| PublicKey([n; 32])).collect();
    let set = |n: usize| (others[n], PeerConfig::default());
    let go = hold(&a.device);
    let (told, tells) = mpsc::channel();
    let begun = Instant::now();
    a.device.change_peers([b.key], (0..150).map(set));
    a.device.set_peer(others[150], PeerConfig::default());
    a.device.renew(&b.key);
    a.device.tell_status(move |status| drop(told.send(status)));
    assert!(a.device.glance(&others[0]).is_none());
    assert!(begun.elapsed() < Duration::from_secs(4), "that was waited for");
    // From now on it is known to be silent.
    assert!(a.device.peers().is_empty());
    a.device.remove_peer(&others[7]);
    drop(go);
    let status = tells.recv_timeout(PATIENCE).unwrap();
    let keys = |peers: &[PeerStatus]| peers.iter().map(|peer| peer.public_key).collect::<Vec<_>>();
    let all_but = |n: usize| (0..151).filter(|one| *one != n).map(|one| others[one]).collect();
    let without_seventh: Vec<PublicKey> = all_but(7);
    holdfast_poll::until("the last change", PATIENCE, || {
        let seen = keys(&a.device.peers());
        if seen == without_seventh { Ok(()) } else { Err(seen.len()) }
    });
    // Told before or after it: what comes in parts is not of one moment.
    assert!((150..=151).contains(&status.peers.len()));
    holdfast_poll::holds("a glance", PATIENCE, || a.device.glance(&others[0]).is_some());
}

#[test]
fn who_waits_for_the_state_of_a_device_that_ends_is_let_go() {
    let (a, _b) = pair();
    let go = hold(&a.device);
    let (told, tells) = mpsc::channel();
    a.device.tell_status(move |status| drop(told.send(status)));
    drop(a);
    drop(go);
    assert!(matches!(tells.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected)));
}

/// What a device knew is gone with it, keys and peers.
#[test]
fn nothing_is_left_of_a_device_that_was_dropped() {
    let (a, b) = pair();
    a.link.send(&packet(A, B, b"hello")).unwrap();
    assert_eq!(b.read(), packet(A, B, b"hello"));
    for end in [a, b] {
        let weak = end.device.downgrade();
        assert!(weak.0.upgrade().is_some());
        drop(end);
        assert!(weak.0.upgrade().is_none());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert_eq!(runtime.block_on(weak.ask(|engine, _| engine.keys())), None);
    }
}
