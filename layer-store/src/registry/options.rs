//! How to reach a registry, and what to fetch from it.

use std::path::PathBuf;

use super::backoff::Patience;
use super::credential::Login;
use crate::oci::platform::Platform;
use crate::policy::ImagePolicy;
use crate::registries::{Endpoint, RegistriesFiles};

/// How to pull.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The platform to choose if there are several. `None` means [`Platform::host`].
    pub platform: Option<Platform>,
    /// Also fetch the images for all other platforms, and everything else that the image index lists.
    pub all_platforms: bool,
    /// Whether the store keeps the image under its name. Without, what was fetched is kept until the store is closed, and
    /// after that only if something else holds it.
    pub names_image: bool,
    /// Use HTTP without TLS. A registry on this host that does not use TLS is detected without this.
    pub plain_http: bool,
    /// Whether certificates are checked. Where they are not, a registry without TLS is used too. `None` means what
    /// `registries.conf` says, and that they are checked where it says nothing.
    pub verify_tls: Option<bool>,
    /// PEM certificates to trust in addition to the system's (which `SSL_CERT_FILE` replaces).
    pub ca_file: Option<PathBuf>,
    /// The directory with certificates for this registry, instead of the registry's one in `certs.d`: CAs are `*.crt`, and
    /// this client's certificates `*.cert`, each with its key in the `*.key` of the same name.
    pub certificates: Option<PathBuf>,
    /// How many layers are fetched at once, at least 1.
    pub parallel: usize,
    /// When to give up.
    pub patience: Patience,
    /// The login for the registry in the image's name, instead of one that is stored.
    pub login: Option<Login>,
    /// Files with logins, in the order in which they are searched, instead of those of docker and podman.
    pub credential_files: Option<Vec<PathBuf>>,
    /// Which images may enter the store.
    pub policy: ImagePolicy,
    /// Where `registries.conf` is.
    pub registries: RegistriesFiles,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: None,
            all_platforms: false,
            names_image: true,
            plain_http: false,
            verify_tls: None,
            ca_file: None,
            certificates: None,
            parallel: 4,
            patience: Patience::default(),
            login: None,
            credential_files: None,
            policy: ImagePolicy::default(),
            registries: RegistriesFiles::default(),
        }
    }
}

impl PullOptions {
    /// Returns the options for one place. A login that was given for the registry in a name goes to no other one.
    pub(super) fn at(&self, endpoint: &Endpoint, named: &str) -> Self {
        let is_named = endpoint.reference.registry() == named;
        Self {
            verify_tls: Some(self.verify_tls.unwrap_or(!endpoint.is_insecure)),
            login: self.login.clone().filter(|_| is_named && !endpoint.is_mirror),
            ..self.clone()
        }
    }

    /// Whether certificates are not checked.
    pub(super) fn is_insecure(&self) -> bool {
        self.verify_tls == Some(false)
    }
}
