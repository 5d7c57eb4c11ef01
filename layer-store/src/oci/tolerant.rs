//! Reads the documents of images as people's tools write them, into the types of `oci-spec`.
//!
//! Those types follow the specification to the letter. They refuse a whole document that docker, podman and skopeo read
//! because of a `null`, a missing field that is not needed here, or a label that is a number. (For a platform they read
//! `os_features`, but the specification says `os.features`.) So each document is first converted to the form that they
//! expect:
//!
//! - `null` is the same as absent.
//! - A required field gets the value that its absence means.
//! - A field with a value of another type gets the value that was most likely meant, or is left out.
//!
//! What is needed and cannot be guessed, such as a digest, stays as it is, and `oci-spec` refuses it. Nothing is
//! changed in the store: documents are kept byte for byte, and these functions parse them each time.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::ImageError;
use super::platform::{Described, Platform};

type Fields = Map<String, Value>;

/// Parses a config.
pub(crate) fn config(bytes: &[u8]) -> Result<ImageConfiguration, ImageError> {
    let mut fields = object("config", bytes)?;
    fold_names(&mut fields, &["architecture", "os", "variant", "created", "author", "rootfs", "history", "config"]);
    for name in ["created", "author", "architecture", "os", "os.version", "variant"] {
        tidy(&mut fields, name, text);
    }
    tidy(&mut fields, "os.features", texts);
    tidy(&mut fields, "history", history);
    tidy(&mut fields, "config", defaults);
    // A config without a platform counts as one for this host, as in docker.
    let host = Platform::host();
    fields.entry("os").or_insert_with(|| json!(host.os()));
    fields.entry("architecture").or_insert_with(|| json!(host.architecture()));
    let mut rootfs = match fields.remove("rootfs") {
        Some(Value::Object(rootfs)) => rootfs,
        _ => Fields::new(),
    };
    fold_names(&mut rootfs, &["type", "diff_ids"]);
    tidy(&mut rootfs, "type", text);
    rootfs.entry("type").or_insert_with(|| json!("layers"));
    rootfs.entry("diff_ids").or_insert_with(|| json!([]));
    fields.insert("rootfs".to_owned(), Value::Object(rootfs));
    typed("config", fields)
}

/// Parses what a config says about its platform, which may be nothing.
pub(crate) fn config_platform(bytes: &[u8]) -> Described {
    let mut fields = object("config", bytes).unwrap_or_default();
    fold_names(&mut fields, &["architecture", "os", "variant"]);
    let said = ["os", "architecture", "variant"].map(|name| fields.remove(name).and_then(text));
    let [os, architecture, variant] = said.each_ref().map(|value| value.as_ref().and_then(Value::as_str));
    Described::new(os, architecture, variant)
}

/// Parses the manifest of one image.
pub(crate) fn manifest(bytes: &[u8]) -> Result<ImageManifest, ImageError> {
    manifest_of(object("manifest", bytes)?)
}

pub(super) fn manifest_of(mut fields: Fields) -> Result<ImageManifest, ImageError> {
    tidy_document(&mut fields);
    tidy(&mut fields, "config", descriptor);
    let layers = match fields.remove("layers") {
        Some(Value::Array(layers)) => {
            layers.into_iter().map(|layer| descriptor(layer.clone()).unwrap_or(layer)).collect()
        }
        None => Vec::new(),
        Some(other) => vec![other],
    };
    fields.insert("layers".to_owned(), Value::Array(layers));
    typed("manifest", fields)
}

/// Parses the entries of an index one by one, so a bad one does not affect the others.
pub(super) fn entries_of(mut fields: Fields) -> Vec<Result<Descriptor, ImageError>> {
    let entries = match fields.remove("manifests") {
        Some(Value::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let read = |entry: Value| match descriptor(entry) {
        Some(Value::Object(entry)) => typed("entry of an image index", entry),
        _ => Err(malformed("entry of an image index", "it is no object")),
    };
    entries.into_iter().map(read).collect()
}

/// Parses a document that must be an object, and removes its `null`s.
pub(super) fn object(what: &str, bytes: &[u8]) -> Result<Fields, ImageError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let read = match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        // The other tools are written in Go, which replaces what is not UTF-8.
        Err(_) => serde_json::from_str(&String::from_utf8_lossy(bytes)),
    };
    match read {
        Ok(Value::Object(fields)) => Ok(without_nulls(fields)),
        Ok(_) => Err(malformed(what, "it is no JSON object")),
        Err(error) => Err(malformed(what, &error.to_string())),
    }
}

fn malformed(what: &str, cause: &str) -> ImageError {
    ImageError::Malformed { what: what.to_owned(), cause: cause.to_owned() }
}

fn typed<T: DeserializeOwned>(what: &str, fields: Fields) -> Result<T, ImageError> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| malformed(what, &error.to_string()))
}

