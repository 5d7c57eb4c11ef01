//! Image names as users write them.

use std::fmt;
use std::str::FromStr;

use oci_distribution::Reference as Parts;

use crate::Digest;

const HUB: &str = "docker.io";
const HUB_OTHER_NAMES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
const HUB_OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// The longest `registry/repository` that the distribution grammar allows, in bytes.
const NAME_MAX: usize = 255;
/// The longest tag, in bytes.
const TAG_MAX: usize = 128;

/// The name of an image: a registry, a repository in it, and a tag, a digest or both.
///
/// Missing parts are filled in as docker does: without a registry it is `docker.io`, a single word on
/// `docker.io` means `library/<word>`, and without a tag and a digest the tag is `latest`. The grammar
/// is that of the `reference` package of the distribution project. A registry is a host name, an IPv4
/// address or an IPv6 address in brackets, with or without a port.
///
/// [`Display`](fmt::Display) writes the canonical form (`docker.io/library/debian:12`), which names the
/// image in a store; [`familiar`](Self::familiar) returns what a user would type.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    parts: Parts,
    digest: Option<Digest>,
}

/// The text is not an image name; says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image name: {problem}")]
pub struct ReferenceError {
    text: String,
    problem: String,
}

impl Reference {
    /// Returns the registry, with its port if there is one: `docker.io`, `localhost:5000`, `[::1]:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.parts.registry()
    }

    /// Returns the repository in the registry: `library/debian`.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.parts.repository()
    }

    /// Returns the tag: 1 to 128 bytes. A name without a [`digest`](Self::digest) always has one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.parts.tag()
    }

    /// Returns the digest that the manifest or image index must have, if the name has one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns the same name without its digest, or `None` if it has no tag.
    #[must_use]
    pub fn without_digest(&self) -> Option<Self> {
        let tag = self.tag()?.to_owned();
        let parts = Parts::with_tag(self.registry().to_owned(), self.repository().to_owned(), tag);
        Some(Self { parts, digest: None })
    }

    /// Whether an image called `name` matches this name, ignoring digests.
    pub(crate) fn is_met_by(&self, name: &Self) -> bool {
        let only_digest = self.tag().is_none();
        self.registry() == name.registry()
            && self.repository() == name.repository()
            && (only_digest || self.tag() == name.tag())
    }

    /// Returns the shortest text with the same meaning: `debian:12`, `grafana/grafana:latest`, `ghcr.io/a/b:c`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let canonical = self.to_string();
        let Some(on_hub) = canonical.strip_prefix(HUB).and_then(|rest| rest.strip_prefix('/')) else {
            return canonical;
        };
        let short = match self.repository().split_once('/') {
            Some((HUB_OFFICIAL, word)) if !word.contains('/') => on_hub.strip_prefix("library/").unwrap_or(on_hub),
            Some((first, _)) if names_a_registry(first) => return canonical,
            _ => on_hub,
        };
        short.to_owned()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.fmt(f)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.fmt(f)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { text: text.to_owned(), problem })
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    refuse_what_is_no_name(text)?;
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
    };
    let (name, tag) = split_tag(rest)?;
    if name.is_empty() {
        return Err("there is no word before the tag or digest".to_owned());
    }
    if name.len() > NAME_MAX {
        return Err(format!("the name has {} bytes, the limit is {NAME_MAX}", name.len()));
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if names_a_registry(first) => (first, path),
        _ => (HUB, name),
    };
    check_registry(registry)?;
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        let lower = text.replacen(path, &path.to_ascii_lowercase(), 1);
        return Err(format!("repositories are lower-case, write {lower}"));
    }
    check_repository(path)?;

    let registry = if HUB_OTHER_NAMES.contains(&registry) { HUB } else { registry };
    let repository = match path.contains('/') {
        false if registry == HUB => format!("{HUB_OFFICIAL}/{path}"),
        _ => path.to_owned(),
    };
    let registry = registry.to_owned();
    let parts = match (tag, digest) {
        (Some(tag), Some(digest)) => {
            Parts::with_tag_and_digest(registry, repository, tag.to_owned(), digest.to_string())
        }
        (None, Some(digest)) => Parts::with_digest(registry, repository, digest.to_string()),
        (tag, None) => Parts::with_tag(registry, repository, tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    Ok(Reference { parts, digest })
}

/// Detects common mistakes for which there is a better message than one about the first invalid character.
fn refuse_what_is_no_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty; write for example debian:12".to_owned());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!("leave out {scheme}://, write {rest}"));
    }
    if text.starts_with('/') || text.starts_with("./") || text.starts_with("../") {
        return Err("it is a path; `lamina import` takes files and directories".to_owned());
    }
    if let Some(odd) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("it contains {odd:?}"));
    }
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if Digest::from_hex(hex).is_ok() {
        return Err(format!("it is a bare digest; put a name before it: NAME@sha256:{hex}"));
    }
    Ok(())
}

