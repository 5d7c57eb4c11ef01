//! Why a pull failed, and what to do about it.

use std::path::PathBuf;
use std::time::Duration;

use crate::oci::ImageError;

/// Why a pull failed. Each text is one line that names the thing and the remedy; the store is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// No connection to the registry could be made.
    #[error("cannot reach the registry {registry}: {cause}; check its name and the network")]
    Unreachable {
        /// The registry, with its port.
        registry: String,
        /// What the system said.
        cause: String,
    },
    /// The registry's certificate is not one that this host trusts.
    #[error(
        "cannot trust the registry {registry}: {cause}; name its CA with --ca-file FILE or SSL_CERT_FILE, \
         or use --plain-http where it has no TLS"
    )]
    Untrusted {
        /// The registry, with its port.
        registry: String,
        /// What the certificate check said.
        cause: String,
    },
    /// The registry took too long to send anything.
    #[error("{url}: nothing came for {} s; try again later", .waited.as_secs_f32())]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long each attempt waited.
        waited: Duration,
    },
    /// The connection broke again and again.
    #[error("{url}: the transfer broke off: {cause}; try again later")]
    Interrupted {
        /// What was asked for.
        url: String,
        /// What the system said.
        cause: String,
    },
    /// The registry wants a login, another login, or hides that there is nothing.
    #[error(
        "access to {image} is denied{}: check the name; if it is right, log in with `docker login {registry}` \
         or `skopeo login {registry}`", clause(.reason)
    )]
    Denied {
        /// Registry and repository.
        image: String,
        /// The registry, with its port.
        registry: String,
        /// What the registry said; may be empty.
        reason: String,
    },
    /// The registry, or its token service, does not accept the stored login.
    #[error("{registry} refuses the login of {user}{}: log in again with `docker login {registry}` or `skopeo login {registry}`", clause(.reason))]
    LoginRefused {
        /// The registry, with its port.
        registry: String,
        /// The user name, or `an identity token`.
        user: String,
        /// What the registry said; may be empty.
        reason: String,
    },
    /// Stored credentials cannot be read.
    #[error("{}: {cause}; correct it, or log in again", .path.display())]
    Credentials {
        /// The file that holds them or names their helper.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The registry has no such repository, tag or digest.
    #[error("{what} is not in the registry{}: check the name and the tag", clause(.reason))]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the registry said; may be empty.
        reason: String,
    },
    /// The registry limits how much it serves.
    #[error("{registry} refuses more requests for now{}: try again {}, or log in to raise the limit", clause(.reason), later(.wait))]
    TooManyRequests {
        /// The registry, with its port.
        registry: String,
        /// What the registry said; may be empty.
        reason: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// Any other answer that is no success.
    #[error("{url}: the registry answers {status}{}", clause(.reason))]
    Answer {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said; may be empty.
        reason: String,
    },
    /// The registry's copy of a layer is shorter or longer than its manifest says.
    #[error(
        "layer {layer}: the registry sends {actual} bytes, its manifest says {expected}: the copy there is damaged; push it again"
    )]
    WrongLength {
        /// The digest in the manifest.
        layer: crate::Digest,
        /// Bytes that the manifest promises.
        expected: u64,
        /// Bytes that came, at least.
        actual: u64,
    },
    /// A certificate file cannot be used.
    #[error("{}: {cause}; --ca-file takes PEM certificates", .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Something is wrong with the image itself.
    #[error("{image}: {cause}")]
    Image {
        /// Its name.
        image: String,
        /// What is wrong.
        #[source]
        cause: ImageError,
    },
    /// A layer could not be verified or kept.
    #[error("layer {layer}: {cause}")]
    Layer {
        /// The digest in the manifest.
        layer: crate::Digest,
        /// What the store said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A manifest, config or tag could not be kept.
    #[error("{0}")]
    Store(Box<dyn std::error::Error + Send + Sync>),
    /// The network side could not be set up.
    #[error("cannot start the registry client: {0}")]
    Client(String),
    /// The caller asked for the end.
    #[error("cancelled")]
    Cancelled,
}

fn clause(reason: &str) -> String {
    match reason.trim() {
        "" => String::new(),
        reason => format!(" ({})", one_line(reason)),
    }
}

fn later(wait: &Option<Duration>) -> String {
    wait.map_or_else(|| "later".to_owned(), |wait| format!("in {} s", wait.as_secs().max(1)))
}

/// What a server says, fit for one line: no control characters, at most 200 characters.
fn one_line(text: &str) -> String {
    let words: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    words.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_stays_on_one_line() {
        let error = PullError::NotFound { what: "x".to_owned(), reason: "a\nb\u{1b}[2J".to_owned() };
        assert_eq!(error.to_string(), "x is not in the registry (a b [2J): check the name and the tag");
    }
}
