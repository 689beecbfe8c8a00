//! The image service of the container runtime interface, as far as we use it.
//!
//! Numbers and names are those of cri-api `pkg/apis/runtime/v1/api.proto`; fields that we neither
//! set nor read are left out, which protobuf allows on both sides. Served by containerd since 1.6.

use super::channel::Connection;
use holdfast_api::kubernetes::Secret;
use std::fmt;
use tonic::Status;
use tonic::metadata::{Ascii, MetadataValue};

/// `ImageSpec`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ImageSpec {
    #[prost(string, tag = "1")]
    pub(super) image: String,
}

/// `AuthConfig`; its Debug is ours, for it holds a secret.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct AuthConfig {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    password: String,
}

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Drop for AuthConfig {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.password);
    }
}

/// `PullImageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<AuthConfig>,
}

/// `PullImageResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

/// `ImageStatusRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageStatusRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

/// `ImageStatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

/// `Image`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Image {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) repo_tags: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub(super) repo_digests: Vec<String>,
    /// containerd 1.7 and newer: the kubelet's garbage collection spares it.
    #[prost(bool, tag = "8")]
    pub(super) pinned: bool,
}

/// Who asks a registry for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// What the runtime has under the name, as the kubelet would be told.
pub(super) async fn status(connection: &Connection, image: &str) -> Result<Option<Image>, Status> {
    let question = ImageStatusRequest { image: Some(ImageSpec { image: image.into() }) };
    let answer: ImageStatusResponse =
        connection.call("/runtime.v1.ImageService/ImageStatus", question).await?;
    Ok(answer.image)
}

/// Fetches and unpacks an image; what is fetched belongs to `lease`, also when this fails.
pub(super) async fn pull(
    connection: &Connection,
    image: &str,
    credentials: Option<&Credentials>,
    lease: MetadataValue<Ascii>,
) -> Result<(), Status> {
    let auth = credentials.map(|known| AuthConfig {
        username: known.username.clone(),
        password: known.password.0.clone(),
    });
    let question = PullImageRequest { image: Some(ImageSpec { image: image.into() }), auth };
    let _id: PullImageResponse =
        connection.call_under("/runtime.v1.ImageService/PullImage", question, lease).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let auth = AuthConfig { username: "robot".into(), password: "hunter2".into() };
        let request = PullImageRequest { image: None, auth: Some(auth) };
        let shown = format!("{request:?}");
        assert!(shown.contains("robot") && !shown.contains("hunter2"), "{shown}");
    }
}
