//! pasta: passt for a network namespace. It makes a network card there, and carries its packets as a program of the
//! user does.

use std::path::Path;

use rustix::process::Pid;

use crate::engine::contract::{Event, Events};
use crate::failure::Failure;
use crate::host::child;
use crate::host::command_line::CommandLine;
use crate::host::confine::Account;
use crate::host::network::{ADDRESS, GATEWAY, NAME_SERVER, PREFIX};
use crate::host::process::Process;

/// Starts it for the namespaces of a process, as `account` if this process is root. It has made its network card a moment
/// later.
///
/// # Errors
/// It is missing, or has no device to make a network card with.
pub(super) fn start(
    of: Pid,
    log: &Path,
    reaches_host: bool,
    account: Option<&Account>,
    events: Events,
) -> Result<Process, Failure> {
    const TUN: &str = "/dev/net/tun";
    rustix::fs::access(TUN, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).map_err(|error| {
        Failure::new(TUN, format_args!("a container's network needs it: {error}"))
            .with_hint("as root: modprobe tun && chmod 666 /dev/net/tun; or use --network none")
    })?;
    let program = child::find("pasta", &[]).ok_or_else(|| {
        Failure::new("pasta", "not found in PATH")
            .with_hint("install it (Debian: apt-get install passt), or use --network none")
    })?;
    let runs_as = account.map(|account| format!("{}:{}", account.uid, account.gid));
    let program = CommandLine::new(program).args(runs_as.iter().flat_map(|ids| ["--runas", ids.as_str()]));
    Process::start(&command(program, of, reaches_host), None, log, move |mut process| {
        let status = process.wait();
        let words = match process.last_words() {
            words if words.is_empty() => words,
            words => format!(": {words}"),
        };
        events(Event::HelperEnded(format!("the server of its network ended ({status}){words}")));
    })
}

/// The same addresses as for a VM. No port is forwarded in either direction, and the gateway leads to the host's loopback
/// only if that is asked for.
fn command(command: CommandLine, of: Pid, reaches_host: bool) -> CommandLine {
    let own = ["--foreground", "--quiet", "--ipv4-only", "--config-net", "--ns-ifname", "eth0"];
    let ports = ["--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"];
    command
        .args(own)
        .args((!reaches_host).then_some("--no-map-gw"))
        .args(ports)
        .args(["--address", &ADDRESS.to_string(), "--netmask", &PREFIX.to_string()])
        .args(["--gateway", &GATEWAY.to_string(), "--dns-forward", &NAME_SERVER.to_string()])
        .args(["--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra"])
        .arg(of.as_raw_nonzero().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_hosts_loopback_is_forwarded() {
        let line = command(CommandLine::new("pasta"), Pid::from_raw(7).unwrap(), false).to_shell();
        for words in ["--no-map-gw", "--tcp-ns none", "--udp-ns none", "--tcp-ports none", "--config-net"] {
            assert!(line.contains(words), "{line}");
        }
        assert!(line.ends_with(" 7"), "{line}");
    }
}
