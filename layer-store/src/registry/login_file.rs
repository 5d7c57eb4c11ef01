//! One file with logins: docker's `config.json`, podman's `auth.json`, or the `.dockercfg` from before 2014.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::credential::Credential;

/// Base64, with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, Default)]
pub(super) struct LoginFile {
    auths: Map<String, Value>,
    helpers: Map<String, Value>,
    store: Option<String>,
}

impl LoginFile {
    /// Reads a file. A `legacy` one has only logins.
    pub(super) fn read(bytes: &[u8], legacy: bool) -> Result<Self, String> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else {
            return Err("it is not JSON as docker and podman write it".to_owned());
        };
        if legacy {
            return Ok(Self { auths: fields, ..Self::default() });
        }
        let mut map = |name: &str| match fields.remove(name) {
            Some(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let (auths, helpers) = (map("auths"), map("credHelpers"));
        let store = fields.get("credsStore").and_then(Value::as_str).filter(|name| !name.is_empty());
        Ok(Self { auths, helpers, store: store.map(str::to_owned) })
    }

    /// Returns the helper for one registry or a part of it.
    pub(super) fn helper(&self, place: &str) -> Option<&str> {
        let found = self.helpers.iter().find(|(key, _)| is_for(key, place));
        found.and_then(|(_, name)| name.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns the helper for all registries.
    pub(super) fn store(&self) -> Option<&str> {
        self.store.as_deref()
    }

    /// Returns the login that is stored in the file itself.
    pub(super) fn entry(&self, place: &str) -> Result<Option<Credential>, String> {
        let entry = self.auths.get(place).or_else(|| {
            let found = self.auths.iter().find(|(key, _)| is_for(key, place));
            found.map(|(_, entry)| entry)
        });
        entry.map_or(Ok(None), read_entry)
    }
}

/// Returns whether a key of a login file means `place`. Some tools write the key as an address.
pub(super) fn is_for(key: &str, place: &str) -> bool {
    if key == place {
        return true;
    }
    let address = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let (host, path) = address.unwrap_or(key).split_once('/').unwrap_or((address.unwrap_or(key), ""));
    let path = path.trim_end_matches('/');
    // Docker Desktop keeps its own tokens next to logins.
    let is_whole = match address {
        Some(_) => !path.ends_with("access-token") && !path.ends_with("refresh-token"),
        None => matches!(path, "" | "v1" | "v2"),
    };
    is_whole && host == place
}

fn read_entry(entry: &Value) -> Result<Option<Credential>, String> {
    let Value::Object(fields) = entry else { return Ok(None) };
    let field = |name: &str| {
        let found = fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| value.as_str()).filter(|text| !text.trim().is_empty())
    };
    if let Some(token) = field("identitytoken") {
        return Ok(Some(Credential::IdentityToken(token.trim().to_owned())));
    }
    if let Some(token) = field("registrytoken") {
        return Ok(Some(Credential::RegistryToken(token.trim().to_owned())));
    }
    let written = field("username").map(|user| (user, field("password").unwrap_or_default()));
    let written = written.and_then(|(user, password)| Credential::login(user.as_bytes(), password.as_bytes()));
    match field("auth").map(decode) {
        Some(Ok(decoded)) => Ok(decoded.or(written)),
        Some(Err(_)) if written.is_some() => Ok(written),
        Some(Err(problem)) => Err(problem),
        None => Ok(written),
    }
}

/// Reads the base64 of `user:password`.
fn decode(auth: &str) -> Result<Option<Credential>, String> {
    let compact: String = auth.chars().filter(|c| !c.is_whitespace()).collect();
    // Some tools use the URL-safe alphabet.
    let compact = compact.replace('-', "+").replace('_', "/");
    let bytes = LENIENT.decode(compact).map_err(|_| "its \"auth\" is not base64".to_owned())?;
    let colon = bytes.iter().position(|byte| *byte == b':').ok_or_else(|| "its \"auth\" has no colon".to_owned())?;
    let (user, password) = bytes.split_at(colon);
    Ok(Credential::login(user, password.get(1..).unwrap_or_default()))
}
