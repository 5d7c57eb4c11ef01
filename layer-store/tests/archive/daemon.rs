//! Images of a docker daemon, asked for over its socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use layer_store::{Cancellation, Form, ImportError, ImportOptions, ImportSource, Observer};
use serde_json::json;

use crate::fixture::{Place, docker_files, names_of, packed};
use crate::support::image::{Image, three_layers};

/// Reads one request; returns its first line.
fn request(stream: &UnixStream) -> String {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    lines.find(String::is_empty).unwrap();
    first
}

fn source(socket: &Path, image: &str) -> ImportSource {
    ImportSource::Daemon { image: image.to_owned(), host: Some(format!("unix://{}", socket.display())) }
}

/// Imports an image from a daemon that gives one answer. Also returns what the daemon was asked.
fn import(place: &Place, image: &str, answer: &[u8]) -> (Result<Vec<layer_store::Acquired>, ImportError>, String) {
    let socket = place.path("d.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = request(&stream);
            // A client that has seen enough closes the connection.
            let _ = stream.write_all(answer);
            asked
        });
        let options = ImportOptions { form: Some(Form::Docker), ..ImportOptions::default() };
        let imported = place.import_from(&source(&socket, image), &options);
        (imported, daemon.join().unwrap())
    })
}

fn saved(image: &Image) -> Vec<u8> {
    let mut answer =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for piece in packed(&docker_files(image, &json!(["app:1"]))).chunks(100_000) {
        answer.extend(format!("{:x}\r\n", piece.len()).bytes());
        answer.extend(piece);
        answer.extend(b"\r\n");
    }
    answer.extend(b"0\r\n\r\n");
    answer
}

#[test]
fn an_image_comes_from_a_daemon_as_it_is_saved() {
    let image = three_layers(1);
    let place = Place::new();
    for (name, asked) in
        [("app:1", "app:1"), ("app", "app:latest"), ("docker.io/library/app:1", "docker.io/library/app:1")]
    {
        let (imported, request) = import(&place, name, &saved(&image));
        assert_eq!(names_of(&imported.unwrap()), ["docker.io/library/app:1"]);
        assert_eq!(request, format!("GET /images/{asked}/get HTTP/1.1"));
    }
    place.assert_holds("docker.io/library/app:1", &image);
}

#[test]
fn what_a_daemon_refuses_or_breaks_off_is_said() {
    let place = Place::new();
    let body = r#"{"message":"no such image: app:1"}"#;
    let absent = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let error = import(&place, "app:1", absent.as_bytes()).0.unwrap_err().to_string();
    assert!(error.contains("docker-daemon:app:1") && error.contains("no such image: app:1"), "{error}");
    let whole = saved(&three_layers(1));
    let error = import(&place, "app:1", &whole[..whole.len() / 2]).0.unwrap_err().to_string();
    assert!(error.contains("docker-daemon:app:1"), "{error}");
    let socket = place.path("d.sock");
    let options = ImportOptions::default();
    let error = place.import_from(&source(&socket, "app:1"), &options).unwrap_err().to_string();
    assert!(error.contains("no daemon answers at") && error.contains("d.sock"), "{error}");
    place.assert_nothing_named();
}

#[test]
fn a_silent_daemon_can_be_cancelled() {
    let place = Place::new();
    let socket = place.path("d.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let cancellation = Cancellation::default();
    let observer: Arc<dyn Observer> = Arc::new(cancellation.clone());
    let error = std::thread::scope(|scope| {
        let import = scope
            .spawn(|| place.store().images().import(&source(&socket, "app:1"), &ImportOptions::default(), &observer));
        let (stream, _) = listener.accept().unwrap();
        request(&stream);
        cancellation.cancel();
        import.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, ImportError::Cancelled), "{error}");
}
