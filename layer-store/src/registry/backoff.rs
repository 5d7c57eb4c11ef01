//! When to try again, and when to give up.

use std::time::Duration;

use super::PullError;
use crate::Observer;

/// How long to wait for a registry, and how often to ask it again.
#[derive(Clone, Debug)]
pub struct Patience {
    /// The time to make a connection, including TLS.
    pub connect: Duration,
    /// The time until the next bytes of an answer. A transfer may take any time as long as bytes arrive.
    pub stall: Duration,
    /// How many attempts in a row may fail, at least 1. A megabyte of progress resets the count.
    pub attempts: u32,
    /// The wait after the first failure. Each further failure doubles it.
    pub first_wait: Duration,
    /// The longest wait. If the registry asks for a longer one (`Retry-After`), the pull fails and says so.
    pub longest_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
        }
    }
}

/// Why one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt would fail too.
    Final(PullError),
    /// Another attempt may succeed, but not before `wait`, if the registry names that time.
    Passing { error: PullError, wait: Option<Duration> },
    /// No connection was made. If the host has answered before, it may be reachable again soon; if not, its name is
    /// probably wrong.
    NoContact { error: PullError, host: String },
}

impl Failure {
    /// Returns the error, for a request that is not made again.
    pub(super) fn into_error(self) -> PullError {
        match self {
            Self::Final(error) | Self::Passing { error, .. } | Self::NoContact { error, .. } => error,
        }
    }

    pub(super) fn passing(error: PullError) -> Self {
        Self::Passing { error, wait: None }
    }
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        Self::Final(error)
    }
}

/// Counts the failed attempts at one request.
#[derive(Debug)]
pub(super) struct Backoff<'a> {
    patience: &'a Patience,
    observer: &'a dyn Observer,
    failures: u32,
}

/// How many attempts are made at a host that has never answered. The second is for a lost packet and is made without a
/// notice.
const ATTEMPTS_WITHOUT_CONTACT: u32 = 2;

impl<'a> Backoff<'a> {
    pub(super) fn new(patience: &'a Patience, observer: &'a dyn Observer) -> Self {
        Self { patience, observer, failures: 0 }
    }

    /// Notes progress of the transfer: earlier failures no longer count.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Whether another failure ends the attempts.
    pub(super) fn is_last(&self) -> bool {
        self.failures.saturating_add(1) >= self.patience.attempts
    }

    /// Waits before another attempt, or returns the error that ends it.
    pub(super) async fn after(&mut self, failure: Failure, contact: bool) -> Result<(), PullError> {
        let (error, wait, attempts) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { error, wait } => (error, wait, self.patience.attempts),
            Failure::NoContact { error, .. } if contact => (error, None, self.patience.attempts),
            Failure::NoContact { error, .. } => (error, None, self.patience.attempts.min(ATTEMPTS_WITHOUT_CONTACT)),
        };
        self.failures += 1;
        let Some(wait) = self.next_wait(wait, attempts) else { return Err(error) };
        if attempts > ATTEMPTS_WITHOUT_CONTACT {
            let (failed, wait) = (self.failures, wait.as_secs_f32());
            self.observer.notice(&format!("{error} (attempt {failed} of {attempts} failed, the next in {wait:.1} s)"));
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Returns the wait before the next of `attempts`, or `None` to give up.
    fn next_wait(&self, asked: Option<Duration>, attempts: u32) -> Option<Duration> {
        if self.failures >= attempts {
            return None;
        }
        let doubled = self.patience.first_wait.saturating_mul(1 << (self.failures - 1).min(16));
        match asked {
            Some(asked) if asked > self.patience.longest_wait => None,
            Some(asked) => Some(asked.max(self.patience.first_wait)),
            None => Some(doubled.min(self.patience.longest_wait)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    fn waits(patience: &Patience, asked: Option<Duration>) -> Vec<Duration> {
        let mut backoff = Backoff::new(patience, &Silent);
        std::iter::from_fn(|| {
            backoff.failures += 1;
            backoff.next_wait(asked, patience.attempts)
        })
        .collect()
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let seconds = Duration::from_secs;
        let patience =
            Patience { attempts: 5, first_wait: seconds(1), longest_wait: seconds(5), ..Patience::default() };
        assert_eq!(waits(&patience, None), [1, 2, 4, 5].map(seconds));
    }

    #[test]
    fn the_registry_s_own_wish_is_followed_unless_too_long() {
        let seconds = Duration::from_secs;
        let patience =
            Patience { attempts: 3, first_wait: seconds(1), longest_wait: seconds(5), ..Patience::default() };
        assert_eq!(waits(&patience, Some(seconds(4))), [4, 4].map(seconds));
        assert_eq!(waits(&patience, Some(seconds(0))), [1, 1].map(seconds));
        assert!(waits(&patience, Some(seconds(6))).is_empty());
    }
}
