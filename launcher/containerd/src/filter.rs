//! The filters of containerd's lists, such as `labels."containerd.io/snapshot.ref"==sha256:abc,parent==""`.
//!
//! A list of filters selects what one of them matches. A filter is a list of conditions, separated by commas, all of which
//! must hold: `path==value`, `path!=value`, `path~=expression`, or `path`, which must be present.

use regex_lite::Regex;

/// What a filter reads: a field by its path, such as `["labels", "a"]`.
pub(crate) trait Fields {
    /// Returns the field's value, if it has one.
    fn field(&self, path: &[String]) -> Option<&str>;
}

/// Parsed filters.
#[derive(Debug)]
pub(crate) struct Filters(Vec<Vec<Condition>>);

#[derive(Debug)]
struct Condition {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Parses filters. The error says which one is wrong, and where.
    pub(crate) fn parse(filters: &[String]) -> Result<Self, String> {
        let parsed = filters.iter().map(|filter| {
            let mut parser = Parser { rest: filter };
            parser.conditions().map_err(|cause| {
                let at = filter.len() - parser.rest.len();
                format!("filter {filter:?}: {cause} at byte {at}")
            })
        });
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }

    /// Whether one of the filters matches, or there are none.
    pub(crate) fn matches(&self, fields: &impl Fields) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|condition| condition.holds(fields)))
    }
}

impl Condition {
    fn holds(&self, fields: &impl Fields) -> bool {
        let found = fields.field(&self.path);
        match &self.test {
            Test::Present => found.is_some(),
            Test::Equal(value) => found == Some(value),
            Test::NotEqual(value) => found != Some(value),
            Test::Matches(expression) => expression.is_match(found.unwrap_or_default()),
        }
    }
}

struct Parser<'text> {
    rest: &'text str,
}

impl<'text> Parser<'text> {
    fn conditions(&mut self) -> Result<Vec<Condition>, String> {
        let mut conditions = Vec::new();
        if self.rest.trim().is_empty() {
            return Ok(conditions);
        }
        loop {
            conditions.push(self.condition()?);
            if self.rest.is_empty() {
                return Ok(conditions);
            }
            if !self.took(",") {
                return Err("expected a comma".into());
            }
        }
    }

    fn condition(&mut self) -> Result<Condition, String> {
        let mut path = vec![self.name()?];
        while self.took(".") {
            path.push(self.name()?);
        }
        let test = if self.took("==") {
            Test::Equal(self.value(false)?)
        } else if self.took("!=") {
            Test::NotEqual(self.value(false)?)
        } else if self.took("~=") {
            let expression = self.value(true)?;
            Test::Matches(Regex::new(&expression).map_err(|error| format!("{expression:?}: {error}"))?)
        } else {
            Test::Present
        };
        Ok(Condition { path, test })
    }

    fn took(&mut self, sign: &str) -> bool {
        let rest = self.rest.strip_prefix(sign);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// A part of a path.
    fn name(&mut self) -> Result<String, String> {
        if self.rest.starts_with('"') {
            return self.quoted('"');
        }
        let is_of_name = |sign: char| sign.is_ascii_alphanumeric() || sign == '_';
        match self.until(|sign| !is_of_name(sign)) {
            "" => Err("expected the name of a field".into()),
            name => Ok(name.to_owned()),
        }
    }

    /// The right side of a comparison. Expressions may also be quoted with `/` or `|`.
    fn value(&mut self, is_expression: bool) -> Result<String, String> {
        let quote = self.rest.chars().next().filter(|sign| *sign == '"' || is_expression && "/|".contains(*sign));
        match quote {
            Some(quote) => self.quoted(quote),
            None => match self.until(|sign| sign == ',' || sign.is_whitespace()) {
                "" => Err("expected a value; an empty one is written \"\"".into()),
                value => Ok(value.to_owned()),
            },
        }
    }

    fn until(&mut self, is_end: impl Fn(char) -> bool) -> &'text str {
        let (taken, rest) = self.rest.split_at(self.rest.find(is_end).unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Text in quotes, with the escapes of Go that occur in names: a backslash before the quote, itself, or n, r, t.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        let mut signs = self.rest.char_indices().skip(1);
        while let Some((at, sign)) = signs.next() {
            match sign {
                _ if sign == quote => {
                    self.rest = &self.rest[at + sign.len_utf8()..];
                    return Ok(text);
                }
                '\\' => match signs.next().map(|(_, escaped)| escaped) {
                    Some('n') if quote == '"' => text.push('\n'),
                    Some('r') if quote == '"' => text.push('\r'),
                    Some('t') if quote == '"' => text.push('\t'),
                    Some(escaped) if escaped == quote || quote == '"' && escaped == '\\' => text.push(escaped),
                    // Escapes of an expression are its own.
                    Some(escaped) if quote != '"' => text.extend(['\\', escaped]),
                    _ => return Err("unknown escape in quotes".into()),
                },
                _ => text.push(sign),
            }
        }
        Err("the quotes are not closed".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sample;

    impl Fields for Sample {
        fn field(&self, path: &[String]) -> Option<&str> {
            match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["parent"] => Some(""),
                ["name"] => Some("default/3/a b"),
                ["labels", "containerd.io/snapshot.ref"] => Some("sha256:abc"),
                _ => None,
            }
        }
    }

    fn matches(filters: &[&str]) -> bool {
        let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
        Filters::parse(&filters).unwrap().matches(&Sample)
    }

    #[test]
    fn the_filter_that_containerd_sends_after_a_layer_was_ready_is_understood() {
        assert!(matches(&[r#"labels."containerd.io/snapshot.ref"==sha256:abc,parent=="""#]));
        assert!(!matches(&[r#"labels."containerd.io/snapshot.ref"==sha256:abd,parent=="""#]));
        assert!(!matches(&[r#"labels."containerd.io/snapshot.ref"==sha256:abc,parent=="default/2/x""#]));
    }

    #[test]
    fn conditions_are_joined_with_and_filters_with_or() {
        assert!(matches(&[]) && matches(&[""]));
        assert!(matches(&["kind==active", "name~=/^default\\/3/"]));
        assert!(!matches(&["kind==active", "name~=other"]));
        assert!(matches(&["labels.\"containerd.io/snapshot.ref\"", "kind"]) && !matches(&["labels.other"]));
        assert!(matches(&["labels.other!=x,name!=x"]) && matches(&[r#"name=="default/3/a b""#]));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for wrong in ["==x", "name==", "name==\"x", "name~=[", "name=x", "name==x y", "a.", ","] {
            let refused = Filters::parse(&[wrong.to_owned()]).unwrap_err();
            assert!(refused.starts_with("filter "), "{wrong}: {refused}");
        }
    }
}
