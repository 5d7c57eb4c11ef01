//! Names for imported images.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::oci::manifest::short;
use crate::{Digest, Reference};

/// The full name, as containerd, docker and buildkit annotate it.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The name or only the tag (image specification, `annotations.md`).
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The repository of images for which there is no better name.
const NAMELESS: &str = "imported";
/// The tag of the only image without a name in an archive.
const LATEST: &str = "latest";

/// Returns the name that the annotations of an entry of a layout's index give its image.
pub(super) fn annotated(annotations: &Value) -> Option<&str> {
    annotations.get(CONTAINERD_NAME).or_else(|| annotations.get(REF_NAME)).and_then(Value::as_str)
}

/// Returns the reference for a name as an archive writes it. A word without `:` and `/` is a tag in a repository
/// named after the archive; such names belong to `localhost`, not to a registry.
pub(super) fn reference(written: &str, repository: &str) -> Option<Reference> {
    if !is_tag(written) {
        return written.parse().ok();
    }
    format!("localhost/{repository}:{written}").parse().ok()
}

/// Whether a name as an archive writes it is only a tag.
pub(super) fn is_tag(written: &str) -> bool {
    !written.contains([':', '/'])
}

/// Makes a repository name from an archive's file name: `Debian-12.oci.tar.gz` becomes `debian-12`.
pub(super) fn repository(path: Option<&Path>) -> String {
    let real = path.and_then(|path| path.canonicalize().ok());
    let name = real.as_deref().or(path).and_then(Path::file_name).map(|name| name.to_string_lossy().to_lowercase());
    let name = name.unwrap_or_default();
    let stem = name.split('.').find(|word| !word.is_empty()).unwrap_or_default();
    let words: Vec<&str> =
        stem.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { NAMELESS.to_owned() } else { words.join("-") }
}

/// An image to name.
pub(super) struct Nameable<'a> {
    /// Its names as the archive writes them.
    pub(super) written: &'a [String],
    /// The digests of its manifest and of the indexes that lead to it.
    pub(super) proved: &'a [Digest],
    pub(super) manifest: Digest,
}

/// Decides the names of the images of one archive.
pub(super) struct Names<'a> {
    /// The repository to use for names that are only a tag.
    pub(super) repository: &'a str,
    /// Whether the only image without a name may be called `latest`.
    pub(super) may_be_latest: bool,
    /// Returns the manifest that a name has in the store.
    pub(super) in_store: &'a dyn Fn(&str) -> Option<Digest>,
    /// Receives what the user should know.
    pub(super) notice: &'a dyn Fn(&str),
}

