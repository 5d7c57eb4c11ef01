//! The public keys that signatures are verified with.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use webpki::ring::{ECDSA_P256_SHA256, ED25519, RSA_PKCS1_2048_8192_SHA256};

use super::PolicyError;

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// In files, as PEM.
    Files(Vec<PathBuf>),
    /// In the policy, as PEM in base64.
    Data(Vec<String>),
}

/// A key: ECDSA on the curve P-256, which cosign makes, RSA or Ed25519.
#[derive(Clone, Debug)]
pub(super) struct Key {
    der: SubjectPublicKeyInfoDer<'static>,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
}

const ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 3] = [ECDSA_P256_SHA256, RSA_PKCS1_2048_8192_SHA256, ED25519];

impl Keys {
    pub(super) const fn is_empty(&self) -> bool {
        match self {
            Self::Files(files) => files.is_empty(),
            Self::Data(data) => data.is_empty(),
        }
    }

    /// Reads all keys. `policy` is the file that names them.
    pub(super) fn load(&self, policy: &Path) -> Result<Vec<Key>, PolicyError> {
        let of = |pem: &[u8], path: &Path| {
            Key::parse(pem).map_err(|cause| PolicyError::Malformed { path: path.to_owned(), cause })
        };
        match self {
            Self::Files(paths) => paths.iter().map(|path| of(&super::read(path)?, path)).collect(),
            Self::Data(data) => data
                .iter()
                .map(|data| {
                    let malformed =
                        |_| PolicyError::Malformed { path: policy.to_owned(), cause: "a key is not base64".to_owned() };
                    of(&STANDARD.decode(data).map_err(malformed)?, policy)
                })
                .collect(),
        }
    }
}

impl Key {
    pub(super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|error| format!("it has no public key in PEM ({error})"))?
            .into_owned();
        let unknown = || "its key is neither ECDSA on the curve P-256 nor RSA nor Ed25519".to_owned();
        let key = RawPublicKeyEntity::try_from(&der).map_err(|_| unknown())?;
        // Only an algorithm that is for keys of this kind looks at the signature at all.
        let is_for = |algorithm: &&&'static dyn SignatureVerificationAlgorithm| {
            matches!(key.verify_signature(**algorithm, b"", b""), Err(webpki::Error::InvalidSignatureForPublicKey))
        };
        let algorithm = *ALGORITHMS.iter().find(is_for).ok_or_else(unknown)?;
        Ok(Self { der, algorithm })
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = RawPublicKeyEntity::try_from(&self.der);
        key.is_ok_and(|key| key.verify_signature(self.algorithm, message, signature).is_ok())
    }
}
