//! How a registry asks for authorization, and what is sent in return.
//!
//! A registry answers 401 with challenges (RFC 9110, section 11.6.1): `Basic`, or `Bearer` with the
//! token service to go to, as the token authentication of the distribution project describes. The
//! client of `oci-distribution` follows the same steps, but its callers cannot tell a token service that is
//! busy from one that refuses, and it cannot use identity tokens. So the steps are taken here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;

use super::credential::Credential;

/// The authorization that requests carry.
#[derive(Clone, Debug, Default)]
pub(super) struct Authorization {
    /// How many authorizations there were before this one.
    pub(super) generation: u64,
    pub(super) header: Option<HeaderValue>,
    /// Whose login the header carries, if it carries one.
    pub(super) user: Option<String>,
    /// Stored logins that cannot be used, and why.
    pub(super) unused: Vec<String>,
}

impl Authorization {
    pub(super) fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.header {
            Some(header) => request.header(AUTHORIZATION, header.clone()),
            None => request,
        }
    }
}

/// What a registry asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password, in every request.
    Basic,
    /// A token from the service at `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Returns the challenges of an answer that can be met, in their order.
    pub(super) fn all(headers: &HeaderMap) -> Vec<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        let schemes = values.flat_map(|value| schemes(&String::from_utf8_lossy(value.as_bytes())));
        schemes.filter_map(|scheme| Self::read(&scheme)).collect()
    }

    fn read(scheme: &Scheme) -> Option<Self> {
        let parameter = |name: &str| {
            let mut parameters = scheme.parameters.iter();
            parameters.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.name.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.name.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let realm = parameter("realm").filter(|realm| !realm.is_empty())?;
        Some(Self::Bearer { realm, service: parameter("service"), scope: parameter("scope") })
    }
}

/// One challenge as it is written in a header.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scheme {
    name: String,
    parameters: Vec<(String, String)>,
}

/// Splits a header into its challenges.
///
/// `http-auth` reads the grammar of the RFC and nothing else; for an address without quotes, or a `Negotiate` with
/// data, it loses all challenges of the line. Registries write both.
fn schemes(text: &str) -> Vec<Scheme> {
    let mut schemes: Vec<Scheme> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return schemes;
        }
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let Some(value) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            schemes.push(Scheme { name: word.to_owned(), ..Scheme::default() });
            rest = after;
            continue;
        };
        let (value, after) = parameter_value(value.trim_start_matches([' ', '\t']));
        if let Some(scheme) = schemes.last_mut() {
            scheme.parameters.push((word.to_owned(), value));
        }
        rest = after;
    }
}

/// Splits off a value, which is in quotes or ends at the next comma or space. Returns it and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(position + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// Returns the request that fetches a token, or why it must not be sent.
///
/// A login is sent to a token service without TLS only if the registry itself does not use TLS.
pub(super) fn token_request(
    client: &Client,
    url: Url,
    (service, scopes): (Option<&str>, &[String]),
    credential: &Credential,
    plain_http: bool,
) -> Result<RequestBuilder, String> {
    if url.scheme() != "https" && !plain_http && *credential != Credential::Anonymous {
        return Err("it does not use TLS, so no login is sent to it".to_owned());
    }
    let mut fields: Vec<(&str, &str)> = scopes.iter().map(|scope| ("scope", scope.as_str())).collect();
    fields.extend(service.map(|service| ("service", service)));
    // OAuth 2 has one field for all scopes.
    let together = scopes.join(" ");
    Ok(match credential {
        Credential::Anonymous | Credential::RegistryToken(_) => client.get(url).query(&fields),
        Credential::Password { user, password } => {
            client.get(url).query(&fields).header(AUTHORIZATION, basic(user, password)?)
        }
        Credential::IdentityToken(token) => {
            fields.retain(|(name, _)| *name != "scope");
            if !together.is_empty() {
                fields.push(("scope", &together));
            }
            fields.extend([("grant_type", "refresh_token"), ("client_id", "lamina"), ("refresh_token", token)]);
            client.post(url).form(&fields)
        }
    })
}

/// A token service's answer. Services use both names for the token.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// Returns the header with the token of a token service's answer.
pub(super) fn bearer_of(answer: &[u8]) -> Result<HeaderValue, String> {
    let none = || "it sends no token".to_owned();
    let answer: Token = serde_json::from_slice(answer).map_err(|_| none())?;
    let tokens = [answer.token, answer.access_token].into_iter().flatten();
    bearer(&tokens.into_iter().find(|token| !token.is_empty()).ok_or_else(none)?)
}

/// Returns the header that carries a token.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, String> {
    secret(&format!("Bearer {token}"))
}

