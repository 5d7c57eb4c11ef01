//! Platforms of images, and how well one serves another.

use std::fmt;
use std::str::FromStr;

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
    /// Returns Linux on the processor of this host, which is what guests run.
    #[must_use]
    pub fn host() -> Self {
        // The specification uses the names of Go, some of which differ from those of Rust.
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

    /// Returns the platform that a config or an index entry describes.
    pub(crate) fn normalised(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "x86" => "386",
            "armhf" | "armel" => "arm",
            same => same,
        };
        let variant = match (architecture, variant.filter(|v| !v.is_empty())) {
            ("arm64", None | Some("8" | "v8")) => Some("v8"),
            ("arm", None | Some("7")) => Some("v7"),
            ("arm", Some("6")) => Some("v6"),
            ("arm", Some("5")) => Some("v5"),
            ("amd64", Some("v1")) => None,
            (_, variant) => variant,
        };
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
    }

    /// Returns the operating system, such as `linux`.
    pub(crate) fn os(&self) -> &str {
        &self.os
    }

    /// Returns the processor, such as `amd64`.
    pub(crate) fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Returns how well `offered` serves a user who wants `self`: 0 is an exact match, `None` is no match.
    ///
    /// A processor runs programs for its own and every earlier variant (arm v7 runs v6; amd64 without
    /// a variant runs the base level only), so the nearest earlier variant is the next best.
    pub(crate) fn distance_to(&self, offered: &Self) -> Option<u32> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        self.level()?.checked_sub(offered.level()?)
    }

    /// Returns the variant as a number: `v7` is 7, no variant is 0. A word that is not a number matches nothing.
    fn level(&self) -> Option<u32> {
        match &self.variant {
            None => Some(0),
            Some(variant) => variant.strip_prefix('v').unwrap_or(variant).parse().ok(),
        }
    }
}

/// What an index entry or a config says about its platform. Both may leave out any part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Described {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

/// How a platform serves the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It does. 0 is an exact match; greater numbers are worse matches.
    Yes(u32),
    /// Too little is known about it.
    Unknown,
    No,
}

