//! Parses templates.

use serde_json::Value;

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) enum Node {
    Text(String),
    Print(Expression),
    Set(String, Expression),
    /// `if` and, if the value becomes the dot, `with`.
    If {
        condition: Expression,
        is_with: bool,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        names: Vec<String>,
        of: Expression,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) enum Expression {
    Literal(Value),
    Dot,
    Variable(String),
    Field(Box<Expression>, String),
    Call(String, Vec<Expression>),
}

/// Parses a whole template.
pub(super) fn parse(source: &str) -> Result<Vec<Node>, String> {
    let mut parts = split(source)?.into_iter();
    let (body, end) = block(&mut parts)?;
    end.map_or(Ok(body), |word| Err(format!("{{{{{word}}}}} has no beginning")))
}

/// Text, or what is between braces.
enum Part {
    Text(String),
    Action(String),
}

fn split(source: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut rest, mut trims) = (Vec::new(), source, false);
    loop {
        let (text, action) = match rest.split_once("{{") {
            Some((text, action)) => (text, Some(action)),
            None => (rest, None),
        };
        let text = if trims { text.trim_start() } else { text };
        let before = action.and_then(|action| action.strip_prefix("- "));
        parts.push(Part::Text(if before.is_some() { text.trim_end() } else { text }.to_owned()));
        let Some(action) = before.or(action) else { return Ok(parts) };
        let end = closing(action).ok_or("\"{{\" without \"}}\"")?;
        let inner = &action[..end];
        let trimmed = inner.strip_suffix(" -");
        trims = trimmed.is_some();
        parts.push(Part::Action(trimmed.unwrap_or(inner).trim().to_owned()));
        rest = &action[end + 2..];
    }
}

/// Finds the end of an action, which is not within quotes.
fn closing(action: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (position, c) in action.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if action[position..].starts_with("}}") => return Some(position),
            None => {}
        }
    }
    None
}

/// Parses up to `end`, `else` or the end of the template, and returns that word with what follows it.
fn block(parts: &mut std::vec::IntoIter<Part>) -> Result<(Vec<Node>, Option<String>), String> {
    let mut nodes = Vec::new();
    while let Some(part) = parts.next() {
        let action = match part {
            Part::Text(text) => {
                if !text.is_empty() {
                    nodes.push(Node::Text(text));
                }
                continue;
            }
            Part::Action(action) => action,
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((nodes, Some(action))),
            "if" | "with" | "range" => {
                let node = conditional(word, rest.trim(), parts)?;
                nodes.push(node);
            }
            _ if action.starts_with("/*") => {}
            _ if word.starts_with('$')
                && (rest.trim_start().starts_with(":=") || rest.trim_start().starts_with("= ")) =>
            {
                let (_, value) = rest.split_once('=').unwrap_or_default();
                nodes.push(Node::Set(word.trim_start_matches('$').to_owned(), expression(value)?));
            }
            _ => nodes.push(Node::Print(expression(&action)?)),
        }
    }
    Ok((nodes, None))
}

fn conditional(word: &str, rest: &str, parts: &mut std::vec::IntoIter<Part>) -> Result<Node, String> {
    let (then, end) = block(parts)?;
    let otherwise = match end.as_deref() {
        Some("end") => Vec::new(),
        Some("else") => match block(parts)? {
            (nodes, Some(end)) if end == "end" => nodes,
            _ => return Err(format!("{{{{{word}}}}} has no {{{{end}}}}")),
        },
        // `else if` continues with a condition that has the same end.
        Some(more) if more.starts_with("else if ") => vec![conditional("if", &more["else if ".len()..], parts)?],
        _ => return Err(format!("{{{{{word}}}}} has no {{{{end}}}}")),
    };
    if word != "range" {
        return Ok(Node::If { condition: expression(rest)?, is_with: word == "with", then, otherwise });
    }
    let (names, of) = match rest.split_once(":=") {
        Some((names, of)) => {
            (names.split(',').map(|name| name.trim().trim_start_matches('$').to_owned()).collect(), of)
        }
        None => (Vec::new(), rest),
    };
    Ok(Node::Range { names, of: expression(of)?, body: then, otherwise })
}

/// Parses a pipeline: the value of each part is the last argument of the next.
fn expression(text: &str) -> Result<Expression, String> {
    let words = words(text)?;
    let mut value = None;
    for part in words.split(|word| word == "|") {
        let mut terms = part.iter().map(|word| term(word)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = (!terms.is_empty()).then(|| terms.remove(0)) else {
            return Err("an empty expression".to_owned());
        };
        terms.extend(value.take());
        value = Some(match first {
            Expression::Call(name, _) => Expression::Call(name, terms),
            // docker's only method with an argument.
            Expression::Field(of, name) if name == "Label" && !terms.is_empty() => {
                let labels = Expression::Field(of, "labels".to_owned());
                Expression::Call("index".to_owned(), [labels].into_iter().chain(terms).collect())
            }
            first if terms.is_empty() => first,
            _ => return Err(format!("{:?} is no function", part[0])),
        });
    }
    value.ok_or_else(|| "an empty expression".to_owned())
}

/// Splits an expression into words; quotes and parentheses hold a word together.
fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut depth, mut quote, mut escaped) = (Vec::new(), String::new(), 0_u32, None, false);
    for c in text.chars() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (Some('"'), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.checked_sub(1).ok_or("\")\" without \"(\"")?,
            (None, '|') if depth == 0 => {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                words.push("|".to_owned());
                continue;
            }
            (None, c) if c.is_whitespace() && depth == 0 => {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if depth > 0 || quote.is_some() {
        return Err(format!("{text:?} does not end"));
    }
    words.extend((!word.is_empty()).then_some(word));
    Ok(words)
}

const FUNCTIONS: [&str; 23] = [
    "json", "index", "slice", "len", "join", "split", "upper", "lower", "title", "pad", "truncate", "print", "printf",
    "println", "eq", "ne", "lt", "le", "gt", "ge", "not", "and", "or",
];

fn term(word: &str) -> Result<Expression, String> {
    if let Some(rest) = word.strip_prefix('(') {
        let end = rest.rfind(')').unwrap_or(rest.len());
        return fields(expression(&rest[..end])?, rest.get(end + 1..).unwrap_or_default());
    }
    if let Some(rest) = word.strip_prefix('$') {
        let end = rest.find('.').unwrap_or(rest.len());
        return fields(Expression::Variable(rest[..end].to_owned()), &rest[end..]);
    }
    if word.starts_with('.') {
        return fields(Expression::Dot, word);
    }
    if word.starts_with('`') {
        return Ok(Expression::Literal(word.trim_matches('`').into()));
    }
    if FUNCTIONS.contains(&word) {
        return Ok(Expression::Call(word.to_owned(), Vec::new()));
    }
    let literal = serde_json::from_str(word).map(Expression::Literal);
    literal.map_err(|_| format!("{word:?} is no function here; there are {}", FUNCTIONS.join(", ")))
}

fn fields(mut value: Expression, text: &str) -> Result<Expression, String> {
    for name in text.split('.').filter(|name| !name.is_empty()) {
        if !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Err(format!("{name:?} is no field"));
        }
        value = Expression::Field(Box::new(value), name.to_owned());
    }
    Ok(value)
}
