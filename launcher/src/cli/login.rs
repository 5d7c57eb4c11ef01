//! `lamina login` and `lamina logout`.

use std::io::{IsTerminal, Read};
use std::sync::Arc;

use layer_store::{Cancellation, Login as Pair, Logins, Observer};
use transfer_cli::RegistryArgs;

use super::{Global, store};
use crate::failure::{About, Failure, USAGE};
use crate::print;
use crate::raw_terminal::RawTerminal;

/// The registry of names without one.
const DEFAULT: &str = "docker.io";

/// The most bytes of a password.
const PASSWORD_MAX: u64 = 64 << 10;

/// Store a login for a registry
///
/// The registry is asked first whether it accepts the login. It is stored where podman stores it, or by the credential helper that
/// the file names, and podman, skopeo and buildah use it too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina login ghcr.io
  pass show ghcr | lamina login -u alice --password-stdin ghcr.io
  lamina login --authfile ~/.docker/config.json docker.io
  lamina login --get-login ghcr.io")]
pub(super) struct Login {
    /// The registry, or a part of it such as quay.io/team [default: docker.io]
    #[arg(value_name = "REGISTRY", default_value = DEFAULT, hide_default_value = true)]
    registry: String,
    /// The user's name; asked for if it is missing
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// The password, which other users of this host can see while the command runs; asked for if it is missing
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin", value_parser = Password::parse)]
    password: Option<Password>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Print the name that is logged in, and change nothing
    #[arg(long, conflicts_with_all = ["username", "password", "password_stdin"])]
    get_login: bool,
    #[command(flatten)]
    registry_args: RegistryArgs,
}

/// A password, which is shown nowhere.
#[derive(Clone)]
struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

impl Password {
    #[expect(clippy::unnecessary_wraps, reason = "the form of a parser, whose errors would quote the password")]
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

impl Login {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let logins = Logins::at(self.registry_args.authfile());
        if self.get_login {
            return self.show(&logins, global);
        }
        let user = match &self.username {
            Some(user) => user.clone(),
            None if self.password_stdin || !std::io::stdin().is_terminal() => {
                let failure = Failure::new("lamina login", "there is no terminal to ask for the user's name");
                return Err(failure.with_hint("give it with --username").with_status(USAGE));
            }
            None => ask("Username: ", true)?,
        };
        let password = self.password()?;
        let Some(login) = Pair::new(&user, &password) else {
            return Err(Failure::new("lamina login", "the user's name is empty").with_status(USAGE));
        };
        let options = self.registry_args.options_for_login(None)?;
        let cancellation = Cancellation::default();
        store::cancel_on_signal(&cancellation)?;
        let observer: Arc<dyn Observer> = Arc::new(cancellation);
        logins.add(&self.registry, &login, &options, &observer).map_err(|error| Failure::of(&self.registry, &error))?;
        if global.json {
            let file = logins.path();
            print::json(&serde_json::json!({ "registry": self.registry, "user": user, "file": file }))?;
        } else {
            say!("logged in to {} as {user}; stored in {}", self.registry, logins.path().display());
        }
        Ok(0)
    }

    fn show(&self, logins: &Logins, global: &Global) -> Result<u8, Failure> {
        match logins.user(&self.registry).map_err(|error| Failure::of(&self.registry, &error))? {
            Some(user) if global.json => print::json(&serde_json::json!({ "registry": self.registry, "user": user }))?,
            Some(user) => say!("{user}"),
            None => return Err(Failure::new(&self.registry, "nobody is logged in")),
        }
        Ok(0)
    }

    fn password(&self) -> Result<String, Failure> {
        if let Some(Password(password)) = &self.password {
            return Ok(password.clone());
        }
        if !self.password_stdin {
            if !std::io::stdin().is_terminal() {
                let failure = Failure::new("lamina login", "there is no terminal to ask for the password");
                return Err(failure.with_hint("pass it with --password-stdin").with_status(USAGE));
            }
            return ask("Password: ", false);
        }
        let mut text = String::new();
        std::io::stdin().lock().take(PASSWORD_MAX).read_to_string(&mut text).about("standard input")?;
        let password = text.trim_end_matches(['\n', '\r']);
        if password.is_empty() {
            return Err(Failure::new("standard input", "it has no password").with_status(USAGE));
        }
        Ok(password.to_owned())
    }
}

/// Asks at the terminal. What is typed is shown only if `echo` is set.
#[expect(clippy::disallowed_methods, reason = "a prompt has no line end")]
fn ask(prompt: &str, echo: bool) -> Result<String, Failure> {
    use std::io::Write;
    let show = |text: &str| {
        let mut terminal = std::io::stderr().lock();
        terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush()).about("terminal")
    };
    // First, because the terminal shows what is typed until then.
    let raw = RawTerminal::enter().about("terminal")?;
    show(prompt)?;
    let (mut typed, mut byte) = (Vec::new(), [0]);
    let ended = loop {
        if std::io::stdin().lock().read(&mut byte).about("terminal")? == 0 {
            break true;
        }
        match byte[0] {
            b'\r' | b'\n' => break true,
            // Ctrl-C and Ctrl-D.
            3 | 4 => break false,
            // Backspace, and Ctrl-U.
            8 | 127 if typed.pop().is_some() && echo => show("\x08 \x08")?,
            8 | 127 => {}
            21 => {
                if echo {
                    show(&"\x08 \x08".repeat(typed.len()))?;
                }
                typed.clear();
            }
            other => {
                typed.push(other);
                if echo && other.is_ascii_graphic() {
                    show(&char::from(other).to_string())?;
                }
            }
        }
    };
    drop(raw);
    show("\n")?;
    match String::from_utf8(typed) {
        Ok(text) if ended => Ok(text),
        Ok(_) => Err(Failure::new("lamina login", "cancelled")),
        Err(_) => Err(Failure::new("lamina login", "what was typed is not UTF-8")),
    }
}

/// Remove the login for a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina logout ghcr.io
  lamina logout --all")]
pub(super) struct Logout {
    /// The registry, or a part of it such as quay.io/team [default: docker.io]
    #[arg(value_name = "REGISTRY", conflicts_with = "all")]
    registry: Option<String>,
    /// Remove all logins that are in the file
    #[arg(short, long)]
    all: bool,
    /// Remove it from this file [default: $REGISTRY_AUTH_FILE, else the one that podman writes]
    #[arg(long, value_name = "FILE")]
    authfile: Option<std::path::PathBuf>,
}

impl Logout {
    pub(super) fn execute(&self, global: &Global) -> Result<u8, Failure> {
        let logins = Logins::at(self.authfile.clone());
        let registry = self.registry.as_deref().unwrap_or(DEFAULT);
        let thing = if self.all { "logins" } else { registry };
        let logout = if self.all { logins.remove_all() } else { logins.remove(registry) };
        let logout = logout.map_err(|error| Failure::of(thing, &error))?;
        for file in &logout.elsewhere {
            tell!("lamina: {} still has a login for {registry}; remove it with --authfile", file.display());
        }
        if logout.removed.is_empty() && !self.all {
            return Err(Failure::new(registry, format_args!("{} has no login for it", logins.path().display())));
        }
        if global.json {
            print::json(&serde_json::json!({ "removed": logout.removed }))?;
        } else {
            logout.removed.iter().for_each(|registry| say!("logged out of {registry}"));
        }
        Ok(0)
    }
}