impl Described {
    pub(crate) fn new(os: Option<&str>, architecture: Option<&str>, variant: Option<&str>) -> Self {
        let said =
            |word: Option<&str>| word.map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty());
        let (architecture, variant) = (said(architecture), said(variant));
        let variant = match architecture.as_deref() {
            // Debian's names of two variants.
            Some("armhf") => variant.or_else(|| Some("v7".to_owned())),
            Some("armel") => variant.or_else(|| Some("v6".to_owned())),
            _ => variant,
        };
        Self { os: said(os), architecture, variant }
    }

    /// Fills in from `other` what is missing: configs often leave out the variant that the index has.
    pub(crate) fn or(self, other: &Self) -> Self {
        let same_processor = match (&self.architecture, &other.architecture) {
            (Some(own), Some(others)) => own == others,
            _ => true,
        };
        Self {
            os: self.os.or_else(|| other.os.clone()),
            variant: self.variant.or_else(|| other.variant.clone().filter(|_| same_processor)),
            architecture: self.architecture.or_else(|| other.architecture.clone()),
        }
    }

    /// Returns whether this says on purpose that it has no platform, as attestations of BuildKit do
    /// (`unknown/unknown`).
    pub(crate) fn is_none_on_purpose(&self) -> bool {
        [&self.os, &self.architecture].iter().any(|word| word.as_deref() == Some("unknown"))
    }

    /// Returns whether it serves `wanted`.
    pub(crate) fn fit(&self, wanted: &Platform) -> Fit {
        if self.is_none_on_purpose() {
            return Fit::No;
        }
        let platform = self.assumed(wanted);
        if (&platform.os, &platform.architecture) != (&wanted.os, &wanted.architecture) {
            return Fit::No;
        }
        if self.os.is_none() || self.architecture.is_none() {
            return Fit::Unknown;
        }
        match wanted.distance_to(&platform) {
            Some(distance) => Fit::Yes(distance),
            // Images for any ARM processor are called arm too, not only those for v7.
            None if platform.architecture == "arm" && self.variant.is_none() => Fit::Unknown,
            None => Fit::No,
        }
    }

    /// Returns the platform, with what is missing taken from `wanted`.
    pub(crate) fn assumed(&self, wanted: &Platform) -> Platform {
        let os = self.os.as_deref().unwrap_or(&wanted.os);
        match &self.architecture {
            Some(architecture) => Platform::normalised(os, architecture, self.variant.as_deref()),
            None => {
                Platform::normalised(os, &wanted.architecture, self.variant.as_deref().or(wanted.variant.as_deref()))
            }
        }
    }

    /// Returns the platform, if system and processor are given and are not `unknown`.
    pub(crate) fn named(&self) -> Option<Platform> {
        let (os, architecture) = (self.os.as_deref()?, self.architecture.as_deref()?);
        (!self.is_none_on_purpose()).then(|| Platform::normalised(os, architecture, self.variant.as_deref()))
    }
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
        // The words may come from an image, and are printed on a terminal.
        write!(f, "{}/{}", self.os.escape_debug(), self.architecture.escape_debug())?;
        match &self.variant {
            // Every arm64 is v8, so the name leaves it out.
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

    fn described(text: &str) -> Described {
        let mut words = text.split('/');
        Described::new(words.next(), words.next(), words.next())
    }

    #[test]
    fn a_processor_runs_its_own_variant_and_every_earlier_one() {
        for (offered, wanted, fit) in [
            ("linux/amd64", "linux/amd64", Fit::Yes(0)),
            ("linux/386", "linux/amd64", Fit::No),
            ("windows/amd64", "linux/amd64", Fit::No),
            ("Linux/X86_64", "linux/amd64", Fit::Yes(0)),
            ("linux/arm64", "linux/arm64/v8", Fit::Yes(0)),
            ("linux/arm64/v8", "linux/arm64", Fit::Yes(0)),
            ("linux/arm/v5", "linux/arm", Fit::Yes(2)),
            ("linux/arm/v7", "linux/arm/v6", Fit::No),
            ("linux/armhf", "linux/arm/v7", Fit::Yes(0)),
            ("linux/armel", "linux/arm/v7", Fit::Yes(1)),
            ("linux/amd64/v3", "linux/amd64", Fit::No),
            ("linux/amd64/v2", "linux/amd64/v3", Fit::Yes(1)),
            ("unknown/unknown", "linux/amd64", Fit::No),
        ] {
            assert_eq!(described(offered).fit(&wanted.parse().unwrap()), fit, "{offered} for {wanted}");
        }
    }

    #[test]
    fn what_says_too_little_may_fit() {
        let wanted: Platform = "linux/arm/v6".parse().unwrap();
        assert_eq!(described("linux/arm").fit(&wanted), Fit::Unknown);
        assert_eq!(described("linux/arm").fit(&Platform::normalised("linux", "arm", None)), Fit::Yes(0));
        assert_eq!(Described::default().fit(&wanted), Fit::Unknown);
        assert_eq!(described("linux").fit(&wanted), Fit::Unknown);
        assert_eq!(described("windows").fit(&wanted), Fit::No);
        assert_eq!(Described::default().assumed(&wanted), wanted);
    }

    #[test]
    fn a_config_without_a_variant_has_that_of_its_entry() {
        let (entry, config) = (described("linux/arm/v6"), described("linux/arm"));
        assert_eq!(config.or(&entry).named().unwrap().to_string(), "linux/arm/v6");
        assert_eq!(described("linux/amd64").or(&entry).named().unwrap().to_string(), "linux/amd64");
        assert_eq!(described("unknown/unknown").named(), None);
    }

    #[test]
    fn words_that_are_no_platform_are_refused() {
        for wrong in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong:?}");
        }
        assert_eq!("Linux/X86_64".parse::<Platform>().unwrap().to_string(), "linux/amd64");
    }
}
