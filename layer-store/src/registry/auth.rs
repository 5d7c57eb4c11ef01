//! How a registry asks for authorization, and what is sent in return.
//!
//! A registry answers 401 with a challenge (RFC 9110, section 11.6.1): `Basic`, or `Bearer` with the
//! token service to go to, as the token authentication of the distribution project describes. The
//! client of `oci-distribution` follows the same steps, but gives no way to tell a token service that is
//! busy from one that refuses, nor to use an identity token; so the steps are taken here.

use http_auth::parse_challenges;
use oci_distribution::token_cache::RegistryToken;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::credentials::Credential;

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password, in every request.
    Basic,
    /// A token from the service at `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The first challenge of an answer that can be met.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
            let challenges = parse_challenges(value).ok()?;
            challenges.into_iter().find_map(|challenge| {
                let parameter = |name: &str| {
                    let mut parameters = challenge.params.iter();
                    parameters.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    return Some(Self::Basic);
                }
                if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                    return None;
                }
                Some(Self::Bearer {
                    realm: parameter("realm")?,
                    service: parameter("service"),
                    scope: parameter("scope"),
                })
            })
        })
    }
}

/// The request that fetches a token, or why none may be sent.
///
/// A password or identity token that came to be used over TLS is not sent to a token service without it.
pub(super) fn token_request(
    client: &reqwest::Client,
    challenge: &Challenge,
    repository: &str,
    credential: &Credential,
    plain_http: bool,
) -> Result<reqwest::RequestBuilder, String> {
    let Challenge::Bearer { realm, service, scope } = challenge else {
        return Err("a Basic challenge needs no token".to_owned());
    };
    let url = reqwest::Url::parse(realm).map_err(|e| format!("its token service {realm:?} is no URL: {e}"))?;
    if url.scheme() != "https" && !plain_http && *credential != Credential::Anonymous {
        return Err(format!("its token service {realm} has no TLS, so no login is sent there"));
    }
    let scope = scope.clone().unwrap_or_else(|| format!("repository:{repository}:pull"));
    let mut fields = vec![("scope", scope.as_str())];
    fields.extend(service.as_deref().map(|service| ("service", service)));
    Ok(match credential {
        Credential::Anonymous => client.get(url).query(&fields),
        Credential::Password { user, password } => client.get(url).query(&fields).basic_auth(user, Some(password)),
        Credential::IdentityToken(token) => {
            fields.extend([("grant_type", "refresh_token"), ("client_id", "lamina"), ("refresh_token", token)]);
            client.post(url).form(&fields)
        }
    })
}

/// The header that carries the token in a token service's answer.
pub(super) fn bearer(answer: &[u8]) -> Result<HeaderValue, String> {
    let token: RegistryToken =
        serde_json::from_slice(answer).map_err(|_| "its token service sent no token".to_owned())?;
    secret(&token.bearer_token())
}

/// The header that carries a password.
pub(super) fn basic(client: &reqwest::Client, user: &str, password: &str) -> Result<HeaderValue, String> {
    // Building a request and taking its header saves a base64 encoder of our own.
    let request =
        client.get("http://localhost/").basic_auth(user, Some(password)).build().map_err(|e| e.to_string())?;
    request.headers().get(reqwest::header::AUTHORIZATION).cloned().ok_or_else(|| "no header was made".to_owned())
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "its token is not text".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenge::of(&headers)
    }

    fn hub() -> Challenge {
        challenge(&[concat!(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io","#,
            r#"scope="repository:library/debian:pull""#
        )])
        .unwrap()
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        assert!(matches!(hub(), Challenge::Bearer { service: Some(s), .. } if s == "registry.docker.io"));
        assert_eq!(challenge(&[r#"Basic realm="Registry""#]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Negotiate", r#"basic realm="x""#]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Negotiate"]), None);
        assert_eq!(challenge(&[r#"Bearer service="x""#]), None);
        assert_eq!(challenge(&[]), None);
    }

    #[test]
    fn each_kind_of_login_asks_for_a_token_in_its_own_way() {
        let client = reqwest::Client::new();
        let ask = |credential: &Credential| {
            token_request(&client, &hub(), "library/debian", credential, false).unwrap().build().unwrap()
        };
        let anonymous = ask(&Credential::Anonymous);
        assert_eq!(
            anonymous.url().as_str(),
            "https://auth.docker.io/token?scope=repository%3Alibrary%2Fdebian%3Apull&service=registry.docker.io"
        );
        assert!(anonymous.headers().get("authorization").is_none());
        let password = ask(&Credential::Password { user: "user".to_owned(), password: "password".to_owned() });
        assert_eq!(password.headers()["authorization"], "Basic dXNlcjpwYXNzd29yZA==");
        let token = ask(&Credential::IdentityToken("s3cret".to_owned()));
        assert_eq!(token.method(), "POST");
        let body = std::str::from_utf8(token.body().unwrap().as_bytes().unwrap()).unwrap();
        assert!(body.contains("grant_type=refresh_token") && body.contains("refresh_token=s3cret"), "{body}");
        assert!(!token.url().as_str().contains("s3cret"));
    }

    #[test]
    fn a_login_is_not_sent_without_tls() {
        let client = reqwest::Client::new();
        let challenge = challenge(&[r#"Bearer realm="http://auth.example/token""#]).unwrap();
        let login = Credential::IdentityToken("s3cret".to_owned());
        assert!(token_request(&client, &challenge, "a", &login, false).is_err());
        assert!(token_request(&client, &challenge, "a", &login, true).is_ok());
        assert!(token_request(&client, &challenge, "a", &Credential::Anonymous, false).is_ok());
    }

    #[test]
    fn both_names_of_a_token_are_understood() {
        for answer in [r#"{"token": "abc"}"#, r#"{"access_token": "abc", "expires_in": 300}"#] {
            assert_eq!(bearer(answer.as_bytes()).unwrap(), "Bearer abc");
        }
        assert!(bearer(b"{}").is_err());
    }
}
