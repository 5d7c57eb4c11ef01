//! What a run asks of its engine, and what it leaves to Lamina.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::host::confine::Level;
use crate::host::network::NetworkBackend;

/// How the root gets into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// The view, served over vhost-user-fs by this process.
    Direct,
    /// A directory of the host (the view mounted by FUSE), served by virtiofsd.
    Virtiofsd,
    /// The view as a file system (EROFS) on a read-only virtio disk.
    Block,
    /// A real directory that the view was unpacked to, served by virtiofsd.
    Materialize,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Virtiofsd => "virtiofsd",
            Self::Block => "block",
            Self::Materialize => "materialize",
        })
    }
}

/// A choice that the user may leave to Lamina.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Choice<T> {
    /// Whatever is best.
    #[default]
    Auto,
    /// This, or a failure that says what is missing.
    Forced(T),
}

impl<T> Choice<T> {
    /// Reads `auto`, or one of `names`.
    ///
    /// # Errors
    /// Lists what was expected.
    pub(crate) fn read<'a>(text: &str, names: impl IntoIterator<Item = (&'a str, T)>) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let mut expected = "expected auto".to_owned();
        for (name, value) in names {
            if name == text {
                return Ok(Self::Forced(value));
            }
            expected.push_str(", ");
            expected.push_str(name);
        }
        Err(expected)
    }
}

impl FromStr for Choice<Backend> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = [
            ("direct", Backend::Direct),
            ("virtiofsd", Backend::Virtiofsd),
            ("block", Backend::Block),
            ("materialize", Backend::Materialize),
        ];
        Self::read(text, names)
    }
}

impl FromStr for Choice<NetworkBackend> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The words of docker and podman beside those of Lamina.
        match text {
            "bridge" | "default" | "private" => return Ok(Self::Auto),
            "pasta" => return Ok(Self::Forced(NetworkBackend::Passt)),
            "slirp4netns" => return Ok(Self::Forced(NetworkBackend::Slirp)),
            other if !["auto", "none", "passt", "slirp", "host"].contains(&other) => {
                let words = "a machine joins no other network: use auto, bridge, none, host, passt or slirp; -p publishes its ports";
                return Err(words.to_owned());
            }
            _ => {}
        }
        let names = [
            ("none", NetworkBackend::None),
            ("host", NetworkBackend::Host),
            ("passt", NetworkBackend::Passt),
            ("slirp", NetworkBackend::Slirp),
        ];
        Self::read(text, names)
    }
}

/// What a run asks for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RunRequest {
    /// The engine, by its name.
    #[serde(default)]
    pub(crate) engine: Choice<String>,
    /// What executes the guest, by its name.
    pub(crate) accelerator: Choice<String>,
    /// What carries the root.
    pub(crate) backend: Choice<Backend>,
    /// The machine type, by its name.
    pub(crate) machine: Choice<String>,
    /// What carries the guest's packets.
    pub(crate) network: Choice<NetworkBackend>,
    /// The guest may reach services on the host's loopback.
    #[serde(default)]
    pub(crate) host_loopback: bool,
    /// Shares besides the root.
    pub(crate) shares: usize,
    /// The root is a directory of the host, not an image.
    pub(crate) directory_root: bool,
    /// What the guest uses is limited, if it is a container. A VM always has so much memory and no more.
    #[serde(default)]
    pub(crate) limited: bool,
    /// What the guest writes is kept on a disk.
    pub(crate) kept: bool,
    /// How much the engine is confined.
    #[serde(default)]
    pub(crate) confine: Level,
    /// Whom the machine runs as, if root starts it.
    #[serde(default)]
    pub(crate) run_as: Option<String>,
    /// Also try what the decision does not depend on, to explain the decision.
    pub(crate) explain: bool,
}

impl RunRequest {
    /// Whether the run asks for this engine, and does not leave the choice to Lamina.
    pub(super) fn asks_for(&self, engine: &str) -> bool {
        matches!(&self.engine, Choice::Forced(name) if name == engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_wrong_ones_list_the_right_ones() {
        assert_eq!("auto".parse(), Ok(Choice::<Backend>::Auto));
        assert_eq!("block".parse(), Ok(Choice::Forced(Backend::Block)));
        assert_eq!("slirp".parse(), Ok(Choice::Forced(NetworkBackend::Slirp)));
        let wrong: Result<Choice<Backend>, _> = "nfs".parse();
        assert_eq!(wrong, Err("expected auto, direct, virtiofsd, block, materialize".to_owned()));
    }

    #[test]
    fn request_of_a_machine_from_before_there_were_engines_is_read() {
        let old = r#"{"accelerator":{"forced":"tcg"},"backend":"auto","machine":{"forced":"q35"},"network":"auto",
            "published":0,"shares":0,"directory_root":false,"kept":true,"explain":false}"#;
        let request: RunRequest = serde_json::from_str(old).unwrap();
        assert_eq!((request.engine, request.machine), (Choice::Auto, Choice::Forced("q35".to_owned())));
    }
}