/// Removes what is `null`, at any depth, except the values of maps of which only the keys matter.
fn without_nulls(fields: Fields) -> Fields {
    let clean = |(name, value): (String, Value)| match value {
        Value::Null => None,
        Value::Object(map) if is_map(&name) => Some((name, Value::Object(map))),
        Value::Object(fields) => Some((name, Value::Object(without_nulls(fields)))),
        Value::Array(items) => Some((name, items_without_nulls(items))),
        other => Some((name, other)),
    };
    fields.into_iter().filter_map(clean).collect()
}

fn items_without_nulls(items: Vec<Value>) -> Value {
    let clean = |item| match item {
        Value::Null => None,
        Value::Object(fields) => Some(Value::Object(without_nulls(fields))),
        Value::Array(items) => Some(items_without_nulls(items)),
        other => Some(other),
    };
    Value::Array(items.into_iter().filter_map(clean).collect())
}

/// Maps from names that an image chooses.
fn is_map(name: &str) -> bool {
    ["Volumes", "ExposedPorts", "Labels", "annotations"].iter().any(|map| map.eq_ignore_ascii_case(name))
}

/// Renames fields that are written with other capitals, such as `Os` for `os`. Go ignores the case.
fn fold_names(fields: &mut Fields, names: &[&str]) {
    for name in names {
        if fields.contains_key(*name) {
            continue;
        }
        let written = fields.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned();
        if let Some(value) = written.and_then(|written| fields.remove(&written)) {
            fields.insert((*name).to_owned(), value);
        }
    }
}

/// Replaces a field by what `read` returns for it, or removes it if that is `None`.
fn tidy(fields: &mut Fields, name: &str, read: impl Fn(Value) -> Option<Value>) {
    let Some(value) = fields.remove(name) else { return };
    match read(value) {
        Some(value) => drop(fields.insert(name.to_owned(), value)),
        None => tracing::info!("passed over: {name} has a value of another type"),
    }
}

/// Converts the fields that manifests and indexes have in common.
fn tidy_document(fields: &mut Fields) {
    fields.insert("schemaVersion".to_owned(), json!(2));
    for name in ["mediaType", "artifactType"] {
        tidy(fields, name, text);
    }
    tidy(fields, "annotations", text_map);
    // The subject of a manifest is not needed.
    fields.remove("subject");
}

fn descriptor(value: Value) -> Option<Value> {
    let Value::Object(mut fields) = value else { return None };
    for name in ["mediaType", "artifactType", "data"] {
        tidy(&mut fields, name, text);
    }
    tidy(&mut fields, "urls", texts);
    tidy(&mut fields, "annotations", text_map);
    tidy(&mut fields, "platform", platform);
    fields.entry("mediaType").or_insert_with(|| json!(""));
    Some(Value::Object(fields))
}

fn platform(value: Value) -> Option<Value> {
    let Value::Object(mut fields) = value else { return None };
    for name in ["os", "architecture", "variant"] {
        tidy(&mut fields, name, text);
    }
    for name in ["os", "architecture"] {
        fields.entry(name).or_insert_with(|| json!(""));
    }
    tidy(&mut fields, "features", texts);
    let features = fields.remove("os.features").and_then(texts);
    fields.remove("os_version");
    fields.remove("os_features");
    fields.extend(features.map(|features| ("os_features".to_owned(), features)));
    Some(Value::Object(fields))
}

/// Converts the part of a config that says how to run the image.
fn defaults(value: Value) -> Option<Value> {
    const TEXTS: [&str; 3] = ["User", "WorkingDir", "StopSignal"];
    const LISTS: [&str; 3] = ["Env", "Entrypoint", "Cmd"];
    const SETS: [&str; 2] = ["ExposedPorts", "Volumes"];
    let Value::Object(mut fields) = value else { return None };
    fold_names(&mut fields, &[&TEXTS[..], &LISTS, &SETS, &["Labels"]].concat());
    TEXTS.iter().for_each(|name| tidy(&mut fields, name, text));
    LISTS.iter().for_each(|name| tidy(&mut fields, name, texts));
    SETS.iter().for_each(|name| tidy(&mut fields, name, set));
    tidy(&mut fields, "Labels", text_map);
    Some(Value::Object(fields))
}

fn history(value: Value) -> Option<Value> {
    let Value::Array(entries) = value else { return None };
    let tidied = entries.into_iter().filter_map(|entry| {
        let Value::Object(mut fields) = entry else { return None };
        for name in ["created", "author", "created_by", "comment"] {
            tidy(&mut fields, name, text);
        }
        tidy(&mut fields, "empty_layer", |value| value.is_boolean().then_some(value));
        Some(Value::Object(fields))
    });
    Some(Value::Array(tidied.collect()))
}

/// Returns a text. A number or a truth value becomes text.
fn text(value: Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value),
        Value::Number(_) | Value::Bool(_) => Some(json!(value.to_string())),
        _ => None,
    }
}

/// Returns a list of texts. A single text becomes a list of one, as when docker reads `Cmd`.
fn texts(value: Value) -> Option<Value> {
    match value {
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(text).collect())),
        other => text(other).map(|only| json!([only])),
    }
}

