//! `lamina help`: the help of a command, or the page about a topic.

use super::needs_linux;
use crate::failure::{Failure, USAGE};
use crate::print;

/// The pages about topics. `scripts/package` makes manual pages of them.
const PAGES: [&str; 13] = [
    include_str!("../../man/lamina-machines.7.md"),
    include_str!("../../man/lamina-shares.7.md"),
    include_str!("../../man/lamina-networking.7.md"),
    include_str!("../../man/lamina-engines.7.md"),
    include_str!("../../man/lamina-security.7.md"),
    include_str!("../../man/lamina-registries.7.md"),
    include_str!("../../man/lamina-archives.7.md"),
    include_str!("../../man/lamina-storage.7.md"),
    include_str!("../../man/lamina-mounts.7.md"),
    include_str!("../../man/lamina-docker.7.md"),
    include_str!("../../man/lamina-snapshotter.7.md"),
    include_str!("../../man/lamina-podman-store.7.md"),
    include_str!("../../man/lamina-environment.7.md"),
];

/// Explain a command or a topic
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina help pull
  lamina help mounts | less")]
pub(super) struct Help {
    /// A command, or a topic: see the end of `lamina --help`
    #[arg(value_name = "COMMAND|TOPIC")]
    words: Vec<String>,
}

impl Help {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        if let [word] = self.words.as_slice()
            && let Some(page) = PAGES.into_iter().find(|page| name(page) == Some(word))
        {
            print::result_lines(&plain(page))?;
            return Ok(0);
        }
        let mut command = super::definition();
        // Gives each command its whole usage and the options of every command.
        command.build();
        let mut found = &mut command;
        for word in &self.words {
            found = found.find_subcommand_mut(word).ok_or_else(|| self.unknown(word).with_status(USAGE))?;
        }
        print::result_lines(&found.render_long_help().to_string())?;
        Ok(0)
    }

    fn unknown(&self, word: &str) -> Failure {
        match needs_linux::instead(word) {
            Some(line) => Failure::new(word, line),
            None => Failure::new(self.words.join(" "), "there is no such command or topic")
                .with_hint("`lamina help` lists them"),
        }
    }
}

/// Returns the list of topics, for the end of `lamina --help`.
pub(super) fn topics() -> String {
    let lines = PAGES.into_iter().map(|page| {
        let (name, about) = (name(page).unwrap_or_default(), about(page).unwrap_or_default());
        format!("\n  {name:<12}  {about}")
    });
    let head = ["Topics (`lamina help TOPIC`, or `man lamina-TOPIC`):".to_owned()];
    head.into_iter().chain(lines).chain(needs_linux::note().map(|note| format!("\n\n{note}"))).collect()
}

/// Returns the name of the topic that a page is about: its title is `# lamina-NAME 7 ...`.
fn name(page: &str) -> Option<&str> {
    page.strip_prefix("# lamina-")?.split(' ').next()
}

/// Returns what a page is about: the line below `## NAME`, after the name.
fn about(page: &str) -> Option<&str> {
    let line = page.lines().skip_while(|line| *line != "## NAME").nth(2)?;
    line.split_once(" - ").map(|(_, about)| about)
}

