//! A login, wherever it is stored.

use std::fmt;
use std::str::FromStr;

/// The user name with which files and helpers mark an identity token.
const TOKEN_USER: &[u8] = b"<token>";

/// What a registry accepts as a login.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Anonymous,
    /// Bytes, because a password need not be UTF-8.
    Password {
        user: Vec<u8>,
        password: Vec<u8>,
    },
    /// An OAuth 2 refresh token, to be exchanged for an access token.
    IdentityToken(String),
    /// An access token.
    RegistryToken(String),
}

impl Credential {
    pub(super) fn is_login(&self) -> bool {
        *self != Self::Anonymous
    }

    /// Returns a name for it that messages can show.
    pub(super) fn user(&self) -> String {
        match self {
            Self::Anonymous => "nobody".to_owned(),
            Self::Password { user, .. } => String::from_utf8_lossy(user).into_owned(),
            Self::IdentityToken(_) => "an identity token".to_owned(),
            Self::RegistryToken(_) => "a registry token".to_owned(),
        }
    }

    /// Returns the login of a user and a password, or `None` if both are empty. Drops what editors and old programs
    /// leave at the end of a password.
    pub(super) fn login(user: &[u8], password: &[u8]) -> Option<Self> {
        let end = password.iter().rposition(|byte| !matches!(byte, 0 | b'\n' | b'\r')).map_or(0, |last| last + 1);
        let password = password.get(..end).unwrap_or_default();
        if user.is_empty() && password.is_empty() {
            return None;
        }
        if user == TOKEN_USER {
            return Some(Self::IdentityToken(String::from_utf8_lossy(password).into_owned()));
        }
        Some(Self::Password { user: user.to_owned(), password: password.to_owned() })
    }
}

/// A user's name and password for a registry. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: String,
    password: String,
}

impl Login {
    /// Creates a login, or `None` if the name is empty.
    #[must_use]
    pub fn new(user: &str, password: &str) -> Option<Self> {
        (!user.is_empty()).then(|| Self { user: user.to_owned(), password: password.to_owned() })
    }

    /// Returns the user's name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    pub(super) fn credential(&self) -> Credential {
        Credential::Password { user: self.user.clone().into_bytes(), password: self.password.clone().into_bytes() }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?}, ...)", self.user)
    }
}

impl FromStr for Login {
    type Err = String;

    /// Parses `USER:PASSWORD`, as skopeo and podman take it. The error does not quote it.
    fn from_str(text: &str) -> Result<Self, String> {
        let (user, password) = text.split_once(':').ok_or("expected USER:PASSWORD")?;
        Self::new(user, password).ok_or_else(|| "the user is empty".to_owned())
    }
}
