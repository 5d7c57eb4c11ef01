//! `certs.d`: certificates for one registry (containers-certs.d(5)).
//!
//! The first of these directories that exists is used: `~/.config/containers/certs.d/HOST:PORT`,
//! `/etc/containers/certs.d/HOST:PORT`, `/etc/docker/certs.d/HOST:PORT`. In it, `*.crt` are CAs to trust in addition to the
//! system's, and `*.cert` certificates of this client, each with its key in the `*.key` of the same name. If there are several
//! of this client, the first one is used.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{PullError, PullOptions};

/// Certificates for one registry.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) client: Option<Identity>,
}

/// A certificate of this client.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) path: PathBuf,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl Certificates {
    /// Reads those for a registry: from the directory that the options name, or else from `certs.d`.
    pub(super) fn of(options: &PullOptions, registry: &str) -> Result<Self, PullError> {
        let directory = match &options.certificates {
            Some(directory) => Some(directory.clone()),
            None => places().into_iter().map(|place| place.join(registry)).find(|place| place.is_dir()),
        };
        directory.map_or_else(|| Ok(Self::default()), |directory| Self::read(&directory))
    }

    fn read(directory: &Path) -> Result<Self, PullError> {
        let unusable = |path: &Path, source: Cause| PullError::CaFile { path: path.to_owned(), source };
        let entries = std::fs::read_dir(directory).map_err(|error| unusable(directory, error.into()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut found = Self::default();
        for path in &paths {
            let read = || std::fs::read(path).map_err(|error| unusable(path, error.into()));
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.extend(authorities(&read()?).map_err(|cause| unusable(path, cause))?),
                Some("cert") if found.client.is_none() => {
                    let key = path.with_extension("key");
                    if !paths.contains(&key) {
                        let cause = format!("its key {} is missing; the names of CAs end with .crt", key.display());
                        return Err(unusable(path, cause.into()));
                    }
                    let chain = certificates(&read()?).map_err(|cause| unusable(path, cause))?;
                    let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| unusable(&key, error.into()))?;
                    found.client = Some(Identity { path: path.clone(), chain, key });
                }
                Some("key") if !paths.contains(&path.with_extension("cert")) => {
                    let cause = format!("its certificate {} is missing", path.with_extension("cert").display());
                    return Err(unusable(path, cause.into()));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Returns the CAs of a PEM file.
pub(super) fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let given = certificates(pem)?;
    let mut store = RootCertStore::empty();
    for certificate in &given {
        store.add(certificate.clone())?;
    }
    Ok(given)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let given: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    if given.is_empty() { Err("it holds no certificate".into()) } else { Ok(given) }
}

fn places() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let own = home.map(|home| home.join(".config/containers/certs.d"));
    let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    own.into_iter().chain(system).collect()
}