/// Returns a page without its title and the marks of Markdown.
fn plain(page: &str) -> String {
    let mut lines = Vec::new();
    let mut fenced = false;
    for line in page.lines().skip(2) {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            lines.push(format!("    {line}"));
        } else if line.starts_with("    ") {
            lines.push(line.to_owned());
        } else {
            lines.push(line.trim_start_matches('#').trim_start().replace("**", "").replace('`', ""));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// The README, whose commands a newcomer types first.
    const README: &str = include_str!("../../../README.md");

    fn commands() -> Vec<clap::Command> {
        Cli::command().get_subcommands().cloned().collect()
    }

    /// Replaces what a shell takes from the output of another command.
    fn without_substitutions(line: &str) -> String {
        let mut parts = line.split("$(");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            text += "X";
            text += part.split_once(')').map_or("", |(_, after)| after);
        }
        text
    }

    /// Returns the command lines of this program in a line of a shell, as words.
    fn of_this_program(line: &str) -> Vec<Vec<String>> {
        let line = without_substitutions(line).replace("; ", " ; ");
        let words = shlex::split(&line).unwrap_or_else(|| panic!("not a line of a shell: {line}"));
        let is_setting = |word: &str| word.split_once('=').is_some_and(|(name, _)| !name.contains(['-', '/']));
        let parts = words.split(|word| ["|", "&&", "||", ";"].contains(&word.as_str())).map(|part| {
            let words = part.iter().skip_while(|word| *word == "sudo" || is_setting(word));
            words.take_while(|word| !["<", ">"].contains(&word.as_str())).cloned().collect::<Vec<_>>()
        });
        parts.filter(|words| words.first().is_some_and(|word| word == "lamina")).collect()
    }

    /// Checks the lines of a text that are indented. Returns how many of them run this program.
    fn assert_understood(text: &str, indent: &str) -> usize {
        let lines = text.lines().filter_map(|line| line.strip_prefix(indent));
        let lines = lines.filter(|line| !line.starts_with(' ') && line.contains("lamina "));
        let commands: Vec<Vec<String>> = lines.flat_map(of_this_program).collect();
        for words in &commands {
            if let Err(error) = <Cli as clap::Parser>::try_parse_from(words) {
                assert_eq!(error.exit_code(), 0, "{words:?}: {error}");
            }
        }
        commands.len()
    }

    fn assert_examples_understood(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert_understood(help.split_once("Examples:\n").map_or("", |(_, examples)| examples), "  ");
        command.get_subcommands().for_each(assert_examples_understood);
    }

    #[test]
    fn every_command_line_of_the_readme_and_of_the_pages_is_understood() {
        assert!(assert_understood(README, "    ") > 15);
        let counts = PAGES.map(|page| assert_understood(page, "    "));
        assert!(counts.iter().sum::<usize>() > 50, "{counts:?}");
    }

    #[test]
    fn every_example_of_a_help_is_understood() {
        assert_examples_understood(&Cli::command());
        assert_eq!(assert_understood("Examples:\n  lamina ps; sudo lamina rm $(lamina ps -q) # x's", "  "), 2);
    }

    #[test]
    fn no_topic_has_the_name_of_a_command() {
        for page in PAGES {
            let name = name(page).expect("a title");
            assert!(about(page).is_some(), "{name}");
            assert!(commands().iter().all(|command| command.get_name() != name), "{name} is a command too");
            assert!(README.contains(&format!("(launcher/man/lamina-{name}.7.md)")), "the README does not list {name}");
        }
    }

    #[test]
    fn pages_refer_to_commands_and_topics_that_exist() {
        for page in PAGES {
            for reference in page.split("**lamina-").skip(1) {
                let (word, rest) = reference.split_once("**").expect("an end");
                let exists = if rest.starts_with("(1)") {
                    // The pages of lamina-containerd are its own.
                    let of_containerd = ["containerd-serve", "containerd-pull"].contains(&word);
                    of_containerd || commands().iter().any(|command| command.get_name() == word)
                } else {
                    rest.starts_with("(7)") && PAGES.into_iter().any(|page| name(page) == Some(word))
                };
                assert!(exists, "{:?} refers to {word}{}", name(page), rest.get(..3).unwrap_or_default());
            }
        }
    }

    #[test]
    fn pages_are_shown_without_marks() {
        let page = "# lamina-x 7 \"\"\n\n## NAME\n\nlamina-x - y\n\n    lamina `id` **\n\n```toml\n[a]\n```\n\nSee **b**(1), `c`.\n";
        assert_eq!(plain(page), "NAME\n\nlamina-x - y\n\n    lamina `id` **\n\n    [a]\n\nSee b(1), c.\n");
        assert_eq!((name(page), about(page)), (Some("x"), Some("y")));
    }
}
