//! Imports an image from a docker daemon: requests it over the daemon's socket and receives what `docker save` writes.
//!
//! Podman's service answers the same request (Docker Engine API, "Export an image").

use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use reqwest::{Client, Response, StatusCode};
use tokio::runtime::Runtime;

use crate::observer::Halt;
use crate::registry::no_tls;

/// Sockets that are tried if `DOCKER_HOST` is not set: docker's, and podman's.
const SOCKETS: [&str; 3] = ["/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock"];
/// The same, relative to the user's runtime directory.
const USER_SOCKETS: [&str; 2] = ["docker.sock", "podman/podman.sock"];
/// The longest error message that is read, in bytes.
const MESSAGE_LIMIT: usize = 64 << 10;

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    /// `host:port`, without TLS.
    Tcp(String),
}

/// The response of a daemon: an image as a `docker save` archive.
pub(super) struct Saved<'a> {
    runtime: Runtime,
    response: Response,
    piece: Bytes,
    halt: &'a Halt,
}

impl<'a> Saved<'a> {
    /// Requests an image from the daemon at `host`.
    pub(super) fn ask(image: &str, host: Option<&str>, halt: &'a Halt) -> io::Result<Self> {
        let name = asked_for(image)?;
        let host = host.map(str::to_owned).or_else(|| std::env::var("DOCKER_HOST").ok());
        let address = match host.filter(|host| !host.is_empty()) {
            Some(host) => address(&host)?,
            None => usual_socket()?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (builder, host) = match &address {
            Address::Unix(path) => (Client::builder().unix_socket(path.as_path()), "docker"),
            Address::Tcp(host) => (Client::builder(), host.as_str()),
        };
        // A daemon on this host is never reached through a proxy.
        let builder = builder.no_proxy().tls_backend_preconfigured(no_tls().map_err(io::Error::other)?);
        let client = builder.build().map_err(io::Error::other)?;
        let request = client.get(format!("http://{host}/images/{name}/get")).send();
        let response = wait(&runtime, halt, request)?.map_err(|error| unreachable_daemon(&address, &error))?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Self { runtime, response, piece: Bytes::new(), halt });
        }
        let mut body = wait(&runtime, halt, response.bytes())?.unwrap_or_default();
        body.truncate(MESSAGE_LIMIT);
        let message = serde_json::from_slice(&body).ok().and_then(|answer: serde_json::Value| {
            answer.get("message").and_then(|message| message.as_str()).map(|message| message.escape_debug().to_string())
        });
        let message = message.unwrap_or_else(|| "it gave no reason".to_owned());
        Err(io::Error::other(match status {
            StatusCode::NOT_FOUND => format!("the daemon has no such image ({message})"),
            status => format!("the daemon answered {status}: {message}"),
        }))
    }
}

impl Read for Saved<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match wait(&self.runtime, self.halt, self.response.chunk())?.map_err(io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.piece.len());
        if let Some(buffer) = buffer.get_mut(..length) {
            self.piece.copy_to_slice(buffer);
        }
        Ok(length)
    }
}

/// Waits for an answer until the import is cancelled.
fn wait<T>(runtime: &Runtime, halt: &Halt, answer: impl Future<Output = T>) -> io::Result<T> {
    runtime.block_on(async {
        tokio::select! {
            answer = answer => Ok(answer),
            () = halt.wait() => Err(io::Error::other("cancelled")),
        }
    })
}

fn unreachable_daemon(address: &Address, error: &reqwest::Error) -> io::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    io::Error::other(match address {
        Address::Unix(path) => format!("no daemon answers at {}: {cause}", path.display()),
        Address::Tcp(host) => format!("no daemon answers at {host}: {cause}"),
    })
}

/// Returns the name to request from the daemon. Without a tag it would send every tag of the repository.
fn asked_for(image: &str) -> io::Result<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@[]".contains(&byte);
    if image.is_empty() || !image.bytes().all(fits) || image.split('/').any(|word| matches!(word, "" | "." | "..")) {
        let cause = format!("{image:?} is not an image name");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, cause));
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    let is_id = image.len() == 64 && image.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(if last.contains([':', '@']) || is_id { image.to_owned() } else { format!("{image}:latest") })
}

/// Parses the value of `DOCKER_HOST`.
fn address(host: &str) -> io::Result<Address> {
    let unsupported = |cause: String| io::Error::new(io::ErrorKind::Unsupported, cause);
    match host.split_once("://") {
        Some(("unix", path)) => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", address)) => {
            let address = address.trim_end_matches('/');
            if std::env::var_os("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty()) {
                return Err(unsupported(format!("DOCKER_HOST is {address} with TLS, which is not supported")));
            }
            Ok(Address::Tcp(if address.contains(':') { address.to_owned() } else { format!("{address}:2375") }))
        }
        None if host.starts_with('/') => Ok(Address::Unix(host.into())),
        _ => Err(unsupported(format!("DOCKER_HOST is {host:?}; only unix:// and tcp:// are supported"))),
    }
}

fn usual_socket() -> io::Result<Address> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = runtime.iter().flat_map(|directory| USER_SOCKETS.map(|socket| directory.join(socket)));
    let sockets: Vec<PathBuf> = SOCKETS.iter().map(Path::new).map(Path::to_owned).chain(own).collect();
    // Skips sockets that this user may not open.
    let is_open = |path: &&PathBuf| std::os::unix::net::UnixStream::connect(path).is_ok();
    let usable = sockets.iter().find(is_open).or_else(|| sockets.iter().find(|path| path.exists()));
    usable.cloned().map(Address::Unix).ok_or_else(|| {
        let cause =
            "neither docker nor podman listens on a usual socket; set DOCKER_HOST, for example to unix:///run/docker.sock";
        io::Error::new(io::ErrorKind::NotFound, cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_is_read_as_docker_reads_it() {
        let unix = |path: &str| Address::Unix(path.into());
        assert_eq!(address("unix:///run/d.sock").unwrap(), unix("/run/d.sock"));
        assert_eq!(address("/run/d.sock").unwrap(), unix("/run/d.sock"));
        assert_eq!(address("tcp://127.0.0.1:2375").unwrap(), Address::Tcp("127.0.0.1:2375".to_owned()));
        assert_eq!(address("tcp://host/").unwrap(), Address::Tcp("host:2375".to_owned()));
        for other in ["ssh://host", "npipe://x", "fd://", "x"] {
            assert!(address(other).unwrap_err().to_string().contains("only unix:// and tcp://"), "{other}");
        }
    }

    #[test]
    fn one_image_is_asked_for() {
        let id = "0123456789abcdef".repeat(4);
        let (digest, pinned) = (format!("sha256:{id}"), format!("a/b@sha256:{id}"));
        let table = [
            ("debian", "debian:latest"),
            ("debian:12", "debian:12"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("localhost:5000/a:1", "localhost:5000/a:1"),
            (&id, &*id),
            (&digest, &*digest),
            (&pinned, &*pinned),
        ];
        for (image, name) in table {
            assert_eq!(asked_for(image).unwrap(), name);
        }
        for wrong in ["", "a b", "a?x=y", "a%2f", "../containers", "a/../b", "a//b", "a\n"] {
            assert!(asked_for(wrong).is_err(), "{wrong:?}");
        }
    }
}