/// Whether the part before the first slash is a registry, not the first word of a repository.
pub(crate) fn names_a_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
}

fn split_tag(text: &str) -> Result<(&str, Option<&str>), String> {
    let last_word = text.rfind('/').map_or(0, |slash| slash + 1);
    let Some(colon) = text.get(last_word..).and_then(|word| word.find(':')).map(|at| at + last_word) else {
        return Ok((text, None));
    };
    let (name, tag) = (text.get(..colon).unwrap_or_default(), text.get(colon + 1..).unwrap_or_default());
    check_tag(tag)?;
    Ok((name, Some(tag)))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let first_fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if tag.is_empty() {
        return Err("nothing follows the colon; write a tag or leave the colon out".to_owned());
    }
    if tag.len() > TAG_MAX {
        return Err(format!("the tag has {} bytes, the limit is {TAG_MAX}", tag.len()));
    }
    if let Some(odd) = tag.chars().find(|&c| !first_fits(c) && c != '.' && c != '-') {
        return Err(format!("{odd:?} cannot be in the tag {tag:?}; allowed are letters, digits, _ . and -"));
    }
    if !tag.starts_with(first_fits) {
        return Err(format!("the tag {tag:?} must start with a letter, a digit or _"));
    }
    Ok(())
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return Err(format!("a digest follows the @, as sha256:<64 hex digits>, not {text:?}"));
    };
    if algorithm != "sha256" {
        return Err(format!("digests are sha256, not {algorithm:?}"));
    }
    if let Some(odd) = hex.chars().find(|c| !matches!(c, '0'..='9' | 'a'..='f')) {
        return Err(format!("{odd:?} is not a lower-case hex digit in the digest"));
    }
    Digest::from_hex(hex).map_err(|_| format!("the digest has {} hex digits, a sha256 has 64", hex.len()))
}

