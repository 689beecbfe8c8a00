//! `holdfast-wireguard`: one WireGuard device in this process, for wg(8) and wg-quick(8).
//!
//! `WG_QUICK_USERSPACE_IMPLEMENTATION=holdfast-wireguard wg-quick up FILE`, or by hand:
//! `holdfast-wireguard wg0 && wg setconf wg0 FILE`. It goes into the background once the device can
//! be set up, and ends when its link is deleted, when its socket is removed, or by SIGTERM.
//!
//! Exit codes: 0 done, or in the background; 1 failed, with the reason on standard error; 2
//! wrongly typed.

use anyhow::Context;
use clap::Parser;
use netd::tuntap::TunError;
use netd::{Kernel, LinkName, Step};
use nix::errno::Errno;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tunnels::wireguard::{Device, LinkEnd, Options, Pages, PrivateKey, Tuning, uapi};

/// What the child says once it is ready.
const READY: &str = "ready";
/// Of the link at first, bytes, as of other WireGuard devices: what it carries fits into 1500 outside,
/// also over IPv6.
const MTU: u32 = 1420;
/// What the kernel gives a TUN device.
const TUN_MTU: u32 = 1500;
/// How long the end of a process that has the device may take.
const OTHERS_END: Duration = Duration::from_secs(2);
/// Between two attempts to have the device.
const PAUSE: Duration = Duration::from_millis(20);
/// The last descriptor that has a meaning of its own.
const STDERR: RawFd = 2;
/// The number of [`ExitCode::FAILURE`].
const FAILED: i32 = 1;
/// The device's own thread keeps no more than these busy.
const MOST_HELPERS: usize = 64;

/// Runs a WireGuard device in userspace, to be set up by wg(8). Needs CAP_NET_ADMIN.
#[derive(Debug, Parser)]
#[command(name = "holdfast-wireguard", version)]
struct Arguments {
    /// The link to make.
    #[arg(value_name = "LINK")]
    link: LinkName,
    /// Stay in the foreground.
    #[arg(short, long)]
    foreground: bool,
    /// Where the socket for wg(8) is made.
    #[arg(long, value_name = "DIR", default_value = "/var/run/wireguard")]
    sockets: PathBuf,
    /// Handshakes per second beyond which strangers must show a cookie.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    handshakes_per_second: u64,
    /// Threads that help to seal and open; half as many as there are cores, unless it is said.
    #[arg(long, value_name = "N", value_parser = helpers)]
    helpers: Option<usize>,
    /// Which pages packets are in: usual, 2M or 1G, the latter as far as the system's pool has them.
    #[arg(long, value_name = "SIZE", default_value_t)]
    pages: Pages,
    /// What to log, such as "info" or "tunnels=debug".
    #[arg(long, value_name = "FILTER", env = "HOLDFAST_LOG", default_value = "warn", value_parser = tunnels::program::filter)]
    log: String,
    /// Say "ready" on standard output when the device can be set up.
    #[arg(long, hide = true)]
    announce: bool,
}

fn helpers(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    if number <= MOST_HELPERS { Ok(number) } else { Err(format!("at most {MOST_HELPERS}")) }
}

fn main() -> ExitCode {
    tunnels::program::exit_code(start(Arguments::parse()))
}

fn start(mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    if arguments.announce {
        arguments.sockets = std::path::absolute(&arguments.sockets).context("--sockets")?;
        leave_caller()?;
    } else if !arguments.foreground {
        return in_background();
    }
    tunnels::program::log(&arguments.log)?;
    let runtime = tunnels::program::runtime()?;
    runtime.block_on(run(&arguments))?;
    Ok(ExitCode::SUCCESS)
}

/// Starts itself again and waits until that is ready, or has failed and said why.
fn in_background() -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find this program again")?;
    let mut child = Command::new(program)
        // First: what is behind "--" is no option.
        .arg("--announce")
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process in the background")?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).context("the process in the background")?;
    }
    if line.trim_end() == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("the process in the background")?;
    if status.code() == Some(FAILED) {
        return Ok(ExitCode::FAILURE);
    }
    anyhow::bail!("the process in the background ended at once: {status}")
}

/// Lets go of what is the caller's: directory, session, terminal, and descriptors, which somebody may
/// wait to see the end of. Nothing of our own is open yet.
fn leave_caller() -> anyhow::Result<()> {
    std::env::set_current_dir("/").context("cannot leave the directory")?;
    nix::unistd::setsid().context("cannot begin a session")?;
    let open = std::fs::read_dir("/proc/self/fd").context("/proc/self/fd")?;
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<RawFd> = numbers.filter(|number| *number > STDERR).collect();
    for number in numbers {
        // The one that listed them is closed already.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// Says that it is ready, and lets go of the outputs: whoever waits for their end must not wait for
/// ours. What fails after that nobody would hear of.
fn announce() -> std::io::Result<()> {
    let nothing = std::fs::File::options().write(true).open("/dev/null")?;
    let mut output = std::io::stdout();
    writeln!(output, "{READY}").and_then(|()| output.flush())?;
    nix::unistd::dup2_stdout(&nothing)?;
    nix::unistd::dup2_stderr(&nothing)?;
    Ok(())
}

/// Opens the link. A process that was killed has its device until the kernel is done with it.
async fn open(name: &LinkName) -> Result<LinkEnd, TunError> {
    let deadline = Instant::now() + OTHERS_END;
    loop {
        match LinkEnd::open(name) {
            Err(error @ TunError::Attach { source: Errno::EBUSY, .. }) => {
                if Instant::now() >= deadline {
                    return Err(error);
                }
                tracing::debug!("another program has the device; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            opened => return opened,
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let link = open(&arguments.link).await?;
    let mtu = Step::SetMtu { link: arguments.link.clone(), from: TUN_MTU, to: MTU };
    Kernel::open()?.apply(&mtu)?;
    let options = Options {
        name: arguments.link.to_string(),
        private_key: PrivateKey::generate()?,
        listen_port: 0,
        fwmark: 0,
        handshakes_per_second: arguments.handshakes_per_second,
        tuning: Tuning { helpers: arguments.helpers, pages: arguments.pages },
    };
    let device = Device::start(link, options)?;
    // The one that it needed to begin with is nobody's.
    device.set_private_key(None);
    let listener = uapi::Listener::open(&arguments.sockets, &device)?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    if arguments.announce {
        announce().context("cannot say that it is ready")?;
    }
    tokio::select! {
        () = device.ended() => {}
        () = listener.removed() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
