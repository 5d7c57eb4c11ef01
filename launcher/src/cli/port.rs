//! `lamina port`.

use super::Global;
use crate::failure::{FAILED, Failure, USAGE};
use crate::machine::Machine;
use crate::print;

/// Show which ports of this host lead to a machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina port web
  lamina port web 80/tcp")]
pub(super) struct Port {
    /// The machine
    #[arg(value_name = "NAME")]
    name: String,
    /// Show only what leads to this port of the machine
    #[arg(value_name = "PORT[/tcp|/udp]")]
    port: Option<String>,
    /// Accepted: one machine at a time
    #[arg(short, long, hide = true)]
    all: bool,
}

impl Port {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let published = Machine::find(&self.name)?.record.published;
        let kind = |udp| if udp { "udp" } else { "tcp" };
        let wanted = match &self.port {
            None => None,
            Some(text) => {
                let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
                let wrong = || Failure::new(text, "expected a port, as in 80 or 53/udp").with_status(USAGE);
                Some((port.parse::<u16>().map_err(|_| wrong())?, protocol.to_owned()))
            }
        };
        let is_wanted = |guest: u16, udp: bool| {
            wanted.as_ref().is_none_or(|(port, protocol)| *port == guest && *protocol == kind(udp))
        };
        let ports: Vec<_> = published.iter().filter(|port| is_wanted(port.guest, port.udp)).collect();
        if global.json {
            return print::json_pretty(&ports).map(|()| 0);
        }
        for port in &ports {
            match wanted {
                Some(_) => say!("{}", port.on_host()),
                None => say!("{}/{} -> {}", port.guest, kind(port.udp), port.on_host()),
            }
        }
        if ports.is_empty() && wanted.is_some() {
            tell!("lamina: machine {}: nothing leads to this port", self.name);
            return Ok(FAILED);
        }
        Ok(0)
    }
}
