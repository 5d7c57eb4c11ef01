//! passt: which options the version on this host has, and its command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::child;
use super::command_line::CommandLine;
use super::network::{ADDRESS, GATEWAY, NAME_SERVER, PREFIX};
use super::probe_cache::ProbeCache;
use crate::failure::{About, Failure};

/// How long it may take to make its socket.
const DEADLINE: Duration = Duration::from_secs(10);

/// A passt that starts, and the options it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passt {
    pub(crate) program: PathBuf,
    /// The option names in its help text.
    options: Vec<String>,
}

impl Passt {
    /// Finds it, reads which options it has, and starts it once.
    ///
    /// # Errors
    /// It is missing, or it does not create its socket. The failure quotes what it wrote.
    pub(crate) fn find() -> Result<Self, Failure> {
        Self::examine(locate()?)
    }

    /// Does the same, but uses the probe cache if the program has not changed.
    ///
    /// # Errors
    /// As for [`Passt::find`].
    pub(crate) fn cached(probes: &mut ProbeCache) -> Result<Self, Failure> {
        let program = locate()?;
        probes.recall("passt options", &[&program.clone()], || Self::examine(program))
    }

    fn examine(program: PathBuf) -> Result<Self, Failure> {
        let output = Command::new(&program).arg("--help").stdin(Stdio::null()).output().about(program.display())?;
        // Some versions print their help on standard error.
        let help = [output.stdout, output.stderr].concat();
        let found = Self { program, options: parse_options(&String::from_utf8_lossy(&help)) };
        found.attempt()?;
        Ok(found)
    }

