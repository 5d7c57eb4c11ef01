//! Logins, pushes, `registries.conf`, `certs.d` and exports by the command line, compared with skopeo.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use end_to_end::layout::{Layer, noise};
use end_to_end::programs::installed;
use end_to_end::{Finished, Layout, Registry, Session};
use serde_json::{Value, json};
use test_support::fake_registry::{FakeRegistry, Reply};
use test_support::image;

fn small(seed: u64) -> Layout {
    Layout::of(&[
        Layer::of_files(&[("etc/os-release", b"ID=small\n"), ("noise", &noise(seed, 90_000))]),
        Layer::of_files(&[("etc/motd", b"hello\n")]),
    ])
}

/// The digest of a layout's only image.
fn digest_of(layout: &Path) -> String {
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// Runs a command with this on its standard input.
fn with_input(mut command: Command, input: &[u8]) -> Finished {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    // A command that refuses its options reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Finished { command: line, status: output.status, stdout, stderr }
}

/// A registry with TLS and a login, and a session that may have its certificate.
struct Secure {
    registry: Registry,
    session: Session,
}

impl Secure {
    fn new() -> Self {
        Self { registry: Registry::secure(), session: Session::user() }
    }

    fn host(&self) -> String {
        format!("localhost:{}", self.registry.port)
    }

    /// Copies the certificate to a place that the user can read.
    fn certificate(&self, to: &Path) -> PathBuf {
        std::fs::create_dir_all(to).unwrap();
        let file = to.join("ca.crt");
        std::fs::copy(self.registry.ca_file(), &file).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        file
    }

    /// Puts the certificate where lamina and skopeo look for it.
    fn trust(&self) {
        self.certificate(&self.home(".config/containers/certs.d").join(self.host()));
    }

    fn home(&self, path: &str) -> PathBuf {
        self.session.directory().join("home").join(path)
    }

    fn login(&self, password: &str, options: &[&str]) -> Finished {
        let fixed = ["login", "-u", "alice", "--password-stdin"];
        let host = self.host();
        with_input(self.session.lamina([&fixed[..], options, &[&host]].concat()), password.as_bytes())
    }

    fn skopeo(&self, arguments: &[&str]) -> Finished {
        Finished::of(self.session.command(&installed("skopeo")).arg("--insecure-policy").args(arguments))
    }
}

#[test]
fn login_is_checked_kept_private_and_shared_with_skopeo() {
    let secure = Secure::new();
    let session = &secure.session;
    let ca = secure.certificate(&session.work("ca"));
    let ca = ca.to_str().unwrap();
    let file = session.directory().join("run/containers/auth.json");

    let wrong = secure.login("wr0ng\n", &["--ca-file", ca]);
    wrong.refused("refuses the login of alice");
    assert!(!wrong.stderr.contains("wr0ng") && !file.exists(), "{wrong}");
    secure.login("s3cret\n", &[]).refused("cannot trust");

    let said = secure.login("s3cret\n", &["--ca-file", ca]).succeeded();
    assert!(said.stdout.contains("logged in to") && !said.stdout.contains("s3cret"), "{said}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(session.ok(["login", "--get-login", &secure.host()]).trim(), "alice");
    let login = ["login", "--get-login", "--authfile", file.to_str().unwrap(), &secure.host()];
    assert_eq!(secure.skopeo(&login).succeeded().stdout.trim(), "alice", "skopeo reads what was stored");

    // It is used to push and to pull.
    let layout = small(1);
    session.import(layout.path(), "lamina.test/app:1");
    let name = format!("{}/app:1", secure.host());
    session.ok(["push", "--ca-file", ca, "lamina.test/app:1", &name]);
    session.ok(["pull", "--ca-file", ca, &name]);

    session.ok(["logout", &secure.host()]);
    session.run(["login", "--get-login", &secure.host()]).refused("nobody is logged in");
    session.run(["pull", "--ca-file", ca, &name]).refused("denied");
    session.run(["logout", &secure.host()]).refused("no login");

    // What skopeo stores is found, and the rest of a file stays.
    let other = session.work("logins").join("auth.json");
    std::fs::write(&other, r#"{"auths": {"other.test": {"auth": "eDp5"}}, "unknown": [1]}"#).unwrap();
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o666)).unwrap();
    let authfile = other.to_str().unwrap();
    secure.trust();
    secure.login("s3cret", &["--authfile", authfile]).succeeded();
    let kept: Value = serde_json::from_slice(&std::fs::read(&other).unwrap()).unwrap();
    assert_eq!(kept["unknown"][0], 1, "{kept}");
    session.ok(["logout", "--authfile", authfile, &secure.host()]);
    secure.skopeo(&["login", "--authfile", authfile, "-u", "alice", "-p", "s3cret", &secure.host()]).succeeded();
    session.ok(["pull", "--authfile", authfile, &name]);
    session.ok(["logout", "--authfile", authfile, &secure.host()]);
    let left: Value = serde_json::from_slice(&std::fs::read(&other).unwrap()).unwrap();
    assert_eq!(left["auths"]["other.test"]["auth"], "eDp5", "{left}");
    assert!(left["auths"][secure.host()].is_null(), "{left}");
    session.run(["pull", "--authfile", "/nonexistent", &name]).refused_usage("/nonexistent");
    let odd = session.run(["pull", "--creds", "s3cret-without-colon", &name]);
    odd.refused_usage("USER:PASSWORD");
    assert!(!odd.stderr.contains("s3cret"), "{odd}");
    // The file with logins stays, without the login.
    std::fs::remove_dir_all(session.directory().join("run/containers")).unwrap();
    session.traces().assert_nothing_left();
}

/// Answers the questions of a program at a terminal. Prints what the terminal showed, and whether it shows what is typed
/// at the end. Arguments: the answers, separated by commas, and the program with its arguments.
const TYPIST: &str = r#"
import os, pty, sys, termios
answers = [answer.encode().decode("unicode_escape").encode() for answer in sys.argv[1].split(",")]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
shown = b""
while True:
    try:
        data = os.read(terminal, 1024)
    except OSError:
        break
    if not data:
        break
    shown += data
    if answers and shown.endswith(b": "):
        os.write(terminal, answers.pop(0))
    echoes = termios.tcgetattr(terminal)[3] & termios.ECHO != 0
_, status = os.waitpid(pid, 0)
sys.stdout.write(shown.decode() + f"echoes {echoes}\n")
sys.exit(os.waitstatus_to_exitcode(status))
"#;

#[test]
fn login_asks_at_a_terminal_and_shows_no_password() {
    let secure = Secure::new();
    secure.trust();
    let session = &secure.session;
    let file = session.directory().join("run/containers/auth.json");
    let host = secure.host();
    let typed = |answers: &str, arguments: &[&str]| {
        let lamina = session.lamina(["login"]);
        let mut command = session.command(Path::new("/usr/bin/python3"));
        Finished::of(command.args(["-c", TYPIST, answers]).arg(lamina.get_program()).arg("login").args(arguments))
    };
    for (answers, arguments) in [
        ("alicx\\x7fe\\r,s3crt\\x7fet\\r", &[host.as_str()][..]),
        ("wrong\\x15s3cret\\r", &["-u", "alice", &host]),
        ("s3cret\\n", &["--username=alice", &host]),
    ] {
        let login = typed(answers, arguments).succeeded();
        assert!(login.stdout.contains("logged in to") && login.stdout.contains("Password: "), "{login}");
        assert_eq!(login.stdout.contains("Username: "), arguments.len() == 1, "{login}");
        assert!(!login.stdout.contains("s3c") && login.stdout.contains("echoes True"), "{login}");
        assert!(file.exists());
        session.ok(["logout", &host]);
    }
    for cancelled in ["\\x03", "alice\\r,s3c\\x03", "alice\\r,\\x04"] {
        let login = typed(cancelled, &[&host]);
        assert_eq!(login.status.code(), Some(1), "{login}");
        assert!(login.stdout.contains("cancelled") && login.stdout.contains("echoes True"), "{login}");
    }
    let wrong = typed("alice\\r,wr0ng\\r", &[&host]);
    assert!(wrong.stdout.contains("refuses the login of alice") && !wrong.stdout.contains("wr0ng"), "{wrong}");
    session.run(["login", "--get-login", &host]).refused("nobody is logged in");
    std::fs::remove_dir_all(session.directory().join("run/containers")).unwrap();
    session.traces().assert_nothing_left();
}

#[test]
fn credential_helper_keeps_the_login_and_sees_it_on_its_standard_input_only() {
    let secure = Secure::new();
    secure.trust();
    let host = secure.host();
    for config in [
        json!({"credsStore": "lamina-test"}),
        json!({"credHelpers": {&host: "lamina-test", "other.test": "missing"}, "credsStore": "missing"}),
    ] {
        a_credential_helper_is_used(&secure, &config.to_string());
    }
}

fn a_credential_helper_is_used(secure: &Secure, text: &str) {
    let session = &secure.session;
    let directory = session.work("helper");
    let at = |name: &str| directory.join(name).display().to_string();
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {seen}\ncase $1 in\nstore) cat > {kept};;\n\
         get) if [ -e {kept} ]; then cat {kept}; else echo 'credentials not found in native keychain'; exit 1; fi;;\n\
         erase) cat > /dev/null; rm -f {kept};;\nesac\n",
        seen = at("arguments"),
        kept = at("kept"),
    );
    let helper = directory.join("docker-credential-lamina-test");
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let config = session.work("config").join("auth.json");
    std::fs::write(&config, text).unwrap();
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    let (authfile, host) = (config.to_str().unwrap(), secure.host());
    let run = |arguments: &[&str], input: &str| {
        let mut command = session.lamina(arguments);
        command.env("PATH", &path);
        with_input(command, input.as_bytes())
    };
    run(&["login", "--authfile", authfile, "-u", "alice", "--password-stdin", &host], "s3cret").succeeded();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text, "the file has no login");
    let stored: Value = serde_json::from_slice(&std::fs::read(directory.join("kept")).unwrap()).unwrap();
    assert_eq!((stored["Username"].as_str(), stored["Secret"].as_str()), (Some("alice"), Some("s3cret")));
    assert!(!std::fs::read_to_string(directory.join("arguments")).unwrap().contains("s3cret"));
    let layout = small(2);
    session.import(layout.path(), "lamina.test/app:1");
    run(&["push", "--authfile", authfile, "lamina.test/app:1", &format!("{host}/app:1")], "").succeeded();
    run(&["logout", "--authfile", authfile, &host], "").succeeded();
    assert!(!directory.join("kept").exists());
    run(&["pull", "--authfile", authfile, &format!("{host}/app:1")], "").refused("denied");
}

