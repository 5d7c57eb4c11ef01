//! The commands of `lamina`: each in its own file, with its options next to the code that uses them.

mod acquired;
mod archive;
mod build_image;
mod completions;
mod du;
mod du_svg;
mod exists;
mod export;
mod filter;
mod finding;
mod gc;
mod groups;
mod help;
mod history;
mod images;
mod import;
mod inspect;
mod layout_tar;
#[cfg(target_os = "linux")]
mod linux;
mod login;
mod machines;
mod mount;
mod mount_helper;
mod needs_linux;
mod on_top;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;
mod prepare;
mod prune;
mod pull;
mod push;
mod refused;
mod rmi;
mod rows;
mod serving;
mod store;
mod switches;
mod tag;
mod template;
mod variant;
mod verify;
mod version;

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use composefs_fuse::LogFormat;
use layer_store::printable;

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(not(target_os = "linux"))]
use self::portable as system;
use self::system::{doctor, umount};
use crate::failure::Failure;
use crate::print;

/// Where the options of every command are in its help: after its own.
const OF_EVERY_COMMAND: &str = "Options of every command";

/// Options of every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// The store of layers and images [default: $LAMINA_STORE, else $XDG_DATA_HOME/lamina]
    // Not read by clap, which rejects an empty variable.
    #[arg(long, global = true, value_name = "DIR", help_heading = OF_EVERY_COMMAND)]
    pub(crate) store: Option<PathBuf>,
    /// Also read images and layers from this store, and never write to it (repeatable; also $LAMINA_ADDITIONAL_STORES,
    /// separated by colons)
    #[arg(
        long = "additional-store",
        alias = "also-read",
        global = true,
        value_name = "DIR",
        help_heading = OF_EVERY_COMMAND
    )]
    pub(crate) additional_stores: Vec<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true, help_heading = OF_EVERY_COMMAND)]
    pub(crate) json: bool,
    /// Log what is being done (twice: in detail)
    #[arg(long, global = true, action = clap::ArgAction::Count, help_heading = OF_EVERY_COMMAND)]
    pub(crate) verbose: u8,
}

/// Keep every OCI image layer once, and start microVMs on images without unpacking them
#[derive(Debug, Parser)]
#[command(
    name = "lamina",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    // As in docker, the last of several values counts.
    args_override_self = true,
    after_help = help::topics()
)]
struct Cli {
    /// As docker's; -V is the same.
    #[arg(short = 'v', hide = true, action = clap::ArgAction::Version)]
    docker_version: Option<bool>,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(pull::Pull),
    Push(push::Push),
    Login(login::Login),
    Logout(login::Logout),
    Import(import::Import),
    Prepare(prepare::Prepare),
    Images(images::Images),
    Inspect(inspect::Inspect),
    Tag(tag::Tag),
    History(history::History),
    Rmi(rmi::Rmi),
    Gc(gc::Gc),
    Du(du::Du),
    Verify(verify::Verify),
    Export(export::Export),
    Save(archive::Save),
    Load(archive::Load),
    BuildImage(build_image::BuildImage),
    Mount(mount::Mount),
    #[command(alias = "unmount")]
    Umount(umount::Umount),
    #[command(flatten)]
    OfSystem(system::Command),
    Doctor(doctor::Doctor),
    Help(help::Help),
    Completions(completions::Completions),
    Man(completions::Man),
    Version(version::Version),
    #[command(subcommand)]
    Image(groups::ImageCommand),
    #[command(skip)]
    ImageExists(exists::ImageExists),
    #[command(skip)]
    ImagePrune(prune::ImagePrune),
}

/// Runs the program on this process's arguments. The exit status is 0 for success, 1 for a failure and 2 for wrong usage.
/// `lamina run` and `lamina exec` exit with the status of the command in the guest, or with 125 if they fail before it
/// starts, which includes wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(result) = system::internal(&arguments) {
        return report(result);
    }
    let arguments = match mount_helper::translated(&arguments, is_command) {
        Some(Ok(translated)) => match mount_helper::leave_home_of_others(&translated) {
            Ok(()) => translated,
            Err(failure) => return report(Err(failure)),
        },
        Some(Err(failure)) => return report(Err(failure)),
        None => arguments,
    };
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(status) => return status.into(),
    };
    log_to_stderr(cli.global.verbose);
    report(execute(cli.command, &cli.global, arguments))
}

