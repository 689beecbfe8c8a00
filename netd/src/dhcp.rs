//! Addresses by DHCP (RFC 2131), one client per link.
//!
//! The protocol is mozim's. A [`Client`] runs as a task and never gives up; what it has is
//! told by [`Client::state`]: the caller merges [`Lease::network`] into what it wants, and the
//! plan does the rest. The client sets nothing in the kernel itself.
//!
//! A lease is kept until it expires, also when the server is away. DHCPv6 is left out: the
//! kernel does router advertisements by itself.

use crate::model::{Address, LinkName, MAIN_TABLE, Network, Route, RouteTarget};
use holdfast_api::Reason;
use ipnet::{IpNet, Ipv4Net};
use mozim::{DhcpError, DhcpV4Client, DhcpV4Config, DhcpV4Lease, DhcpV4State};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// After this long without a lease it is worth saying so; a server answers within a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between attempts after an error (no such link, link without address), doubled each
/// time, each with up to half of it more so that a fleet does not move in step.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// What a server lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address, with the subnet that the server named (a /32 when it named none).
    pub address: Address,
    /// Where else: prefix and gateway (`None`: on the link), from option 121 or else option 3.
    pub routes: Vec<(Ipv4Net, Option<Ipv4Addr>)>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Largest packet, bytes, when the server named one.
    pub mtu: Option<u16>,
    /// Who lent it.
    pub server: Ipv4Addr,
    /// From the last renewal on.
    pub valid_for: Duration,
}

impl Lease {
    /// The address and the routes, to be merged into what is wanted. The routes go to the main
    /// table with `metric`.
    pub fn network(&self, metric: u32) -> Network {
        let link = &self.address.link;
        let mut network = Network::default();
        network.addresses.insert(self.address.clone());
        for (prefix, gateway) in &self.routes {
            let target = match gateway {
                Some(gateway) => {
                    // Clouds hand out single addresses whose gateway no subnet covers.
                    let onlink = !self
                        .address
                        .net
                        .trunc()
                        .contains(&IpNet::from(std::net::IpAddr::V4(*gateway)));
                    RouteTarget::Via { gateway: (*gateway).into(), link: link.clone(), onlink }
                }
                None => RouteTarget::Dev(link.clone()),
            };
            let mut route = Route::new(MAIN_TABLE, IpNet::V4(*prefix), target).with_metric(metric);
            route.source = Some(self.address.net.addr());
            network.routes.insert(route);
        }
        network
    }

    fn read(link: &LinkName, lease: &DhcpV4Lease) -> Lease {
        let length =
            ipnet::ipv4_mask_to_prefix(lease.subnet_mask).ok().filter(|length| *length > 0);
        let net = Ipv4Net::new_assert(lease.yiaddr, length.unwrap_or(32));
        let gateway = |router: Ipv4Addr| Some(router).filter(|router| !router.is_unspecified());
        let routes = match &lease.classless_routes {
            // RFC 3442: with this option the router option counts no more.
            Some(routes) => routes
                .iter()
                .filter_map(|r| {
                    Some((Ipv4Net::new(r.destination, r.prefix_length).ok()?, gateway(r.router)))
                })
                .collect(),
            None => {
                let first = lease.gateways.iter().flatten().next().copied().and_then(gateway);
                first.map(|router| (Ipv4Net::default(), Some(router))).into_iter().collect()
            }
        };
        Lease {
            address: Address::new(link.clone(), IpNet::V4(net)),
            routes,
            dns: lease.dns_srvs.clone().unwrap_or_default(),
            ntp: lease.ntp_srvs.clone().unwrap_or_default(),
            mtu: lease.mtu,
            server: lease.srv_id,
            valid_for: Duration::from_secs(lease.lease_time_sec.into()),
        }
    }
}

/// How far a client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// What it has.
    pub lease: Option<Lease>,
    /// Why it has nothing, or cannot renew what it has; `None` while there is nothing to say.
    pub trouble: Option<String>,
}

impl State {
    /// The reason code, when there is trouble.
    pub fn reason(&self) -> Option<Reason> {
        self.trouble.as_ref().map(|_| Reason::NetDhcpFailed)
    }
}

