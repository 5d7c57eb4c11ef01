//! What an image says about running it: the field `config` of its configuration (image specification, `config.md`), with
//! the fields that Docker adds.
//!
//! The JSON is read tolerantly: a field that is null or of an unexpected type counts as missing. A field that is known
//! but cannot be followed is named in [`Defaults::notices`].
//!
//! | field | what it is used for |
//! |---|---|
//! | `Entrypoint`, `Cmd` | the command: lists, or a string, which is a list of one |
//! | `Env`, `User`, `WorkingDir` | the command's; the directory is created if missing |
//! | `StopSignal` | what `lamina stop` sends |
//! | `Volumes` | directories that are created if missing, and are writable even with `--read-only` |
//! | `Healthcheck` | a notice: nothing runs it |
//! | `ExposedPorts` | what `--publish-all` publishes |
//! | `Labels` | nothing at run time, as with Docker: they describe the image |
//! | `Shell`, `OnBuild`, `ArgsEscaped` | nothing: they are for builds on top of the image, or for Windows |
//! | `Hostname`, `Domainname`, `Tty`, `OpenStdin`, `AttachStdin` and so on | nothing, as with Docker: they describe the container that built the image |

use serde_json::Value;

use crate::spec::signal;

/// What an image says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Defaults {
    /// The words that every command starts with.
    pub(crate) entrypoint: Vec<String>,
    /// The words after them, unless others are given.
    pub(crate) cmd: Vec<String>,
    /// `NAME=value` entries.
    pub(crate) env: Vec<String>,
    /// The working directory.
    pub(crate) working_dir: Option<String>,
    /// The user and group.
    pub(crate) user: Option<String>,
    /// The signal that asks the command to end.
    pub(crate) stop_signal: Option<u32>,
    /// Directories for data, which are always writable.
    pub(crate) volumes: Vec<String>,
    /// The ports that its programs listen on, such as `80/tcp`.
    pub(crate) exposed: Vec<String>,
    /// What the image asks for and does not get, one line each.
    pub(crate) notices: Vec<String>,
}

impl Defaults {
    /// Reads the bytes of an image's configuration.
    pub(crate) fn read(configuration: &[u8]) -> Self {
        let document: Value = serde_json::from_slice(configuration).unwrap_or_default();
        let config = &document["config"];
        let mut notices = Vec::new();
        let stop_signal = text(&config["StopSignal"]).and_then(|written| match signal::parse(&written) {
            Ok(number) => Some(number),
            Err(_) => {
                notices.push(format!("the image's StopSignal {written:?} is no signal; the usual one is sent"));
                None
            }
        });
        if is_checked(&config["Healthcheck"]) {
            notices.push("the image has a health check, and nothing runs it".to_owned());
        }
        let env = words(&config["Env"]);
        for entry in env.iter().filter(|entry| entry.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
            notices.push(format!("the image's Env has {entry:?}, which sets nothing"));
        }
        Self {
            entrypoint: words(&config["Entrypoint"]),
            cmd: words(&config["Cmd"]),
            env,
            working_dir: text(&config["WorkingDir"]),
            user: text(&config["User"]),
            stop_signal,
            volumes: keys(&config["Volumes"]),
            exposed: keys(&config["ExposedPorts"]),
            notices,
        }
    }
}

/// Returns a list of words. As in Docker, a string is a list of one word.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::Array(words) => words.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect(),
        Value::String(word) => vec![word.clone()],
        _ => Vec::new(),
    }
}

/// Returns a text that is not empty. A number is read as its digits.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Returns the members of a set, which is written as an object with empty values.
fn keys(value: &Value) -> Vec<String> {
    let members: Vec<String> = match value {
        Value::Object(members) => members.keys().cloned().collect(),
        list => words(list),
    };
    members.into_iter().filter(|member| !member.is_empty()).collect()
}

