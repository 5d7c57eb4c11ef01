//! Why a view cannot be served.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use vhost_user_backend::Error as DaemonError;

/// Why a view cannot be served over vhost-user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VhostUserError {
    /// The socket cannot be created.
    #[error("{path}: cannot create the vhost-user socket: {source}")]
    Bind {
        /// Where.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The host refused a thread or a pipe.
    #[error("cannot serve vhost-user: {0}")]
    Start(#[source] io::Error),
    /// The VMM broke the protocol, or shares memory that cannot be mapped.
    #[error("the VMM and the vhost-user device disagree: {0}")]
    Protocol(#[source] Box<dyn Error + Send + Sync>),
    /// The thread that serves the device panicked.
    #[error("the thread that serves the vhost-user device panicked")]
    Panicked,
}

impl From<DaemonError> for VhostUserError {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::NewVhostUserHandler(cause) => Self::Protocol(cause.into()),
            DaemonError::CreateBackendListener(cause)
            | DaemonError::CreateBackendReqHandler(cause)
            | DaemonError::CreateVhostUserListener(cause)
            | DaemonError::HandleRequest(cause) => Self::Protocol(cause.into()),
            DaemonError::StartDaemon(cause) => Self::Start(cause),
            DaemonError::WaitDaemon(_) => Self::Panicked,
        }
    }
}
