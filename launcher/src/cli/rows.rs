//! What `--format` templates see of an image: docker's fields, and beside them those of `--json`.

use chrono::{DateTime, SecondsFormat, Utc};
use layer_store::{Image, Reference, Store};
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock;

/// The first digits of a digest, as lists show an id.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex).to_owned()
}

/// Adds the fields of `own` to those of docker.
pub(super) fn beside(docker: Value, own: &impl Serialize) -> Value {
    let own = serde_json::to_value(own).unwrap_or_default();
    let (Value::Object(mut fields), Value::Object(own)) = (docker, own) else { return Value::Null };
    fields.extend(own.into_iter().filter(|(_, value)| !value.is_null()));
    Value::Object(fields)
}

/// Writes a time as RFC 3339.
pub(super) fn time(seconds: u64) -> String {
    let time = DateTime::<Utc>::from_timestamp(i64::try_from(seconds).unwrap_or_default(), 0);
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default()
}

/// Says how long ago a time was, as docker does.
pub(super) fn ago(seconds: u64) -> String {
    let passed = std::time::Duration::from_secs(clock::now().saturating_sub(seconds));
    format!("{} ago", indicatif::HumanDuration(passed))
}

/// Shortens a text to at most this many characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// The parts of an image's name: repository, tag and digest.
pub(super) fn name_parts(reference: &str) -> (String, String, Option<String>) {
    let Ok(parsed) = reference.parse::<Reference>() else { return (reference.to_owned(), "<none>".to_owned(), None) };
    let tag = parsed.tag().unwrap_or("<none>").to_owned();
    let digest = parsed.digest().map(|digest| digest.to_string());
    let familiar = parsed.familiar();
    let familiar = familiar.split('@').next().unwrap_or(&familiar);
    let repository = familiar.strip_suffix(&format!(":{tag}")).unwrap_or(familiar).to_owned();
    (repository, tag, digest)
}

/// When an image was created, in seconds since 1970.
pub(super) fn created(image: &Image) -> Option<u64> {
    let created = DateTime::parse_from_rfc3339(image.config.created().as_deref()?).ok()?;
    u64::try_from(created.timestamp()).ok()
}

/// An image as `docker inspect` has it.
pub(super) fn inspected_image(opened: &Store, image: &Image, own: &impl Serialize) -> Value {
    let names: Vec<String> = opened
        .images()
        .list()
        .unwrap_or_default()
        .into_iter()
        .filter(|other| other.manifest_digest == image.manifest_digest)
        .map(|other| other.reference)
        .collect();
    let tags: Vec<String> =
        names.iter().map(|name| name_parts(name)).map(|(repository, tag, _)| format!("{repository}:{tag}")).collect();
    let mut digests: Vec<String> = names
        .iter()
        .map(|name| format!("{}@{}", name_parts(name).0, image.index.unwrap_or(image.manifest_digest)))
        .collect();
    digests.dedup();
    let config = opened.images().manifest_bytes(&image.config_digest).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let bytes: u64 = image.layers.iter().map(|layer| opened.layers().bytes(layer).unwrap_or_default()).sum();
    let layers: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
    let docker = json!({
        "Id": image.manifest_digest.to_string(), "RepoTags": tags, "RepoDigests": digests, "Digest": image.manifest_digest.to_string(),
        "Created": image.config.created().clone().unwrap_or_default(), "Config": config["config"].clone(),
        "Parent": "", "Comment": config["comment"].as_str().unwrap_or_default(), "History": config["history"].clone(),
        "Labels": config["config"]["Labels"].clone(), "User": config["config"]["User"].as_str().unwrap_or_default(),
        "VirtualSize": bytes, "NamesHistory": tags,
        "Architecture": image.config.architecture().to_string(), "Os": image.config.os().to_string(), "Size": bytes,
        "RootFS": { "Type": "layers", "Layers": layers }, "Author": config["author"].as_str().unwrap_or_default(),
    });
    beside(docker, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_docker_shows_them() {
        let parts = |name: &str| {
            let (repository, tag, _) = name_parts(name);
            (repository, tag)
        };
        assert_eq!(parts("docker.io/library/debian:12"), ("debian".into(), "12".into()));
        assert_eq!(parts("localhost:5000/a/b:1"), ("localhost:5000/a/b".into(), "1".into()));
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
