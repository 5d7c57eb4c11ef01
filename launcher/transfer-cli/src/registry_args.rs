//! The options of commands that talk to registries.

use std::fmt;
use std::path::PathBuf;

use layer_store::{ImagePolicy, Login, PolicyFiles, PullOptions};

/// How to reach a registry.
#[derive(Clone, Debug, clap::Args)]
pub struct RegistryArgs {
    /// Use HTTP without TLS (detected automatically for registries on this host)
    #[arg(long)]
    plain_http: bool,
    /// Check the certificates of registries; =false also allows registries without TLS [default: as registries.conf says,
    /// else true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// Trust the certificates in this PEM file too
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Read the certificates for the registry from this directory instead of certs.d: CAs are *.crt, this client's
    /// certificates *.cert with *.key
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// Read logins from this file only [default: $REGISTRY_AUTH_FILE, else those of podman and docker]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

/// A login on the command line.
#[derive(Clone, Debug, clap::Args)]
pub struct CredsArg {
    /// Use this login; other users of this host can see it while the command runs, unlike one of `lamina login`
    #[arg(long, value_name = "USER:PASSWORD", value_parser = hidden)]
    creds: Option<Hidden>,
}

/// Text that is shown nowhere.
#[derive(Clone)]
struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

/// Takes any text: an error of this parser would quote it.
#[expect(clippy::unnecessary_wraps, reason = "the form of a parser")]
fn hidden(text: &str) -> Result<Hidden, String> {
    Ok(Hidden(text.to_owned()))
}

impl RegistryArgs {
    /// Returns the options for the library.
    ///
    /// # Errors
    /// The file with logins is missing, or the login on the command line is not one.
    pub fn options(&self, creds: Option<&CredsArg>) -> Result<PullOptions, WrongOption> {
        if let Some(file) = self.authfile.as_ref().filter(|file| !file.exists()) {
            return Err(WrongOption::new(file.display(), "there is no such file with logins"));
        }
        self.options_for_login(creds)
    }

    /// Does the same where the file with logins may be a new one.
    ///
    /// # Errors
    /// The login on the command line is not one.
    pub fn options_for_login(&self, creds: Option<&CredsArg>) -> Result<PullOptions, WrongOption> {
        let login = creds.and_then(|creds| creds.creds.as_ref()).map(|Hidden(text)| text.parse::<Login>());
        let login = login.transpose().map_err(|error| WrongOption::new("--creds", error))?;
        Ok(PullOptions {
            plain_http: self.plain_http,
            verify_tls: self.tls_verify,
            ca_file: self.ca_file.clone(),
            certificates: self.cert_dir.clone(),
            credential_files: self.authfile.clone().map(|file| vec![file]),
            login,
            ..PullOptions::default()
        })
    }

    /// Returns the file with logins that was named.
    #[must_use]
    pub fn authfile(&self) -> Option<PathBuf> {
        self.authfile.clone()
    }
}

/// Which images may enter the store.
#[derive(Clone, Debug, clap::Args)]
pub struct PolicyArgs {
    /// Obey this policy for images [default: ~/.config/containers/policy.json, else /etc/containers/policy.json, if it exists]
    #[arg(long, alias = "signature-policy", value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Read from this directory which registries keep signatures [default: registries.d beside the policy's default]
    #[arg(long = "registries.d", value_name = "DIR")]
    registries: Option<PathBuf>,
}

impl PolicyArgs {
    /// Returns the policy for the library.
    #[must_use]
    pub fn policy(&self) -> ImagePolicy {
        ImagePolicy::Of(PolicyFiles { policy: self.policy.clone(), registries: self.registries.clone() })
    }
}

/// An option with a value that cannot be used: wrong usage of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongOption {
    /// The option, or the file that it names.
    pub thing: String,
    /// What is wrong with it.
    pub cause: String,
}

impl WrongOption {
    pub(crate) fn new(thing: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self { thing: thing.to_string(), cause: cause.to_string() }
    }
}

impl fmt::Display for WrongOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.thing, self.cause)
    }
}

impl std::error::Error for WrongOption {}
