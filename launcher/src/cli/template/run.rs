//! Executes templates.

use std::collections::HashMap;

use serde_json::Value;

use super::parse::{Expression, Node};

/// What names and the dot mean at a place of the template.
struct Scope<'row> {
    root: &'row Value,
    dot: Value,
    names: HashMap<String, Value>,
}

pub(super) fn execute(body: &[Node], row: &Value) -> Result<String, String> {
    let mut out = String::new();
    run(body, &mut Scope { root: row, dot: row.clone(), names: HashMap::new() }, &mut out)?;
    Ok(out)
}

fn run(body: &[Node], scope: &mut Scope<'_>, out: &mut String) -> Result<(), String> {
    for node in body {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Set(name, expression) => {
                let found = value(expression, scope)?;
                scope.names.insert(name.clone(), found);
            }
            Node::Print(expression) => out.push_str(&shown(&value(expression, scope)?)),
            Node::If { condition, is_with, then, otherwise } => {
                let found = value(condition, scope)?;
                match (is_true(&found), is_with) {
                    (true, true) => {
                        let dot = std::mem::replace(&mut scope.dot, found);
                        run(then, scope, out)?;
                        scope.dot = dot;
                    }
                    (true, false) => run(then, scope, out)?,
                    (false, _) => run(otherwise, scope, out)?,
                }
            }
            Node::Range { names, of, body, otherwise } => {
                let entries: Vec<(Value, Value)> = match value(of, scope)? {
                    Value::Array(items) => items.into_iter().enumerate().map(|(at, item)| (at.into(), item)).collect(),
                    Value::Object(items) => items.into_iter().map(|(key, item)| (key.into(), item)).collect(),
                    _ => Vec::new(),
                };
                if entries.is_empty() {
                    run(otherwise, scope, out)?;
                }
                let dot = scope.dot.clone();
                for (key, item) in entries {
                    if let [first, second] = names.as_slice() {
                        scope.names.insert(first.clone(), key);
                        scope.names.insert(second.clone(), item.clone());
                    } else if let [only] = names.as_slice() {
                        scope.names.insert(only.clone(), item.clone());
                    }
                    scope.dot = item;
                    run(body, scope, out)?;
                }
                scope.dot = dot;
            }
        }
    }
    Ok(())
}

fn value(expression: &Expression, scope: &Scope<'_>) -> Result<Value, String> {
    Ok(match expression {
        Expression::Literal(value) => value.clone(),
        Expression::Dot => scope.dot.clone(),
        Expression::Variable(name) if name.is_empty() => scope.root.clone(),
        Expression::Variable(name) => {
            scope.names.get(name).cloned().ok_or_else(|| format!("${name} is not defined"))?
        }
        Expression::Field(of, name) => {
            let of = value(of, scope)?;
            match of.get(name) {
                Some(found) => found.clone(),
                // Further in, a field may be the key of a map.
                None if &of != scope.root => Value::Null,
                None => {
                    let names =
                        of.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
                    return Err(format!("there is no field .{name}; there are .{}", names.join(" .")));
                }
            }
        }
        Expression::Call(name, arguments) => {
            let arguments = arguments.iter().map(|argument| value(argument, scope)).collect::<Result<Vec<_>, _>>()?;
            call(name, &arguments)?
        }
    })
}

fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| shown(value), str::to_owned);
    Ok(match (name, arguments) {
        ("json", [value]) => value.to_string().into(),
        ("print", values) => values.iter().map(shown).collect::<Vec<_>>().join(" ").into(),
        ("printf", [Value::String(form), values @ ..]) => printf(form, values).into(),
        ("println", values) => (values.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n").into(),
        ("len", [value]) => match value {
            Value::Array(items) => items.len().into(),
            Value::Object(items) => items.len().into(),
            Value::String(text) => text.len().into(),
            _ => 0.into(),
        },
        ("index", [of, keys @ ..]) => keys.iter().fold(of.clone(), |of, key| {
            let found = match key {
                Value::String(key) => of.get(key),
                key => key.as_u64().and_then(|at| of.get(usize::try_from(at).ok()?)),
            };
            found.cloned().unwrap_or_else(|| "".into())
        }),
        ("slice", [Value::String(text), rest @ ..]) => {
            let (from, to) = range(rest, text.len());
            text.get(from..to).unwrap_or_default().into()
        }
        ("slice", [Value::Array(items), rest @ ..]) => {
            let (from, to) = range(rest, items.len());
            items.get(from..to).unwrap_or_default().to_vec().into()
        }
        ("truncate", [value, most]) => text(value).chars().take(count(most)).collect::<String>().into(),
        ("pad", [value, before, after]) => {
            let pad = |wanted: &Value| " ".repeat(count(wanted).min(1000));
            format!("{}{}{}", pad(before), text(value), pad(after)).into()
        }
        ("title", [value]) => {
            let text = text(value);
            let mut chars = text.chars();
            chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect()).into()
        }
        ("lt" | "le" | "gt" | "ge", [first, second]) => {
            let order = match (first.as_f64(), second.as_f64()) {
                (Some(first), Some(second)) => first.partial_cmp(&second),
                _ => Some(shown(first).cmp(&shown(second))),
            };
            order
                .is_some_and(|order| match name {
                    "lt" => order.is_lt(),
                    "le" => order.is_le(),
                    "gt" => order.is_gt(),
                    _ => order.is_ge(),
                })
                .into()
        }
        ("join", [Value::Array(items), by]) => items.iter().map(text).collect::<Vec<_>>().join(&text(by)).into(),
        ("join", [_, _]) => "".into(),
        ("split", [value, by]) => text(value).split(&text(by)).map(Value::from).collect::<Vec<_>>().into(),
        ("upper", [value]) => text(value).to_uppercase().into(),
        ("lower", [value]) => text(value).to_lowercase().into(),
        ("eq", [first, others @ ..]) => others.contains(first).into(),
        ("ne", [first, second]) => (first != second).into(),
        ("not", [value]) => (!is_true(value)).into(),
        ("and", [.., last]) => arguments.iter().find(|value| !is_true(value)).unwrap_or(last).clone(),
        ("or", [.., last]) => arguments.iter().find(|value| is_true(value)).unwrap_or(last).clone(),
        _ => return Err(format!("{name} does not take {} arguments", arguments.len())),
    })
}

/// Returns a number that counts something.
fn count(value: &Value) -> usize {
    value.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or_default()
}

/// Returns the range that up to two numbers name in something of this length.
fn range(numbers: &[Value], length: usize) -> (usize, usize) {
    let to = numbers.get(1).map_or(length, count).min(length);
    (numbers.first().map_or(0, count).min(to), to)
}

/// Replaces each verb of a format (`%s`, `%-20v` and so on) by the next value.
fn printf(form: &str, values: &[Value]) -> String {
    let (mut out, mut rest, mut values) = (String::new(), form, values.iter());
    while let Some((before, verb)) = rest.split_once('%') {
        out.push_str(before);
        let end = verb.find(|c: char| c.is_alphabetic() || c == '%').unwrap_or(verb.len());
        let (flags, verb) = verb.split_at(end);
        let mut chars = verb.chars();
        let value = match chars.next() {
            Some('%') => "%".to_owned(),
            Some('q') => values.next().map_or(String::new(), |value| Value::from(shown(value)).to_string()),
            _ => values.next().map_or(String::new(), shown),
        };
        let width = flags.trim_start_matches(['-', '+', '#']).parse::<usize>().unwrap_or_default().min(1000);
        out.push_str(&if flags.starts_with('-') { format!("{value:width$}") } else { format!("{value:>width$}") });
        rest = chars.as_str();
    }
    out + rest
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(items) => !items.is_empty(),
    }
}

/// Returns a value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(items) => {
            let pairs = items.iter().map(|(key, value)| format!("{key}:{}", shown(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
        value => value.to_string(),
    }
}
