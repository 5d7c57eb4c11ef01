//! Options of `lamina run` about what the guest's init sets up, and about what the command may do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use guest_protocol::{CAPABILITIES, Device, GuestOptions, Limit, Privileges, RESOURCES};
use transfer_cli::parse_size;

use crate::failure::{About, Failure};
use crate::host::network::GATEWAY;
use crate::spec::ResolverChanges;
use crate::text_file;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Names, limits and labels")]
pub(in crate::cli) struct GuestArgs {
    /// The VM's host name [default: the machine's name]
    #[arg(short = 'h', long, value_name = "NAME", value_parser = parse_hostname)]
    pub(super) hostname: Option<String>,
    /// Add a name to /etc/hosts; host-gateway is this host
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = parse_host)]
    add_host: Vec<(IpAddr, String)>,
    /// Ask this name server instead of the host's; an IPv6 one only with --network host
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Search names in this domain instead of the host's; "." searches in none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Set an option of the resolver, such as ndots:2
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// The size of /dev/shm [default: half of the memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    shm_size: Option<u64>,
    /// Set a control of the VM's kernel
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_sysctl)]
    sysctl: Vec<(String, String)>,
    /// Check that the VM has a device, and give it another path too; devices of this host do not reach it
    #[arg(long, value_name = "DEVICE[:PATH]", value_parser = parse_device)]
    device: Vec<Device>,
    /// Limit a resource of the command and of those that `lamina exec` runs
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = parse_limit)]
    ulimit: Vec<Limit>,
    /// Take a capability away, or ALL
    #[arg(long, value_name = "NAME", value_parser = parse_capabilities)]
    cap_drop: Vec<Capabilities>,
    /// Leave a capability that --cap-drop ALL takes away; root has all others anyway
    #[arg(long, value_name = "NAME", value_parser = parse_capabilities)]
    cap_add: Vec<Capabilities>,
    /// Add the command to a group of the image, or to one with this number
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Run an init; a VM always has one, which collects processes that have ended and passes on signals
    #[arg(long)]
    init: bool,
    /// Add a label, for `lamina ps --filter` and `inspect`
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Add an annotation; it is kept as a label
    #[arg(long, value_name = "NAME=VALUE")]
    annotation: Vec<String>,
    /// Write the machine's name to a new file
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,
    /// How many seconds `lamina stop` gives the command [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub(super) stop_timeout: Option<u32>,
    /// Accepted, because nothing runs health checks
    #[arg(long, hide = true)]
    no_healthcheck: bool,
    /// Accepted: a port of the image is published with -p or -P
    #[arg(long, hide = true)]
    expose: Vec<String>,
    /// Accepted: a command that is an init system is known by its name
    #[arg(long, hide = true)]
    systemd: Option<String>,
    /// Accepted: nothing here signs images in docker's way
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    disable_content_trust: Option<Option<String>>,
}

impl GuestArgs {
    pub(super) fn options(&self) -> GuestOptions {
        GuestOptions {
            hosts: self.add_host.clone(),
            shm_size: self.shm_size,
            sysctls: self.sysctl.clone(),
            tmpfs: Vec::new(),
            devices: self.device.clone(),
        }
    }

    pub(super) fn resolver(&self) -> ResolverChanges {
        ResolverChanges { servers: self.dns.clone(), search: self.dns_search.clone(), options: self.dns_option.clone() }
    }

    pub(super) fn privileges(&self) -> Privileges {
        let all = |given: &[Capabilities]| given.iter().fold(0, |all, given| all | given.0);
        Privileges {
            no_new_privileges: false,
            groups: self.group_add.clone(),
            limits: self.ulimit.clone(),
            dropped_capabilities: all(&self.cap_drop) & !all(&self.cap_add),
            added_capabilities: all(&self.cap_add),
        }
    }

    pub(super) fn labels(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut lines = Vec::new();
        for file in &self.label_file {
            let about = || format!("--label-file {}", file.display());
            let text = text_file::read(file).about(about())?;
            lines.extend(
                text_file::lines(&text).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned),
            );
        }
        lines.extend(self.label.iter().chain(&self.annotation).cloned());
        Ok(labels(&lines))
    }
}

/// Splits labels into names and values.
pub(super) fn labels(lines: &[String]) -> BTreeMap<String, String> {
    let split = |line: &String| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (name.to_owned(), value.to_owned())
    };
    lines.iter().map(split).collect()
}

fn parse_hostname(text: &str) -> Result<String, String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(is_good) && !text.starts_with(['-', '.']) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 64 letters, digits, \"-\", \"_\" or \".\"".to_owned())
}

fn parse_host(text: &str) -> Result<(IpAddr, String), String> {
    let wrong = || "expected NAME:ADDRESS, as in db:10.0.2.2 or host:host-gateway".to_owned();
    let split = text.find(['=', ':']).ok_or_else(wrong)?;
    let (name, address) = (&text[..split], text[split + 1..].trim_matches(['[', ']']));
    let address = if address == "host-gateway" { IpAddr::V4(GATEWAY) } else { address.parse().map_err(|_| wrong())? };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '#' || c.is_control()) {
        return Err(wrong());
    }
    Ok((address, name.to_owned()))
}