/// A client that runs until it is dropped.
#[derive(Debug)]
pub struct Client {
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Client {
    /// Starts a client for `link`, in the network namespace of the runtime's threads. It tells
    /// the server `host_name`. Needs a tokio runtime with time and IO.
    pub fn start(link: LinkName, host_name: Option<String>) -> Client {
        let (sender, state) = watch::channel(State::default());
        Client { state, task: tokio::spawn(run(link, host_name, sender)) }
    }

    /// How far it is now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits for the next change of [`Client::state`]. Cancel safe.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // The task never ends by itself; should it have panicked, nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(link: LinkName, host_name: Option<String>, state: watch::Sender<State>) {
    let mut pause = FIRST_PAUSE;
    let mut last: Option<(DhcpV4Lease, Instant)> = None;
    loop {
        let had_lease = last.is_some();
        let Err(error) = attempt(&link, host_name.as_deref(), &state, &mut last).await;
        tracing::warn!(%link, %error, "DHCP failed, trying again");
        // A lease that is still good is asked for again and kept meanwhile.
        let expired = last.as_ref().is_some_and(|(_, until)| Instant::now() >= *until);
        if expired {
            last = None;
        }
        state.send_if_modified(|state| {
            let next = State {
                lease: state.lease.clone().filter(|_| last.is_some()),
                trouble: Some(format!("DHCP on {link}: {error}")),
            };
            std::mem::replace(state, next.clone()) != next
        });
        if last.is_some() && !had_lease {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause + jitter(pause / 2)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Asks for a lease and renews it until something goes wrong.
async fn attempt(
    link: &LinkName,
    host_name: Option<&str>,
    state: &watch::Sender<State>,
    last: &mut Option<(DhcpV4Lease, Instant)>,
) -> Result<std::convert::Infallible, DhcpError> {
    let mut config = DhcpV4Config::new(link.as_str());
    if let Some(host_name) = host_name {
        config.set_host_name(host_name);
    }
    // With the old lease the server is asked whether it still stands (RFC 2131 §4.3.2, INIT-REBOOT).
    let mut client =
        DhcpV4Client::init(config, last.as_ref().map(|(lease, _)| lease.clone())).await?;
    let started = Instant::now();
    loop {
        let progress = {
            // The step is not cancelled when patience ends: it goes on in the next turn.
            let step = client.run();
            tokio::pin!(step);
            loop {
                let impatient = state.borrow().lease.is_none() && state.borrow().trouble.is_none();
                let patience = PATIENCE.saturating_sub(started.elapsed());
                tokio::select! {
                    progress = &mut step => break progress,
                    () = tokio::time::sleep(patience), if impatient => {
                        let trouble = format!("no DHCP server answers on {link}; it is asked again and again");
                        tracing::warn!(%link, "no DHCP server answers");
                        state.send_modify(|state| state.trouble = Some(trouble));
                    }
                }
            }
        };
        if let DhcpV4State::Done(lease) = progress? {
            let read = Lease::read(link, &lease);
            *last = Some((*lease, Instant::now() + read.valid_for));
            let next = State { lease: Some(read), trouble: None };
            state.send_if_modified(|state| std::mem::replace(state, next.clone()) != next);
        }
    }
}

fn jitter(up_to: Duration) -> Duration {
    // Without a source of randomness there is no jitter, which is no reason to stop.
    let random = getrandom::u32().unwrap_or(0);
    up_to.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> DhcpV4Lease {
        let mut lease = DhcpV4Lease::default();
        lease.yiaddr = [10, 0, 0, 7].into();
        lease.subnet_mask = [255, 255, 255, 0].into();
        lease.gateways = Some(vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into()]);
        lease.lease_time_sec = 600;
        lease
    }

    #[test]
    fn a_lease_is_an_address_and_a_way_out() {
        let link: LinkName = "eth0".parse().unwrap();
        let network = Lease::read(&link, &lease()).network(100);
        let routes: Vec<String> = network.routes.iter().map(ToString::to_string).collect();
        assert_eq!(routes, ["0.0.0.0/0 metric 100 via 10.0.0.1 on eth0 from 10.0.0.7"]);
        let addresses: Vec<String> = network.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.7/24 on eth0"]);
    }

    #[test]
    fn classless_routes_replace_the_router() {
        let link: LinkName = "eth0".parse().unwrap();
        let mut wire = lease();
        let route =
            |destination: [u8; 4], prefix_length, router: [u8; 4]| mozim::DhcpV4ClasslessRoute {
                destination: destination.into(),
                prefix_length,
                router: router.into(),
            };
        wire.classless_routes = Some(vec![
            route([169, 254, 169, 254], 32, [0, 0, 0, 0]),
            route([0, 0, 0, 0], 0, [10, 0, 0, 9]),
            route([10, 0, 0, 0], 77, [10, 0, 0, 9]),
        ]);
        let routes: Vec<String> =
            Lease::read(&link, &wire).network(5).routes.iter().map(ToString::to_string).collect();
        assert_eq!(
            routes,
            [
                "0.0.0.0/0 metric 5 via 10.0.0.9 on eth0 from 10.0.0.7",
                "169.254.169.254/32 metric 5 on eth0 from 10.0.0.7",
            ]
        );
    }

    #[test]
    fn a_single_address_reaches_its_gateway_on_the_link() {
        let link: LinkName = "eth0".parse().unwrap();
        let mut wire = lease();
        wire.subnet_mask = [0, 0, 0, 0].into();
        let network = Lease::read(&link, &wire).network(5);
        let route = network.routes.iter().next().unwrap();
        assert!(matches!(route.target, RouteTarget::Via { onlink: true, .. }), "{route}");
    }
}
