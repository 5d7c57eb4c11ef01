//! Names of images in a policy: the scopes that a place belongs to, and what a signature may be for.

use std::path::{Path, PathBuf};

use super::Identity;
use crate::Reference;

/// Where an image comes from: one of the kinds of places that a policy distinguishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A registry.
    Registry(Box<Reference>),
    /// A layout in a directory. The path has no symbolic links.
    Layout(PathBuf),
    /// An archive with a layout, whose path is known unless it came from standard input.
    LayoutArchive(Option<PathBuf>),
    /// An archive of `docker save`.
    DockerArchive,
    /// A daemon, which was asked for this image.
    Daemon(Option<Box<Reference>>),
    /// The tar of a root file system.
    Tarball,
}

impl Place {
    /// The name of the transport in a policy.
    pub(super) const fn transport(&self) -> &'static str {
        match self {
            Self::Registry(_) => "docker",
            Self::Layout(_) => "oci",
            Self::LayoutArchive(_) => "oci-archive",
            Self::DockerArchive => "docker-archive",
            Self::Daemon(_) => "docker-daemon",
            Self::Tarball => "tarball",
        }
    }

    /// Returns the scopes that the place is in, the closest first, without the scope "" of the whole transport.
    pub(super) fn scopes(&self) -> Vec<String> {
        match self {
            Self::Registry(reference) | Self::Daemon(Some(reference)) => scopes_of_name(reference),
            Self::Layout(path) | Self::LayoutArchive(Some(path)) => {
                let parents = path.ancestors().filter(|parent| parent.parent().is_some());
                parents.filter_map(|parent| parent.to_str().map(str::to_owned)).collect()
            }
            Self::LayoutArchive(None) | Self::DockerArchive | Self::Daemon(None) | Self::Tarball => Vec::new(),
        }
    }
}

fn scopes_of_name(reference: &Reference) -> Vec<String> {
    let named = Named::of(reference);
    let mut scopes = vec![named.to_string()];
    let mut name = named.name.as_str();
    loop {
        scopes.push(name.to_owned());
        let Some((parent, _)) = name.rsplit_once('/') else { break };
        name = parent;
    }
    let mut host = name.split_once(':').map_or(name, |(host, _)| host);
    while let Some((_, parent)) = host.split_once('.') {
        scopes.push(format!("*.{parent}"));
        host = parent;
    }
    scopes
}

/// Returns an absolute path without symbolic links, as scopes are compared with.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.canonicalize().unwrap_or_else(|_| absolute())
}

/// The canonical name of an image. A part of it may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Registry and repository.
    name: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Named {
    /// Parses a name as docker writes it. Unlike in [`Reference`], a missing tag stays missing.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let reference: Reference = text.parse().ok()?;
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        Some(Self {
            name: name_of(&reference),
            tag: reference.tag().filter(|_| has_tag).map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// The name of an image that is asked for. If it has a digest, its tag says nothing about what the registry sends.
    fn of(reference: &Reference) -> Self {
        let digest = reference.digest().map(|digest| digest.to_string());
        let tag = reference.tag().filter(|_| digest.is_none()).map(str::to_owned);
        Self { name: name_of(reference), tag, digest }
    }

    /// Whether it names one image.
    pub(super) const fn is_exact(&self) -> bool {
        self.tag.is_some() || self.digest.is_some()
    }
}

fn name_of(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, tag, digest } = self;
        f.write_str(name)?;
        tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Returns whether a signature that says it is for `signed` is accepted for the image that was asked for as `wanted`.
pub(super) fn accepts(identity: &Identity, wanted: &Reference, signed: &str) -> bool {
    let Some(signed) = Named::parse(signed) else { return false };
    let wanted = Named::of(wanted);
    match identity {
        Identity::Exact => wanted.is_exact() && signed == wanted,
        Identity::RepoDigestOrExact => repo_digest_or_exact(&wanted, &signed),
        Identity::Repository => signed.name == wanted.name,
        Identity::ExactReference(name) => {
            Named::parse(name).is_some_and(|expected| expected.is_exact() && signed == expected)
        }
        Identity::ExactRepository(name) => Named::parse(name).is_some_and(|expected| signed.name == expected.name),
        Identity::Remap { prefix, signed_prefix } => match wanted.name.strip_prefix(prefix.as_str()) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                let renamed = Named { name: format!("{signed_prefix}{rest}"), ..wanted };
                Named::parse(&renamed.to_string()).is_some_and(|renamed| repo_digest_or_exact(&renamed, &signed))
            }
            _ => repo_digest_or_exact(&wanted, &signed),
        },
    }
}

/// A name with a tag must be the same. For a name with a digest the repository is enough, because the digest itself is
/// compared with the one in the signature.
fn repo_digest_or_exact(wanted: &Named, signed: &Named) -> bool {
    match (&wanted.tag, &wanted.digest) {
        _ if !signed.is_exact() => false,
        (Some(_), _) => signed == wanted,
        (None, Some(_)) => signed.name == wanted.name,
        (None, None) => false,
    }
}