fn check_registry(registry: &str) -> Result<(), String> {
    let (host, port) = match registry.strip_prefix('[') {
        Some(bracketed) => {
            let (address, after) =
                bracketed.split_once(']').ok_or_else(|| format!("the registry {registry:?} lacks its ]"))?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| format!("{address:?} is not an IPv6 address in the registry {registry:?}"))?;
            (None, if after.is_empty() { None } else { Some(after.strip_prefix(':').unwrap_or("")) })
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    if let Some(port) = port
        && (!port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().unwrap_or(0) == 0)
    {
        return Err(format!("{port:?} is not a port from 1 to 65535 in the registry {registry:?}"));
    }
    if let Some(host) = host {
        let label_fits = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !host.split('.').all(label_fits) {
            return Err(format!("{host:?} is not a host name"));
        }
    }
    Ok(())
}

fn check_repository(path: &str) -> Result<(), String> {
    for word in path.split('/') {
        if word.is_empty() {
            return Err(match path {
                "" => "a repository must follow the registry".to_owned(),
                _ => "a slash leads to nothing: there is no word before or after it".to_owned(),
            });
        }
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if let Some(odd) = word.chars().find(|&c| !fits(c) && !matches!(c, '.' | '_' | '-')) {
            return Err(format!("{odd:?} cannot be in {word:?}; allowed are a to z, 0 to 9, . _ and -"));
        }
        if !word.starts_with(fits) || !word.ends_with(fits) {
            return Err(format!("{word:?} must start and end with a letter or a digit"));
        }
        if let Some(separator) =
            word.split(fits).find(|s| !matches!(*s, "" | "." | "_" | "__") && s.contains(['.', '_']))
        {
            return Err(format!("{separator:?} cannot be between letters in {word:?}; use one of . _ __ -"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_filled_in_as_docker_does() {
        let at = format!("@sha256:{HEX}");
        let table = [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/debian:12", "docker.io/library/debian:12", "debian:12"),
            ("grafana/grafana", "docker.io/grafana/grafana:latest", "grafana/grafana:latest"),
            ("docker.io/a/b/c:1", "docker.io/a/b/c:1", "a/b/c:1"),
            ("docker.io/library/a/b:1", "docker.io/library/a/b:1", "library/a/b:1"),
            ("docker.io/foo.bar/x:1", "docker.io/foo.bar/x:1", "docker.io/foo.bar/x:1"),
            ("ghcr.io/a/b:c", "ghcr.io/a/b:c", "ghcr.io/a/b:c"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
            (
                "127.0.0.1:5000/a__b/c--d.e:V_1.2-3",
                "127.0.0.1:5000/a__b/c--d.e:V_1.2-3",
                "127.0.0.1:5000/a__b/c--d.e:V_1.2-3",
            ),
            ("[::1]:5000/x:1", "[::1]:5000/x:1", "[::1]:5000/x:1"),
            ("[2001:db8::1]/x", "[2001:db8::1]/x:latest", "[2001:db8::1]/x:latest"),
            ("HOST/x", "HOST/x:latest", "HOST/x:latest"),
            ("debian:5000", "docker.io/library/debian:5000", "debian:5000"),
        ];
        for (written, canonical, familiar) in table {
            let reference: Reference = written.parse().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(reference.to_string(), canonical, "{written}");
            assert_eq!(reference.familiar(), familiar, "{written}");
            assert_eq!(familiar.parse::<Reference>().unwrap(), reference, "{written}");
            let pinned: Reference = format!("{written}{at}").parse().unwrap();
            assert_eq!(pinned.digest().unwrap().hex(), HEX);
            assert_eq!(pinned.familiar().parse::<Reference>().unwrap(), pinned, "{written}");
        }
    }

    #[test]
    fn a_digest_alone_gets_no_tag_and_a_tag_beside_it_is_kept() {
        let only: Reference = format!("localhost:5000/x@sha256:{HEX}").parse().unwrap();
        assert_eq!((only.registry(), only.repository(), only.tag()), ("localhost:5000", "x", None));
        let both: Reference = format!("debian:12@sha256:{HEX}").parse().unwrap();
        assert_eq!((both.tag(), both.digest().unwrap().hex().as_str()), (Some("12"), HEX));
        assert_eq!(both.to_string(), format!("docker.io/library/debian:12@sha256:{HEX}"));
        assert_eq!(both.without_digest().unwrap().to_string(), "docker.io/library/debian:12");
        assert_eq!(only.without_digest(), None);
    }

    #[test]
    fn a_typing_error_is_named_in_one_line() {
        let long_tag = format!("debian:{}", "t".repeat(129));
        let long_name = format!("{}:1", "n".repeat(256));
        let bare = format!("sha256:{HEX}");
        let capitals = format!("debian@sha256:{}", HEX.to_uppercase());
        let table = [
            ("", "it is empty"),
            ("Debian:12", "write debian:12"),
            ("ghcr.io/A/b:C", "write ghcr.io/a/b:C"),
            ("docker://debian:12", "leave out docker://, write debian:12"),
            ("https://ghcr.io/a/b", "write ghcr.io/a/b"),
            ("/tmp/image.tar", "lamina import"),
            ("./image.tar", "lamina import"),
            ("debian: 12", "contains ' '"),
            ("debian:12\n", "contains '\\n'"),
            ("debian:", "nothing follows the colon"),
            (":12", "there is no word"),
            ("debian:1 2", "contains ' '"),
            ("debian:-x", "must start with"),
            ("debian:12:3", "':' cannot be in the tag"),
            ("debian:1+2", "'+' cannot be in the tag"),
            (&long_tag, "129 bytes"),
            (&long_name, "256 bytes"),
            ("a//b", "slash leads to nothing"),
            ("a/", "slash leads to nothing"),
            ("ghcr.io/", "a repository must follow"),
            ("a$b", "'$' cannot be"),
            ("dé", "'é' cannot be"),
            ("-a", "must start and end"),
            ("a.", "must start and end"),
            ("a..b", "\"..\" cannot be between"),
            ("a._b", "\"._\" cannot be between"),
            ("a___b", "\"___\" cannot be between"),
            ("localhost:port/x", "\"port\" is not a port"),
            ("localhost:70000/x", "is not a port"),
            ("localhost:/x", "is not a port"),
            ("[::1/x", "lacks its ]"),
            ("[::g]:1/x", "not an IPv6 address"),
            ("-h.io/x", "not a host name"),
            ("h..io/x", "not a host name"),
            ("debian@12", "a digest follows the @"),
            ("debian@sha512:00", "not \"sha512\""),
            ("debian@sha256:00", "2 hex digits"),
            ("debian@sha256:xy", "'x' is not"),
            (&capitals, "'A' is not"),
            (&bare, "bare digest"),
            (HEX, "bare digest"),
        ];
        for (written, hint) in table {
            let error = written.parse::<Reference>().expect_err(written).to_string();
            assert!(error.contains(hint), "{written:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
