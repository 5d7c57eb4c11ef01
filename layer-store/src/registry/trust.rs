//! Which server certificates are trusted.
//!
//! The certificates trusted are the system's (or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` in their
//! place) and the user's CA file. In one case the usual rules are too strict: `openssl req -x509`, with
//! which most private registries are set up, makes a certificate that is its own CA, and a CA is refused
//! as a server. A certificate that the user trusts by name is trusted here in that case too, as the
//! container tools do; its dates, names and signatures are checked like any other's.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificates::{self, Certificates, Identity};
use super::{PullError, PullOptions};

/// The TLS side of a client that trusts the system, the user's CA file and the CAs that `certs.d` has for `registry`.
pub(super) fn tls(options: &PullOptions, registry: &str) -> Result<ClientConfig, PullError> {
    let provider = Arc::new(ring::default_provider());
    let Certificates { authorities, client } = Certificates::of(options, registry)?;
    let trust = Trust::new(options, authorities, &provider)?;
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| PullError::Client(Box::new(e)))?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(trust));
    match client {
        None => Ok(config.with_no_client_auth()),
        Some(Identity { path, chain, key }) => {
            config.with_client_auth_cert(chain, key).map_err(|error| PullError::CaFile { path, source: error.into() })
        }
    }
}

/// The TLS side of a client that does not use TLS, and trusts no certificate. A client must have one.
pub(crate) fn no_tls() -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    Ok(config
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}

#[derive(Debug)]
struct Trust {
    /// From the user's CA file.
    given: Vec<CertificateDer<'static>>,
    /// Read when the first server shows a certificate, because a registry without TLS does not need them.
    all: OnceLock<Trusted>,
    /// Whether every certificate is accepted.
    accepts_any: bool,
    provider: Arc<CryptoProvider>,
}

/// The certificates of the system and the user's.
#[derive(Debug)]
struct Trusted {
    /// `None` on a host without any certificates.
    roots: Option<Arc<WebPkiServerVerifier>>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn new(
        options: &PullOptions,
        mut given: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, PullError> {
        if let Some(path) = &options.ca_file {
            let unusable = |source| PullError::CaFile { path: path.clone(), source };
            let pem = std::fs::read(path).map_err(|e| unusable(e.into()))?;
            given.extend(certificates::authorities(&pem).map_err(unusable)?);
        }
        let accepts_any = options.is_insecure();
        Ok(Self { given, all: OnceLock::new(), accepts_any, provider: Arc::clone(provider) })
    }

    fn all(&self) -> &Trusted {
        self.all.get_or_init(|| {
            let native = rustls_native_certs::load_native_certs();
            for error in &native.errors {
                tracing::warn!("certificates of this system: {error}");
            }
            let mut certificates = native.certs;
            certificates.extend(self.given.iter().cloned());
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(certificates.iter().cloned());
            // A verifier cannot be built without certificates; no server is trusted then.
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&self.provider));
            Trusted { roots: builder.build().ok(), certificates }
        })
    }
}

/// Whether all that is wrong with a certificate is that it may sign others. Its dates were checked before that.
fn is_only_a_ca(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.accepts_any {
            return Ok(ServerCertVerified::assertion());
        }
        let Trusted { roots, certificates } = self.all();
        let Some(roots) = roots else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(error) if is_only_a_ca(&error) => {
                if !certificates.iter().any(|trusted| trusted == end_entity) {
                    return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
                }
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
