//! The command line, and what it does on Linux.

use anyhow::Context;
use clap::Parser;
use composefs_fuse::Server;
use composefs_fuse::linux::background::{self, BackgroundError};
use composefs_fuse::linux::{Ended, MountOptions, MountPoint, ServeOptions, StatsOutlet, serve};
use layer_store::{BaseId, Store};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  composefs-fuse \"$(lamina prepare debian:12)\" /mnt   mount an image, and return when it can be read
  fusermount3 -u /mnt                                 take it away again
  composefs-fuse --foreground --verbose BASE /mnt     serve until Ctrl-C, then show what was asked
  composefs-fuse -o allow_other BASE /mnt             let other users in, modes and owners being checked

Without allow_other only the user who mounts gets in, and modes are not checked for them.";

/// Shows a prepared base as a read-only tree, served from the store without unpacking anything.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The store [default: $XDG_DATA_HOME/lamina or ~/.local/share/lamina]
    #[arg(long, value_name = "DIR", env = "LAMINA_STORE")]
    store: Option<PathBuf>,
    /// Use the layers of this store too, in place (may be given several times; also LAMINA_ALSO_READ, separated by colons)
    #[arg(long, value_name = "DIR")]
    also_read: Vec<PathBuf>,
    /// What `lamina prepare` printed
    base: BaseId,
    /// An empty directory to mount it on
    dir: PathBuf,
    /// Do not return until it is unmounted or a signal comes
    #[arg(long, short)]
    foreground: bool,
    /// allow_other, default_permissions, noexec, fsname=NAME; for root also suid, dev
    #[arg(short = 'o', value_name = "OPTION,...", value_delimiter = ',')]
    options: Vec<MountWord>,
    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Answer with counters as JSON at this socket [default: one in $XDG_RUNTIME_DIR/lamina]
    #[arg(long, value_name = "SOCKET")]
    stats: Option<PathBuf>,
    /// Where messages go once in the background [default: ~/.local/state/lamina/mount.log]
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    log: Option<PathBuf>,
    /// Say more, and at the end what was asked and how long it took
    #[arg(long, short)]
    verbose: bool,
    /// Set by this program for the process that it leaves in the background
    #[arg(long, hide = true)]
    background_child: bool,
}

/// One word behind `-o`.
#[derive(Clone, Debug)]
enum MountWord {
    AllowOther,
    DefaultPermissions,
    Suid,
    Dev,
    Noexec,
    Fsname(String),
    /// What every such mount is anyway, or what `mount(8)` adds of its own accord (`rw`, which it never is).
    Implied,
}

impl std::str::FromStr for MountWord {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Ok(match word {
            "allow_other" => Self::AllowOther,
            "default_permissions" => Self::DefaultPermissions,
            "suid" => Self::Suid,
            "dev" => Self::Dev,
            "noexec" => Self::Noexec,
            "ro" | "rw" | "nosuid" | "nodev" | "exec" | "auto" | "noauto" | "user" | "nouser" | "_netdev"
            | "nofail" => Self::Implied,
            _ => match word.split_once('=') {
                Some(("fsname", name)) if !name.is_empty() => Self::Fsname(name.to_owned()),
                _ => {
                    let known = "allow_other, default_permissions, noexec, suid, dev, ro, nosuid, nodev, fsname=NAME";
                    return Err(format!("not an option of this mount; there are {known}"));
                }
            },
        })
    }
}

/// Runs the program; its outcome is the process's.
pub(crate) fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let level = if arguments.verbose { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("LAMINA_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // It would say by `eprintln!` that it cannot write, and panic for the same reason.
        .log_internal_errors(false)
        .with_target(false)
        .init();

    let outcome = if arguments.foreground || arguments.background_child {
        mount(&arguments)
    } else {
        return start_in_background();
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("composefs-fuse: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts this program once more with the same arguments, to serve on.
fn start_in_background() -> ExitCode {
    match background::start("--background-child") {
        Ok(()) => ExitCode::SUCCESS,
        Err(BackgroundError::Ended(status)) => {
            status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            eprintln!("composefs-fuse: {error}");
            ExitCode::FAILURE
        }
    }
}

fn mount(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.background_child {
        background::detach().context("cannot leave the terminal")?;
    }
    // Before the store: the commonest mistake is the cheapest to find.
    let mount_point = MountPoint::new(&arguments.dir)?;
    let root = match &arguments.store {
        Some(root) => std::path::absolute(root).context("the working directory")?,
        None => Store::default_root(),
    };
    let mut others = Vec::new();
    for other in arguments.also_read.iter().cloned().chain(Store::additional_roots_from_environment()) {
        others.push(std::path::absolute(other).context("the working directory")?);
    }
    let store = Store::open(&root)?.with_additional(&others)?;
    let server = Arc::new(Server::new(Arc::new(store.bases().open(&arguments.base)?)));
    let options = ServeOptions {
        mount: mount_options(&arguments.options),
        threads: arguments.threads.into(),
        stats: arguments
            .stats
            .as_deref()
            .map(std::path::absolute)
            .transpose()?
            .map_or_else(StatsOutlet::default, StatsOutlet::At),
    };
    let log = arguments.log.as_deref().map(std::path::absolute).transpose()?.or_else(background::default_log);
    let ended = serve(&server, &mount_point, &options, || {
        if arguments.background_child {
            return background::report_ready(log.as_deref());
        }
        tracing::info!("serving {} on {}", arguments.base, mount_point.path().display());
        Ok(())
    })?;
    if let Ended::SignalWhileBusy(_) = ended {
        tracing::warn!("{}: files were still open; reading them fails from now on", mount_point.path().display());
    }
    if arguments.verbose {
        eprint!("{}", server.stats().snapshot());
    }
    Ok(())
}

fn mount_options(words: &[MountWord]) -> MountOptions {
    let mut options = MountOptions::default();
    for word in words {
        match word {
            MountWord::AllowOther => options.allow_other = true,
            MountWord::DefaultPermissions => options.default_permissions = true,
            MountWord::Suid => options.suid = true,
            MountWord::Dev => options.dev = true,
            MountWord::Noexec => options.noexec = true,
            MountWord::Fsname(name) => options.fsname.clone_from(name),
            MountWord::Implied => {}
        }
    }
    options
}
