//! Container images from nothing: layers, configuration and manifest as the OCI image
//! specification 1.0 has them, and archives and registry folders made of these. Pure but for the
//! registry folder.

use crate::recipe::hex;
use holdfast_durable::WriteError;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::path::Path;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    name: String,
    entries: Vec<Entry>,
    entrypoint: Vec<String>,
    environment: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    path: String,
    mode: u32,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    File(Vec<u8>),
    Link(String),
    Directory,
}

/// One thing with its digest.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn of(bytes: Vec<u8>) -> Self {
        Self { digest: hex(digest(&SHA256, &bytes).as_ref()), bytes }
    }

    fn descriptor(&self, kind: &str) -> Value {
        json!({"mediaType": kind, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len()})
    }
}

struct Parts {
    layer: Blob,
    config: Blob,
    manifest: Blob,
}

impl Image {
    /// An empty one; `name` is that of a reference, `registry/path:tag`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            entries: Vec::new(),
            entrypoint: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The same with another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// With a file; `path` is relative to `/`.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: Vec<u8>) -> Self {
        self.entries.push(Entry { path: path.into(), mode, content: Content::File(content) });
        self
    }

    /// With a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.entries.push(Entry {
            path: path.into(),
            mode: 0o777,
            content: Content::Link(target.into()),
        });
        self
    }

    /// With a directory.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.entries.push(Entry { path: path.into(), mode, content: Content::Directory });
        self
    }

    /// With what it runs.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.entrypoint = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// With a variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The repository without its registry, and the tag.
    fn repository(&self) -> (&str, &str) {
        let path = self.name.split_once('/').map_or(self.name.as_str(), |(_, path)| path);
        path.rsplit_once(':').unwrap_or((path, "latest"))
    }

    fn parts(&self) -> Parts {
        let mut layer = Vec::new();
        for entry in &self.entries {
            match &entry.content {
                Content::File(bytes) => {
                    tar_entry(&mut layer, &entry.path, entry.mode, b'0', "", bytes)
                }
                Content::Link(target) => {
                    tar_entry(&mut layer, &entry.path, entry.mode, b'2', target, &[])
                }
                Content::Directory => {
                    tar_entry(&mut layer, &format!("{}/", entry.path), entry.mode, b'5', "", &[])
                }
            }
        }
        tar_end(&mut layer);
        let layer = Blob::of(layer);
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = Blob::of(
            json!({
                "architecture": architecture,
                "os": "linux",
                "config": {"Entrypoint": self.entrypoint, "Env": self.environment},
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
            })
            .to_string()
            .into_bytes(),
        );
        let manifest = Blob::of(
            json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.descriptor(CONFIG),
                "layers": [layer.descriptor(LAYER)],
            })
            .to_string()
            .into_bytes(),
        );
        Parts { layer, config, manifest }
    }
}

/// An archive in the layout of the OCI, as `ctr images import` and k3s' folder of images take it.
pub fn archive(images: &[Image]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut manifests = Vec::new();
    tar_entry(&mut tar, "oci-layout", 0o644, b'0', "", br#"{"imageLayoutVersion":"1.0.0"}"#);
    for image in images {
        let Parts { layer, config, manifest } = image.parts();
        let mut descriptor = manifest.descriptor(MANIFEST);
        descriptor["annotations"] = json!({"io.containerd.image.name": image.name});
        manifests.push(descriptor);
        for blob in [layer, config, manifest] {
            tar_entry(
                &mut tar,
                &format!("blobs/sha256/{}", blob.digest),
                0o644,
                b'0',
                "",
                &blob.bytes,
            );
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    tar_entry(&mut tar, "index.json", 0o644, b'0', "", index.as_bytes());
    tar_end(&mut tar);
    tar
}

/// Puts an image into the folder of a registry (the filesystem storage driver of Distribution,
/// registry/storage/paths.go). The registry may be running.
///
/// # Errors
/// A file cannot be written.
pub fn publish(folder: &Path, image: &Image) -> Result<(), WriteError> {
    let root = folder.join("docker/registry/v2");
    let (repository, tag) = image.repository();
    let repository = root.join("repositories").join(repository);
    let Parts { layer, config, manifest } = image.parts();
    let link = |path: String, blob: &Blob| {
        holdfast_durable::write(
            &repository.join(path).join("link"),
            format!("sha256:{}", blob.digest).as_bytes(),
            0o644,
        )
    };
    for blob in [&layer, &config, &manifest] {
        let path =
            root.join("blobs/sha256").join(&blob.digest[..2]).join(&blob.digest).join("data");
        if !path.exists() {
            holdfast_durable::write(&path, &blob.bytes, 0o644)?;
        }
    }
    for blob in [&layer, &config] {
        link(format!("_layers/sha256/{}", blob.digest), blob)?;
    }
    link(format!("_manifests/revisions/sha256/{}", manifest.digest), &manifest)?;
    link(format!("_manifests/tags/{tag}/index/sha256/{}", manifest.digest), &manifest)?;
    // Last: from here on the tag can be pulled.
    link(format!("_manifests/tags/{tag}/current"), &manifest)
}

/// One entry of an archive (POSIX.1-1988 ustar). Names are ours and short.
fn tar_entry(tar: &mut Vec<u8>, path: &str, mode: u32, kind: u8, target: &str, content: &[u8]) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &path.as_bytes()[..path.len().min(100)]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", content.len()).as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &target.as_bytes()[..target.len().min(100)]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&header);
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn tar_end(tar: &mut Vec<u8>) {
    tar.resize(tar.len() + 1024, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn image() -> Image {
        Image::new("registry.example:5000/app/web:v1")
            .directory("bin", 0o755)
            .file("bin/web", 0o755, b"#!/bin/sh\n".to_vec())
            .link("bin/sh", "web")
            .entrypoint(&["/bin/web"])
            .variable("TEXT", "one")
    }

    #[test]
    fn tar_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        holdfast_durable::write(&path, &image().parts().layer.bytes, 0o644).unwrap();
        let listed = Command::new("tar").args(["-tvf"]).arg(&path).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.contains("drwxr-xr-x 0/0"), "{listed}");
        assert!(listed.contains("bin/sh -> web"), "{listed}");
        assert_eq!(listed.lines().count(), 3);
    }

    #[test]
    fn the_same_image_has_the_same_digest_and_another_has_not() {
        let digest = |image: Image| image.parts().manifest.digest;
        assert_eq!(digest(image()), digest(image().named("other/name:v9")));
        assert_ne!(digest(image()), digest(image().variable("TEXT", "two")));
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(image().repository(), ("app/web", "v1"));
        assert_eq!(Image::new("holdfast.lab/pause:1").repository(), ("pause", "1"));
    }
}
