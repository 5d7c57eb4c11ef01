//! Switches with a value, as in `--rm=false` and `-d=true`: every switch of docker and podman takes one. The parser knows only
//! switches without a value, so these are rewritten for it.

use std::ffi::OsString;

use clap::ArgAction;

use super::refused;

/// Returns the arguments with each switch written without a value: one that is on by itself, one that is off not at all.
pub(super) fn plain(arguments: &[OsString], lamina: impl FnOnce() -> clap::Command) -> Vec<OsString> {
    let has_value = |word: &OsString| {
        let value = word.to_str().filter(|word| word.starts_with('-')).and_then(|word| word.rsplit_once('='));
        value.is_some_and(|(_, value)| truth(value).is_some())
    };
    // Nearly every command line has none.
    if !arguments.iter().any(has_value) {
        return arguments.to_vec();
    }
    let mut lamina = lamina();
    lamina.build();
    let mut command = &lamina;
    let mut words = arguments.iter();
    let mut plain: Vec<OsString> = words.next().cloned().into_iter().collect();
    while let Some(word) = words.next() {
        let Some(text) = word.to_str().filter(|text| *text != "--") else {
            plain.push(word.clone());
            break;
        };
        match Word::of(command, text) {
            Word::Switch { name, rest, is_on } => {
                plain.extend(rest.map(OsString::from));
                // The last of several counts.
                plain.retain(|earlier| *earlier != *name);
                plain.extend(is_on.then(|| name.into()));
            }
            Word::BeforeValue => {
                plain.push(word.clone());
                plain.extend(words.next().cloned());
            }
            Word::PerhapsBeforeValue => {
                plain.push(word.clone());
                let is_value = |next: &&OsString| next.to_str().is_none_or(|next| !next.starts_with('-'));
                if words.clone().next().is_some_and(|next| is_value(&next)) {
                    plain.extend(words.next().cloned());
                }
            }
            Word::Other => plain.push(word.clone()),
            Word::Name => {
                plain.push(word.clone());
                match command.find_subcommand(text) {
                    Some(found) => command = found,
                    // What follows belongs to the command in the machine.
                    None if command.get_positionals().any(clap::Arg::is_trailing_var_arg_set) => break,
                    None => {}
                }
            }
        }
    }
    plain.extend(words.cloned());
    plain
}

/// One word of a command line.
enum Word {
    /// A switch with a value, and what is before it in the same word.
    Switch { name: String, rest: Option<String>, is_on: bool },
    /// An option whose value is the next word.
    BeforeValue,
    /// An option whose value is the next word, unless that is an option.
    PerhapsBeforeValue,
    /// Another option.
    Other,
    /// A command, an image and so on.
    Name,
}

impl Word {
    fn of(command: &clap::Command, text: &str) -> Self {
        match text.strip_prefix("--") {
            Some(long) => Self::long(command, long),
            None if text.len() > 1 && text.starts_with('-') => Self::short(command, text),
            None => Self::Name,
        }
    }

    fn long(command: &clap::Command, long: &str) -> Self {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        let truth = value.and_then(truth);
        let found = command.get_arguments().find(|argument| {
            let also = argument.get_all_aliases().unwrap_or_default();
            argument.get_long() == Some(name) || also.contains(&name)
        });
        match (found, truth) {
            (Some(switch), Some(is_on)) if is_switch(switch) => {
                Self::Switch { name: format!("--{name}"), rest: None, is_on }
            }
            (Some(argument), _) if value.is_none() => Self::before_value(argument),
            // To turn off what Lamina does not do changes nothing.
            (None, Some(false)) if refused::is_switch(command.get_name(), name) => {
                Self::Switch { name: format!("--{name}"), rest: None, is_on: false }
            }
            _ => Self::Other,
        }
    }

    /// Reads a word such as `-it`, `-dit=false` or `-v/a:/b`.
    fn short(command: &clap::Command, text: &str) -> Self {
        for (at, letter) in text.char_indices().skip(1) {
            let rest = &text[at + letter.len_utf8()..];
            let found = command.get_arguments().find(|argument| {
                let also = argument.get_all_short_aliases().unwrap_or_default();
                argument.get_short() == Some(letter) || also.contains(&letter)
            });
            match found {
                Some(switch) if is_switch(switch) => {
                    if let Some(is_on) = rest.strip_prefix('=').and_then(truth) {
                        let before = (at > 1).then(|| text[..at].to_owned());
                        return Self::Switch { name: format!("-{letter}"), rest: before, is_on };
                    }
                }
                Some(argument) if rest.is_empty() => return Self::before_value(argument),
                _ => return Self::Other,
            }
        }
        Self::Other
    }
}

impl Word {
    /// Returns what an option is that has no value in its own word.
    fn before_value(argument: &clap::Arg) -> Self {
        let takes = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append);
        let least = argument.get_num_args().map_or(1, |range| range.min_values());
        match takes && !argument.is_require_equals_set() {
            true if least > 0 => Self::BeforeValue,
            true => Self::PerhapsBeforeValue,
            false => Self::Other,
        }
    }
}

fn is_switch(argument: &clap::Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

/// Reads a truth value as docker and podman do (`strconv.ParseBool` of Go).
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn switches_are_turned_on_and_off_wherever_they_are() {
        for (line, expected) in [
            ("run --rm=false --tty=true i", "run --tty i"),
            ("run --rm --rm=false i", "run i"),
            ("run -d=true -t=0 i", "run -d i"),
            ("run -dit=false i", "run -di i"),
            ("run --privileged=false --http-proxy=false i", "run i"),
            ("run --privileged=true i", "run --privileged=true i"),
            ("run -e A=true --env B=1 --name=x -v=/a:/b i", "run -e A=true --env B=1 --name=x -v=/a:/b i"),
            ("run -e --rm=false i", "run -e --rm=false i"),
            ("run i --rm=false", "run i --rm=false"),
            ("run --pull never --rm=false i", "run --pull never i"),
            ("run --pull --rm=false i", "run --pull i"),
            ("run --keep --tty=false i", "run --keep i"),
            ("run --init=1 i sh -c a=true", "run --init i sh -c a=true"),
            ("exec -it=false web x --y=true", "exec -i web x --y=true"),
            ("--store /s ps --all=true --no-trunc=false", "--store /s ps --all"),
            ("container ls --all=true -q=false", "container ls --all"),
            ("rmi --force=T a b", "rmi --force a b"),
            ("pull --tls-verify=false x", "pull --tls-verify=false x"),
            ("rm --frobnicate=false x", "rm --frobnicate=false x"),
            ("rm -- --force=true", "rm -- --force=true"),
        ] {
            let words = |line: &str| format!("lamina {line}").split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(plain(&words(line), super::super::Cli::command), words(expected), "{line}");
        }
    }
}
