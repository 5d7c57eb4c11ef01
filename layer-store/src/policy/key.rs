//! The public keys that signatures are verified with.

use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

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
pub(super) struct Key(ParsedPublicKey);

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
        let key = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|error| format!("it has no public key in PEM ({error})"))?;
        let ecdsa = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &*key);
        let parsed = ecdsa.or_else(|_| ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &*key));
        let parsed = parsed.or_else(|_| ParsedPublicKey::new(&ED25519, &*key));
        parsed.map(Self).map_err(|_| "its key is neither ECDSA on the curve P-256 nor RSA nor Ed25519".to_owned())
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify_sig(message, signature).is_ok()
    }
}
