//! `--filter KEY=VALUE` of lists.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::failure::{Failure, USAGE};

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) key: String,
    pub(super) value: String,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, as in name=web")?;
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// Returns whether something fits all filters; of several with the same key, one has to fit, except for labels.
pub(super) fn fits(filters: &[Filter], fits: impl Fn(&Filter) -> bool) -> bool {
    filters.iter().all(|filter| {
        let mut same = filters.iter().filter(|other| other.key == filter.key && filter.key != "label");
        fits(filter) || same.any(&fits)
    })
}

/// Refuses keys that a list does not have.
pub(super) fn check(filters: &[Filter], known: &[&str]) -> Result<(), Failure> {
    match filters.iter().find(|filter| !known.contains(&filter.key.as_str())) {
        Some(unknown) => {
            let cause = format!("this list has no such filter; there are {}", known.join(", "));
            Err(Failure::new(format_args!("--filter {}", unknown.key), cause).with_status(USAGE))
        }
        None => Ok(()),
    }
}

/// Returns whether there is a label `NAME`, or `NAME=VALUE`.
pub(super) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|own| own == value),
        None => labels.contains_key(wanted),
    }
}

/// Returns whether a text fits a pattern in which `*` stands for any characters and `?` for one.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    match pattern_chars.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = pattern_chars.as_str();
            text.char_indices().any(|(at, _)| matches(rest, &text[at..])) || matches(rest, "")
        }
        Some(wanted) => {
            let mut text = text.chars();
            text.next().is_some_and(|c| wanted == '?' || wanted == c) && matches(pattern_chars.as_str(), text.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, text, fits) in [
            ("debian*", "debian:12", true),
            ("*:12", "debian:12", true),
            ("d?bian", "debian", true),
            ("debian", "debian:12", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn values_of_one_key_are_alternatives_and_keys_and_labels_add_up() {
        let filters = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Filter>>();
        let is = |given: &[&str]| {
            fits(&filters(given), |filter| {
                ["name=a", "label=x"].contains(&&*format!("{}={}", filter.key, filter.value))
            })
        };
        assert!(is(&[]) && is(&["name=a"]) && is(&["name=b", "name=a"]) && is(&["name=a", "label=x"]));
        assert!(!is(&["name=b"]) && !is(&["label=x", "label=y"]) && !is(&["name=a", "label=y"]));
        assert!(check(&filters(&["size=1"]), &["name"]).unwrap_err().to_string().contains("name"));
    }
}