impl Names<'_> {
    /// Returns the names of each image: those from the archive that are valid for it, or a made-up one that no other
    /// image has.
    pub(super) fn assign(&self, images: &[Nameable<'_>]) -> Vec<Vec<Reference>> {
        let mut owners: HashMap<Reference, usize> = HashMap::new();
        let mut order = Vec::new();
        for (position, image) in images.iter().enumerate() {
            for reference in image.written.iter().filter_map(|written| self.proved(written, image)) {
                let before = owners.insert(reference.clone(), position).and_then(|before| images.get(before));
                match before {
                    None => order.push(reference),
                    Some(before) if before.manifest == image.manifest => {}
                    Some(before) => (self.notice)(&format!(
                        "{} names two images of the archive: it is {} now, not {}",
                        reference.familiar(),
                        image.manifest,
                        before.manifest
                    )),
                }
            }
        }
        let mut names: Vec<Vec<Reference>> = vec![Vec::new(); images.len()];
        for name in &order {
            if let Some(names) = owners.get(name).and_then(|owner| names.get_mut(*owner)) {
                names.push(name.clone());
            }
        }
        let known: Vec<Digest> =
            images.iter().zip(&names).filter(|(_, names)| !names.is_empty()).map(|(image, _)| image.manifest).collect();
        // An image that is listed both with and without a name keeps that name.
        let is_nameless = |(names, image): &(&mut Vec<Reference>, &Nameable<'_>)| {
            names.is_empty() && !known.contains(&image.manifest)
        };
        let nameless = names.iter_mut().zip(images).filter(|pair| is_nameless(pair)).count();
        for (names, image) in names.iter_mut().zip(images).filter(is_nameless) {
            names.extend(self.invented(image, nameless == 1 && self.may_be_latest, &order));
        }
        names.iter().zip(images).for_each(|(names, image)| self.say_moved(names, image.manifest));
        names
    }

    /// Returns the reference for a name from the archive, without a digest that the image does not have.
    fn proved(&self, written: &str, image: &Nameable<'_>) -> Option<Reference> {
        let Some(reference) = reference(written, self.repository) else {
            (self.notice)(&format!("left out {written:?}, which is not an image name"));
            return None;
        };
        if reference.digest().is_none_or(|digest| image.proved.contains(&digest)) {
            return Some(reference);
        }
        let without = reference.without_digest();
        let instead = match &without {
            Some(name) => format!("it is called {}", name.familiar()),
            None => "the name is left out".to_owned(),
        };
        (self.notice)(&format!("{}: {written} promises another digest: {instead}", image.manifest));
        without
    }

    /// Makes up a name for an image that has none in the archive.
    fn invented(&self, image: &Nameable<'_>, latest: bool, taken: &[Reference]) -> Option<Reference> {
        let named = |tag: &str| reference(tag, self.repository).or_else(|| reference(tag, NAMELESS));
        let is_free = |name: &Reference| {
            !taken.contains(name)
                && (self.in_store)(&name.to_string()).is_none_or(|manifest| manifest == image.manifest)
        };
        let by_digest =
            || [short(&image.manifest), image.manifest.hex()].iter().find_map(|tag| named(tag).filter(is_free));
        let first = named(LATEST).filter(|_| latest);
        match first {
            Some(name) if is_free(&name) => Some(name),
            Some(other) => {
                let name = by_digest()?;
                (self.notice)(&format!(
                    "{} is another image: this one is called {}",
                    other.familiar(),
                    name.familiar()
                ));
                Some(name)
            }
            None => by_digest(),
        }
    }

    /// Tells the user which names of the store belonged to another image until now.
    pub(super) fn say_moved(&self, names: &[Reference], manifest: Digest) {
        for name in names {
            if let Some(before) = (self.in_store)(&name.to_string()).filter(|before| *before != manifest) {
                (self.notice)(&format!("{} was {before} until now", name.familiar()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

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
        let both = serde_json::json!({REF_NAME: "12", CONTAINERD_NAME: "docker.io/library/debian:12"});
        assert_eq!(annotated(&both), Some("docker.io/library/debian:12"));
    }

    /// Returns the names that images get, given their names in the archive, and the notices. The store has the name
    /// `in_store`, which belongs to image 9.
    fn assigned(images: &[(u8, &[&str])], in_store: &str) -> (Vec<Vec<String>>, Vec<String>) {
        let written: Vec<Vec<String>> =
            images.iter().map(|(_, written)| written.iter().map(|name| (*name).to_owned()).collect()).collect();
        let digests: Vec<Digest> = images.iter().map(|(number, _)| Digest::of(&[*number])).collect();
        let nameable: Vec<Nameable<'_>> = written
            .iter()
            .zip(&digests)
            .map(|(written, digest)| Nameable { written, proved: std::slice::from_ref(digest), manifest: *digest })
            .collect();
        let notices = RefCell::new(Vec::new());
        let names = Names {
            repository: "app",
            may_be_latest: true,
            in_store: &|name| (name == in_store).then(|| Digest::of(&[9])),
            notice: &|line| notices.borrow_mut().push(line.to_owned()),
        };
        let names = names.assign(&nameable);
        let names = names.iter().map(|names| names.iter().map(ToString::to_string).collect()).collect();
        (names, notices.into_inner())
    }

    #[test]
    fn invented_names_are_no_other_image_s() {
        let by_digest = |number: u8| format!("localhost/app:{}", short(&Digest::of(&[number])));
        let (names, notices) = assigned(&[(1, &[])], "");
        assert_eq!((names, notices.len()), (vec![vec!["localhost/app:latest".to_owned()]], 0));
        let (names, _) = assigned(&[(1, &[]), (2, &[])], "");
        assert_eq!(names, [[by_digest(1)], [by_digest(2)]]);
        let (names, _) = assigned(&[(1, &[]), (2, &["latest"])], "");
        assert_eq!(names, [[by_digest(1)], ["localhost/app:latest".to_owned()]]);
        let (names, notices) = assigned(&[(1, &[])], "localhost/app:latest");
        assert_eq!(names, [[by_digest(1)]]);
        assert!(notices[0].contains("localhost/app:latest is another image"), "{notices:?}");
        let (names, _) = assigned(&[(9, &[])], "localhost/app:latest");
        assert_eq!(names, [["localhost/app:latest"]], "the same image again");
        let (names, _) = assigned(&[(1, &[]), (1, &["x:1"])], "");
        assert_eq!(names, [vec![], vec!["docker.io/library/x:1".to_owned()]], "it has a name");
    }

    #[test]
    fn a_name_keeps_no_digest_that_the_image_does_not_have() {
        let (right, wrong) = (Digest::of(&[1]), Digest::of(&[2]));
        let right = format!("a.test/app:1@{right}");
        let (names, notices) = assigned(&[(1, &[&right])], "");
        assert_eq!((names, notices.len()), (vec![vec![right]], 0));
        let (names, notices) = assigned(&[(1, &[&format!("a.test/app:1@{wrong}")])], "");
        assert_eq!(names, [["a.test/app:1"]]);
        assert!(notices[0].contains("promises") && notices[0].contains("it is called a.test/app:1"), "{notices:?}");
        let (names, notices) = assigned(&[(1, &[&format!("a.test/app@{wrong}")])], "");
        assert_eq!(names, [["localhost/app:latest"]], "and not a.test/app:latest, which nobody said");
        assert!(notices[0].contains("the name is left out"), "{notices:?}");
    }

    #[test]
    fn nothing_is_dropped_or_overwritten_without_a_word() {
        let (names, notices) = assigned(&[(1, &["a b", "x:1"])], "");
        assert_eq!(names, [["docker.io/library/x:1"]]);
        assert!(notices[0].contains("\"a b\""), "{notices:?}");
        let (names, notices) = assigned(&[(1, &["x:1"]), (2, &["docker.io/library/x:1"])], "");
        assert_eq!(names, [["localhost/app:latest"], ["docker.io/library/x:1"]]);
        assert!(notices[0].contains("names two images"), "{notices:?}");
        let (_, notices) = assigned(&[(1, &["x:1"])], "docker.io/library/x:1");
        assert!(notices[0].contains("until now"), "{notices:?}");
        let (_, notices) = assigned(&[(9, &["x:1"])], "docker.io/library/x:1");
        assert_eq!(notices, [""; 0]);
    }
}
