//! The tags of a repository.

use std::sync::Arc;

use reqwest::Url;
use serde::Deserialize;

use super::client::Repository;
use super::error::PullError;
use super::server;
use super::{PullOptions, places, wait};
use crate::oci::ImageError;
use crate::{Observer, Reference};

/// How many bytes of a page are read.
const PAGE_LIMIT: u64 = 4 << 20;
/// How many pages are asked for.
const MOST_PAGES: usize = 10_000;
/// How many tags are kept in memory.
const MOST_TAGS: usize = 100_000;
/// The longest tag in bytes (distribution specification, "Pulling manifests").
const LONGEST_TAG: usize = 128;

/// A page of tags (distribution specification, "Listing Tags").
#[derive(Debug, Deserialize)]
struct Page {
    /// Some registries write `null` for no tags.
    tags: Option<Vec<String>>,
}

/// Returns the names of all images in the repository of `reference`, in the order of the registry.
pub(crate) fn tags(
    reference: &Reference,
    options: &PullOptions,
    observer: &Arc<dyn Observer>,
) -> Result<Vec<Reference>, PullError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| PullError::Client(Box::new(error)))?;
    let tags = places::first(&runtime, reference, options, observer, |repository, halt| {
        wait(&runtime, halt, repository.tags())
    });
    runtime.shutdown_background();
    let named = |tag: String| {
        let name = format!("{}/{}:{tag}", reference.registry(), reference.repository());
        name.parse().map_err(|_| PullError::Image { image: reference.familiar(), cause: not_a_tag(&tag) })
    };
    tags?.into_iter().map(named).collect()
}

fn not_a_tag(tag: &str) -> ImageError {
    let start: String = tag.chars().take(LONGEST_TAG).collect();
    ImageError::Malformed { what: format!("tag {start:?}"), cause: "it is not a tag".to_owned() }
}

impl Repository {
    async fn tags(&self) -> Result<Vec<String>, PullError> {
        let what = format!("the list of tags of {}", self.name());
        let address = format!("{}/tags/list", self.base).parse::<Url>();
        let mut url = address.map_err(|error| PullError::Client(Box::new(error)))?;
        let wrong = |cause| PullError::Image { image: self.name(), cause };
        let malformed = |cause| wrong(ImageError::Malformed { what: "list of tags".to_owned(), cause });
        let mut tags = Vec::new();
        for _ in 0..MOST_PAGES {
            let answer = self.document(&what, || self.client.get(url.clone()), PAGE_LIMIT).await?;
            let page: Page = serde_json::from_slice(&answer.bytes).map_err(|error| malformed(error.to_string()))?;
            let found = page.tags.unwrap_or_default();
            if let Some(long) = found.iter().find(|tag| tag.len() > LONGEST_TAG) {
                return Err(wrong(not_a_tag(long)));
            }
            tags.extend(found);
            if tags.len() > MOST_TAGS {
                return Err(malformed(format!("more than {MOST_TAGS} tags; pull by name those that you need")));
            }
            match answer.links.and_then(|links| self.next(&url, &links)) {
                Some(next) if next != url => url = next,
                _ => return Ok(tags),
            }
        }
        Err(malformed(format!("more than {MOST_PAGES} pages; pull by name the tags that you need")))
    }

    /// Returns the address of the next page. The login is sent there, so it must be in this registry.
    fn next(&self, current: &Url, links: &str) -> Option<Url> {
        let next = current.join(next(links)?).ok()?;
        (server::host(&next) == self.host && next.scheme() == current.scheme()).then_some(next)
    }
}

/// Returns the target of the link to the next page (RFC 8288).
fn next(links: &str) -> Option<&str> {
    links.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
        parameters.split(';').any(is_next).then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_to_the_next_page_is_found() {
        for (links, expected) in [
            ("</v2/a/tags/list?n=2&last=b>; rel=\"next\"", Some("/v2/a/tags/list?n=2&last=b")),
            ("</first>; rel=\"prev\", </second>; title=x; rel=next", Some("/second")),
            ("</first>; rel=\"prev\"", None),
            ("nothing", None),
        ] {
            assert_eq!(next(links), expected, "{links}");
        }
    }
}
