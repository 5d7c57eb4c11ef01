//! `lamina port`.

use crate::cli::Global;
use crate::failure::{FAILED, Failure, USAGE};
use crate::host::network::Publish;
use crate::machine::{self, Machine};
use crate::print;

/// Show which ports of this host lead to a machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina port web
  lamina port web 80/tcp")]
pub(in crate::cli) struct Port {
    /// The machine
    #[arg(value_name = "NAME", required_unless_present = "all")]
    name: Option<String>,
    /// Show only what leads to this port of the machine
    #[arg(value_name = "PORT[/tcp|/udp]")]
    port: Option<String>,
    /// Show the ports of all machines that run, after their names
    #[arg(short, long, conflicts_with = "name")]
    all: bool,
}

impl Port {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let wanted = self.port.as_deref().map(parse).transpose()?;
        let records = match &self.name {
            Some(name) => vec![Machine::find(name)?.record],
            None => machine::all()?.into_iter().filter(|record| record.state.is_active()).collect(),
        };
        let is_wanted = |port: &&Publish| wanted.is_none_or(|(guest, udp)| (port.guest, port.udp) == (guest, udp));
        let ports: Vec<(&str, &Publish)> = records
            .iter()
            .flat_map(|record| record.published.iter().filter(is_wanted).map(|port| (record.name.as_str(), port)))
            .collect();
        if global.json {
            let ports: Vec<&Publish> = ports.into_iter().map(|(_, port)| port).collect();
            return print::json_pretty(&ports).map(|()| 0);
        }
        for (name, port) in &ports {
            let name = if self.all { format!("{name}  ") } else { String::new() };
            let kind = if port.udp { "udp" } else { "tcp" };
            match wanted {
                Some(_) => say!("{name}{}", port.on_host()),
                None => say!("{name}{}/{kind} -> {}", port.guest, port.on_host()),
            }
        }
        match &self.name {
            Some(name) if ports.is_empty() && wanted.is_some() => {
                tell!("lamina: machine {name}: nothing leads to this port");
                Ok(FAILED)
            }
            _ => Ok(0),
        }
    }
}

/// Reads a port of a machine, and whether it is one of UDP.
fn parse(text: &str) -> Result<(u16, bool), Failure> {
    let wrong = || Failure::new(text, "expected a port, as in 80 or 53/udp").with_status(USAGE);
    let (port, kind) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match kind {
        "tcp" => false,
        "udp" => true,
        _ => return Err(wrong()),
    };
    Ok((port.parse().map_err(|_| wrong())?, udp))
}
