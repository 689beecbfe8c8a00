//! The manager's side of a command: its socket, and answers kept as they came.

use crate::failure::Failure;
use holdfast_api::local::TokenInput;
use holdfast_client::unix::{self, UnixError};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

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
        let known = T::deserialize(&raw).map_err(|source| Failure::Answer { path, source })?;
        Ok(Answer { raw, known })
    }

    pub(crate) async fn put_token(&self, input: &TokenInput) -> Result<(), UnixError> {
        unix::put_json(&self.socket, "/v1/token", input).await
    }
}