/// Returns the definition of the command line.
fn definition() -> clap::Command {
    needs_linux::with_help(Cli::command())
}

fn try_parse<T: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = T>) -> Result<Cli, clap::Error> {
    let mut definition = definition();
    let mut matches = definition.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut definition))
}

/// Whether a word is a command of this program, on this system or on another.
fn is_command(word: &OsStr) -> bool {
    let is_name =
        |command: &clap::Command| word == command.get_name() || command.get_all_aliases().any(|alias| word == alias);
    definition().get_subcommands().any(is_name) || word.to_str().is_some_and(needs_linux::is_command)
}

fn execute(command: Command, global: &Global, arguments: Vec<OsString>) -> Result<u8, Failure> {
    match command {
        Command::Pull(pull) => pull.execute(global),
        Command::Push(push) => push.execute(global),
        Command::Login(login) => login.execute(global),
        Command::Logout(logout) => logout.execute(global),
        Command::Import(import) => import.execute(global),
        Command::Prepare(prepare) => prepare.execute(global),
        Command::Images(images) => images.execute(global),
        Command::Inspect(inspect) => inspect.execute(global),
        Command::Rmi(rmi) => rmi.execute(global),
        Command::Gc(gc) => {
            // A server whose mount has just been removed may still use the store.
            serving::wait_for_ending_mounts();
            gc.execute(global)
        }
        Command::Du(du) => du.execute(global),
        Command::Verify(verify) => verify.execute(global),
        Command::Export(export) => export.execute(global),
        Command::BuildImage(build) => build.execute(global),
        Command::Mount(mount) => mount.execute(global, arguments),
        Command::Umount(umount) => umount.execute(),
        Command::OfSystem(command) => command.execute(global, arguments),
        Command::Doctor(doctor) => doctor.execute(global),
        Command::Help(help) => help.execute(),
        Command::Completions(completions) => completions.execute(),
        Command::Man(man) => man.execute(),
        Command::Tag(tag) => tag.execute(global),
        Command::History(history) => history.execute(global),
        Command::Save(save) => save.execute(global),
        Command::Load(load) => load.execute(global),
        Command::Version(version) => version.execute(global),
        Command::ImageExists(exists) => exists.execute(global),
        Command::ImagePrune(prune) => prune.execute(global),
        Command::Image(command) => execute(command.into(), global, arguments),
    }
}

/// Parses the command line. If it is wrong or asks for help, prints that and returns the exit status. The message about a
/// wrong one quotes words of it, so it is made from words that are safe to print.
fn parse(arguments: &[OsString]) -> Result<Cli, u8> {
    let arguments = &switches::plain(arguments, definition)[..];
    let error = match try_parse(arguments) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    let words = arguments.iter().map(|word| printable::bytes(word.as_bytes()));
    // If the other words are right, what is wrong is a character that has been replaced.
    Err(match try_parse(words) {
        Err(error) => refused::report(error, arguments),
        Ok(_) => {
            print::message_lines(error.to_string().trim_end());
            refused::status(&error, arguments)
        }
    })
}

/// Formats a size in bytes for people, in powers of 1024.
fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Prints a failure and turns it into an exit status.
fn report(result: Result<u8, Failure>) -> ExitCode {
    match result {
        Ok(status) => status.into(),
        Err(failure) => {
            tell!("lamina: {failure}");
            failure.status().into()
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the format escapes what it writes")]
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // Otherwise a failed write is reported by `eprintln!`, which panics when that fails too.
        .log_internal_errors(false)
        .event_format(LogFormat { time: false })
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_commands_that_write_a_tree_are_listed_together() {
        let help = Cli::command().render_help().to_string();
        let listed = help.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        let written: Vec<&str> = listed.skip_while(|name| *name != "build-image").take(4).collect();
        assert_eq!(written, ["build-image", "materialize", "mount", "umount"]);
    }

    #[test]
    fn no_command_and_no_other_name_of_one_is_taken_for_an_image() {
        for word in ["pull", "umount", "unmount", "run", "materialize", "stats"] {
            assert!(is_command(OsStr::new(word)), "{word}");
        }
        assert!(!is_command(OsStr::new("debian:12")));
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("lamina "), "{} has no example", command.get_name());
        }
    }
}
