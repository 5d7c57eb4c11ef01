//! Why a pull failed, and what to do about it.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use super::server::Server;
use crate::BlobDigest;
use crate::oci::ImageError;
use crate::policy::PolicyError;
use crate::registries::RegistriesError;

/// What caused an error: in the system, in a protocol, or in the store.
type Source = Box<dyn Error + Send + Sync>;

/// Why a pull failed. Each text is one line that names the thing and the remedy. The store has not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// No connection could be made.
    #[error("cannot reach {server}{}: {}; check its name and the network", through(.proxy), deepest(&**.source))]
    Unreachable {
        /// The server.
        server: Server,
        /// The proxy that was used, if any.
        proxy: Option<String>,
        /// What the system said.
        source: Source,
    },
    /// A server does not use TLS but should.
    #[error("cannot reach {server}: it does not speak TLS")]
    NoTls {
        /// The server.
        server: Server,
        /// What the TLS library said.
        source: Source,
    },
    /// A server's certificate is not one that this host trusts.
    #[error("cannot trust {server}: {}", deepest(&**.source))]
    Untrusted {
        /// The server.
        server: Server,
        /// What the check of the certificate said.
        source: Source,
    },
    /// A registry, its token service or an image names an address that this program does not go to.
    #[error("{server} is not asked for {url}: {cause}")]
    OutOfReach {
        /// The server.
        server: Server,
        /// What would be asked for, without its query.
        url: String,
        /// Why not.
        cause: String,
    },
    /// A server took too long to send anything.
    #[error("{server} sent nothing for {} s when asked for {url}; try again later", .waited.as_secs_f32())]
    Stalled {
        /// The server.
        server: Server,
        /// What was asked for, without its query.
        url: String,
        /// How long each attempt waited.
        waited: Duration,
    },
    /// The connection broke again and again.
    #[error("the transfer of {url} from {server} broke off: {}; try again later", deepest(&**.source))]
    Interrupted {
        /// The server.
        server: Server,
        /// What was asked for, without its query.
        url: String,
        /// What the system said.
        source: Source,
    },
    /// The registry asks for a login or another login. Some registries answer this for an image that does not exist.
    #[error(
        "access to {image} is denied{}{}: check the name, and log in to {registry}", clause(.reason), not_used(.unused)
    )]
    Denied {
        /// Registry and repository.
        image: String,
        /// The registry, with its port.
        registry: String,
        /// What the registry said; may be empty.
        reason: String,
        /// Stored logins that could not be used, and why.
        unused: Vec<String>,
    },
    /// The registry, or its token service, does not accept the stored login.
    #[error(
        "{registry} refuses the login of {}{}",
        one_line(.user), clause(.reason)
    )]
    LoginRefused {
        /// The registry, with its port.
        registry: String,
        /// The user name, or `an identity token`.
        user: String,
        /// What the registry said; may be empty.
        reason: String,
    },
    /// A registry names a token service that no login may be sent to, or that answers with something else.
    #[error("{server} cannot be used: {cause}")]
    TokenService {
        /// The token service.
        server: Server,
        /// What is wrong with it.
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
    /// A server limits how much it serves.
    #[error("{server} refuses more requests for now{}: try again {}, or log in to raise the limit", clause(.reason), later(.wait))]
    TooManyRequests {
        /// The server.
        server: Server,
        /// What it said; may be empty.
        reason: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// Any other answer that is not a success.
    #[error("{server} answers {status} when asked for {url}{}", clause(.reason))]
    Answer {
        /// The server.
        server: Server,
        /// What was asked for, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server said; may be empty.
        reason: String,
    },
    /// The layer is shorter or longer than its manifest says.
    #[error(
        "layer {layer}: {server} sends {actual} bytes, but its manifest says {expected}: the copy there is damaged; push it again"
    )]
    WrongLength {
        /// The digest in the manifest.
        layer: Box<BlobDigest>,
        /// The server.
        server: Server,
        /// Bytes that the manifest promises.
        expected: u64,
        /// Bytes that arrived, at least.
        actual: u64,
    },
    /// The registry does not have a layer that it may not keep, and the places that the image names do not have it
    /// either.
    #[error("layer {layer} is kept outside the registry: {source}")]
    Foreign {
        /// The digest in the manifest.
        layer: BlobDigest,
        /// What the last of the places said.
        source: Box<PullError>,
    },
    /// A certificate file cannot be used.
    #[error("{}: {source}; certificates are read in PEM", .path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Source,
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
        layer: BlobDigest,
        /// What the store said.
        #[source]
        cause: Source,
    },
    /// A manifest, config or tag could not be kept.
    #[error("{0}")]
    Store(#[source] Source),
    /// The network side could not be set up.
    #[error("cannot start the registry client: {}", deepest(&**.0))]
    Client(#[source] Source),
    /// `registries.conf` cannot be used, or forbids it.
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    /// The policy for images keeps it out.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The caller cancelled the pull.
    #[error("cancelled")]
    Cancelled,
}

fn through(proxy: &Option<String>) -> String {
    proxy.as_ref().map_or_else(String::new, |proxy| format!(" through the proxy {proxy}"))
}

fn clause(reason: &str) -> String {
    match reason.trim() {
        "" => String::new(),
        reason => format!(" ({})", one_line(reason)),
    }
}

fn not_used(logins: &[String]) -> String {
    if logins.is_empty() {
        String::new()
    } else {
        format!(", and a login was not used ({})", one_line(&logins.join("; ")))
    }
}

fn later(wait: &Option<Duration>) -> String {
    wait.map_or_else(|| "later".to_owned(), |wait| format!("in {} s", wait.as_secs().max(1)))
}

/// Returns the deepest cause: what the system or the TLS library said.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = super::causes::below(cause) {
        cause = deeper;
    }
    one_line(&cause.to_string())
}

/// Makes one line of what a server says: without control characters, at most 200 characters.
pub(super) fn one_line(text: &str) -> String {
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

    #[test]
    fn errors_keep_their_source_and_show_the_deepest() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let server = Server::Storage { host: "s3.test".to_owned(), registry: "r.test".to_owned() };
        let error = PullError::Unreachable { server, proxy: None, source: Box::new(std::io::Error::other(refused)) };
        assert!(error.source().is_some());
        let text = "cannot reach the storage of the registry r.test at s3.test: connection refused; \
                    check its name and the network";
        assert_eq!(error.to_string(), text);
    }
}
