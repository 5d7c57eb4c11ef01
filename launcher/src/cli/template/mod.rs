//! `--format`: the part of Go's templates that scripts for docker and podman use, over the JSON of a row.
//!
//! Fields (`.State.Running`, `$row.Names`), text, numbers, pipelines, parentheses, `if`, `range` and `with` with `else`,
//! `{{-` and `-}}`, variables, and the functions `json`, `index`, `slice`, `len`, `join`, `split`, `upper`, `lower`, `title`, `pad`,
//! `truncate`, `print`, `printf`, `println`, `eq`, `ne`, `lt`, `le`, `gt`, `ge`, `not`, `and` and `or`; `.Label "NAME"`. A format that begins with `table` has a line of headings, and columns between tabs.

mod parse;
mod run;
mod table;

use std::str::FromStr;

use serde_json::Value;

use self::parse::{Node, parse};
use self::run::execute;
use self::table::{columns, headings};
use crate::failure::{Failure, USAGE};

/// How rows are printed.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Format {
    /// As JSON, with docker's fields and those of `--json`.
    Json,
    /// As without `--format`.
    Plain,
    /// By a template for each row.
    Template { body: Vec<Node>, table: bool },
}

/// The option.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct FormatArg {
    /// Print each row by a template as docker does, such as '{{.Names}}: {{.Status}}' or 'table {{.ID}}\t{{.Size}}', or as json
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<Format>,
}

impl FormatArg {
    /// Returns whether the option is given.
    #[cfg(target_os = "linux")]
    pub(in crate::cli) fn is_given(&self) -> bool {
        self.format.is_some()
    }

    /// Prints the rows as the option says, if it is given. Returns whether it did.
    pub(in crate::cli) fn print(&self, rows: impl IntoIterator<Item = Value>) -> Result<bool, Failure> {
        print(self.format.as_ref(), rows)
    }
}

/// Prints one row by a template or as JSON, if that is asked for. Returns whether it did.
pub(in crate::cli) fn print_one(format: Option<&Format>, row: &Value) -> Result<bool, Failure> {
    match format {
        Some(Format::Json) => crate::print::json(row).map(|()| true),
        _ => print(format, [row.clone()]),
    }
}

/// Prints rows by a template or as an array of JSON, if that is asked for. Returns whether it did.
pub(in crate::cli) fn print(format: Option<&Format>, rows: impl IntoIterator<Item = Value>) -> Result<bool, Failure> {
    let (body, table) = match format {
        Some(Format::Template { body, table }) => (body, table),
        Some(Format::Json) => {
            let rows: Vec<Value> = rows.into_iter().collect();
            return crate::print::json_pretty(&rows).map(|()| true);
        }
        Some(Format::Plain) | None => return Ok(false),
    };
    let mut lines = Vec::new();
    if *table {
        lines.push(headings(body));
    }
    for row in rows {
        lines.push(execute(body, &row).map_err(wrong)?);
    }
    let text = if *table { columns(&lines) } else { lines.iter().map(|line| format!("{line}\n")).collect() };
    crate::print::result_lines(&text).map(|()| true)
}

