//! The command line.

use anyhow::anyhow;
use clap::Parser;
use composefs_fuse::mount::{MountOptions, OptionError, split_options};
use composefs_fuse::{LogFormat, MountProgram, ProgramEnd, Server, ServerProcess, run_mount_program};
use layer_store::{BaseId, Store, printable};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

use crate::serving::Serving;

const MOUNTING: &str = "\
Examples:
  composefs-fuse \"$(lamina prepare debian:12)\" /mnt   mount an image, and return when it can be read
";

const UNMOUNTING: &str = if cfg!(target_os = "linux") {
    "  fusermount3 -u /mnt                                 unmount it\n"
} else {
    "  umount /mnt                                         unmount it\n"
};

const MORE: &str = "  composefs-fuse --foreground --verbose BASE /mnt     serve until Ctrl-C, then show what was asked
  composefs-fuse -o allow_other BASE /mnt             let other users in, and check modes and owners

Without allow_other only the user who mounts gets in, and modes are not checked for them. Setuid files and devices of the
image never work.";

/// Mounts a prepared base as a read-only tree, served from the store without unpacking anything.
#[derive(Parser)]
#[command(version, after_help = [MOUNTING, UNMOUNTING, MORE].concat())]
struct Arguments {
    /// The store [default: $XDG_DATA_HOME/lamina or ~/.local/share/lamina]
    #[arg(long, value_name = "DIR", env = "LAMINA_STORE")]
    store: Option<PathBuf>,
    /// Read layers of this store too, in place (may be given several times; also LAMINA_ADDITIONAL_STORES, separated by
    /// colons)
    #[arg(long = "additional-store", alias = "also-read", value_name = "DIR")]
    additional_stores: Vec<PathBuf>,
    /// The base that `lamina prepare` printed
    base: BaseId,
    /// An empty directory to mount it on
    dir: PathBuf,
    /// Serve from this process until the mount is unmounted or a signal arrives
    #[arg(long, short)]
    foreground: bool,
    /// Options of mount(8), such as allow_other, default_permissions, noexec, fsname=NAME
    #[arg(short = 'o', value_name = "OPTION,...")]
    options: Vec<String>,
    #[command(flatten)]
    serving: Serving,
    /// The file for messages once it serves in the background [default: ~/.local/state/lamina/mount.log]
    #[arg(long, value_name = "FILE", conflicts_with = "foreground")]
    log: Option<PathBuf>,
    /// Log more, and print the requests and their times at the end
    #[arg(long, short)]
    verbose: bool,
    /// Set by this program for the process that it leaves in the background
    #[arg(long, hide = true)]
    background_child: bool,
}

const BACKGROUND_CHILD: &str = "--background-child";

/// Parses the command line. The message about a wrong one quotes words of it, so it is made from words that are safe to
/// print.
fn parse() -> Arguments {
    let error = match Arguments::try_parse() {
        Ok(arguments) => return arguments,
        Err(error) => error,
    };
    let words = std::env::args_os().map(|word| printable::bytes(word.as_bytes()));
    match Arguments::try_parse_from(words) {
        Err(error) => error.exit(),
        Ok(_) => {
            report(&error.to_string().trim_end());
            std::process::exit(error.exit_code());
        }
    }
}

/// Runs the program. Returns the exit status of the process.
pub(crate) fn run() -> ExitCode {
    let arguments = parse();
    let level = if arguments.verbose { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("LAMINA_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // It would report with `eprintln!` that it cannot write, and panic for the same reason.
        .log_internal_errors(false)
        .event_format(LogFormat { time: true })
        .init();

    let mount = match mount_options(&arguments.options) {
        Ok(mount) => mount,
        Err(error) => {
            report(&error);
            return ExitCode::from(2);
        }
    };
    match mount_and_serve(&arguments, mount) {
        Ok(status) => status,
        Err(error) => {
            // Its text has the causes in it.
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn mount_and_serve(arguments: &Arguments, mount: MountOptions) -> anyhow::Result<ExitCode> {
    let program = MountProgram {
        mount_point: arguments.dir.clone(),
        options: arguments.serving.options(mount)?,
        server: match (arguments.foreground, arguments.background_child) {
            (_, true) => ServerProcess::Background,
            (true, false) => ServerProcess::Foreground,
            (false, false) => ServerProcess::Start(for_background(std::env::args_os().skip(1).collect())),
        },
        log: arguments.log.as_deref().map(absolute).transpose()?,
    };
    let end = run_mount_program::<anyhow::Error>(&program, || {
        let root = arguments.store.as_deref().map(absolute).transpose()?.unwrap_or_else(Store::default_root);
        let additional = arguments.additional_stores.iter().cloned().chain(Store::additional_roots_from_environment());
        let additional: Vec<PathBuf> = additional.map(|path| absolute(&path)).collect::<Result<_, _>>()?;
        let store = Store::open(&root)?.with_additional(&additional)?;
        Ok(Server::new(Arc::new(store.bases().open(&arguments.base)?)))
    })?;
    Ok(match end {
        ProgramEnd::InBackground => ExitCode::SUCCESS,
        ProgramEnd::Reported(status) => {
            status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        ProgramEnd::Served(served) => {
            if arguments.verbose {
                let _ = write!(io::stderr(), "{}", served.stats.snapshot());
            }
            ExitCode::SUCCESS
        }
    })
}

pub(crate) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Prints an error, which may quote input. Does not panic if standard error is closed.
fn report(error: &dyn std::fmt::Display) {
    let line = format!("composefs-fuse: {error}");
    let _ = io::stderr().write_all(format!("{}\n", printable::line(&line)).as_bytes());
}

/// Adds the argument that makes this program serve in the background: before `--`, after which nothing is an option.
fn for_background(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    arguments.insert(end, BACKGROUND_CHILD.into());
    arguments
}

/// Setuid files and devices stay without effect: `mount.fuse3` asks for them even if its caller has not.
fn mount_options(lists: &[String]) -> Result<MountOptions, OptionError> {
    let mut options = MountOptions::default();
    for option in lists.iter().flat_map(|list| split_options(list)) {
        options.set(&option)?;
    }
    Ok(MountOptions { suid: false, dev: false, ..options })
}
