//! Options of docker's `run` that are accepted with the values that ask for what Lamina does anyway.

use crate::cli::refused;
use crate::failure::{Failure, USAGE};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Accepted {
    #[arg(long, hide = true)]
    restart: Option<String>,
    #[arg(long, hide = true)]
    pid: Option<String>,
    #[arg(long, hide = true)]
    ipc: Option<String>,
    #[arg(long, hide = true)]
    uts: Option<String>,
    #[arg(long, hide = true)]
    cgroupns: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: Option<String>,
    /// no-new-privileges: no program, such as sudo, gives the command more rights
    #[arg(long, value_name = "OPTION", help_heading = "Names, limits and labels")]
    security_opt: Vec<String>,
}

/// The options, and the values with which they are accepted.
pub(in crate::cli) const VALUES: [(&str, &[&str]); 6] = [
    ("--restart", &["no", "never"]),
    ("--pid", &["private"]),
    ("--ipc", &["private", "shareable"]),
    ("--uts", &["private"]),
    ("--cgroupns", &["private"]),
    ("--sig-proxy", &["true"]),
];

/// What `--security-opt` may say: a machine has none of these profiles.
const SECURITY: [&str; 3] = ["label=disable", "apparmor=unconfined", "no-new-privileges=false"];

impl Accepted {
    /// Checks the values. `container` says whether the machine is a container.
    ///
    /// # Errors
    /// An option asks for something else. Says what to do instead.
    pub(super) fn check(&self, container: bool) -> Result<(), Failure> {
        let given = [&self.restart, &self.pid, &self.ipc, &self.uts, &self.cgroupns, &self.sig_proxy];
        for ((option, values), given) in VALUES.iter().zip(given) {
            let wrong = given.as_ref().filter(|given| !given.is_empty() && !values.contains(&given.as_str()));
            if let Some(given) = wrong {
                return Err(refused::of_run(&format!("{option}={given}")));
            }
        }
        for option in self.security_options() {
            match option.as_str() {
                "no-new-privileges" => {}
                "seccomp=unconfined" if container => {
                    let failure = Failure::new(
                        "--security-opt seccomp=unconfined",
                        "a container keeps its filter of system calls",
                    );
                    return Err(failure
                        .with_hint("leave it out, or use a VM, whose kernel has no filter")
                        .with_status(USAGE));
                }
                // A VM filters none.
                "seccomp=unconfined" => {}
                accepted if SECURITY.contains(&accepted) => {}
                other => return Err(refused::of_run(&format!("--security-opt={other}"))),
            }
        }
        Ok(())
    }

    /// Whether no program may give the command more rights.
    pub(super) fn no_new_privileges(&self) -> bool {
        self.security_options().any(|option| option == "no-new-privileges")
    }

    /// Returns the options as docker writes them now: it takes `:` for `=` too.
    fn security_options(&self) -> impl Iterator<Item = String> {
        self.security_opt.iter().map(|option| {
            let option = option.replacen(':', "=", usize::from(!option.contains('=')));
            if option == "no-new-privileges=true" { "no-new-privileges".to_owned() } else { option }
        })
    }
}