    /// Starts it without a guest, and waits for its socket.
    fn attempt(&self) -> Result<(), Failure> {
        let about = self.program.display();
        let scratch = tempfile::Builder::new().prefix("lamina-passt-").tempdir().about("temporary directory")?;
        let (socket, log) = (scratch.path().join("s"), scratch.path().join("log"));
        let output = std::fs::File::create(&log).about(log.display())?;
        let mut command = child::command(&self.command(&socket, false, rustix::process::geteuid().is_root(), false))?;
        let mut started = command.stdout(Stdio::null()).stderr(output).spawn().about(&about)?;
        let start = Instant::now();
        let outcome = loop {
            if socket.exists() {
                break Ok(());
            }
            if let Some(status) = started.try_wait().about(&about)? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                break Err(explain(&said, &format!("it ended ({status}) before it created its socket")));
            }
            if start.elapsed() > DEADLINE {
                break Err(format!("it created no socket in {} s", DEADLINE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // Both fail for a process that has ended.
        let _ = started.kill();
        let _ = started.wait();
        outcome.map_err(|cause| {
            Failure::new(about, cause).with_hint("use --network slirp, or run lamina as an ordinary user")
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|have| have == option)
    }

    /// Returns whether it can be the server of a vhost-user network card.
    #[must_use]
    pub(crate) fn has_vhost_user(&self) -> bool {
        self.has("vhost-user")
    }

    /// Returns whether the guest's packets must be filtered to close this host's loopback: see
    /// [`super::packet_filter`].
    #[must_use]
    pub(crate) fn needs_filter(&self, host_loopback: bool) -> bool {
        !host_loopback && !self.has("map-host-loopback")
    }

    /// Returns the command line of passt for one machine. passt ends when the hypervisor disconnects. It forwards no port
    /// to the guest, and the gateway leads to this host's loopback only with `host_loopback`. With `vhost_user`, its socket
    /// is that of a vhost-user device.
    #[must_use]
    pub(crate) fn command(&self, socket: &Path, host_loopback: bool, as_root: bool, vhost_user: bool) -> CommandLine {
        let mut command = CommandLine::new(&self.program).args(["--foreground", "--quiet", "--one-off", "--ipv4-only"]);
        if self.has("stderr") {
            // Versions that have this option write only to the system's log without it.
            command = command.arg("--stderr");
        }
        if as_root && self.has("runas") {
            // Otherwise it would become the user nobody, which cannot enter the directory of its socket.
            command = command.args(["--runas", "0:0"]);
        }
        if vhost_user {
            command = command.arg("--vhost-user");
        }
        command = command
            .arg("--socket")
            .arg(socket)
            .args(["--address", &ADDRESS.to_string(), "--netmask", &PREFIX.to_string()])
            .args(["--gateway", &GATEWAY.to_string(), "--dns-forward", &NAME_SERVER.to_string()]);
        command = match (host_loopback, self.has("map-host-loopback")) {
            // Versions of late 2024 have the option and refuse this value.
            (false, true) if !self.has("no-map-gw") => command.args(["--map-host-loopback", "none"]),
            (false, _) => command.arg("--no-map-gw"),
            // Without it, this would not be the gateway on a host that has no route.
            (true, true) => command.args(["--map-host-loopback", &GATEWAY.to_string()]),
            (true, false) => command,
        };
        // The guest's init needs none of them.
        command.args(["--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra"])
    }
}

fn locate() -> Result<PathBuf, Failure> {
    child::find("passt", &[]).ok_or_else(|| {
        Failure::new("passt", "not found in PATH")
            .with_hint("install it (Debian: apt-get install passt), or use --network slirp")
    })
}

/// The option names of a help text, such as `-e, --stderr   Log to stderr too`.
fn parse_options(help: &str) -> Vec<String> {
    let words = help.split(|c: char| c.is_whitespace() || "=,[]<>".contains(c));
    words.filter_map(|word| word.strip_prefix("--")).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Returns `otherwise`, followed by the last meaningful line that passt wrote. passt complains about each line that it
/// cannot write to the system's log.
fn explain(said: &str, otherwise: &str) -> String {
    let log_missing = |line: &str| line.starts_with("Failed to send") && line.ends_with("syslog");
    let mut lines = said.lines().map(str::trim);
    match lines.rfind(|line| !line.is_empty() && !log_missing(line)) {
        Some(line) => format!("{otherwise}: {line}"),
        None => otherwise.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Debian 12 has the first, Debian 13 the second.
    const OLD: &str =
        "  -e, --stderr\t\tLog to stderr too\n  --runas UID|UID:GID \tRun as given UID\n  -1, --one-off\tQuit\n";
    const NEW: &str =
        "  --runas UID|UID:GID \tRun as given UID\n  --map-host-loopback ADDR\tTranslate ADDR to refer to host\n";

    fn passt(help: &str) -> Passt {
        Passt { program: "passt".into(), options: parse_options(help) }
    }

    #[test]
    fn command_line_has_the_options_that_this_passt_knows() {
        let text = |help, open| passt(help).command(Path::new("/run/m/network.sock"), open, false, false).to_shell();
        let texts = [text(OLD, false), text(NEW, false), text(OLD, true), text(NEW, true)];
        insta::assert_snapshot!(texts.join("\n"));
    }

    #[test]
    fn socket_of_a_vhost_user_device_is_made_only_by_a_passt_that_has_it() {
        let newest = passt("  --vhost-user\tEnable vhost-user mode\n  --map-host-loopback ADDR\n");
        assert!(newest.has_vhost_user() && !passt(OLD).has_vhost_user() && !passt(NEW).has_vhost_user());
        let line = newest.command(Path::new("/s"), false, false, true).to_shell();
        assert!(line.contains("--vhost-user") && line.contains("--socket /s"), "{line}");
    }

    #[test]
    fn gateway_is_closed_by_the_option_that_every_version_takes() {
        let both = passt("  --map-host-loopback ADDR\tTranslate\n  --no-map-gw\tDon't map gateway\n");
        let line = both.command(Path::new("/s"), false, false, false).to_shell();
        assert!(line.contains("--no-map-gw") && !line.contains("--map-host-loopback"), "{line}");
        assert!(
            passt(NEW).command(Path::new("/s"), false, false, false).to_shell().contains("--map-host-loopback none")
        );
    }

    #[test]
    fn packets_are_filtered_for_a_passt_that_does_not_drop_those_to_the_loopback() {
        assert!(passt(OLD).needs_filter(false) && !passt(OLD).needs_filter(true));
        assert!(!passt(NEW).needs_filter(false));
    }

    #[test]
    fn root_stays_the_user_who_can_enter_the_directory_of_sockets() {
        for (help, as_root, expected) in [(OLD, true, true), (OLD, false, false), ("", true, false)] {
            let line = passt(help).command(Path::new("/s"), false, as_root, false).to_shell();
            assert_eq!(line.contains("--runas 0:0"), expected, "{line}");
        }
    }

    #[test]
    fn reason_is_the_last_line_that_says_something() {
        let said = "No external routable interface\nFailed to send 40 bytes to syslog\n\n";
        assert_eq!(
            explain(said, "it ended (exit status: 1)"),
            "it ended (exit status: 1): No external routable interface"
        );
        assert_eq!(explain("Failed to send 4 bytes to syslog\n", "it ended"), "it ended");
    }
}
