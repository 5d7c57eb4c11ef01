//! Changes to the config of a new image, written as Dockerfile instructions.

use std::str::FromStr;

use serde_json::{Map, Value, json};

/// One change to the config of an image: `CMD ["nginx"]`, `ENV LANG=C`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange(Change);

/// The text is not a valid change to a config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid change to an image's config: {problem}")]
pub struct ConfigChangeError {
    text: String,
    problem: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// Sets a field to this value.
    Set(&'static str, Value),
    /// Sets the entry point. The command was for the old one, so it is removed unless one of these changes has set it.
    Entrypoint(Value),
    /// Sets the working directory, which is below the old one unless it begins with a slash.
    Workdir(String),
    /// Adds environment variables, which replace those with the same name. [`EXPANDED`] is before the name of a variable
    /// whose value is to be inserted.
    Env(Vec<(String, String)>),
    /// Adds a word to a list.
    Append(&'static str, String),
    /// Adds these keys to a map.
    Add(&'static str, Vec<(String, Value)>),
}

/// The supported instructions.
const INSTRUCTIONS: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR";

impl FromStr for ConfigChange {
    type Err = ConfigChangeError;

    fn from_str(text: &str) -> Result<Self, ConfigChangeError> {
        parse(text.trim()).map(Self).map_err(|problem| ConfigChangeError { text: text.to_owned(), problem })
    }
}

impl ConfigChange {
    /// Applies changes to the `config` object of an image's config, one after the other.
    pub(crate) fn apply_all(changes: &[Self], config: &mut Map<String, Value>) {
        let sets_command = |change: &Self| matches!(change.0, Change::Set("Cmd", _));
        let keeps_command = changes.iter().any(sets_command);
        changes.iter().for_each(|change| change.apply(config, keeps_command));
    }

    fn apply(&self, config: &mut Map<String, Value>, keeps_command: bool) {
        match &self.0 {
            Change::Entrypoint(value) => {
                config.insert("Entrypoint".to_owned(), value.clone());
                if !keeps_command {
                    config.remove("Cmd");
                }
            }
            Change::Workdir(path) => {
                let old = config.get("WorkingDir").and_then(Value::as_str).unwrap_or_default().trim_end_matches('/');
                let path = if path.starts_with('/') { path.clone() } else { format!("{old}/{path}") };
                config.insert("WorkingDir".to_owned(), json!(path));
            }
            Change::Set(field, value) => drop(config.insert((*field).to_owned(), value.clone())),
            Change::Env(variables) => {
                let Some(env) = field(config, "Env", json!([])).as_array_mut() else { return };
                // As in a Dockerfile, no variable of an instruction sees the others.
                let values: Vec<String> = variables.iter().map(|(_, value)| expand(value, env)).collect();
                for ((name, _), value) in variables.iter().zip(values) {
                    let is_it =
                        |known: &Value| known.as_str().is_some_and(|known| known.split('=').next() == Some(name));
                    env.retain(|known| !is_it(known));
                    env.push(json!(format!("{name}={value}")));
                }
            }
            Change::Append(name, word) => {
                field(config, name, json!([])).as_array_mut().into_iter().for_each(|list| list.push(json!(word)));
            }
            Change::Add(name, entries) => {
                let Some(map) = field(config, name, json!({})).as_object_mut() else { return };
                map.extend(entries.iter().cloned());
            }
        }
    }
}

/// Returns a field, which is made `empty` if it is absent or `null`.
fn field<'config>(config: &'config mut Map<String, Value>, name: &str, empty: Value) -> &'config mut Value {
    let field = config.entry(name).or_insert(Value::Null);
    if field.is_null() {
        *field = empty;
    }
    field
}

fn parse(text: &str) -> Result<Change, String> {
    // Podman's documentation writes `CMD=/bin/sh` too.
    let (instruction, rest) = text.split_once([' ', '\t', '\n', '=']).unwrap_or((text, ""));
    let rest = rest.trim();
    if rest.is_empty() {
        return Err(format!("write an instruction and what it sets; the instructions are {INSTRUCTIONS}"));
    }
    let keys = |words: Vec<String>| words.into_iter().map(|word| (word, json!({}))).collect();
    Ok(match instruction.to_ascii_uppercase().as_str() {
        "CMD" => Change::Set("Cmd", command(rest)),
        "ENTRYPOINT" => Change::Entrypoint(command(rest)),
        "USER" => Change::Set("User", json!(rest)),
        "WORKDIR" => Change::Workdir(rest.to_owned()),
        "STOPSIGNAL" => Change::Set("StopSignal", json!(rest)),
        "ONBUILD" => Change::Append("OnBuild", rest.to_owned()),
        "ENV" => Change::Env(pairs(rest)?),
        "LABEL" => Change::Add(
            "Labels",
            pairs(rest)?.into_iter().map(|(name, value)| (name, json!(literal(&value)))).collect(),
        ),
        "EXPOSE" => Change::Add(
            "ExposedPorts",
            keys(literals(rest)?.iter().map(|port| with_protocol(port)).collect::<Result<_, _>>()?),
        ),
        "VOLUME" => Change::Add("Volumes", keys(list(rest).map_or_else(|| literals(rest), Ok)?)),
        _ => return Err(format!("{instruction} is not one of {INSTRUCTIONS}")),
    })
}

/// Parses a JSON list of words.
fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// Parses a command: a JSON list, or else a line for the shell.
fn command(text: &str) -> Value {
    json!(list(text).unwrap_or_else(|| ["/bin/sh", "-c", text].map(str::to_owned).to_vec()))
}

/// Parses `A=b C="d e"`, or one pair in the old form `A b`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(text)?;
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = text.split_once(char::is_whitespace).ok_or_else(|| format!("{text:?} has no value"))?;
        return Ok(vec![(name.to_owned(), value.trim().replace('$', &EXPANDED.to_string()))]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} is not NAME=VALUE")),
    };
    words.iter().map(pair).collect()
}

