//! Nothing that an image, a guest or a registry says reaches a terminal raw.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use end_to_end::layout::Layer;
use end_to_end::{Engine, Layout, Session, until};
use serde_json::json;
use test_support::fake_registry::{FakeRegistry, Reply};

use crate::fixture::{Machines, REFERENCE};

/// What a terminal would obey: a new title, a colour, one character that clears the screen, a return, text that runs
/// the other way.
const HOSTILE: &str = "x\u{1b}]0;owned\u{7}\u{1b}[31m\u{9b}2J\u{7f}\r\u{202e}\u{2066}\u{2028}y";

/// Runs every command and looks at what it prints.
struct Checked<'a> {
    session: &'a Session,
    seen: BTreeSet<String>,
    printed: String,
}

impl Checked<'_> {
    /// Runs `lamina COMMAND ARGUMENTS`, as it is and with `--verbose`.
    fn run(&mut self, arguments: &[&str]) -> bool {
        self.seen.insert(arguments[0].to_owned());
        let mut command = self.session.lamina(arguments);
        self.look(&mut command)
    }

    /// Runs a command that changes nothing, also with `--json`.
    fn ask(&mut self, arguments: &[&str]) {
        self.run(arguments);
        self.run(&[arguments, &["--json"]].concat());
        self.run(&[arguments, &["--verbose", "--verbose"]].concat());
    }

    fn look(&mut self, command: &mut Command) -> bool {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).unwrap_or_else(|error| panic!("{command:?}: {error}"));
            let acts = |c: char| {
                (c.is_control() && !matches!(c, '\n' | '\t'))
                    || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            assert_eq!(text.chars().find(|c| acts(*c)), None, "{command:?} printed {text:?}");
            self.printed.push_str(&text);
        }
        output.status.success()
    }
}

/// An image whose every word is hostile.
fn hostile_image() -> Layout {
    let path = format!("srv/{HOSTILE}");
    let layers = [Layer::of_image(end_to_end::Image::Debian, 0), Layer::of_files(&[(path.as_str(), &[7; 5000])])];
    Layout::of_config(
        &layers,
        &json!({
            "Entrypoint": [HOSTILE], "Cmd": [HOSTILE], "User": HOSTILE, "Env": [format!("A={HOSTILE}")],
            "WorkingDir": format!("/{HOSTILE}"), "Labels": {HOSTILE: HOSTILE}, "StopSignal": HOSTILE,
            "Volumes": {format!("/{HOSTILE}"): {}}, "ExposedPorts": {HOSTILE: {}},
            "Healthcheck": {"Test": ["CMD", HOSTILE]},
        }),
    )
}

fn registry() -> FakeRegistry {
    FakeRegistry::start(&[], |request| {
        let error = json!({"errors": [{"code": "X", "message": HOSTILE}]}).to_string();
        let (status, headers) = match request.path.as_str() {
            // HTTP allows no ASCII control characters in a header, but it allows these.
            path if path.contains("login") => (
                401,
                "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:1/\u{9b}2J\u{202e}\",service=\"\u{9b}\"".to_owned(),
            ),
            path if path.contains("moved") => (307, "Location: http://\u{202e}\u{9b}.test/".to_owned()),
            path if path.contains("busy") => (429, "Retry-After: 0".to_owned()),
            path if path.contains("broken") => (500, "Docker-Content-Digest: \u{9b}".to_owned()),
            _ => (404, "Content-Type: \u{202e}".to_owned()),
        };
        Reply::Answer(status, vec![headers], error)
    })
}

