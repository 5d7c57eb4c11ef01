//! The format of `policy.json`.
//!
//! It is read as strictly as the container tools read it: a file with an unknown field or the same field twice says
//! something that was not understood, so it refuses every image.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::identity::Place;
use super::key::Keys;
use super::{Identity, PolicyError};

/// A policy.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    default: Requirements,
    #[serde(default)]
    transports: Unique<Unique<Requirements>>,
}

/// What an image must fulfil to enter the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    Accept,
    Reject,
    /// A sigstore signature by one of these keys.
    Signed {
        keys: Keys,
        identity: Identity,
    },
    /// A requirement that is not implemented, as the policy names it.
    Unsupported(String),
}

#[derive(Clone, Debug)]
struct Requirements(Vec<Requirement>);

/// An object whose fields have different names.
#[derive(Debug)]
struct Unique<V>(BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "camelCase")]
struct RawRequirement {
    #[serde(rename = "type")]
    kind: String,
    key_type: Option<Value>,
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    fulcio: Option<Value>,
    pki: Option<Value>,
    rekor_public_key_path: Option<Value>,
    rekor_public_key_paths: Option<Value>,
    rekor_public_key_data: Option<Value>,
    rekor_public_key_datas: Option<Value>,
    signed_identity: Option<RawIdentity>,
    base_layer_identity: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "camelCase")]
struct RawIdentity {
    #[serde(rename = "type")]
    kind: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Self, PolicyError> {
        let malformed = |cause| PolicyError::Malformed { path: path.to_owned(), cause };
        Self::parse(&super::read(path)?).map_err(malformed)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        for (transport, scopes) in &document.transports.0 {
            for scope in scopes.0.keys().filter(|scope| !scope.is_empty()) {
                check_scope(transport, scope)?;
            }
        }
        Ok(document)
    }

    /// Returns what is required of an image at a place: what the closest scope says.
    pub(super) fn requirements(&self, place: &Place) -> &[Requirement] {
        let scopes = self.transports.0.get(place.transport());
        let scoped = scopes.and_then(|scopes| {
            let names = place.scopes();
            let found = names.iter().find_map(|name| scopes.0.get(name));
            found.or_else(|| scopes.0.get(""))
        });
        &scoped.unwrap_or(&self.default).0
    }
}

/// Checks that a scope is one that its transport can have. A scope that never applies would be a hole.
fn check_scope(transport: &str, scope: &str) -> Result<(), String> {
    match transport {
        "docker-archive" | "tarball" => {
            Err(format!("the transport {transport} has the scope {scope:?}, but it can only have \"\""))
        }
        "oci" | "oci-archive" | "dir" => {
            let plain = scope.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
            match scope.starts_with('/') && scope != "/" && plain {
                true => Ok(()),
                false => Err(format!(
                    "the transport {transport} has the scope {scope:?}, which is not a plain absolute path"
                )),
            }
        }
        _ => Ok(()),
    }
}

impl<'de> Deserialize<'de> for Requirements {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Vec::<RawRequirement>::deserialize(from)?;
        if raw.is_empty() {
            return Err(D::Error::custom("a list of requirements is empty"));
        }
        raw.into_iter().map(|raw| raw.read().map_err(D::Error::custom)).collect::<Result<_, _>>().map(Self)
    }
}

impl RawRequirement {
    fn read(self) -> Result<Requirement, String> {
        let kind = self.kind.as_str();
        let unsupported = |what: &str| Ok(Requirement::Unsupported(what.to_owned()));
        match kind {
            "insecureAcceptAnything" if self.has_only_a_type() => Ok(Requirement::Accept),
            "reject" if self.has_only_a_type() => Ok(Requirement::Reject),
            "insecureAcceptAnything" | "reject" => Err(format!("a requirement of type {kind:?} has other fields")),
            "signedBy" => unsupported("\"signedBy\" (a signature by GPG)"),
            "signedBaseLayer" => unsupported("\"signedBaseLayer\""),
            "sigstoreSigned" if self.key_type.is_some() || self.base_layer_identity.is_some() => {
                Err("a requirement of type \"sigstoreSigned\" has a field of another type".to_owned())
            }
            "sigstoreSigned" => self.sigstore(),
            other => Err(format!("a requirement has the unknown type {other:?}")),
        }
    }