fn wrong(cause: String) -> Failure {
    Failure::new("--format", cause).with_status(USAGE)
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "json" => return Ok(Self::Json),
            "table" | "" => return Ok(Self::Plain),
            _ => {}
        }
        let rest = text.strip_prefix("table ");
        let source = rest.unwrap_or(text).replace("\\t", "\t").replace("\\n", "\n");
        Ok(Self::Template { body: parse(&source)?, table: rest.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn printed(template: &str) -> Result<String, String> {
        let row = json!({
            "ID": "abc", "Names": "web", "State": { "Running": true, "ExitCode": 0 }, "RepoTags": ["a:1", "b:2"],
            "RepoDigests": ["a@sha256:1"], "Labels": { "x.y": "z" }, "labels": { "x.y": "z" }, "Empty": [], "Zero": 0,
            "Mounts": [{ "Source": "/a", "Destination": "/b" }, { "Source": "/c", "Destination": "/d" }],
        });
        match template.parse()? {
            Format::Template { body, .. } => execute(&body, &row),
            _ => panic!("no template"),
        }
    }

    #[test]
    fn what_scripts_use_prints_what_docker_prints() {
        for (template, expected) in [
            ("{{.ID}}", "abc"),
            ("{{ .Names }}: {{.State.Running}} {{.State.ExitCode}}", "web: true 0"),
            ("{{json .State}}", r#"{"ExitCode":0,"Running":true}"#),
            ("{{.RepoTags | json}}", r#"["a:1","b:2"]"#),
            ("{{index .RepoDigests 0}}", "a@sha256:1"),
            (r#"{{index .Labels "x.y"}}"#, "z"),
            (r#"{{index .Labels "none"}}|"#, "|"),
            ("{{(index .Mounts 1).Source}}", "/c"),
            ("{{range .Mounts}}{{.Source}}:{{.Destination}} {{end}}", "/a:/b /c:/d "),
            ("{{range $k, $v := .Labels}}{{$k}}={{$v}}{{end}}", "x.y=z"),
            ("{{range $m := .Mounts}}{{$m.Source}},{{end}}", "/a,/c,"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .Zero}}x{{else if .ID}}y{{else}}z{{end}}", "y"),
            ("{{with .State}}{{.Running}}{{end}} {{$.ID}}", "true abc"),
            (r#"{{join .RepoTags ", "}}"#, "a:1, b:2"),
            ("{{upper .Names}} {{len .Mounts}}", "WEB 2"),
            (r#"{{if eq .Names "web"}}yes{{end}}"#, "yes"),
            (r#"{{println "}}" .ID}}"#, "}} abc\n"),
            ("a {{- .ID -}} b", "aabcb"),
            ("{{.RepoTags}} {{.Labels}}", "[a:1 b:2] map[x.y:z]"),
            ("{{.State.Nothing}}", "<no value>"),
            (r"{{.ID}}\t{{.Names}}\n", "abc\tweb\n"),
            ("plain", "plain"),
            (r#"{{.Label "x.y"}}|{{.Label "none"}}"#, "z|"),
            ("{{.ID | printf \"%s-%v\" .Names}}", "web-abc"),
            ("{{slice .ID 1 2}}{{title .Names}}{{truncate .Names 2}}", "bWebwe"),
            ("{{pad .ID 1 2}}|", " abc  |"),
            ("{{print .Names .Zero}}", "web 0"),
            ("{{$n := .Names}}{{$n}}", "web"),
            ("{{if and .ID (gt (len .Mounts) 1)}}many{{end}}", "many"),
        ] {
            assert_eq!(printed(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn wrong_templates_say_what_is_wrong() {
        for (template, cause) in [
            ("{{.ID", "without"),
            ("{{.Nothing}}", ".Names"),
            ("{{frob .ID}}", "frob"),
            ("{{if .ID}}x", "end"),
            ("{{end}}", "beginning"),
            ("{{}}", "empty"),
            ("{{index}}", "arguments"),
            ("{{(.ID}}", "does not end"),
        ] {
            let error = printed(template).unwrap_err();
            assert!(error.contains(cause), "{template}: {error}");
        }
    }

    #[test]
    fn tables_have_headings_and_columns() {
        let Ok(Format::Template { body, table: true }) = r"table {{.ID}}\t{{.CreatedAt}}".parse() else { panic!() };
        assert_eq!(headings(&body), "ID\tCREATED AT");
        assert_eq!(
            columns(&["ID\tCREATED AT".to_owned(), "abcdef\tnow".to_owned()]),
            "ID       CREATED AT\nabcdef   now\n"
        );
        assert!(matches!("json".parse(), Ok(Format::Json)) && matches!("table".parse(), Ok(Format::Plain)));
    }
}
