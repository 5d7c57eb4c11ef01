//! Which of an image's platforms is wanted.

use std::fmt;
use std::str::FromStr;

use oci_distribution::manifest::{ImageIndexEntry, Platform as Described};

/// An operating system and a processor, in the words of the image specification (`image-index.md`,
/// "platform"): `linux/amd64`, `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    /// Always written out for the processors that have variants: arm64 is `v8`, arm is `v7`.
    variant: Option<String>,
}

/// Text that is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, as in linux/arm64")]
pub struct PlatformError(String);

impl Platform {
    /// Linux on the processor of this host: what a guest here runs.
    #[must_use]
    pub fn host() -> Self {
        // Rust and Go, whose names the specification takes, differ in some.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            same => same,
        };
        Self::normalised("linux", architecture, None)
    }

    /// The platform that a config or an index entry describes.
    pub(crate) fn normalised(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "x86" => "386",
            same => same,
        };
        let variant = match (architecture, variant.filter(|v| !v.is_empty())) {
            ("arm64", None | Some("8" | "v8")) => Some("v8"),
            ("arm", None | Some("7")) => Some("v7"),
            ("amd64", Some("v1")) => None,
            (_, variant) => variant,
        };
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    fn described(platform: &Described) -> Self {
        Self::normalised(&platform.os.to_string(), &platform.architecture.to_string(), platform.variant.as_deref())
    }

    /// How well `offered` serves a user who wants `self`: 0 is exact, `None` is not at all.
    ///
    /// A processor runs programs for its own and every earlier variant (arm v7 runs v6; amd64 without
    /// a variant runs the base level only), so the nearest earlier variant is the next best.
    pub(crate) fn distance_to(&self, offered: &Self) -> Option<u32> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        self.level()?.checked_sub(offered.level()?)
    }

    /// The variant as a number: `v7` is 7, none is 0. Words that are not numbers match nobody.
    fn level(&self) -> Option<u32> {
        match &self.variant {
            None => Some(0),
            Some(variant) => variant.strip_prefix('v').unwrap_or(variant).parse().ok(),
        }
    }
}

/// The entry of an image index that serves `wanted` best; the first of equals, as the specification asks.
///
/// An index of one entry without a platform has nothing to choose from, so that entry is taken.
pub(crate) fn choose<'a>(entries: &'a [ImageIndexEntry], wanted: &Platform) -> Option<&'a ImageIndexEntry> {
    if let [only] = entries
        && only.platform.is_none()
    {
        return Some(only);
    }
    entries
        .iter()
        .filter_map(|entry| Some((wanted.distance_to(&Platform::described(entry.platform.as_ref()?))?, entry)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, entry)| entry)
}

/// The platforms of an image index for an error message, without those that name no platform, as the
/// attestations of BuildKit (`unknown/unknown`) do.
pub(crate) fn offered(entries: &[ImageIndexEntry]) -> String {
    let mut names: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .map(|platform| Platform::described(platform).to_string())
        .filter(|name| !name.starts_with("unknown/"))
        .collect();
    names.dedup();
    if names.is_empty() { "no platform at all".to_owned() } else { names.join(", ") }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let wrong = || PlatformError(text.to_owned());
        let fits = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let lower = text.to_ascii_lowercase();
        let words: Vec<&str> = lower.split('/').collect();
        if !words.iter().all(|word| fits(word)) {
            return Err(wrong());
        }
        match *words.as_slice() {
            [os, architecture] => Ok(Self::normalised(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::normalised(os, architecture, Some(variant))),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The words may come from an image, and go to a terminal.
        write!(f, "{}/{}", self.os.escape_debug(), self.architecture.escape_debug())?;
        match &self.variant {
            // Every arm64 is v8: saying so would only make the name longer.
            Some(variant) if !(self.architecture == "arm64" && variant == "v8") => {
                write!(f, "/{}", variant.escape_debug())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: Option<&str>) -> ImageIndexEntry {
        let platform = platform.map(|text| {
            let words: Vec<&str> = text.split('/').collect();
            serde_json::json!({"os": words[0], "architecture": words[1], "variant": words.get(2)})
        });
        serde_json::from_value(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", "0".repeat(64)), "size": 2, "platform": platform,
        }))
        .unwrap()
    }

    fn chosen(offers: &[&str], wanted: &str) -> Option<usize> {
        let entries: Vec<_> = offers.iter().map(|offer| entry(Some(offer))).collect();
        let found = choose(&entries, &wanted.parse().unwrap())?;
        entries.iter().position(|candidate| std::ptr::eq(candidate, found))
    }

    #[test]
    fn the_nearest_variant_that_runs_is_chosen() {
        let table: &[(&[&str], &str, Option<usize>)] = &[
            (&["linux/386", "linux/amd64", "linux/arm64/v8"], "linux/amd64", Some(1)),
            (&["linux/386", "linux/amd64", "linux/arm64/v8"], "linux/arm64", Some(2)),
            (&["linux/arm64"], "linux/arm64/v8", Some(0)),
            (&["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm", Some(2)),
            (&["linux/arm/v5", "linux/arm/v7"], "linux/arm/v6", Some(0)),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some(1)),
            (&["linux/amd64/v3"], "linux/amd64", None),
            (&["linux/amd64", "linux/amd64/v2"], "linux/amd64/v3", Some(1)),
            (&["windows/amd64", "unknown/unknown"], "linux/amd64", None),
            (&["linux/amd64", "linux/amd64"], "linux/amd64", Some(0)),
        ];
        for (offers, wanted, expected) in table {
            assert_eq!(chosen(offers, wanted), *expected, "{wanted} of {offers:?}");
        }
    }

    #[test]
    fn a_single_entry_without_platform_is_taken() {
        assert!(choose(&[entry(None)], &Platform::host()).is_some());
        assert!(choose(&[entry(None), entry(None)], &Platform::host()).is_none());
    }

    #[test]
    fn attestations_are_not_offered() {
        let entries = [entry(Some("linux/arm64/v8")), entry(Some("linux/arm/v7")), entry(Some("unknown/unknown"))];
        assert_eq!(offered(&entries), "linux/arm64, linux/arm/v7");
        assert_eq!(offered(&entries[2..]), "no platform at all");
    }

    #[test]
    fn words_that_are_no_platform_are_refused() {
        for wrong in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong:?}");
        }
        assert_eq!("Linux/X86_64".parse::<Platform>().unwrap().to_string(), "linux/amd64");
    }
}