/// One way to reach a registry, as both programs take it.
struct Row {
    what: &'static str,
    /// Words of `registries.conf`; HOST stands for the registry.
    conf: &'static str,
    trusts: bool,
    logged_in: bool,
    /// Options of `lamina pull`, of which those of skopeo differ by a prefix.
    options: &'static [&'static str],
    name: &'static str,
    works: bool,
    /// What works for a push, if that differs: it goes to no mirror and no other location.
    pushes: Option<bool>,
}

const PLAIN: Row = Row {
    what: "",
    conf: "",
    trusts: true,
    logged_in: true,
    options: &[],
    name: "HOST/app:1",
    works: true,
    pushes: None,
};

const CREDS: &str = "--creds=alice:s3cret";
const NO_TLS: &str = "--tls-verify=false";

const ROWS: &[Row] = &[
    Row { what: "certs.d and a stored login", ..PLAIN },
    Row { what: "nobody is logged in", logged_in: false, works: false, ..PLAIN },
    Row { what: "--creds", logged_in: false, options: &[CREDS], ..PLAIN },
    Row { what: "wrong --creds", options: &["--creds=alice:wrong"], works: false, ..PLAIN },
    Row { what: "an unknown certificate", trusts: false, works: false, ..PLAIN },
    Row { what: "an unknown certificate, unchecked", trusts: false, options: &[NO_TLS], ..PLAIN },
    Row { what: "checked as asked", trusts: false, options: &["--tls-verify=true"], works: false, ..PLAIN },
    Row { what: "--cert-dir", trusts: false, options: &["--cert-dir=CERTS"], ..PLAIN },
    Row { what: "insecure", trusts: false, conf: "[[registry]]\nlocation = \"HOST\"\ninsecure = true\n", ..PLAIN },
    Row {
        what: "insecure, but checked as asked",
        trusts: false,
        conf: "[[registry]]\nlocation = \"HOST\"\ninsecure = true\n",
        options: &["--tls-verify=true"],
        works: false,
        ..PLAIN
    },
    Row { what: "blocked", conf: "[[registry]]\nlocation = \"HOST\"\nblocked = true\n", works: false, ..PLAIN },
    Row { what: "a part is blocked", conf: "[[registry]]\nlocation = \"HOST/other\"\nblocked = true\n", ..PLAIN },
    Row {
        what: "another location",
        conf: "[[registry]]\nprefix = \"example.test/team\"\nlocation = \"HOST\"\n",
        name: "example.test/team/app:1",
        pushes: Some(false),
        ..PLAIN
    },
    Row {
        what: "a mirror",
        conf: "[[registry]]\nlocation = \"example.test\"\n[[registry.mirror]]\nlocation = \"HOST\"\n",
        name: "example.test/app:1",
        pushes: Some(false),
        ..PLAIN
    },
    Row {
        what: "a mirror that is gone",
        conf: "[[registry]]\nlocation = \"HOST\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\n",
        ..PLAIN
    },
    Row {
        what: "an insecure mirror",
        trusts: false,
        conf: "[[registry]]\nlocation = \"example.test\"\n[[registry.mirror]]\nlocation = \"HOST\"\ninsecure = true\n",
        name: "example.test/app:1",
        pushes: Some(false),
        ..PLAIN
    },
    Row {
        what: "a mirror for digests only",
        conf: "[[registry]]\nlocation = \"127.0.0.1:1\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"HOST\"\n",
        name: "127.0.0.1:1/app:1",
        works: false,
        ..PLAIN
    },
    Row {
        what: "a mirror for digests only, and a digest",
        conf: "[[registry]]\nlocation = \"127.0.0.1:1\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = \"HOST\"\n",
        name: "127.0.0.1:1/app@DIGEST",
        pushes: Some(false),
        ..PLAIN
    },
    Row { what: "a file that is no TOML", conf: "[[registry]\n", works: false, ..PLAIN },
    Row { what: "version 1, blocked", conf: "[registries.block]\nregistries = ['HOST']\n", works: false, ..PLAIN },
    Row { what: "version 1, insecure", trusts: false, conf: "[registries.insecure]\nregistries = ['HOST']\n", ..PLAIN },
];

