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
    // Each word, and whether it is the value of the option before it.
    let mut plain: Vec<(OsString, bool)> = words.next().cloned().into_iter().map(|word| (word, true)).collect();
    let argument = |word: &OsString| (word.clone(), false);
    let value = |word: &OsString| (word.clone(), true);
    while let Some(word) = words.next() {
        let Some(text) = word.to_str().filter(|text| *text != "--") else {
            plain.push(argument(word));
            break;
        };
        match Word::of(command, text) {
            Word::Switch { name, spellings, rest, is_on } => {
                plain.extend(rest.map(|rest| (rest.into(), false)));
                // The last of several counts, in whatever spelling.
                plain.retain_mut(|(earlier, is_value)| *is_value || spellings.leave(earlier, command));
                plain.extend(is_on.then(|| (name.into(), false)));
            }
            Word::BeforeValue => {
                plain.push(argument(word));
                plain.extend(words.next().map(value));
            }
            Word::PerhapsBeforeValue => {
                plain.push(argument(word));
                let is_value = |next: &&OsString| next.to_str().is_none_or(|next| !next.starts_with('-'));
                if words.clone().next().is_some_and(|next| is_value(&next)) {
                    plain.extend(words.next().map(value));
                }
            }
            Word::Other => plain.push(argument(word)),
            Word::Name => {
                plain.push(argument(word));
                match command.find_subcommand(text) {
                    Some(found) => command = found,
                    // What follows belongs to the command in the machine.
                    None if command.get_positionals().any(clap::Arg::is_trailing_var_arg_set) => break,
                    None => {}
                }
            }
        }
    }
    plain.into_iter().map(|(word, _)| word).chain(words.cloned()).collect()
}

/// All ways to write one switch.
struct Spellings {
    words: Vec<String>,
    letters: Vec<char>,
}

impl Spellings {
    fn of(switch: &clap::Arg) -> Self {
        let long = switch.get_long().into_iter().chain(switch.get_all_aliases().unwrap_or_default());
        let short = switch.get_short().into_iter().chain(switch.get_all_short_aliases().unwrap_or_default());
        Self { words: long.map(|name| format!("--{name}")).collect(), letters: short.collect() }
    }

    /// Takes the switch out of a word such as `-it`. Returns whether something of the word is left.
    fn leave(&self, word: &mut OsString, command: &clap::Command) -> bool {
        let Some(text) = word.to_str() else { return true };
        if self.words.iter().any(|spelling| spelling == text) {
            return false;
        }
        let Some(letters) = text.strip_prefix('-').filter(|letters| !letters.is_empty()) else { return true };
        let is_switch = |letter: char| find_short(command, letter).is_some_and(is_switch);
        if !letters.chars().all(is_switch) {
            return true;
        }
        let left: String = letters.chars().filter(|letter| !self.letters.contains(letter)).collect();
        let is_left = !left.is_empty();
        *word = format!("-{left}").into();
        is_left
    }
}

fn find_short(command: &clap::Command, letter: char) -> Option<&clap::Arg> {
    command.get_arguments().find(|argument| {
        let also = argument.get_all_short_aliases().unwrap_or_default();
        argument.get_short() == Some(letter) || also.contains(&letter)
    })
}

/// One word of a command line.
enum Word {
    /// A switch with a value, and what is before it in the same word.
    Switch { name: String, spellings: Spellings, rest: Option<String>, is_on: bool },
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
                Self::Switch { name: format!("--{name}"), spellings: Spellings::of(switch), rest: None, is_on }
            }
            (Some(argument), _) if value.is_none() => Self::before_value(argument),
            // To turn off what Lamina does not do changes nothing.
            (None, Some(false)) if refused::is_switch(command.get_name(), name) => {
                let name = format!("--{name}");
                let spellings = Spellings { words: vec![name.clone()], letters: Vec::new() };
                Self::Switch { name, spellings, rest: None, is_on: false }
            }
            _ => Self::Other,
        }
    }

    /// Reads a word such as `-it`, `-dit=false` or `-v/a:/b`.
    fn short(command: &clap::Command, text: &str) -> Self {
        for (at, letter) in text.char_indices().skip(1) {
            let rest = &text[at + letter.len_utf8()..];
            match find_short(command, letter) {
                Some(switch) if is_switch(switch) => {
                    if let Some(is_on) = rest.strip_prefix('=').and_then(truth) {
                        let before = (at > 1).then(|| text[..at].to_owned());
                        let spellings = Spellings::of(switch);
                        return Self::Switch { name: format!("-{letter}"), spellings, rest: before, is_on };
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
            ("run -it --tty=false i", "run -i i"),
            ("run -t -it=false --interactive=false i", "run i"),
            ("rm -f --force=false x", "rm x"),
            ("run -e --rm --rm=false i", "run -e --rm i"),
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
