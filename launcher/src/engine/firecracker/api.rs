//! Firecracker's REST interface: HTTP over a Unix socket, of which this uses PUT only.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::{About, Failure};
use crate::host::process::Handle;

/// The most bytes of an answer. Firecracker's have a few hundred.
const LONGEST: u64 = 64 << 10;

/// How long a request may take. The last one reads the kernel and the initramfs, perhaps from a slow disk.
const ANSWER: Duration = Duration::from_secs(120);

/// How often to look for the socket.
const TICK: Duration = Duration::from_millis(2);

/// A connection.
#[derive(Debug)]
pub(super) struct Api {
    stream: BufReader<UnixStream>,
}

impl Api {
    /// Waits until Firecracker has made its socket, and connects to it.
    ///
    /// # Errors
    /// It ended, or did not make it in time.
    pub(super) fn connect(socket: &Path, process: &Handle, most: Duration) -> Result<Self, Failure> {
        let start = Instant::now();
        loop {
            // Fails until it listens.
            if let Ok(stream) = UnixStream::connect(socket) {
                return Self::of(stream);
            }
            if process.ends_within(TICK) {
                return Err(Failure::new("Firecracker", "it ended before it answered"));
            }
            if start.elapsed() > most {
                let cause = format!("it did not answer within {} s", most.as_secs());
                return Err(Failure::new("Firecracker", cause));
            }
        }
    }

    fn of(stream: UnixStream) -> Result<Self, Failure> {
        stream.set_read_timeout(Some(ANSWER)).about("Firecracker")?;
        stream.set_write_timeout(Some(ANSWER)).about("Firecracker")?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Makes a request that changes something and has no answer but success.
    ///
    /// # Errors
    /// Firecracker refuses it; says why, in its words.
    pub(super) fn put(&mut self, path: &str, body: &Value) -> Result<(), Failure> {
        let about = || format!("Firecracker (PUT {path})");
        let body = body.to_string();
        let head = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.stream.get_mut().write_all(request.as_bytes()).about(about())?;
        let (status, answer) = self.answer().about(about())?;
        if (200..300).contains(&status) {
            return Ok(());
        }
        let fault = serde_json::from_slice::<Value>(&answer).ok();
        let fault = fault.and_then(|fault| Some(fault.get("fault_message")?.as_str()?.replace('\n', " ")));
        Err(Failure::new(about(), fault.unwrap_or_else(|| format!("it answered with the status {status}"))))
    }

    /// Reads the status and the body of an answer.
    fn answer(&mut self) -> Result<(u16, Vec<u8>), String> {
        let mut from = self.stream.by_ref().take(LONGEST);
        let mut line = || {
            let mut line = String::new();
            match from.read_line(&mut line) {
                Ok(_) if line.ends_with('\n') => Ok(line.trim_end().to_owned()),
                Ok(_) => Err("it ended before it answered".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        };
        let first = line()?;
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| format!("it does not speak HTTP: {first:?}"))?;
        let mut length = 0;
        loop {
            let field = line()?;
            if field.is_empty() {
                break;
            }
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(|_| format!("it does not speak HTTP: {field:?}"))?;
            }
        }
        let mut body = Vec::new();
        from.take(length).read_to_end(&mut body).map_err(|error| error.to_string())?;
        Ok((status, body))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Makes a request that is answered with `answer`. Returns the outcome and the request.
    fn answered(answer: &str) -> (Result<(), String>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer.as_bytes()).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let outcome = Api::of(ours).unwrap().put("/vsock", &json!({ "guest_cid": 3 }));
        let mut request = String::new();
        // Fails if part of the answer was not read.
        let _ = theirs.read_to_string(&mut request);
        (outcome.map_err(|failure| failure.to_string()), request)
    }

    #[test]
    fn request_is_http_and_success_is_told_from_a_fault_in_its_own_words() {
        let (outcome, request) = answered("HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(outcome, Ok(()));
        assert!(request.starts_with("PUT /vsock HTTP/1.1\r\n") && request.ends_with("\r\n\r\n{\"guest_cid\":3}"));
        assert!(request.contains("Content-Length: 15\r\n"), "{request}");
        let body = r#"{"fault_message":"Cannot create vsock device:\nno"}"#;
        let (outcome, _) = answered(&format!("HTTP/1.1 400 \r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(outcome, Err("Firecracker (PUT /vsock): Cannot create vsock device: no".to_owned()));
    }

    #[test]
    fn answer_that_is_cut_off_endless_or_no_http_is_an_error() {
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(20_000));
        for answer in ["", "HTTP/1.1 204 \r\nServer: x", "SSH-2.0\r\n", "HTTP/1.1 x\r\n\r\n", &endless] {
            assert!(answered(answer).0.is_err(), "{answer:.30}");
        }
        let (outcome, _) = answered("HTTP/1.1 500 \r\n\r\n");
        assert!(outcome.unwrap_err().contains("the status 500"));
    }
}