/// Stands for a `$` that is neither in single quotes nor after a backslash: a variable's value is inserted there.
const EXPANDED: char = '\u{1}';

/// Returns the text as it was written.
fn literal(text: &str) -> String {
    text.replace(EXPANDED, "$")
}

fn literals(text: &str) -> Result<Vec<String>, String> {
    Ok(words(text)?.iter().map(|word| literal(word)).collect())
}

/// Inserts the values that `env` has for `$NAME` and `${NAME}`. A variable that is not there is empty.
fn expand(text: &str, env: &[Value]) -> String {
    let value = |name: &str| {
        let pairs = env.iter().filter_map(|pair| pair.as_str()?.split_once('='));
        pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next_back().unwrap_or_default().to_owned()
    };
    let mut parts = text.split(EXPANDED);
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let braced = part.strip_prefix('{').and_then(|part| part.split_once('}'));
        let end = part.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(part.len());
        let (name, rest) = braced.unwrap_or_else(|| part.split_at(end));
        if name.is_empty() || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            // `${NAME:-word}` and the like stay as they are.
            expanded.push('$');
            expanded.push_str(part);
        } else {
            expanded.push_str(&value(name));
            expanded.push_str(rest);
        }
    }
    expanded
}

/// Splits a line at its spaces, except those in quotes or after a backslash. [`EXPANDED`] stands for each `$` that is not
/// quoted.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(letters.next()),
            (letter, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            ('$', None | Some('"')) => word.get_or_insert_default().push(EXPANDED),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    match quote {
        Some(open) => Err(format!("a {open} is not closed")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

fn with_protocol(port: &str) -> Result<String, String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    match number.parse::<u16>() {
        Ok(1..) if ["tcp", "udp", "sctp"].contains(&protocol) => Ok(format!("{number}/{protocol}")),
        _ => Err(format!("{port:?} is not a port from 1 to 65535 with /tcp, /udp or /sctp")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_do_what_the_instructions_of_a_dockerfile_do() {
        let mut config = Map::new();
        let changes = [
            r#"CMD ["nginx", "-g"]"#,
            "entrypoint exec /bin/server --x",
            r#"ENV A=1 B="two words" C=it\ is D='$x'"#,
            "ENV A 2 and more",
            "EXPOSE 80 53/udp",
            "LABEL a=b",
            "LABEL c=d",
            "VOLUME /a /b",
            r#"VOLUME ["/c d"]"#,
            "USER www:www",
            "WORKDIR /srv",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN make",
        ];
        ConfigChange::apply_all(&changes.map(|change| change.parse().unwrap()), &mut config);
        let expected = json!({
            "Cmd": ["nginx", "-g"], "Entrypoint": ["/bin/sh", "-c", "exec /bin/server --x"],
            "Env": ["B=two words", "C=it is", "D=$x", "A=2 and more"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Labels": {"a": "b", "c": "d"},
            "Volumes": {"/a": {}, "/b": {}, "/c d": {}}, "User": "www:www", "WorkingDir": "/srv", "StopSignal": "SIGQUIT",
            "OnBuild": ["RUN make"],
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn changes_are_made_to_fields_that_are_there_or_null() {
        let config = json!({"Env": ["A=1", "B=2"], "Labels": null, "ExposedPorts": {"80/tcp": {}}, "OnBuild": null});
        let Value::Object(mut config) = config else { panic!("no object") };
        let changes = ["ENV=A=3", "LABEL x=y", "EXPOSE=81", "CMD=/bin/bash", "ONBUILD USER x"];
        ConfigChange::apply_all(&changes.map(|change| change.parse().unwrap()), &mut config);
        let expected = json!({
            "Env": ["B=2", "A=3"], "Labels": {"x": "y"}, "ExposedPorts": {"80/tcp": {}, "81/tcp": {}},
            "Cmd": ["/bin/sh", "-c", "/bin/bash"], "OnBuild": ["USER x"],
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn variables_are_expanded_a_command_goes_with_its_entry_point_and_directories_are_joined() {
        let config = json!({"Env": ["PATH=/usr/bin", "A=1"], "Cmd": ["old"], "WorkingDir": "/srv"});
        let Value::Object(mut config) = config else { panic!("no object") };
        let changes = [
            r#"ENV PATH=/opt/bin:$PATH B="${A}2" C='$A' D=\$A E=$none F=${A:-x} A=2 G=$A"#,
            "ENV H /h:$A",
            "ENTRYPOINT /new",
            "WORKDIR below",
            "WORKDIR it",
            "LABEL price=$5",
        ];
        ConfigChange::apply_all(&changes.map(|change| change.parse().unwrap()), &mut config);
        let expected = json!({
            "Env": ["PATH=/opt/bin:/usr/bin", "B=12", "C=$A", "D=$A", "E=", "F=${A:-x}", "A=2", "G=1", "H=/h:2"],
            "Entrypoint": ["/bin/sh", "-c", "/new"], "WorkingDir": "/srv/below/it", "Labels": {"price": "$5"},
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn a_change_that_cannot_be_made_is_refused_with_its_reason() {
        let table = [
            ("", "write an instruction"),
            ("CMD", "write an instruction"),
            ("RUN make", "RUN is not one of CMD"),
            ("ENV A", "has no value"),
            ("ENV A=1 =2", "not NAME=VALUE"),
            ("ENV A=\"1", "is not closed"),
            ("EXPOSE 0", "not a port"),
            ("EXPOSE 80/icmp", "not a port"),
        ];
        for (change, hint) in table {
            let error = change.parse::<ConfigChange>().unwrap_err().to_string();
            assert!(error.contains(hint), "{change}: {error}");
        }
    }
}
