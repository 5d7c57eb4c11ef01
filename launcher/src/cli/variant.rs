//! Named variants: layers on top of images, such as an agent or a CA bundle, prepared once for many machines.
//!
//! They are defined in a TOML file: `variants.toml` in the store's directory, or another file that the user names:
//!
//! ```toml
//! [agent]
//! layers = [
//!     { directory = "agent/" },           # its content, owned by root
//!     { archive = "ca-bundle.tar.gz" },   # one layer: a tar, plain or compressed
//!     { image = "example.test/tools:1" }, # all layers of an image of the store
//! ]
//! ```
//!
//! The first layer is the lowest. Paths are relative to the file. A base is identified by the content of its layers, so
//! the same content gives the same base under any name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::{About, Failure};
use crate::text_file;

/// The file in a store's directory.
pub(super) const FILE: &str = "variants.toml";

/// One layer, or those of an image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Layer {
    /// The content of a directory, owned by root.
    Directory(PathBuf),
    /// A tar, plain or compressed.
    Archive(PathBuf),
    /// The layers of an image of the store.
    Image(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    layers: Vec<Layer>,
}

/// Returns the layers of the variant that `asked` names: a name in the store's file, a name in another file
/// (`FILE:NAME`), or a file with only one variant.
///
/// # Errors
/// There is no such file or variant, or the file cannot be parsed.
pub(super) fn find(asked: &str, store: &Path) -> Result<Vec<Layer>, Failure> {
    let (file, name) = match asked.rsplit_once(':') {
        Some((file, name)) => (PathBuf::from(file), Some(name)),
        None if asked.contains('/') || asked.ends_with(".toml") => (PathBuf::from(asked), None),
        None => (store.join(FILE), Some(asked)),
    };
    let text = text_file::read(&file).map_err(|error| {
        Failure::new(format_args!("variant {asked}"), format_args!("{}: {error}", file.display()))
            .with_hint(format_args!("define it in {}, or name a file with --variant FILE", store.join(FILE).display()))
    })?;
    let directory = file.parent().unwrap_or(Path::new(""));
    let layers = parse(&text, name).about(file.display())?;
    Ok(layers.into_iter().map(|layer| layer.below(directory)).collect())
}

fn parse(text: &str, name: Option<&str>) -> Result<Vec<Layer>, String> {
    let mut variants: BTreeMap<String, Variant> =
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let known = variants.keys().cloned().collect::<Vec<_>>().join(", ");
    let variant = match name {
        Some(name) => variants.remove(name).ok_or_else(|| format!("no variant {name:?} in it, only: {known}"))?,
        None if variants.len() > 1 => {
            return Err(format!("it has several variants, choose one with FILE:NAME: {known}"));
        }
        None => variants.into_values().next().ok_or("it has no variant")?,
    };
    if variant.layers.is_empty() {
        return Err("the variant has no layers".to_owned());
    }
    Ok(variant.layers)
}

impl Layer {
    fn below(self, directory: &Path) -> Self {
        match self {
            Self::Directory(path) => Self::Directory(directory.join(path)),
            Self::Archive(path) => Self::Archive(directory.join(path)),
            image @ Self::Image(_) => image,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT: &str = "
        [agent]
        layers = [{ directory = 'agent' }, { archive = '/abs/ca.tar' }, { image = 'tools:1' }]
        [other]
        layers = [{ image = 'x' }]
    ";

    #[test]
    fn layers_are_read_in_order_and_paths_are_relative_to_the_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), format!("\u{feff}{}", TEXT.replace('\n', "\r\n"))).unwrap();
        let layers = find("agent", directory.path()).unwrap();
        let expected = [
            Layer::Directory(directory.path().join("agent")),
            Layer::Archive("/abs/ca.tar".into()),
            Layer::Image("tools:1".into()),
        ];
        assert_eq!(layers, expected);
        let named = format!("{}:other", directory.path().join(FILE).display());
        assert_eq!(find(&named, Path::new("/nowhere")).unwrap(), [Layer::Image("x".into())]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (text, name, expected) in [
            (TEXT, Some("nothing"), "no variant \"nothing\" in it, only: agent, other"),
            (TEXT, None, "FILE:NAME"),
            ("", None, "no variant"),
            ("[a]\nlayers = []", None, "no layers"),
            ("[a]\nlayer = []", None, "unknown field `layer`"),
            ("[a]\nlayers = [{ file = 'x' }]", None, "unknown variant `file`"),
        ] {
            let error = parse(text, name).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let failure = find("agent", Path::new("/nowhere")).unwrap_err().to_string();
        assert!(failure.contains("/nowhere/variants.toml") && failure.contains("--variant FILE"), "{failure}");
    }
}