/// Returns the header that carries a password.
pub(super) fn basic(user: &[u8], password: &[u8]) -> Result<HeaderValue, String> {
    secret(&format!("Basic {}", STANDARD.encode([user, b":", password].concat())))
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "its token is not text".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenges(values: &[&'static str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenge::all(&headers)
    }

    fn bearer_at(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let [service, scope] = [service, scope].map(|word| word.map(str::to_owned));
        Challenge::Bearer { realm: realm.to_owned(), service, scope }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = concat!(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io","#,
            r#"scope="repository:library/debian:pull""#
        );
        let scope = Some("repository:library/debian:pull");
        assert_eq!(challenges(&[hub]), [bearer_at("https://auth.docker.io/token", Some("registry.docker.io"), scope)]);
        let plain = bearer_at("https://a.test/token", Some("s"), None);
        for (values, expected) in [
            (&[r#"Basic realm="Registry""#][..], &[Challenge::Basic][..]),
            (&["Negotiate", r#"basic realm="x""#], &[Challenge::Basic]),
            (&["Negotiate abc==, Basic realm=x"], &[Challenge::Basic]),
            (&["NTLM"], &[]),
            (&[r#"Bearer service="x""#], &[]),
            (&["Bearer realm=https://a.test/token,service=s"], std::slice::from_ref(&plain)),
            (&[r#"Bearer Realm = "https://a.test/token" , Service="s""#], std::slice::from_ref(&plain)),
            (
                &[r#"Basic realm="a, b \"c\"", Bearer realm="https://a.test/token",service=s"#],
                &[Challenge::Basic, plain.clone()],
            ),
            (&[r#"Bearer realm="https://a.test/token",service=s"#, "Basic"], &[plain.clone(), Challenge::Basic]),
            (&["", ",", "= ="], &[]),
            (&[], &[]),
        ] {
            assert_eq!(challenges(values), expected, "{values:?}");
        }
    }

    fn ask(url: &str, credential: &Credential, plain_http: bool) -> Result<reqwest::Request, String> {
        let scopes = ["repository:library/debian:pull".to_owned()];
        let fields = (Some("registry.docker.io"), &scopes[..]);
        let client =
            Client::builder().tls_backend_preconfigured(super::super::trust::no_tls().unwrap()).build().unwrap();
        let request = token_request(&client, url.parse().unwrap(), fields, credential, plain_http)?;
        Ok(request.build().unwrap())
    }

    #[test]
    fn each_kind_of_login_asks_for_a_token_in_its_own_way() {
        let ask = |credential: &Credential| ask("https://auth.docker.io/token", credential, false).unwrap();
        let anonymous = ask(&Credential::Anonymous);
        assert_eq!(
            anonymous.url().as_str(),
            "https://auth.docker.io/token?scope=repository%3Alibrary%2Fdebian%3Apull&service=registry.docker.io"
        );
        assert!(anonymous.headers().get("authorization").is_none());
        let password = ask(&Credential::Password { user: b"user".to_vec(), password: b"password".to_vec() });
        assert_eq!(password.headers()["authorization"], "Basic dXNlcjpwYXNzd29yZA==");
        let token = ask(&Credential::IdentityToken("s3cret".to_owned()));
        assert_eq!(token.method(), "POST");
        let body = std::str::from_utf8(token.body().unwrap().as_bytes().unwrap()).unwrap();
        assert!(body.contains("grant_type=refresh_token") && body.contains("refresh_token=s3cret"), "{body}");
        assert!(!token.url().as_str().contains("s3cret"));
    }

    #[test]
    fn a_login_is_not_sent_without_tls() {
        let login = Credential::IdentityToken("s3cret".to_owned());
        let realm = "http://auth.example/token";
        assert!(ask(realm, &login, false).is_err());
        assert!(ask(realm, &login, true).is_ok());
        assert!(ask(realm, &Credential::Anonymous, false).is_ok());
    }

    #[test]
    fn both_names_of_a_token_are_understood() {
        for answer in [
            r#"{"token": "abc"}"#,
            r#"{"access_token": "abc", "expires_in": 300}"#,
            r#"{"token": null, "access_token": "abc"}"#,
            r#"{"token": "", "access_token": "abc"}"#,
        ] {
            assert_eq!(bearer_of(answer.as_bytes()).unwrap(), "Bearer abc");
        }
        for answer in ["{}", r#"{"token": ""}"#, "<html>"] {
            assert!(bearer_of(answer.as_bytes()).is_err(), "{answer}");
        }
    }

    #[test]
    fn a_password_need_not_be_utf_8() {
        assert_eq!(basic(b"user", b"p\xe4ss").unwrap(), "Basic dXNlcjpw5HNz");
    }
}
