//! A registry inside the test, which serves images from memory and misbehaves on request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::image::{INDEX, Image, MANIFEST, digest};

/// A request.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// `GET` and so on.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The header lines; names in lower case.
    pub headers: HashMap<String, String>,
    /// The body as text.
    pub body: String,
    /// The bytes of the body.
    pub bytes: Vec<u8>,
    /// How many requests for this path came before it.
    pub earlier: usize,
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Serve what is there.
    Serve,
    /// Answer with a status, header lines and a body.
    Answer(u16, Vec<String>, String),
    /// The same with a body that is not text.
    Bytes(u16, Vec<String>, Vec<u8>),
    /// Send the first bytes of what is there, then close the connection.
    CutAfter(usize),
    /// Send the first bytes of what is there, then nothing, with the connection open.
    StallAfter(usize),
}

type Behaviour = dyn Fn(&HttpRequest) -> Reply + Send + Sync;

/// A running registry.
#[derive(Debug)]
pub struct FakeRegistry {
    /// The port on the loopback interface.
    pub port: u16,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
}

struct Content {
    behaviour: Box<Behaviour>,
    /// Path to media type and bytes.
    files: HashMap<String, (String, Vec<u8>)>,
    requests: Arc<Mutex<Vec<HttpRequest>>>,
}

impl FakeRegistry {
    /// Serves `images` as `test:0`, `test:1` and so on.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn start(images: &[&Image], behaviour: impl Fn(&HttpRequest) -> Reply + Send + Sync + 'static) -> Self {
        let mut files = HashMap::new();
        for (number, image) in images.iter().enumerate() {
            let manifest = (MANIFEST.to_owned(), image.manifest.clone());
            files.insert(format!("/v2/test/manifests/{number}"), manifest.clone());
            files.insert(format!("/v2/test/manifests/{}", image.digest()), manifest);
            for blob in image.blobs() {
                let path = format!("/v2/test/blobs/{}", digest(blob));
                files.insert(path, ("application/octet-stream".to_owned(), blob.to_vec()));
            }
        }
        Self::serve(files, behaviour)
    }

    /// Serves an index under the tag `index`, besides `images`.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn with_index(images: &[&Image], index: &[u8]) -> Self {
        let mut files = HashMap::new();
        for name in ["index", &digest(index)] {
            files.insert(format!("/v2/test/manifests/{name}"), (INDEX.to_owned(), index.to_vec()));
        }
        for image in images {
            files.insert(
                format!("/v2/test/manifests/{}", image.digest()),
                (MANIFEST.to_owned(), image.manifest.clone()),
            );
            for blob in image.blobs() {
                let path = format!("/v2/test/blobs/{}", digest(blob));
                files.insert(path, (String::new(), blob.to_vec()));
            }
        }
        Self::serve(files, |_| Reply::Serve)
    }

    fn serve(
        files: HashMap<String, (String, Vec<u8>)>,
        behaviour: impl Fn(&HttpRequest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let content = Arc::new(Content { behaviour: Box::new(behaviour), files, requests: Arc::clone(&requests) });
        // The threads end with the test's process.
        thread::spawn(move || {
            for connection in listener.incoming() {
                let content = Arc::clone(&content);
                thread::spawn(move || content.serve_connection(&connection.unwrap()));
            }
        });
        Self { port, requests }
    }

    /// The reference of an image here.
    #[must_use]
    pub fn name(&self, image: &str) -> String {
        format!("127.0.0.1:{}/{image}", self.port)
    }

    /// The requests so far for paths that contain `part`.
    ///
    /// # Panics
    /// When a thread of the registry has panicked.
    #[must_use]
    pub fn requests(&self, part: &str) -> Vec<HttpRequest> {
        self.requests.lock().unwrap().iter().filter(|request| request.path.contains(part)).cloned().collect()
    }
}

impl Content {
    /// Answers the requests of one connection until one of them ends it.
    fn serve_connection(&self, connection: &TcpStream) {
        let mut reader = BufReader::new(connection.try_clone().unwrap());
        while let Some(request) = self.read(&mut reader) {
            let reply = (self.behaviour)(&request);
            if self.answer(connection, &request, &reply).is_none() {
                break;
            }
        }
    }

    fn read(&self, reader: &mut impl BufRead) -> Option<HttpRequest> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let mut requests = self.requests.lock().unwrap();
        let earlier = requests.iter().filter(|request| request.path == path).count();
        let text = String::from_utf8_lossy(&body).into_owned();
        let request = HttpRequest { method, path, headers, body: text, bytes: body, earlier };
        requests.push(request.clone());
        Some(request)
    }

    /// Returns `None` if the connection ends here.
    fn answer(&self, mut connection: &TcpStream, request: &HttpRequest, reply: &Reply) -> Option<()> {
        let write = |mut connection: &TcpStream, head: String, body: &[u8]| {
            connection.write_all(head.as_bytes()).ok()?;
            connection.write_all(body).ok()
        };
        let made = match reply {
            Reply::Answer(status, lines, body) => Some((status, lines, body.as_bytes())),
            Reply::Bytes(status, lines, body) => Some((status, lines, body.as_slice())),
            _ => None,
        };
        if let Some((status, lines, body)) = made {
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let head = format!("HTTP/1.1 {status} X\r\n{lines}Content-Length: {}\r\n\r\n", body.len());
            return write(connection, head, body);
        }
        let Some((media_type, bytes)) = self.files.get(&request.path) else {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            return write(
                connection,
                format!("HTTP/1.1 404 X\r\nContent-Length: {}\r\n\r\n", body.len()),
                body.as_bytes(),
            );
        };
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        let start: usize = range.map_or(0, |start| start.parse().unwrap());
        let status = if start > 0 { 206 } else { 200 };
        let rest = &bytes[start..];
        let length = rest.len();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n");
        match reply {
            Reply::CutAfter(cut) => {
                write(connection, head, &rest[..(*cut).min(length)]);
                None
            }
            Reply::StallAfter(cut) => {
                write(connection, head, &rest[..(*cut).min(length)])?;
                connection.flush().ok()?;
                // The client closes the connection.
                let _ = std::io::copy(&mut connection, &mut std::io::sink());
                None
            }
            _ => write(connection, head, rest),
        }
    }
}