fn parse_sysctl(text: &str) -> Result<(String, String), String> {
    let wrong = || "expected NAME=VALUE, as in net.core.somaxconn=1024".to_owned();
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    // As in sysctl(8): if the first separator is a dot, a slash stands for a dot within a name.
    let name = match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('.') => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    };
    if name.is_empty() || name.starts_with('/') || name.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(wrong());
    }
    Ok((name, value.to_owned()))
}

fn parse_device(text: &str) -> Result<Device, String> {
    let mut parts = text.split(':');
    let path = parts.next().unwrap_or_default().to_owned();
    let is_path = |part: &&str| part.starts_with('/');
    let also = parts.next().filter(is_path).filter(|also| *also != path).map(str::to_owned);
    if !path.starts_with("/dev/") || path.contains("..") || also.as_ref().is_some_and(|also| also.contains("..")) {
        return Err("expected a device of the VM, as in /dev/fuse".to_owned());
    }
    Ok(Device { path, also })
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    let wrong = || format!("expected NAME=SOFT or NAME=SOFT:HARD, NAME one of {}", RESOURCES.join(", "));
    if text == "host" {
        return Err("the limits of a container are this host's anyway; leave it out".to_owned());
    }
    let (resource, values) = text.split_once('=').ok_or_else(wrong)?;
    if !RESOURCES.contains(&resource) {
        return Err(wrong());
    }
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        number => number.parse().map(Some).map_err(|_| wrong()),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
        return Err("the first limit must not be higher than the second".to_owned());
    }
    Ok(Limit { resource: resource.to_owned(), soft, hard })
}

/// A set of capabilities: bit N is the capability with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capabilities(u64);

fn parse_capabilities(text: &str) -> Result<Capabilities, String> {
    let mut set = 0;
    for name in text.split(',') {
        let upper = name.to_ascii_uppercase();
        let wanted = upper.strip_prefix("CAP_").unwrap_or(&upper);
        set |= match CAPABILITIES.iter().position(|known| *known == wanted) {
            Some(number) => 1 << number,
            None if wanted == "ALL" => u64::MAX,
            None => return Err(format!("{name:?} is no capability, such as NET_ADMIN or ALL")),
        };
    }
    Ok(Capabilities(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_sysctls_limits_and_devices_are_read_as_docker_reads_them() {
        let v4 = |a, b, c, d| IpAddr::from([a, b, c, d]);
        assert_eq!(parse_host("db:10.1.2.3"), Ok((v4(10, 1, 2, 3), "db".into())));
        assert_eq!(parse_host("db=10.1.2.3"), Ok((v4(10, 1, 2, 3), "db".into())));
        assert_eq!(parse_host("h:host-gateway"), Ok((v4(10, 0, 2, 2), "h".into())));
        assert_eq!(parse_host("six:[::1]").map(|(address, _)| address.is_ipv6()), Ok(true));
        let control = |name: &str| Ok((name.to_owned(), "1".to_owned()));
        assert_eq!(parse_sysctl("net.core.somaxconn=1"), control("net/core/somaxconn"));
        assert_eq!(parse_sysctl("net/ipv4/conf/eth0.5/x=1"), control("net/ipv4/conf/eth0.5/x"));
        assert_eq!(parse_sysctl("net.ipv4.conf.eth0/5.x=1"), control("net/ipv4/conf/eth0.5/x"));
        let limit = |soft, hard| Ok(Limit { resource: "nofile".into(), soft, hard });
        assert_eq!(parse_limit("nofile=10"), limit(Some(10), Some(10)));
        assert_eq!(parse_limit("nofile=10:20"), limit(Some(10), Some(20)));
        assert_eq!(parse_limit("nofile=10:-1"), limit(Some(10), None));
        assert_eq!(parse_device("/dev/fuse:/dev/fuse:rwm").map(|device| device.also), Ok(None));
        for wrong in ["db", "db:", ":10.0.0.1", "db:here"] {
            assert!(parse_host(wrong).is_err(), "{wrong}");
        }
        for wrong in ["a", "=1", "../x=1", "net..x=1", "a/../b=1"] {
            assert!(parse_sysctl(wrong).is_err(), "{wrong}");
        }
        for wrong in ["nofile", "files=1", "nofile=x", "nofile=20:10", "nofile=-1:10"] {
            assert!(parse_limit(wrong).is_err(), "{wrong}");
        }
        assert!(parse_device("fuse").is_err() && parse_device("/dev/../etc").is_err());
    }

    #[test]
    fn capabilities_have_the_numbers_of_the_kernel() {
        for (name, number) in
            [("CHOWN", 0), ("cap_net_admin", 12), ("NET_RAW", 13), ("SYS_ADMIN", 21), ("CHECKPOINT_RESTORE", 40)]
        {
            assert_eq!(parse_capabilities(name), Ok(Capabilities(1 << number)), "{name}");
        }
        assert_eq!(parse_capabilities("ALL"), Ok(Capabilities(u64::MAX)));
        assert!(parse_capabilities("FLY").is_err());
    }
}