#[test]
fn registries_are_reached_as_skopeo_reaches_them() {
    let secure = Secure::new();
    let session = &secure.session;
    let (host, layout) = (secure.host(), small(3));
    secure.registry.copy(&format!("oci:{}:latest", layout.path().display()), "app:1", &["-q", "--preserve-digests"]);
    let digest = digest_of(layout.path());
    session.import(layout.path(), "lamina.test/app:1");
    let certificates = session.work("certs");
    secure.certificate(&certificates);
    let login = session.work("login").join("auth.json");
    // skopeo writes what both programs read.
    let arguments = ["login", NO_TLS, "--authfile", login.to_str().unwrap(), "-u", "alice", "-p", "s3cret", &host];
    secure.skopeo(&arguments).succeeded();
    let auth = session.directory().join("run/containers/auth.json");
    let conf = secure.home(".config/containers/registries.conf");
    let trusted = secure.home(".config/containers/certs.d").join(&host);
    std::fs::create_dir_all(auth.parent().unwrap()).unwrap();
    std::fs::create_dir_all(conf.parent().unwrap()).unwrap();
    for row in ROWS {
        let said = |text: &str| {
            text.replace("HOST", &host).replace("DIGEST", &digest).replace("CERTS", certificates.to_str().unwrap())
        };
        std::fs::write(&conf, said(row.conf)).unwrap();
        let _ = std::fs::remove_dir_all(&trusted);
        if row.trusts {
            secure.trust();
        }
        let _ = std::fs::remove_file(&auth);
        if row.logged_in {
            std::fs::copy(&login, &auth).unwrap();
            std::fs::set_permissions(&auth, PermissionsExt::from_mode(0o644)).unwrap();
        }
        let options: Vec<String> = row.options.iter().map(|option| said(option)).collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let name = said(row.name);

        let ours = session.run([&["pull"], &options[..], &[&name]].concat());
        let source = format!("docker://{name}");
        let theirs = secure.skopeo(&[&["inspect", "--raw"], &options[..], &[&source]].concat());
        assert_eq!(ours.status.success(), theirs.status.success(), "{}: {ours}\n{theirs}", row.what);
        assert_eq!(ours.status.success(), row.works, "{}: {ours}", row.what);

        // And in the other direction, under a name of its own.
        let target = name.replace(&format!("@{digest}"), ":pushed").replace(":1", ":pushed");
        let target = if name.starts_with("127.0.0.1:1/") { "127.0.0.1:1/app:pushed".to_owned() } else { target };
        let ours = session.run([&["push"], &options[..], &["lamina.test/app:1", &target]].concat());
        let prefixed: Vec<String> = options.iter().map(|option| option.replacen("--", "--dest-", 1)).collect();
        let prefixed: Vec<&str> = prefixed.iter().map(String::as_str).collect();
        let (source, target) = (format!("oci:{}:latest", layout.path().display()), format!("docker://{target}"));
        let theirs = secure.skopeo(&[&["copy", "-q"], &prefixed[..], &[&source, &target]].concat());
        assert_eq!(ours.status.success(), theirs.status.success(), "push, {}: {ours}\n{theirs}", row.what);
        assert_eq!(ours.status.success(), row.pushes.unwrap_or(row.works), "push, {}: {ours}", row.what);
    }
}

