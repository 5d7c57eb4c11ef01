//! Which images may enter the store: `policy.json`, as containers-policy.json(5) describes it.
//!
//! The file is the one that podman and skopeo read. Without one, every image is accepted. What the file asks for
//! is done or refused: a kind of requirement that is not implemented refuses each image that it applies to.
//!
//! A signature of the kind `sigstoreSigned` covers the digest of one manifest, and that manifest is the one whose layers
//! are then fetched. As with podman, this is the manifest of the chosen platform, not an index that lists it.

mod document;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod identity;
mod key;
mod registries;
mod sigstore;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use error::PolicyError;
pub(crate) use identity::{Place, absolute};
pub(crate) use sigstore::{ANNOTATION, Attachment, MEDIA_TYPE};

use document::{Document, Requirement};
use registries::Registries;

use crate::{Digest, Reference};

/// The largest file read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// The files that say which images may enter the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The policy. Without it, `~/.config/containers/policy.json`, or else `/etc/containers/policy.json`.
    pub policy: Option<PathBuf>,
    /// The directory that says which registries keep signatures next to their images. Without it,
    /// `~/.config/containers/registries.d`, or else `/etc/containers/registries.d`.
    pub registries: Option<PathBuf>,
}

/// Which policy applies to images that enter a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagePolicy {
    /// The policy in these files.
    Of(PolicyFiles),
    /// Every image is accepted.
    AcceptAnything,
}

impl Default for ImagePolicy {
    /// The policy of this user, or else that of the system.
    fn default() -> Self {
        Self::Of(PolicyFiles::default())
    }
}

impl ImagePolicy {
    /// Returns what the policy asks of an image at `place`, which is called `image` in messages. Nothing if it may enter
    /// as it is.
    ///
    /// # Errors
    /// The policy refuses the image whatever it is, asks for something that is not supported, or cannot be read.
    pub(crate) fn demand(&self, image: &str, place: Place) -> Result<Option<Demand>, PolicyError> {
        match self {
            Self::Of(files) => files.demand(image, place),
            Self::AcceptAnything => Ok(None),
        }
    }
}

/// What a policy asks of one image.
#[derive(Debug)]
pub(crate) struct Demand {
    image: String,
    policy: PathBuf,
    place: Place,
    requirements: Vec<Requirement>,
    registries: Option<PathBuf>,
}

impl PolicyFiles {
    fn demand(&self, image: &str, place: Place) -> Result<Option<Demand>, PolicyError> {
        let Some(policy) = self.policy.clone().or_else(|| in_home("policy.json").or_else(|| in_etc("policy.json")))
        else {
            return Ok(None);
        };
        let document = Document::read(&policy)?;
        let requirements = document.requirements(&place);
        let mut left = Vec::new();
        for requirement in requirements {
            let (image, policy) = (image.to_owned(), policy.clone());
            match requirement {
                Requirement::Accept => {}
                Requirement::Reject => return Err(PolicyError::Rejected { image, policy }),
                Requirement::Unsupported(kind) => {
                    return Err(PolicyError::Unsupported { image, policy, kind: kind.clone() });
                }
                Requirement::Signed { .. } if !matches!(place, Place::Registry(_)) => {
                    return Err(PolicyError::NotSigned { image, policy, cause: NO_PLACE.to_owned() });
                }
                Requirement::Signed { .. } => left.push(requirement.clone()),
            }
        }
        let registries = self.registries.clone();
        let demand = || Demand { image: image.to_owned(), policy, place, requirements: left.clone(), registries };
        Ok((!left.is_empty()).then(demand))
    }
}

const NO_PLACE: &str = "it must be signed, and only images in a registry have signatures";

impl Demand {
    /// Checks the image against what is asked. `attachments` fetches the signatures that the registry has for it; they
    /// are used only where `registries.d` says that the registry keeps some.
    ///
    /// # Errors
    /// No signature is accepted, or the signatures cannot be fetched.
    pub(crate) fn check<E: From<PolicyError>>(
        &self,
        manifest: &Digest,
        attachments: impl FnOnce() -> Result<Vec<Attachment>, E>,
    ) -> Result<(), E> {
        let Place::Registry(reference) = &self.place else { return Err(self.not_signed(NO_PLACE.to_owned()).into()) };
        let signatures = if self.keeps_attachments()? { Some(attachments()?) } else { None };
        for requirement in &self.requirements {
            let Requirement::Signed { keys, identity } = requirement else { continue };
            let keys = keys.load(&self.policy)?;
            let mut causes = Vec::new();
            let accepted = signatures.iter().flatten().any(|attachment| {
                let accepted = attachment.verify(&keys, manifest, |signed| identity.accepts(reference, signed));
                accepted.map_err(|cause| causes.push(cause)).is_ok()
            });
            if !accepted {
                let cause = match (&signatures, causes.first()) {
                    (_, Some(cause)) => cause.clone(),
                    (Some(_), None) => "it has no sigstore signature in its registry".to_owned(),
                    (None, None) => {
                        "it must be signed, and no file in registries.d has use-sigstore-attachments: true for it"
                            .to_owned()
                    }
                };
                return Err(self.not_signed(cause).into());
            }
        }
        Ok(())
    }

    fn keeps_attachments(&self) -> Result<bool, PolicyError> {
        let directory = self.registries.clone().or_else(|| in_home("registries.d").or_else(|| in_etc("registries.d")));
        match directory {
            Some(directory) => Ok(Registries::read(&directory)?.keep_attachments(&self.place)),
            None => Ok(false),
        }
    }

    fn not_signed(&self, cause: String) -> PolicyError {
        PolicyError::NotSigned { image: self.image.clone(), policy: self.policy.clone(), cause }
    }
}

/// Returns a file of the container tools in the user's home directory, if it exists.
fn in_home(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
    existing(Path::new(&home).join(".config/containers").join(name))
}

fn in_etc(name: &str) -> Option<PathBuf> {
    existing(Path::new("/etc/containers").join(name))
}

/// A file that cannot be looked at counts as existing: reading it then fails, instead of being passed over.
fn existing(path: PathBuf) -> Option<PathBuf> {
    match path.symlink_metadata() {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => None,
        _ => Some(path),
    }
}

/// Reads a file of limited size.
fn read(path: &Path) -> Result<Vec<u8>, PolicyError> {
    let unreadable = |cause| PolicyError::Unreadable { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_LIMIT + 1), &mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(PolicyError::Malformed { path: path.to_owned(), cause: "it is larger than 1 MiB".to_owned() });
    }
    Ok(bytes)
}

/// What a signature must say that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    Exact,
    RepoDigestOrExact,
    Repository,
    ExactReference(String),
    ExactRepository(String),
    Remap { prefix: String, signed_prefix: String },
}

impl Identity {
    /// Returns whether a signature for `signed` is one for the image that was asked for as `wanted`.
    fn accepts(&self, wanted: &Reference, signed: &str) -> bool {
        identity::accepts(self, wanted, signed)
    }
}
