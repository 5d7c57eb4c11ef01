//! Pulls through proxies. The variables are read from the environment, so each pull runs in its own process.

use std::io::{Read, Write, copy};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use layer_store::PullOptions;

use super::support::fake::{Fake, HttpRequest, Reply};
use super::support::image::{Image, digest, three_layers};
use super::{Place, options};

/// The name of an image that the child process pulls.
const PULL: &str = "LAMINA_TEST_PULL";
/// A registry that only a proxy can find.
const NAME: &str = "registry.test:5000/test:0";

#[test]
#[ignore = "the other tests run it as a process of their own"]
fn pull_of_the_environment() {
    let Ok(name) = std::env::var(PULL) else { return };
    Place::new().pull(&name, &PullOptions { plain_http: true, ..options() }).unwrap_or_else(|error| panic!("{error}"));
}

/// Pulls in a process with these variables; returns what it printed if it failed.
fn pull_with(variables: &[(&str, &str)]) -> Result<(), String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "proxies::pull_of_the_environment", "--ignored", "--nocapture"]).env(PULL, NAME);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Answers as the registry of `image`, including addresses in the form that proxies get.
fn serve(image: &Image) -> Fake {
    let image = image.clone();
    Fake::start(&[], move |request: &HttpRequest| {
        let blobs = image.blobs();
        let blob = blobs.iter().find(|blob| request.path.ends_with(&digest(blob)));
        match blob {
            Some(blob) => Reply::Bytes(200, Vec::new(), blob.to_vec()),
            None if request.path.ends_with("/manifests/0") => Reply::Bytes(200, Vec::new(), image.manifest.clone()),
            None => Reply::Serve,
        }
    })
}

/// A SOCKS 5 proxy (RFC 1928) that sends every connection to `port`, and records the names that it was asked for.
fn socks(port: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (own, names) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&names);
    thread::spawn(move || {
        for client in listener.incoming() {
            let noted = Arc::clone(&noted);
            thread::spawn(move || relay(&client.unwrap(), port, &noted));
        }
    });
    (own, names)
}

fn relay(client: &TcpStream, port: u16, names: &Mutex<Vec<String>>) -> Option<()> {
    let methods = received(client, 2)?[1];
    received(client, usize::from(methods))?;
    send(client, &[5, 0])?;
    let request = received(client, 5)?;
    assert_eq!(request[..4], [5, 1, 0, 3], "a connection to a host by its name");
    let name = received(client, usize::from(request[4]))?;
    received(client, 2)?;
    names.lock().unwrap().push(String::from_utf8(name).unwrap());
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    send(client, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    thread::scope(|scope| {
        scope.spawn(|| pass(client, &server));
        pass(&server, client);
    });
    Some(())
}

fn received(mut from: &TcpStream, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).ok().map(|()| bytes)
}

fn send(mut to: &TcpStream, bytes: &[u8]) -> Option<()> {
    to.write_all(bytes).ok()
}

/// Passes on what one side sends, and its end.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_proxy_is_used_but_for_what_no_proxy_names() {
    let fake = serve(&three_layers(1));
    let proxy = format!("127.0.0.1:{}", fake.port);
    pull_with(&[("HTTP_PROXY", &proxy)]).unwrap();
    let asked = fake.requests("http://registry.test:5000/v2/").len();
    assert_eq!(asked, 5, "the manifest, the config and three layers");
    for list in ["registry.test", "*.test", ".test", "registry.test:5000", "*"] {
        let error = pull_with(&[("HTTP_PROXY", &proxy), ("NO_PROXY", list)]).unwrap_err();
        assert!(error.contains("cannot reach the registry registry.test:5000: "), "{list}: {error}");
    }
    assert_eq!(fake.requests("").len(), asked);
    pull_with(&[("HTTP_PROXY", &proxy), ("NO_PROXY", "registry.test:5001,other.test")]).unwrap();
}

#[test]
fn a_socks_proxy_looks_names_up_itself() {
    for scheme in ["socks5", "socks5h"] {
        let fake = serve(&three_layers(1));
        let (port, names) = socks(fake.port);
        pull_with(&[("ALL_PROXY", &format!("{scheme}://127.0.0.1:{port}"))]).unwrap();
        assert!(names.lock().unwrap().iter().all(|name| name == "registry.test"));
        assert_eq!(fake.requests("/v2/").len(), 5);
    }
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let error = pull_with(&[("HTTP_PROXY", "http://user:s3cret@127.0.0.1:1")]).unwrap_err();
    assert!(error.contains("cannot reach the registry registry.test:5000 through the proxy 127.0.0.1:1: "), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
}

/// Through a proxy, because no name of a public registry leads to a server of this test.
#[test]
fn a_registry_that_is_not_internal_sends_nobody_to_an_internal_address() {
    let image = three_layers(1);
    let inside = serve(&image);
    for address in ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1"] {
        let location = format!("Location: http://{address}:{}/v2/blobs?X-Signature=s3cret", inside.port);
        let manifest = image.manifest.clone();
        let registry = Fake::start(&[], move |request: &HttpRequest| match request.path.contains("/blobs/") {
            true => Reply::Answer(307, vec![location.clone()], String::new()),
            false => Reply::Bytes(200, Vec::new(), manifest.clone()),
        });
        let error = pull_with(&[("HTTP_PROXY", &format!("127.0.0.1:{}", registry.port))]).unwrap_err();
        assert!(error.contains("is in an internal network, and the registry is not"), "{address}: {error}");
        assert!(!error.contains("s3cret"), "{error}");
    }
    let challenge = format!("WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{}/token\"", inside.port);
    let registry = Fake::start(&[], move |_: &HttpRequest| Reply::Answer(401, vec![challenge.clone()], String::new()));
    let error = pull_with(&[("HTTP_PROXY", &format!("127.0.0.1:{}", registry.port))]).unwrap_err();
    assert!(error.contains("is in an internal network, and the registry is not"), "a token service: {error}");
    assert_eq!(inside.requests("").len(), 0, "nothing internal is asked");
}