/// Returns whether a health check checks anything: `["NONE"]` switches off an inherited one.
fn is_checked(healthcheck: &Value) -> bool {
    words(&healthcheck["Test"]).first().is_some_and(|first| first != "NONE")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: &Value) -> Defaults {
        Defaults::read(json!({ "config": config }).to_string().as_bytes())
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn every_field_of_the_specification_counts_or_is_reported() {
        let none = Defaults::default();
        for (config, expected) in [
            (json!(null), none.clone()),
            (json!({}), none.clone()),
            (json!("odd"), none.clone()),
            (
                json!({"Entrypoint": null, "Cmd": null, "Env": null, "User": "", "WorkingDir": "", "Volumes": null}),
                none.clone(),
            ),
            (json!({"Entrypoint": ["/e", "-x"]}), Defaults { entrypoint: owned(&["/e", "-x"]), ..none.clone() }),
            (json!({"Entrypoint": "/e x"}), Defaults { entrypoint: owned(&["/e x"]), ..none.clone() }),
            (json!({"Entrypoint": []}), none.clone()),
            (json!({"Cmd": ["a", ""]}), Defaults { cmd: owned(&["a", ""]), ..none.clone() }),
            (json!({"Cmd": "a"}), Defaults { cmd: owned(&["a"]), ..none.clone() }),
            (json!({"Cmd": {}}), none.clone()),
            (json!({"Env": ["A=b", "C="]}), Defaults { env: owned(&["A=b", "C="]), ..none.clone() }),
            (
                json!({"Env": ["A", "=b"]}),
                Defaults {
                    env: owned(&["A", "=b"]),
                    notices: owned(&[
                        "the image's Env has \"A\", which sets nothing",
                        "the image's Env has \"=b\", which sets nothing",
                    ]),
                    ..none.clone()
                },
            ),
            (json!({"User": "web:logs"}), Defaults { user: Some("web:logs".into()), ..none.clone() }),
            (json!({"User": 1000}), Defaults { user: Some("1000".into()), ..none.clone() }),
            (json!({"WorkingDir": "/srv"}), Defaults { working_dir: Some("/srv".into()), ..none.clone() }),
            (json!({"StopSignal": "SIGQUIT"}), Defaults { stop_signal: Some(3), ..none.clone() }),
            (json!({"StopSignal": "RTMIN+3"}), Defaults { stop_signal: Some(37), ..none.clone() }),
            (json!({"StopSignal": 28}), Defaults { stop_signal: Some(28), ..none.clone() }),
            (json!({"StopSignal": ""}), none.clone()),
            (
                json!({"StopSignal": "STOPIT"}),
                Defaults {
                    notices: owned(&["the image's StopSignal \"STOPIT\" is no signal; the usual one is sent"]),
                    ..none.clone()
                },
            ),
            (
                json!({"Volumes": {"/data": {}, "/log": {}}}),
                Defaults { volumes: owned(&["/data", "/log"]), ..none.clone() },
            ),
            (json!({"Volumes": ["/data"]}), Defaults { volumes: owned(&["/data"]), ..none.clone() }),
            (
                json!({"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1}}),
                Defaults { notices: owned(&["the image has a health check, and nothing runs it"]), ..none.clone() },
            ),
            (json!({"Healthcheck": {"Test": ["NONE"]}}), none.clone()),
            (json!({"Healthcheck": {}}), none.clone()),
            (
                json!({"ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"}}),
                Defaults { exposed: owned(&["80/tcp"]), ..none.clone() },
            ),
            (json!({"Shell": ["/bin/bash", "-c"], "OnBuild": ["RUN x"], "ArgsEscaped": true}), none.clone()),
            (json!({"Hostname": "h", "Domainname": "d", "Tty": true, "OpenStdin": true, "Image": "i"}), none.clone()),
        ] {
            assert_eq!(read(&config), expected, "{config}");
        }
    }

    #[test]
    fn bytes_that_are_no_configuration_say_nothing() {
        assert_eq!(Defaults::read(b""), Defaults::default());
        assert_eq!(Defaults::read(b"[1]"), Defaults::default());
    }
}