#[test]
fn certificate_of_this_client_is_shown_as_skopeo_shows_it() {
    let (registry, session) = (Registry::mutual(), Session::user());
    let (host, layout) = (format!("localhost:{}", registry.port), small(10));
    session.import(layout.path(), "lamina.test/app:1");
    let own = session.directory().join("home/.config/containers/certs.d").join(&host);
    std::fs::create_dir_all(&own).unwrap();
    let given = registry.directory().join("certs.d");
    let copy = |name: &str| {
        std::fs::copy(given.join(name), own.join(name)).unwrap();
        std::fs::set_permissions(own.join(name), PermissionsExt::from_mode(0o644)).unwrap();
    };
    let name = format!("{host}/app:1");
    let pushed = || session.run(["push", "lamina.test/app:1", &name]);
    let skopeo = || {
        let source = format!("docker://{name}");
        Finished::of(session.command(&installed("skopeo")).args(["inspect", "--raw", &source]))
    };
    copy("ca.crt");
    assert!(!pushed().status.success() && !skopeo().status.success(), "no certificate is shown");
    copy("client.cert");
    pushed().refused("client.key is missing");
    assert!(!skopeo().status.success());
    copy("client.key");
    pushed().succeeded();
    skopeo().succeeded();
    session.ok(["pull", &name]);
}

