//! Cloud Hypervisor, in the dialect of its version.

use std::path::Path;

use super::{CommandLine, Plan};
use crate::failure::Failure;

/// How a version of Cloud Hypervisor takes several values of one option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// One flag followed by all values: every release but the next.
    OneFlag,
    /// The flag again before each value: v30 to v35, whose parser (argh) refuses anything else.
    RepeatedFlag,
}

impl Dialect {
    /// The dialect of a major version.
    #[must_use]
    pub const fn of(version: u32) -> Self {
        match version {
            30..=35 => Self::RepeatedFlag,
            _ => Self::OneFlag,
        }
    }
}

/// Reads the major version from what `--version` prints: `cloud-hypervisor v51.2` or `... v39.0-dirty`.
#[must_use]
pub fn parse_version(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(1)?;
    version.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// The port of the guest's socket device under which its init reaches the launcher: Cloud Hypervisor has no
/// named serial ports.
pub const CONTROL_PORT: u32 = 1024;

/// The arguments of Cloud Hypervisor for `plan`.
///
/// # Errors
/// Names a path that its option syntax cannot carry.
pub fn command(program: &Path, plan: &Plan, version: u32) -> Result<CommandLine, Failure> {
    let parameters: Vec<&str> = ["console=ttyS0", "panic=-1", "reboot=t"]
        .into_iter()
        .chain(plan.kernel_parameters.iter().map(String::as_str))
        .collect();
    let shares = plan
        .shares
        .iter()
        .map(|share| Ok(format!("tag={},socket={}", plain_text(&share.tag)?, plain(&share.socket)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let mut command = CommandLine::new(program)
        .args(["--cpus", &format!("boot={}", plan.cpus)])
        // Vhost-user devices read the guest's memory, so it must be shared.
        .args(["--memory", &format!("size={}M,shared=on", plan.memory_mib)])
        .arg("--kernel")
        .arg(&plan.kernel)
        .arg("--initramfs")
        .arg(&plan.initramfs)
        .args(["--cmdline", &parameters.join(" ")])
        .args(["--console", "off"])
        .args(["--serial", &format!("file={}", plain(&plan.console)?)])
        .args(["--vsock", &format!("cid=3,socket={}", plain(&plan.control)?)]);
    match Dialect::of(version) {
        Dialect::OneFlag => command = command.arg("--fs").args(shares),
        Dialect::RepeatedFlag => {
            for share in shares {
                command = command.args(["--fs".to_owned(), share]);
            }
        }
    }
    // Last, because the parser would take any words behind `--fs` for further shares.
    Ok(command.arg("--api-socket").arg(&plan.monitor))
}

fn plain(path: &Path) -> Result<&str, Failure> {
    plain_text(path.to_str().ok_or_else(|| Failure::new(path.display(), "Cloud Hypervisor takes UTF-8 paths only"))?)
}

/// Refuses what the option parser of some version gives a meaning to.
fn plain_text(text: &str) -> Result<&str, Failure> {
    if text.contains([',', '"', '[', ']']) {
        return Err(Failure::new(text, "Cloud Hypervisor cannot take a comma, quote or bracket here")
            .remedy("set XDG_RUNTIME_DIR and XDG_STATE_HOME to plain paths"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::example;

    fn text(shares: usize, version: u32) -> String {
        command(Path::new("cloud-hypervisor"), &example(shares), version).unwrap().to_shell()
    }

    #[test]
    fn current_releases_get_one_flag_with_all_shares() {
        insta::assert_snapshot!(text(2, 51));
    }

    #[test]
    fn releases_with_the_other_parser_get_repeated_flags() {
        insta::assert_snapshot!(text(2, 33));
    }

    #[test]
    fn the_dialect_follows_the_version() {
        for (version, dialect) in [
            (29, Dialect::OneFlag),
            (30, Dialect::RepeatedFlag),
            (35, Dialect::RepeatedFlag),
            (36, Dialect::OneFlag),
            (51, Dialect::OneFlag),
            (52, Dialect::OneFlag),
        ] {
            assert_eq!(Dialect::of(version), dialect, "v{version}");
        }
    }

    #[test]
    fn one_flag_carries_any_number_of_shares() {
        for shares in [0, 1, 8, 40] {
            let text = text(shares, 53);
            assert_eq!(text.matches("--fs").count(), 1);
            assert_eq!(text.matches("tag=").count(), shares + 1);
        }
    }

    #[test]
    fn versions_are_read_as_the_program_prints_them() {
        assert_eq!(parse_version("cloud-hypervisor v51.2\n"), Some(51));
        assert_eq!(parse_version("cloud-hypervisor v53.0-dirty"), Some(53));
        assert_eq!(parse_version("cloud-hypervisor 0.9"), Some(0));
        assert_eq!(parse_version("Cloud Hypervisor dummy"), None);
    }

    #[test]
    fn paths_with_the_parsers_own_characters_are_refused() {
        let mut plan = example(0);
        plan.shares[0].socket = "/run/a,b".into();
        let failure = command(Path::new("c"), &plan, 51).unwrap_err().to_string();
        assert!(failure.starts_with("/run/a,b: Cloud Hypervisor cannot take a comma"), "{failure}");
    }
}
