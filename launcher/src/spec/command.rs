//! What runs in a guest: the image's configuration, with the user's changes.

use guest_protocol::{Privileges, Process, TerminalSize};

use crate::failure::{Failure, USAGE};
use crate::spec::image_config::Defaults;

/// The user's changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// The words after the entrypoint; empty for the image's own.
    pub(crate) command: Vec<String>,
    /// Another entrypoint; an empty one means none. The image's `cmd` is then not used.
    pub(crate) entrypoint: Option<String>,
    /// `NAME=value` sets a variable; `NAME` passes on the variable of this process, if it is set.
    pub(crate) env: Vec<String>,
    /// The working directory.
    pub(crate) working_dir: Option<String>,
    /// The user and group.
    pub(crate) user: Option<String>,
    /// The signal that asks the command to end.
    pub(crate) stop_signal: Option<u32>,
    /// What it may do, and what it can never do.
    pub(crate) privileges: Privileges,
    /// The size of our terminal, if the command gets one.
    pub(crate) terminal: Option<TerminalSize>,
}

/// Combines the two as container runtimes do.
///
/// # Errors
/// Neither names a command.
pub(crate) fn assemble(image: Defaults, asked: Overrides) -> Result<Process, Failure> {
    let (entrypoint, cmd) = match asked.entrypoint {
        Some(word) => (Some(word).filter(|word| !word.is_empty()).into_iter().collect(), Vec::new()),
        None => (image.entrypoint, image.cmd),
    };
    let arguments = if asked.command.is_empty() { cmd } else { asked.command };
    let argv: Vec<String> = entrypoint.into_iter().chain(arguments).collect();
    if argv.is_empty() {
        return Err(Failure::new("command", "the image does not name one")
            .with_hint("name one, as in: lamina run IMAGE /bin/sh")
            .with_status(USAGE));
    }
    if let Some(option) = argv.first().filter(|program| program.starts_with('-')) {
        return Err(Failure::new(option, "what follows the image is the command, and this is no program")
            .with_hint("write options before the image")
            .with_status(USAGE));
    }
    let images = image.env.iter().filter_map(|entry| split(entry));
    let given = environment(&asked.env, false);
    let env = our_terminal(asked.terminal.is_some()).into_iter().chain(images).chain(given).collect();
    Ok(Process {
        argv,
        env,
        cwd: asked.working_dir.or(image.working_dir),
        user: asked.user.or(image.user),
        terminal: asked.terminal,
        by_init: false,
        stop_signal: asked.stop_signal.or(image.stop_signal),
        privileges: asked.privileges,
    })
}

/// Returns what the user adds to an environment: `NAME=value` sets a variable, `NAME` passes on the variable of this
/// process. For a terminal, this process's `TERM` comes first.
pub(crate) fn environment(asked: &[String], terminal: bool) -> impl Iterator<Item = (String, String)> {
    let given = asked.iter().filter_map(|entry| split(entry).or_else(|| inherited(entry)));
    our_terminal(terminal).into_iter().chain(given)
}

fn our_terminal(wanted: bool) -> Option<(String, String)> {
    wanted.then(|| inherited("TERM")).flatten()
}

fn split(entry: &str) -> Option<(String, String)> {
    let (name, value) = entry.split_once('=')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

fn inherited(name: &str) -> Option<(String, String)> {
    Some((name.to_owned(), std::env::var(name).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn image() -> Defaults {
        Defaults {
            entrypoint: words(&["/entry", "-x"]),
            cmd: words(&["serve"]),
            env: words(&["PATH=/bin", "A=1=2"]),
            working_dir: Some("/srv".into()),
            user: Some("web".into()),
            stop_signal: Some(3),
            ..Defaults::default()
        }
    }

    #[test]
    fn words_given_replace_cmd_and_keep_the_entrypoint() {
        for (entrypoint, command, expected) in [
            (None, words(&[]), words(&["/entry", "-x", "serve"])),
            (None, words(&["a", "b"]), words(&["/entry", "-x", "a", "b"])),
            (Some("/other"), words(&[]), words(&["/other"])),
            (Some("/other"), words(&["a"]), words(&["/other", "a"])),
            (Some(""), words(&["a"]), words(&["a"])),
        ] {
            let asked = Overrides { entrypoint: entrypoint.map(str::to_owned), command, ..Overrides::default() };
            assert_eq!(assemble(image(), asked).unwrap().argv, expected);
        }
    }

    #[test]
    fn an_option_after_the_image_is_refused_unless_an_entrypoint_takes_it() {
        let asked = || Overrides { command: words(&["--cpus", "2"]), ..Overrides::default() };
        let bare = Defaults { entrypoint: Vec::new(), ..image() };
        assert!(assemble(bare, asked()).unwrap_err().to_string().contains("before the image"));
        assert_eq!(assemble(image(), asked()).unwrap().argv, words(&["/entry", "-x", "--cpus", "2"]));
    }

    #[test]
    fn the_environment_given_comes_after_the_images() {
        let asked = Overrides { env: words(&["A=3", "B=", "NOT_SET_ANYWHERE_HERE"]), ..Overrides::default() };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [pair("PATH", "/bin"), pair("A", "1=2"), pair("A", "3"), pair("B", "")];
        assert_eq!(assemble(image(), asked).unwrap().env, expected);
    }

    #[test]
    fn user_directory_and_stop_signal_of_the_image_hold_unless_given() {
        let process = assemble(image(), Overrides::default()).unwrap();
        assert_eq!((process.cwd.as_deref(), process.user.as_deref()), (Some("/srv"), Some("web")));
        assert_eq!(process.stop_signal, Some(3));
        let (working_dir, user) = (Some("/".into()), Some("0".into()));
        let asked = Overrides { working_dir, user, stop_signal: Some(15), ..Overrides::default() };
        let process = assemble(image(), asked).unwrap();
        assert_eq!((process.cwd.as_deref(), process.user.as_deref()), (Some("/"), Some("0")));
        assert_eq!(process.stop_signal, Some(15));
    }

    #[test]
    fn nothing_to_run_is_a_usage_error() {
        let failure = assemble(Defaults::default(), Overrides::default()).unwrap_err();
        assert_eq!(failure.status(), USAGE);
    }
}