#[test]
fn short_names_mean_what_registries_conf_says_to_every_command() {
    let (registry, session) = (Registry::plain(), Session::user());
    let layout = small(4);
    registry.push_layout(layout.path(), "team/tool", "1");
    let conf = session.directory().join("home/.config/containers/registries.conf");
    std::fs::create_dir_all(conf.parent().unwrap()).unwrap();
    let address = registry.address();
    std::fs::write(
        &conf,
        format!(
            "unqualified-search-registries = [\"127.0.0.1:1\", \"{address}\"]\n[aliases]\ntool = \"{address}/team/tool\"\n"
        ),
    )
    .unwrap();
    session.ok(["pull", "tool:1"]);
    let found: Value = session.json(["inspect", "--json", "tool:1"]);
    assert!(found.to_string().contains(&format!("{address}/team/tool:1")), "{found}");
    session.ok(["prepare", "tool:1"]);
    session.ok(["prepare", "team/tool:1"]);
    session.ok(["rmi", "tool:1"]);
    // Searched in the second registry, because the first one cannot be reached.
    session.ok(["pull", "team/tool:1"]);
    std::fs::write(
        &conf,
        format!("short-name-mode = \"enforcing\"\nunqualified-search-registries = [\"a.test\", \"{address}\"]\n"),
    )
    .unwrap();
    session.run(["pull", "team/tool:1"]).refused_usage("write the registry too");
}

