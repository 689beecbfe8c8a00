//! The manager's side of a command: its socket, and answers kept as they came.

use crate::failure::Failure;
use holdfast_api::kubernetes::SnapshotInfo;
use holdfast_api::local::{PlanReport, ReleaseInput, RestoreInput, TokenInput};
use holdfast_client::unix::{self, UnixError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// To plan a release the manager asks the site's API server about every object in it, for 45 s at
/// most.
const PLAN_WITHIN: Duration = Duration::from_secs(60);

/// The manager gives the storage up before.
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// Kubernetes has 45 s for its end, and what it leads among the nodes is given back before.
const STOP_WITHIN: Duration = Duration::from_secs(90);

/// The manager of this node.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    socket: PathBuf,
}

/// An answer: as the manager sent it, and as far as this version understands it.
pub(crate) struct Answer<T> {
    /// With the fields that only a newer manager knows.
    pub(crate) raw: Value,
    pub(crate) known: T,
}

impl<T: DeserializeOwned> Answer<T> {
    fn read(path: &'static str, raw: Value) -> Result<Self, Failure> {
        let known = T::deserialize(&raw).map_err(|source| Failure::Answer { path, source })?;
        Ok(Answer { raw, known })
    }
}

impl Manager {
    pub(crate) fn at(socket: &Path) -> Self {
        Manager { socket: socket.into() }
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &'static str,
    ) -> Result<Answer<T>, Failure> {
        let raw: Value = unix::get_json(&self.socket, path)
            .await
            .map_err(|source| Failure::Manager { source })?;
        Answer::read(path, raw)
    }

    pub(crate) async fn plan_release(
        &self,
        input: &ReleaseInput,
    ) -> Result<Answer<PlanReport>, Failure> {
        let path = "/v1/kubernetes/plan";
        let raw: Value = unix::ask_json(&self.socket, path, input, PLAN_WITHIN)
            .await
            .map_err(|source| Failure::Manager { source })?;
        Answer::read(path, raw)
    }

    /// Asks for something that takes a while; it has only begun when this returns.
    pub(crate) async fn begin(&self, path: &'static str) -> Result<(), Failure> {
        unix::post(&self.socket, path).await.map_err(|source| Failure::Manager { source })
    }

    /// Stops Kubernetes; it has ended when this returns.
    pub(crate) async fn stop(&self) -> Result<(), Failure> {
        unix::post_within(&self.socket, "/v1/kubernetes/stop", STOP_WITHIN)
            .await
            .map_err(|source| Failure::Manager { source })
    }

    pub(crate) async fn restore(&self, input: &RestoreInput) -> Result<(), Failure> {
        self.send("/v1/kubernetes/restore", input).await
    }

    /// Asks for something that has only begun when this returns.
    pub(crate) async fn send(
        &self,
        path: &'static str,
        input: &impl Serialize,
    ) -> Result<(), Failure> {
        unix::post_json(&self.socket, path, input)
            .await
            .map_err(|source| Failure::Manager { source })
    }

    /// What the site's storage has; the manager asks it now.
    pub(crate) async fn stored(&self) -> Result<Answer<Vec<SnapshotInfo>>, Failure> {
        let path = "/v1/kubernetes/stored";
        let raw: Value = unix::get_json_within(&self.socket, path, STORED_WITHIN)
            .await
            .map_err(|source| Failure::Manager { source })?;
        Answer::read(path, raw)
    }

    pub(crate) async fn put_token(&self, input: &TokenInput) -> Result<(), UnixError> {
        unix::put_json(&self.socket, "/v1/token", input).await
    }
}
