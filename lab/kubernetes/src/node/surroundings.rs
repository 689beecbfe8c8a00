//! What a node of a test needs around it: images, a registry that has them, a network.

use super::{Node, NodeError, io_error, output};
use crate::cache::Built;
use crate::find::Kubernetes;
use crate::image::{self, Image};
use holdfast_durable::WriteError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

impl Node {
    /// A registry inside the node, on every one of its addresses, that has `images`. It ends with
    /// the node, or when it is dropped.
    ///
    /// # Errors
    /// It cannot be started, or does not answer within ten seconds.
    pub fn registry(&mut self, images: &[Image]) -> Result<Registry, NodeError> {
        let folder = self.state.join("registry");
        for image in images {
            image::publish(&folder, image)?;
        }
        let config = self.state.join("registry.yml");
        holdfast_durable::write(&config, registry_config(&folder).as_bytes(), 0o600)?;
        let log = self.state.join("registry.log");
        let log = File::create(&log).map_err(io_error("make", &log))?;
        let program = self.kubernetes.built().usr().join("bin/docker-registry");
        let child = self
            .command(&program)
            .arg("serve")
            .arg(&config)
            .envs(self.kubernetes.built().environment())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io_error("open", &program))?)
            .stderr(log)
            .spawn()
            .map_err(io_error("start", &program))?;
        let registry = Registry { child, folder };
        let busybox = self.kubernetes.built().usr().join("bin/busybox");
        self.until("the registry answers", Duration::from_secs(10), |node| {
            let mut wget = node.command(&busybox);
            wget.args(["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:5000/v2/"]);
            output(&mut wget, "wget").map(|_| ()).map_err(|error| error.to_string())
        })?;
        Ok(registry)
    }
}

/// The configuration of a registry that serves `folder` on port 5000 of every address
/// (distribution's documentation, "Configuring a registry").
pub fn registry_config(folder: &Path) -> String {
    format!(
        "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: \":5000\"}}\n",
        folder.display().to_string()
    )
}

/// An image with the tests' web server and a shell.
///
/// # Errors
/// The build lacks a program.
pub fn web_image(built: &Built, name: &str) -> Result<Image, NodeError> {
    let read = |path: PathBuf| fs::read(&path).map_err(io_error("read", &path));
    let mut image = Image::new(name)
        .directory("tmp", 0o1777)
        .directory("bin", 0o755)
        .file("bin/web", 0o755, read(built.program("web"))?)
        .file("bin/busybox", 0o755, read(built.usr().join("bin/busybox"))?);
    for tool in
        ["cat", "echo", "env", "hostname", "ip", "ls", "nslookup", "ps", "sh", "sleep", "wget"]
    {
        image = image.link(&format!("bin/{tool}"), "busybox");
    }
    Ok(image.variable("PATH", "/bin").entrypoint(&["/bin/web"]))
}

/// A registry of a node.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    folder: PathBuf,
}

impl Registry {
    /// Puts one more image in.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn publish(&self, image: &Image) -> Result<(), WriteError> {
        image::publish(&self.folder, image)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // nsenter waits for the registry, which is its only child.
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        for pid in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            if let Ok(pid) = pid.parse() {
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A network for several nodes; it goes when it is dropped.
#[derive(Debug)]
pub struct Switch {
    child: Child,
}

impl Switch {
    /// Makes one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(kubernetes: &Kubernetes) -> Result<Self, NodeError> {
        let program = kubernetes.lab_k3s();
        let mut child = Command::new(program)
            .arg("switch")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io_error("start", program))?;
        let mut said = [0u8; 16];
        let length = child.stdout.as_mut().map_or(Ok(0), |out| io::Read::read(out, &mut said));
        match length {
            Ok(length) if length > 0 => Ok(Self { child }),
            _ => {
                Err(NodeError::Failed { program: "lab-k3s switch".into(), said: "it ended".into() })
            }
        }
    }

    /// For `NodeSpec::switch`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
