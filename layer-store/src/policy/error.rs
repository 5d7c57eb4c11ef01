//! Why a policy keeps an image out.

use std::io;
use std::path::PathBuf;

/// Why a policy keeps an image out of the store. Each message is one line that names the image and the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("{}: {cause}; the policy for images cannot be applied", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the host.
        #[source]
        cause: io::Error,
    },
    /// A file does not have the format that it must have.
    #[error("{}: {cause}; the policy for images cannot be applied", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The policy refuses the image.
    #[error("{image} is refused by the policy {}", .policy.display())]
    Rejected {
        /// The image.
        image: String,
        /// The file with the policy.
        policy: PathBuf,
    },
    /// The policy asks for something that is not implemented.
    #[error("{image} cannot be checked: the policy {} asks for {kind}, which is not supported", .policy.display())]
    Unsupported {
        /// The image.
        image: String,
        /// The file with the policy.
        policy: PathBuf,
        /// What it asks for.
        kind: String,
    },
    /// The image has no signature that the policy accepts.
    #[error("{image} is refused by the policy {}: {cause}", .policy.display())]
    NotSigned {
        /// The image.
        image: String,
        /// The file with the policy.
        policy: PathBuf,
        /// What is wrong with the signature, or that it is missing.
        cause: String,
    },
}
