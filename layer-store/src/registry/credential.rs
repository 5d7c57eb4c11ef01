//! A login, wherever it is stored.

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