/// Returns the keys of a map, each with an empty object. Some tools write a list instead.
fn set(value: Value) -> Option<Value> {
    let names: Vec<String> = match value {
        Value::Object(map) => map.into_iter().map(|(name, _)| name).collect(),
        other => match texts(other)? {
            Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => return None,
        },
    };
    Some(Value::Object(names.into_iter().map(|name| (name, json!({}))).collect()))
}

/// Returns a map of texts. A `null` becomes an empty text.
fn text_map(value: Value) -> Option<Value> {
    let Value::Object(map) = value else { return None };
    let tidied = map.into_iter().map(|(name, value)| (name, text(value).unwrap_or_else(|| json!(""))));
    Some(Value::Object(tidied.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> ImageConfiguration {
        config(value.to_string().as_bytes()).unwrap_or_else(|error| panic!("{value}: {error}"))
    }

    #[test]
    fn null_means_the_same_as_absent_everywhere() {
        let names =
            ["created", "author", "architecture", "os", "variant", "config", "rootfs", "history", "os.features"];
        for name in names {
            assert_eq!(read(&json!({name: null})), read(&json!({})), "{name}");
        }
        let names =
            ["User", "Env", "Entrypoint", "Cmd", "WorkingDir", "StopSignal", "Labels", "Volumes", "ExposedPorts"];
        for name in names {
            assert_eq!(read(&json!({"config": {name: null}})), read(&json!({"config": {}})), "{name}");
        }
        assert_eq!(read(&json!({"rootfs": {"type": null, "diff_ids": null}})), read(&json!({})));
        let layers = |layers: Value| json!({"config": {"digest": format!("sha256:{}", "0".repeat(64)), "size": 2}, "layers": layers});
        let null = manifest(layers(json!(null)).to_string().as_bytes()).unwrap();
        assert_eq!(null, manifest(layers(json!([])).to_string().as_bytes()).unwrap());
    }

    #[test]
    fn a_config_that_names_no_platform_is_for_this_host() {
        let config = read(&json!({}));
        assert_eq!(config.os().to_string(), "linux");
        assert_eq!(config.architecture().to_string(), Platform::host().architecture());
        assert!(config.rootfs().diff_ids().is_empty());
        assert_eq!(config_platform(b"{}"), Described::default());
        let named = config_platform(br#"{"OS": "linux", "architecture": "arm", "variant": ""}"#);
        assert_eq!(named, Described::new(Some("linux"), Some("arm"), None));
    }

    #[test]
    fn values_of_other_types_are_read_as_they_were_meant() {
        let config = read(&json!({
            "created": 5, "history": [null, "x", {"created_by": "a", "empty_layer": "yes"}], "Os": "linux",
            "config": {
                "User": 1000, "Env": "A=b", "Cmd": "sh", "entrypoint": ["a", null, 1], "StopSignal": 9,
                "Volumes": {"/data": null}, "ExposedPorts": ["80/tcp"], "Labels": {"a": null, "b": 2, "c": "d"},
                "WorkingDir": {},
            },
        }));
        assert_eq!(config.history().as_ref().unwrap().len(), 1);
        let run = config.config().as_ref().unwrap();
        let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(run.user().as_deref(), Some("1000"));
        assert_eq!((run.env(), run.cmd()), (&list(&["A=b"]), &list(&["sh"])));
        assert_eq!(run.entrypoint(), &list(&["a", "1"]));
        assert_eq!((run.volumes(), run.exposed_ports()), (&list(&["/data"]), &list(&["80/tcp"])));
        assert_eq!(run.stop_signal().as_deref(), Some("9"));
        assert_eq!(run.working_dir(), &None);
        let labels = run.labels().as_ref().unwrap();
        assert_eq!(["a", "b", "c"].map(|name| labels[name].as_str()), ["", "2", "d"]);
    }

    #[test]
    fn what_is_needed_and_cannot_be_guessed_is_refused() {
        for bad in [json!([]), json!("x"), json!({"rootfs": {"diff_ids": [1]}}), json!({"rootfs": {"diff_ids": "x"}})] {
            assert!(config(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
        for bad in [json!({}), json!({"config": {"digest": "x", "size": 2}}), json!({"config": {"size": 2}})] {
            assert!(manifest(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_that_is_not_utf_8_does_not_hide_the_rest() {
        let read = config(b"\xef\xbb\xbf{\"author\": \"J\xf6rg\", \"os\": \"linux\"}").unwrap();
        assert_eq!(read.author().as_deref(), Some("J\u{fffd}rg"));
    }

    #[test]
    fn one_bad_entry_of_an_index_leaves_the_others() {
        let good = json!({"digest": format!("sha256:{}", "0".repeat(64)), "size": 1,
            "platform": {"os": "linux", "architecture": null, "os.features": ["x"]}});
        let index = json!({"manifests": [good, 7, {"digest": "x"}]});
        let entries = entries_of(object("index", index.to_string().as_bytes()).unwrap());
        assert_eq!(entries.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, false]);
        let platform = entries[0].as_ref().unwrap().platform().clone().unwrap();
        assert_eq!(platform.os_features(), &Some(vec!["x".to_owned()]));
    }
}