    fn sigstore(self) -> Result<Requirement, String> {
        let rekor = [
            &self.rekor_public_key_path,
            &self.rekor_public_key_paths,
            &self.rekor_public_key_data,
            &self.rekor_public_key_datas,
        ];
        let uses_rekor = rekor.into_iter().any(Option::is_some);
        let keys = [
            self.key_path.map(|path| Keys::Files(vec![path])),
            self.key_paths.map(Keys::Files),
            self.key_data.map(|data| Keys::Data(vec![data])),
            self.key_datas.map(Keys::Data),
        ];
        let mut keys: Vec<Keys> = keys.into_iter().flatten().collect();
        let sources = keys.len() + usize::from(self.fulcio.is_some()) + usize::from(self.pki.is_some());
        if sources != 1 {
            return Err(
                "a requirement of type \"sigstoreSigned\" needs exactly one of keyPath, keyPaths, keyData, keyDatas, \
                        fulcio and pki"
                    .to_owned(),
            );
        }
        let identity = self.signed_identity.map_or(Ok(Identity::RepoDigestOrExact), RawIdentity::read)?;
        let unsupported = |what: &str| Ok(Requirement::Unsupported(format!("\"sigstoreSigned\" with {what}")));
        match keys.pop() {
            Some(keys) if keys.is_empty() => Err("a list of keys is empty".to_owned()),
            Some(_) if uses_rekor => unsupported("a Rekor log"),
            Some(keys) => Ok(Requirement::Signed { keys, identity }),
            None if self.fulcio.is_some() => unsupported("Fulcio"),
            None => unsupported("a PKI"),
        }
    }

    fn has_only_a_type(&self) -> bool {
        let Self { kind: _, key_type, key_path, key_paths, key_data, key_datas, fulcio, pki, .. } = self;
        let values = [key_type, fulcio, pki, &self.rekor_public_key_path, &self.rekor_public_key_paths];
        let further = [&self.rekor_public_key_data, &self.rekor_public_key_datas, &self.base_layer_identity];
        let has_keys = key_path.is_some() || key_paths.is_some() || key_data.is_some() || key_datas.is_some();
        !has_keys && self.signed_identity.is_none() && values.into_iter().chain(further).all(Option::is_none)
    }
}

impl RawIdentity {
    fn read(self) -> Result<Identity, String> {
        let wrong = format!("a signedIdentity of type {:?} has missing or further fields", self.kind);
        let Self { kind, docker_reference, docker_repository, prefix, signed_prefix } = self;
        match (kind.as_str(), docker_reference, docker_repository, prefix, signed_prefix) {
            ("matchExact", None, None, None, None) => Ok(Identity::Exact),
            ("matchRepoDigestOrExact", None, None, None, None) => Ok(Identity::RepoDigestOrExact),
            ("matchRepository", None, None, None, None) => Ok(Identity::Repository),
            ("exactReference", Some(name), None, None, None) => named(name, true).map(Identity::ExactReference),
            ("exactRepository", None, Some(name), None, None) => named(name, false).map(Identity::ExactRepository),
            ("remapIdentity", None, None, Some(prefix), Some(signed_prefix)) => {
                Ok(Identity::Remap { prefix, signed_prefix })
            }
            (
                "matchExact"
                | "matchRepoDigestOrExact"
                | "matchRepository"
                | "exactReference"
                | "exactRepository"
                | "remapIdentity",
                ..,
            ) => Err(wrong),
            (other, ..) => Err(format!("a signedIdentity has the unknown type {other:?}")),
        }
    }
}

/// Checks that a name is one of an image, and, if `exact` is set, of one image.
fn named(name: String, exact: bool) -> Result<String, String> {
    match super::identity::Named::parse(&name) {
        Some(parsed) if parsed.is_exact() || !exact => Ok(name),
        Some(_) => Err(format!("the reference {name:?} has neither a tag nor a digest")),
        None => Err(format!("{name:?} is not the name of an image")),
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Fields<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, V>()? {
                    if fields.contains_key(&name) {
                        return Err(M::Error::custom(format!("{name:?} is there twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Unique(fields))
            }
        }
        from.deserialize_map(Fields(PhantomData))
    }
}
