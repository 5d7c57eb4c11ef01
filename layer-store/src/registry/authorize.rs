//! Authorizes the requests for a repository: the login, the token service, and what to do when either fails.

use reqwest::header::HeaderValue;
use reqwest::{RequestBuilder, Response, StatusCode};

use super::auth::{self, Authorization, Challenge};
use super::backoff::Failure;
use super::client::Repository;
use super::connect;
use super::credential::Credential;
use super::credentials::{self, Found};
use super::error::PullError;
use super::server::{self, Purpose};

/// How many bytes of a token service's answer are read. Tokens have up to some kilobytes.
const TOKEN_LIMIT: u64 = 1 << 20;

impl Repository {
    /// Sends one request to the registry, and gets a new authorization if the registry asks for one.
    pub(super) async fn attempt(&self, what: &str, ask: impl Fn() -> RequestBuilder) -> Result<Response, Failure> {
        let mut used = self.authorization.lock().await.clone();
        let mut response = self.send(used.sign(ask()), Purpose::Content).await?;
        let mut refusal = None;
        if self.is_challenge(&response) {
            for challenge in Challenge::all(response.headers()) {
                used = match self.renew(used.generation, &challenge).await {
                    Ok(Some(renewed)) => renewed,
                    Ok(None) => continue,
                    Err(Failure::Final(error)) => {
                        refusal.get_or_insert(error);
                        continue;
                    }
                    Err(passing) => return Err(passing),
                };
                response = self.send(used.sign(ask()), Purpose::Content).await?;
                if !self.is_challenge(&response) {
                    return self.success(what, response, Purpose::Content).await;
                }
                if let Some(user) = &used.user {
                    let reason = self.reason(&mut response, Purpose::Content).await;
                    refusal.get_or_insert(self.login_refused(user.clone(), reason));
                }
            }
        }
        match refusal {
            Some(PullError::Denied { reason, .. }) => Err(self.denied(reason).await.into()),
            Some(refusal) => Err(refusal.into()),
            None => self.success(what, response, Purpose::Content).await,
        }
    }

    /// Returns whether an answer asks for authorization. A storage that asks is not sent the login of the registry.
    fn is_challenge(&self, response: &Response) -> bool {
        response.status() == StatusCode::UNAUTHORIZED && server::host(response.url()) == self.host
    }

    /// Returns a new authorization, or the one that another request has got since `generation`. `None` if the challenge
    /// asks for a login and none is stored.
    async fn renew(&self, generation: u64, challenge: &Challenge) -> Result<Option<Authorization>, Failure> {
        let mut authorization = self.authorization.lock().await;
        if authorization.generation != generation {
            return Ok(Some(authorization.clone()));
        }
        let Found { credential, problems } = self.login().await?;
        if authorization.unused != problems {
            problems.iter().for_each(|problem| self.observer.notice(&format!("a login is not used: {problem}")));
            authorization.unused = problems;
        }
        let Some((header, user)) = self.authorize(challenge, credential).await? else { return Ok(None) };
        let unused = std::mem::take(&mut authorization.unused);
        *authorization = Authorization { generation: generation + 1, header: Some(header), user, unused };
        Ok(Some(authorization.clone()))
    }

    /// Returns the header that meets a challenge, and whose login it carries.
    async fn authorize(
        &self,
        challenge: &Challenge,
        credential: Credential,
    ) -> Result<Option<(HeaderValue, Option<String>)>, Failure> {
        let unusable = |cause| PullError::Client(Box::<dyn std::error::Error + Send + Sync>::from(cause));
        match (challenge, &credential) {
            (Challenge::Basic, Credential::Password { user, password }) => {
                let header = auth::basic(user, password).map_err(unusable)?;
                Ok(Some((header, Some(credential.user()))))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { .. }, Credential::RegistryToken(token)) => {
                Ok(Some((auth::bearer(token).map_err(unusable)?, Some(credential.user()))))
            }
            (Challenge::Bearer { realm, service, scope }, _) => {
                let header = self.token(realm, service.as_deref(), scope.as_deref(), &credential).await?;
                Ok(Some((header, None)))
            }
        }
    }

    /// Fetches a token from the service at `realm`.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        credential: &Credential,
    ) -> Result<HeaderValue, Failure> {
        let Some(url) = connect::web_address(realm) else {
            let reason = format!("the address of its token service is not valid: {realm}");
            return Err(Failure::Final(self.refusal(reason)));
        };
        let server = self.server(&url, Purpose::Token);
        let unusable = |cause| PullError::TokenService { server: server.clone(), cause };
        let scopes = self.scopes(scope);
        let request = auth::token_request(&self.client, url, (service, &scopes), credential, self.plain_http);
        let mut response = self.send(request.map_err(unusable)?, Purpose::Token).await?;
        if matches!(response.status().as_u16(), 400 | 401 | 403) {
            let reason = self.reason(&mut response, Purpose::Token).await;
            return Err(Failure::Final(match credential {
                Credential::Anonymous => self.refusal(reason),
                login => self.login_refused(login.user(), reason),
            }));
        }
        let mut response = self.success("a token", response, Purpose::Token).await?;
        let answer = self.body(&mut response, TOKEN_LIMIT, Purpose::Token).await?.unwrap_or_default();
        Ok(auth::bearer_of(&answer).map_err(unusable)?)
    }

    /// Returns what a token must allow: what the challenge asks for, and reading the repositories that blobs are mounted from.
    fn scopes(&self, asked: Option<&str>) -> Vec<String> {
        let usual = self.scope.actions.map(|actions| format!("repository:{}:{actions}", self.reference.repository()));
        let own = asked.map(str::to_owned).or(usual);
        let others = self.scope.mounted_from.iter().map(|repository| format!("repository:{repository}:pull"));
        own.into_iter().chain(others).collect()
    }

    /// Returns the error for an image that is not public. The caller holds the lock of the authorization and adds the
    /// notes on unused logins.
    fn refusal(&self, reason: String) -> PullError {
        let registry = self.reference.registry().to_owned();
        PullError::Denied { image: self.name(), registry, reason, unused: Vec::new() }
    }

    /// Returns the stored login. It is looked up only when a registry asks for one, because helpers may be slow or ask
    /// the user.
    async fn login(&self) -> Result<Found, PullError> {
        if let Some(login) = &self.options.login {
            return Ok(Found { credential: login.credential(), problems: Vec::new() });
        }
        let files = self.options.credential_files.clone().unwrap_or_else(credentials::own_files);
        let (registry, repository) = (self.reference.registry().to_owned(), self.reference.repository().to_owned());
        let helpers = self.helpers.clone();
        tokio::task::spawn_blocking(move || credentials::search(&helpers, &files, &registry, &repository))
            .await
            .map_err(|e| PullError::Client(Box::new(e)))
    }
}
