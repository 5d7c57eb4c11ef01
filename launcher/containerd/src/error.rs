//! Why a call of the service failed, and how containerd is told.

use std::io;
use std::path::{Path, PathBuf};

use layer_store::{IngestError, StoreError};
use tonic::{Code, Status};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("snapshot {0:?} does not exist")]
    NotFound(String),
    #[error("snapshot {0:?} already exists")]
    Exists(String),
    #[error("snapshot {name:?} {cause}")]
    Precondition { name: String, cause: &'static str },
    #[error("{0}")]
    Invalid(String),
    #[error("the view of the layers cannot be mounted: {0}")]
    View(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error("{path}: {cause}")]
    Io {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path, cause }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let is_full = |error: &StoreError| error.is_out_of_space();
        let has_no_room =
            |cause: &io::Error| matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let code = match &error {
            Error::NotFound(_) => Code::NotFound,
            Error::Exists(_) => Code::AlreadyExists,
            Error::Precondition { .. } => Code::FailedPrecondition,
            Error::Invalid(_) => Code::InvalidArgument,
            Error::Store(error) | Error::Ingest(IngestError::Store(error)) if is_full(error) => Code::ResourceExhausted,
            Error::Io { cause, .. } if has_no_room(cause) => Code::ResourceExhausted,
            Error::View(_) | Error::Store(_) | Error::Ingest(_) | Error::Io { .. } => Code::Internal,
        };
        if code == Code::Internal || code == Code::ResourceExhausted {
            tracing::warn!("{error}");
        }
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_used_up_quota_are_told_as_exhausted_wherever_they_are_met() {
        for (kind, code) in [
            (io::ErrorKind::StorageFull, Code::ResourceExhausted),
            (io::ErrorKind::QuotaExceeded, Code::ResourceExhausted),
            (io::ErrorKind::PermissionDenied, Code::Internal),
        ] {
            let store = || StoreError::Io { path: "/x".into(), cause: kind.into() };
            let errors = [Error::io(Path::new("/x"))(kind.into()), store().into(), IngestError::from(store()).into()];
            for error in errors {
                let told = error.to_string();
                assert_eq!(Status::from(error).code(), code, "{told}");
            }
        }
    }
}
