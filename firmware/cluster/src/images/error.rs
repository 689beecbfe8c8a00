//! Why an image could not be had, kept or put back.
//!
//! The runtime tells causes mostly in words: CRI passes on what containerd's fetcher said, with a
//! gRPC code only where there is one. The words are those of containerd `remotes/docker/*.go`
//! (resolver, fetcher, authorizer), 1.6 to 2.x, and of the kernel (errno).

use holdfast_api::{Reason, brief};
use std::path::PathBuf;
use std::time::Duration;
use tonic::{Code, Status};

/// Bytes that are shown of what is no name; there is no end to what people paste.
const NAME_SHOWN: usize = 100;

/// Why something could not be done with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is none.
    #[error("{:?} is not the name of an image: {why}", brief(image, NAME_SHOWN))]
    Name {
        /// As written.
        image: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The runtime did not answer, or not as it should.
    #[error("cannot {attempt} at {}", socket.display())]
    Runtime {
        /// What was tried.
        attempt: String,
        /// Where the runtime listens.
        socket: PathBuf,
        /// What it said.
        #[source]
        source: Box<Status>,
    },
    /// The registry does not have it, and neither has any of its mirrors. When one of these does
    /// not answer, that is a [`ImageError::Registry`], for it may have it.
    #[error("the registry does not have {image}: {said}")]
    Missing {
        /// The image.
        image: String,
        /// In the runtime's words.
        said: String,
    },
    /// The registry does not give it to us.
    #[error(
        "the registry does not give {image} to this node (credentials are those of a Secret of type \
         kubernetes.io/dockerconfigjson in the release, or of a mirror of the site): {said}"
    )]
    Denied {
        /// The image.
        image: String,
        /// In the runtime's words.
        said: String,
    },
    /// The registry does not answer, or broke off.
    #[error("cannot fetch {image}: {said}")]
    Registry {
        /// The image.
        image: String,
        /// In the runtime's words.
        said: String,
    },
    /// No byte came for a while; the attempt was ended.
    #[error("nothing came of {image} for {} s", patience.as_secs())]
    Stalled {
        /// The image.
        image: String,
        /// How long was waited for a byte.
        patience: Duration,
    },
    /// There is no room for it.
    #[error("no space for {image}: {said}")]
    DiskFull {
        /// The image.
        image: String,
        /// In the runtime's words.
        said: String,
    },
    /// Its name or its content is gone, and what a lease holds does not suffice to put it back.
    #[error("{image} is not on this node any more ({digest})")]
    Lost {
        /// The image.
        image: String,
        /// Digest of what should be there.
        digest: String,
    },
    /// The runtime does not take up an image that was put back.
    #[error("the runtime does not take up {image} again within {} s", patience.as_secs())]
    NotTakenUp {
        /// The image.
        image: String,
        /// How long was waited.
        patience: Duration,
    },
}

impl ImageError {
    /// The reason code.
    pub fn reason(&self) -> Reason {
        match self {
            ImageError::Name { .. } => Reason::ReleaseInvalid,
            ImageError::Runtime { .. } | ImageError::NotTakenUp { .. } => {
                Reason::KubernetesNotReady
            }
            ImageError::Missing { .. } => Reason::ReleaseImageMissing,
            ImageError::Denied { .. } => Reason::ReleaseRegistryDenied,
            ImageError::Registry { .. } | ImageError::Stalled { .. } => Reason::ReleaseRegistry,
            ImageError::DiskFull { .. } => Reason::KubernetesDiskFull,
            ImageError::Lost { .. } => Reason::ReleasePrePull,
        }
    }

    /// Whether the same attempt may succeed later, without another release.
    pub fn retryable(&self) -> bool {
        !matches!(self, ImageError::Name { .. } | ImageError::Missing { .. })
    }
}

/// What a failed pull means.
pub(super) fn of_pull(image: &str, socket: PathBuf, status: Status) -> ImageError {
    let image = image.to_owned();
    let said = status.message().to_owned();
    let words = said.to_ascii_lowercase();
    let has = |any: &[&str]| any.iter().any(|one| words.contains(one));
    if has(&["no space left on device", "disk quota exceeded"]) {
        return ImageError::DiskFull { image, said };
    }
    if has(&["invalid reference format", "failed to parse image reference"]) {
        return ImageError::Name { image, why: "the runtime does not read it" };
    }
    if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
        || has(&[
            "authorization failed",
            "failed to authorize",
            "401 unauthorized",
            "403 forbidden",
            "pull access denied",
            "no basic auth credentials",
        ])
    {
        return ImageError::Denied { image, said };
    }
    // "content digest …: not found" is the runtime's own store, emptied under the pull.
    if !words.contains("content digest")
        && (status.code() == Code::NotFound || words.ends_with(": not found"))
    {
        return ImageError::Missing { image, said };
    }
    // The connection to the runtime itself; CRI hands failures of registries on as Unknown.
    if matches!(status.code(), Code::Unavailable | Code::Unimplemented)
        && !words.contains("failed to pull")
    {
        return ImageError::Runtime {
            attempt: format!("pull {image}"),
            socket,
            source: Box::new(status),
        };
    }
    ImageError::Registry { image, said }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: Code, said: &str) -> (Reason, bool) {
        let error = of_pull("r.lab:5000/app:v1", PathBuf::new(), Status::new(code, said));
        (error.reason(), error.retryable())
    }

    #[test]
    fn words_of_the_runtime_become_reasons() {
        let pull = "failed to pull and unpack image \"r.lab:5000/app:v1\": ";
        for (code, said, reason_is, retryable) in [
            (
                Code::NotFound,
                "failed to resolve reference \"r.lab:5000/app:v1\": r.lab:5000/app:v1: not found",
                Reason::ReleaseImageMissing,
                false,
            ),
            (
                Code::Unknown,
                "failed to resolve reference \"r.lab:5000/app:v1\": pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                Reason::ReleaseRegistryDenied,
                true,
            ),
            (
                Code::Unknown,
                "failed to do request: Head \"http://10.0.0.1:5000/v2/app/manifests/v1\": dial tcp 10.0.0.1:5000: connect: connection refused",
                Reason::ReleaseRegistry,
                true,
            ),
            (
                Code::Unavailable,
                "failed to copy: httpReadSeeker: failed open: server returned 503 Service Unavailable: unavailable",
                Reason::ReleaseRegistry,
                true,
            ),
            (
                Code::Unknown,
                "failed to copy: failed to send write: write /var/lib/x/data: no space left on device: unknown",
                Reason::KubernetesDiskFull,
                true,
            ),
            (
                Code::NotFound,
                "failed to get reader from content store: content digest sha256:00: not found",
                Reason::ReleaseRegistry,
                true,
            ),
        ] {
            assert_eq!(reason(code, &format!("{pull}{said}")), (reason_is, retryable), "{said}");
        }
    }

    #[test]
    fn a_runtime_that_is_away_is_not_the_registrys_fault() {
        let away = reason(Code::Unavailable, "transport error");
        assert_eq!(away, (Reason::KubernetesNotReady, true));
    }
}
