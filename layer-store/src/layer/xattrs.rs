//! Sets of extended attributes. Files with equal attributes share a set, which is the common case.

use std::collections::HashMap;

use super::names::is_private_xattr;
use super::refusal::Cause;

/// The longest name (Linux `XATTR_NAME_MAX`).
const NAME_MAX: usize = 255;

/// The longest value and the longest list of names, each with a NUL (Linux `XATTR_SIZE_MAX`,
/// `XATTR_LIST_MAX`).
const SIZE_MAX: usize = 65_536;

/// One set: names and values in byte order of the names.
pub(super) type XattrSet = Vec<(Vec<u8>, Vec<u8>)>;

/// The distinct sets of a layer. Number 0 is the empty set.
#[derive(Debug, Default)]
pub(super) struct XattrSets {
    numbers: HashMap<XattrSet, u32>,
}

impl XattrSets {
    /// Returns the number of a set, without the attributes that are private to overlayfs.
    pub(super) fn intern(&mut self, mut set: XattrSet) -> Result<u32, Cause> {
        set.retain(|(name, _)| !is_private_xattr(name));
        if set.is_empty() {
            return Ok(0);
        }
        for (name, value) in &set {
            let shown = || String::from_utf8_lossy(name).into_owned();
            if name.len() > NAME_MAX {
                return Err(Cause::Xattr(format!("{}: its name is longer than 255 bytes", shown())));
            }
            if value.len() > SIZE_MAX {
                return Err(Cause::Xattr(format!("{}: its value is longer than 64 KiB", shown())));
            }
        }
        if set.iter().map(|(name, _)| name.len() + 1).sum::<usize>() > SIZE_MAX {
            return Err(Cause::Xattr("names: they are longer than 64 KiB together".into()));
        }
        set.sort_unstable();
        let next = u32::try_from(self.numbers.len() + 1).map_err(|_| Cause::TooManyNames)?;
        Ok(*self.numbers.entry(set).or_insert(next))
    }

    /// Returns the sets in the order of their numbers, from 1.
    pub(super) fn sorted(&self) -> Vec<&XattrSet> {
        let mut sets: Vec<_> = self.numbers.iter().collect();
        sets.sort_unstable_by_key(|&(_, &number)| number);
        sets.into_iter().map(|(set, _)| set).collect()
    }
}