#[test]
fn every_command_escapes_what_it_prints() {
    let machines = Machines { session: Session::user(), engine: Engine::Qemu };
    let session = &machines.session;
    let mut all = Checked { session, seen: BTreeSet::new(), printed: String::new() };
    images(&mut all);
    running_machine(&mut all, &machines);
    ended_machine(&mut all, &machines);
    for command in ["rmi", "gc"] {
        all.run(
            &[command, REFERENCE].map(|word| if command == "gc" && word == REFERENCE { "--dry-run" } else { word }),
        );
    }
    let help = session.ok(["--help"]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A line with more space goes on from the one before.
    let listed = listed.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let commands: BTreeSet<String> = listed.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(commands.contains("run"), "{help}");
    let missing: Vec<&String> = commands.iter().filter(|command| !all.seen.contains(*command)).collect();
    assert!(missing.is_empty(), "no case of this test runs {missing:?}");
    assert!(all.printed.matches(r"\x1b]0;owned\x07\x1b[31m\u{9b}2J\x7f\r\u{202e}").count() > 20, "{}", all.printed);
    session.traces().assert_nothing_left();
}

/// Commands on images, registries and files.
fn images(all: &mut Checked<'_>) {
    let session = all.session;
    let layout = hostile_image();
    all.run(&["import", layout.path().to_str().unwrap(), "--tag", REFERENCE]);
    all.run(&["help", HOSTILE]);
    let archive = session.work("archive");
    std::fs::write(archive.join(HOSTILE), "x").unwrap();
    all.run(&["import", archive.join(HOSTILE).to_str().unwrap()]);
    all.run(&["import", &format!("oci:{}:{HOSTILE}", layout.path().display())]);
    all.run(&["import", &format!("docker-daemon:{HOSTILE}")]);
    let index = layout.path().join("index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let named = text.replace("\"latest\"", &serde_json::to_string(HOSTILE).unwrap());
    assert_ne!(text, named);
    std::fs::write(&index, named).unwrap();
    all.run(&["import", layout.path().to_str().unwrap()]);

    let registry = registry();
    for name in ["missing", "login", "moved", "busy", "broken"] {
        let name = registry.name(&format!("{name}:1"));
        assert!(!all.run(&["pull", &name]), "{name}");
    }
    all.run(&["pull", HOSTILE]);

    for arguments in [
        vec!["images"],
        vec!["inspect", REFERENCE],
        vec!["inspect", "--text", REFERENCE],
        vec!["du", "--layers"],
        vec!["gc", "--dry-run"],
    ] {
        all.ask(&arguments);
    }
    for command in ["prepare", "inspect", "rmi", "export", "build-image", "materialize", "mount", "verify"] {
        let mut arguments = vec![command, HOSTILE];
        arguments.extend(matches!(command, "export" | "build-image" | "materialize" | "mount").then_some(HOSTILE));
        assert!(!all.run(&arguments), "{command}");
        all.run(&[command, &format!("--{HOSTILE}")]);
    }
    docker_words(all, &registry);
    all.run(&["prepare", REFERENCE]);
    all.run(&["gc", "--explain", HOSTILE]);
    all.run(&["umount", HOSTILE]);
    all.run(&["stats", HOSTILE]);
    all.run(&["doctor", "--kernel", HOSTILE]);
    all.run(&["completions", HOSTILE]);
    all.run(&["completions", "bash"]);
    all.run(&["man", &format!("/dev/null/{HOSTILE}")]);
    all.run(&["containerd", "pull", "--address", HOSTILE, "debian"]);
    all.run(&["containerd", "pull", HOSTILE]);
    all.run(&["containerd", HOSTILE]);
    all.run(&["podman", HOSTILE]);
    all.run(&["podman", "--directory", &format!("/dev/null/{HOSTILE}"), REFERENCE]);
    all.run(&["podman", "--remove", HOSTILE]);
    for command in ["export", "build-image", "materialize"] {
        let to = session.work("made").join(format!("{command}{HOSTILE}"));
        assert!(all.run(&[command, REFERENCE, to.to_str().unwrap()][..]) || command == "materialize", "{command}");
    }

    // A file with such a name has changed in the store.
    let blob = session.layer_file(&Layer::of_files(&[(format!("srv/{HOSTILE}").as_str(), &[7; 5000])]), "blob");
    let mut bytes = std::fs::read(&blob).unwrap();
    let content = bytes.windows(64).position(|part| part == [7; 64]).unwrap();
    bytes[content + 100] ^= 1;
    std::fs::set_permissions(&blob, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&blob, &bytes).unwrap();
    all.ask(&["verify"]);
    bytes[content + 100] ^= 1;
    std::fs::write(&blob, &bytes).unwrap();
}

/// Commands on images that docker has.
fn docker_words(all: &mut Checked<'_>, registry: &FakeRegistry) {
    for name in ["missing", "login", "moved", "busy", "broken"] {
        let name = registry.name(&format!("{name}:1"));
        all.run(&["tag", REFERENCE, &name]);
        assert!(!all.run(&["push", &name]), "{name}");
        all.run(&["rmi", &name]);
    }
    all.ask(&["history", REFERENCE]);
    all.ask(&["version"]);
    all.ask(&["system", "df"]);
    all.ask(&["image", "inspect", REFERENCE]);
    all.ask(&["image", "inspect", "--text", REFERENCE]);
    all.ask(&["image", "ls"]);
    all.ask(&["container", "ls", "--all"]);
    all.ask(&["volume", "ls"]);
    let saved = all.session.work("saved").join(HOSTILE);
    assert!(all.run(&["save", "--output", saved.to_str().unwrap(), REFERENCE]), "{}", all.printed);
    assert!(all.run(&["load", "--input", saved.to_str().unwrap()]), "{}", all.printed);
    for command in ["history", "tag", "push", "save", "load", "login", "logout", "shell", "create"] {
        assert!(!all.run(&[command, HOSTILE]), "{command}");
        all.run(&[command, HOSTILE, HOSTILE]);
    }
    for group in ["image", "container", "volume", "system"] {
        for command in [HOSTILE, "inspect", "rm", "prune"] {
            all.run(&[group, command, HOSTILE]);
        }
    }
}

/// Commands on a machine that runs.
fn running_machine(all: &mut Checked<'_>, machines: &Machines) {
    let run = ["run", "--accel", "tcg"];
    all.run(&[&run[..], &["--dry-run", "--explain", REFERENCE]].concat());
    all.run(
        &[&run[..], &["--dry-run", "--explain", "-u", "0:0", "-w", "/", "--entrypoint", HOSTILE, REFERENCE]].concat(),
    );
    all.run(&["run", HOSTILE, "--", HOSTILE]);
    all.run(&["run", "-v", HOSTILE, REFERENCE]);
    all.run(&["run", "-v", &format!("/nowhere{HOSTILE}:/x"), REFERENCE]);
    all.run(&["run", "--secret", HOSTILE, REFERENCE]);
    let script = r#"mkdir /srv/made && echo > "/srv/made/$0" && ln -s "$0" /srv/link && mkfifo "/srv/made/fifo$0" && touch /srv/done; sleep 1000"#;
    let options = ["--keep=200M", "--detach", "--name", "m", "-u", "0:0", "-w", "/", "--entrypoint", "/bin/sh", "-e"];
    let env = format!("X{HOSTILE}={HOSTILE}");
    let started = all.run(&[&run[..], &options, &[env.as_str(), REFERENCE, "--", "-c", script, HOSTILE]].concat());
    assert!(started, "{}", all.printed);
    until("the guest's files", || machines.session.exec("m", "test -e /srv/done").status.success());

    all.ask(&["ps", "--all"]);
    all.ask(&["inspect", "m"]);
    all.ask(&["inspect", "--text", "m"]);
    all.ask(&["diff", "m"]);
    assert!(all.printed.contains(r"A /srv/made/x\x1b]0;owned"), "{}", all.printed);
    all.run(&["exec", "m", "--", HOSTILE]);
    all.run(&["exec", "-w", HOSTILE, "m", "--", "true"]);
    let copied = all.session.work("copied");
    all.run(&["cp", &format!("m:/{HOSTILE}"), copied.to_str().unwrap()]);
    all.run(&["cp", "m:/srv/made", copied.to_str().unwrap()]);
    all.run(&["cp", HOSTILE, "m:/x"]);
    all.run(&["cp", &format!("m:/srv/made/{HOSTILE}"), &format!("/dev/null/{HOSTILE}")]);
    all.run(&["stats", "--no-stream", "m"]);
    all.run(&["top", "m"]);
    all.run(&["port", "m"]);
    all.run(&["rename", "m", HOSTILE]);
    all.run(&["commit", "m", HOSTILE]);
    assert!(all.run(&["stop", "m"]), "{}", all.printed);
}

/// Commands on a machine whose record and log hold what a guest or a helper might have said.
fn ended_machine(all: &mut Checked<'_>, machines: &Machines) {
    let directory = machines.session.machine_directory("m");
    let path = directory.join("machine.json");
    let mut record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (field, value) in [
        ("root", json!(HOSTILE)),
        ("command", json!([HOSTILE])),
        ("warnings", json!([HOSTILE])),
        ("state", json!("failed")),
        ("reason", json!(HOSTILE)),
        ("status", json!(125)),
    ] {
        record[field] = value;
    }
    write(&path, &record.to_string());
    write(&directory.join("lamina.log"), &format!("{HOSTILE}\n"));
    all.ask(&["ps", "--all"]);
    all.ask(&["inspect", "m"]);
    all.ask(&["logs", "--launcher", "m"]);
    all.run(&["logs", "--json", "m"]);
    all.run(&["logs", "--json", "--console", "m"]);
    write(&path, &format!("{HOSTILE}{record}"));
    all.ask(&["ps", "--all"]);
    for command in [
        "start", "wait", "kill", "stop", "logs", "diff", "rm", "stats", "commit", "attach", "port", "top", "rename",
        "restart",
    ] {
        let count = if matches!(command, "commit" | "rename") { 3 } else { 2 };
        all.run(&[command, HOSTILE, "x:1"][..count]);
        all.run(&[command, &format!("--{HOSTILE}")]);
    }
    write(&path, &record.to_string());
    all.run(&["rm", "--force", "m"]);
}

/// Replaces a file's content. The file still belongs to its user.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_terminal_gets_the_colours_of_this_program_and_no_others() {
    let session = Session::user();
    let script = Path::new("/usr/bin/script");
    for words in [
        r#""$LAMINA" stats "$HOSTILE""#,
        r#""$LAMINA" "$HOSTILE""#,
        r#""$LAMINA" images "--$HOSTILE""#,
        r#""$LAMINA" --verbose --verbose --store "$PWD/$HOSTILE" import "$HOSTILE""#,
        r#""$LAMINA" import "docker-archive:$HOSTILE""#,
    ] {
        let program = session.program("lamina").get_program().to_owned();
        let mut command = session.command(script);
        let output = command.args(["-qec", words, "/dev/null"]).env("HOSTILE", HOSTILE).env("LAMINA", program).output();
        let output = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(output.contains(r"x\x1b]0;owned\x07\x1b[31m\u{9b}2J\x7f\r\u{202e}"), "{words}: {output:?}");
        for raw in ["\u{1b}]", "\u{7}", "\u{9b}", "\u{7f}", "\u{202e}", "\u{2066}", "\u{2028}", "2J\u{1b}"] {
            assert!(!output.contains(raw), "{words}: {raw:?} in {output:?}");
        }
    }
}