#[test]
fn all_tags_of_a_repository_are_pulled_at_once() {
    let secure = Secure::new();
    secure.trust();
    let session = &secure.session;
    let name = |image: &str| format!("{}/{image}", secure.host());
    for tag in ["app:1", "app:2", "app:latest", "other:1"] {
        session.import(small(tag.len() as u64).path(), "lamina.test/app:1");
        session.ok(["push", "--creds=alice:s3cret", "lamina.test/app:1", &name(tag)]);
    }
    session.ok(["rmi", "lamina.test/app:1"]);
    session
        .run(["pull", "--all-tags", "--creds=alice:s3cret", &name("app:1")])
        .refused_usage("a tag or a digest already");
    session.run(["pull", "-a", &name("app")]).refused("denied");
    let pulled = session.ok(["pull", "-aq", "--creds=alice:s3cret", &name("app")]);
    let mut images: Vec<&str> = pulled.lines().collect();
    images.sort_unstable();
    assert_eq!(images, ["app:1", "app:2", "app:latest"].map(name));
    let listed = session.ok(["images", "-q"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
}

#[test]
fn a_tag_that_fails_does_not_keep_the_others_from_being_pulled() {
    let images: Vec<image::Image> = (0..3).map(image::three_layers).collect();
    let damaged = format!("/v2/test/blobs/{}", images[2].layers[0].digest());
    // Of a chart.
    let other = json!({ "schemaVersion": 2, "mediaType": image::MANIFEST, "layers": [], "config": {
        "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": format!("sha256:{}", "0".repeat(64)), "size": 2 } });
    let fake = FakeRegistry::start(&images.iter().collect::<Vec<_>>(), move |request| match request.path.as_str() {
        "/v2/test/tags/list" => Reply::Answer(200, vec![], r#"{"tags":["missing","2","0","chart","1"]}"#.to_owned()),
        "/v2/test/manifests/chart" => {
            Reply::Answer(200, vec![format!("Content-Type: {}", image::MANIFEST)], other.to_string())
        }
        "/v2/more/tags/list" => Reply::Answer(200, vec![], r#"{"tags":["0","1"]}"#.to_owned()),
        path if path.starts_with("/v2/more/manifests/") => Reply::Answer(403, vec![], String::new()),
        "/v2/broken/tags/list" => Reply::Answer(200, vec![], r#"{"tags":["0","1"]}"#.to_owned()),
        path if path.starts_with("/v2/broken/manifests/") => Reply::Answer(503, vec![], String::new()),
        path if path == damaged => Reply::Answer(200, vec![], "no layer".to_owned()),
        _ => Reply::Serve,
    });
    let session = Session::user();
    let pulled = session.run(["pull", "-aq", &fake.name("test")]);
    assert_eq!(pulled.status.code(), Some(1), "{pulled}");
    let names: Vec<&str> = pulled.stdout.lines().collect();
    assert_eq!(names, [fake.name("test:0"), fake.name("test:1")], "{pulled}");
    let last = pulled.stderr.lines().last().unwrap();
    assert_eq!(last, "lamina: pull: 2 of 5 tags cannot be pulled", "{pulled}");
    for (tag, told) in [("missing", "not in the registry"), ("2", "bytes"), ("chart", "it is left out")] {
        let name = fake.name(&format!("test:{tag}: "));
        assert!(pulled.stderr.lines().any(|line| line.contains(&name) && line.contains(told)), "{tag}: {pulled}");
    }
    assert_eq!(session.ok(["images", "-q"]).lines().count(), 2);
    // What is wrong with the whole repository or registry is asked for one tag only.
    for (name, told) in [("more", "denied"), ("broken", "503")] {
        session.run(["pull", "-aq", &fake.name(name)]).refused(told);
        let asked = fake.requests(&format!("/v2/{name}/manifests/"));
        assert!(asked.iter().all(|request| request.path == asked[0].path), "{asked:?}");
    }
}

#[test]
fn image_is_found_by_every_digest_that_it_has() {
    let (registry, session) = (Registry::plain(), Session::user());
    let platforms = [("amd64", 5), ("arm64", 6), ("s390x", 7)];
    let layout =
        Layout::of_platforms(&platforms.map(|(name, seed)| (name, Layer::of_files(&[("noise", &noise(seed, 9000))]))));
    let source = format!("oci:{}:latest", layout.path().display());
    registry.copy(&source, "many:1", &["--all", "-q", "--preserve-digests"]);
    let (index, name) = (digest_of(layout.path()), format!("{}/many:1", registry.address()));
    session.ok(["pull", &name]);
    let manifest = session.json(["images", "--json"])[0]["manifest"].as_str().unwrap().to_owned();
    assert_ne!(manifest, index);
    for digest in [&index, &manifest] {
        session.ok(["prepare", &format!("{}/many@{digest}", registry.address())]);
        session.ok(["prepare", digest]);
    }
    let absent = format!("{}/many@sha256:{}", registry.address(), "0".repeat(64));
    session.run(["prepare", &absent]).refused("no image");

    session.ok(["pull", "--all-platforms", &name]);
    session.ok(["gc"]);
    session.ok(["verify"]);
    let digestfile = session.work("out").join("digest");
    let target = format!("{}/copy:1", registry.address());
    session.ok(["push", "--all-platforms", "--digestfile", digestfile.to_str().unwrap(), &name, &target]);
    assert_eq!(std::fs::read_to_string(&digestfile).unwrap().trim(), index);
    let archive = session.work("out").join("all.tar");
    session.ok(["export", "--all-platforms", "--preserve-digests", &name, archive.to_str().unwrap()]);
    for source in [format!("docker://{target}"), format!("oci-archive:{}", archive.display())] {
        let copied = format!("oci:{}:it", session.work("copied").display());
        let all = ["--insecure-policy", "copy", "--all", "--preserve-digests", "-q", "--src-tls-verify=false"];
        Finished::of(Command::new(installed("skopeo")).args(all).args([&source, &copied])).succeeded();
    }
    session.ok(["rmi", &format!("{}/many@{index}", registry.address())]);
    session.ok(["gc"]);
    session.run(["prepare", &name]).refused("no image");
}

#[test]
fn export_adds_to_a_layout_and_writes_archives_that_skopeo_reads() {
    let (registry, session) = (Registry::plain(), Session::user());
    let (one, two) = (small(8), small(9));
    let name = registry.push_layout(one.path(), "one", "1");
    session.ok(["pull", &name]);
    session.import(two.path(), "lamina.test/two:1");
    let layout = session.work("layouts").join("layout");
    let to = layout.to_str().unwrap();
    let reads = |source: &str| {
        let copied = format!("dir:{}", session.work("copied").display());
        Finished::of(Command::new(installed("skopeo")).args(["--insecure-policy", "copy", "-q", source, &copied]))
            .succeeded();
    };

    // As it was pulled: the same manifest, and compressed layers that are fetched again.
    session.ok(["export", "--preserve-digests", &name, to]);
    let pulled = session.json(["images", "--json"]);
    let pulled =
        pulled.as_array().unwrap().iter().find(|row| row["reference"] == name.as_str()).unwrap()["manifest"].clone();
    assert_eq!(digest_of(&layout), pulled.as_str().unwrap());
    let fetched = registry.fetched_blobs().len();
    session.ok(["export", "--preserve-digests", &name, to]);
    assert_eq!(registry.fetched_blobs().len(), fetched, "the layout has the layers");
    // Another image beside it, from an archive that is still there, and a plain one.
    session.ok(["export", "--preserve-digests", "lamina.test/two:1", to]);
    session.ok(["export", "lamina.test/two:1", to]);
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "one entry for each name: {index}");
    reads(&format!("oci:{to}:{name}"));
    reads(&format!("oci:{to}:lamina.test/two:1"));
    let other = session.work("other");
    std::fs::write(other.join("file"), "").unwrap();
    session.run(["export", &name, other.to_str().unwrap()]).refused("no OCI layout");

    let archive = session.work("layouts").join("image.tar");
    session.ok(["export", "--compression", "zstd", &name, archive.to_str().unwrap()]);
    reads(&format!("oci-archive:{}", archive.display()));
    let plain = session.work("layouts").join("plain.tar");
    session.ok(["export", &name, plain.to_str().unwrap()]);
    reads(&format!("oci-archive:{}", plain.display()));
    reads(&format!("docker-archive:{}", plain.display()));
    let output = session.lamina(["export", &name, "-"]).output().unwrap();
    assert!(output.status.success());
    let imported = with_input(session.lamina(["import", "-", "--tag", "lamina.test/back:1"]), &output.stdout);
    imported.succeeded();
    session.ok(["prepare", "lamina.test/back:1"]);
    session.traces().assert_nothing_left();
}
