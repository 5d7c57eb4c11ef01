//! What an imported image is called.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Reference;

/// The full name, as containerd, docker and buildkit annotate it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The name or only the tag (image specification, `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The repository of images that nothing gives a better name.
const NAMELESS: &str = "imported";

/// The name that an entry of a layout's index gives its image.
pub(super) fn annotated(annotations: Option<&BTreeMap<String, String>>) -> Option<&str> {
    let annotations = annotations?;
    annotations.get(CONTAINERD_NAME).or_else(|| annotations.get(REF_NAME)).map(String::as_str)
}

/// The reference for a name as an archive writes it. A word without `:` and `/` is a tag, of a
/// repository that is called like the archive; such names are of no registry but of this host.
pub(super) fn reference(written: &str, repository: &str) -> Option<Reference> {
    if written.contains([':', '/']) {
        return written.parse().ok();
    }
    format!("localhost/{repository}:{written}").parse().ok()
}

/// The reference for an image that has no name in its archive.
pub(super) fn nameless(repository: &str, tag: &str) -> Option<Reference> {
    reference(tag, repository).or_else(|| reference(tag, NAMELESS))
}

/// A repository name made from an archive's file name: `Debian-12.oci.tar.gz` becomes `debian-12`.
pub(super) fn repository(path: Option<&Path>) -> String {
    let real = path.and_then(|path| path.canonicalize().ok());
    let name = real.as_deref().or(path).and_then(Path::file_name).map(|name| name.to_string_lossy().to_lowercase());
    let name = name.unwrap_or_default();
    let stem = name.split('.').find(|word| !word.is_empty()).unwrap_or_default();
    let words: Vec<&str> =
        stem.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { NAMELESS.to_owned() } else { words.join("-") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_alone_is_a_tag_and_anything_else_a_name() {
        let table = [
            ("12", Some("localhost/oci:12")),
            ("latest", Some("localhost/oci:latest")),
            ("debian:12", Some("docker.io/library/debian:12")),
            ("ghcr.io/a/b", Some("ghcr.io/a/b:latest")),
            ("a b", None),
            ("UPPER:x", None),
        ];
        for (written, expected) in table {
            assert_eq!(reference(written, "oci").map(|r| r.to_string()).as_deref(), expected, "{written}");
        }
    }

    #[test]
    fn file_names_become_repositories() {
        let table = [
            ("/no/Debian-12.oci.tar.gz", "debian-12"),
            ("/no/my image (1).tar", "my-image-1"),
            ("/no/.hidden", "hidden"),
            ("/no/日本", "imported"),
            ("/", "imported"),
        ];
        for (path, expected) in table {
            assert_eq!(repository(Some(Path::new(path))), expected);
        }
        assert_eq!(repository(None), "imported");
    }

    #[test]
    fn the_full_name_is_preferred_to_the_tag() {
        let both = BTreeMap::from([
            (REF_NAME.to_owned(), "12".to_owned()),
            (CONTAINERD_NAME.to_owned(), "docker.io/library/debian:12".to_owned()),
        ]);
        assert_eq!(annotated(Some(&both)), Some("docker.io/library/debian:12"));
    }
}
