//! Chooses which content a new layer borrows, and from which layers.

use std::collections::HashSet;
use std::ops::Range;

use super::contents::{Content, ContentTable};
use super::map::{DONORS_MAX, Run};
use crate::DiffId;

/// The unit in which file systems free space: holes consist of whole blocks.
pub(crate) const BLOCK: u64 = 4096;

/// How many bytes a layer must save by borrowing from a donor. Less is not worth depending on another layer.
pub(crate) const DONOR_MIN: u64 = 64 << 10;

/// Returns the blocks of a tar that are completely within a content, if there are any.
fn blocks_within(content: &Content) -> Option<Range<u64>> {
    let start = content.offset.checked_next_multiple_of(BLOCK)?;
    let end = content.offset.checked_add(content.length)? / BLOCK * BLOCK;
    (start < end).then_some(start..end)
}

/// Whether a content is large enough to contain a whole block, at this offset or at a better one in another layer.
pub(crate) fn is_large_enough(content: &Content) -> bool {
    content.length >= BLOCK
}

/// What a new layer could borrow, and what it does borrow.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// Content of the layer that is in its own file and that others may have too; sorted by hash and offset.
    wanted: Vec<Content>,
    /// Content that must stay in its own file, because the layer borrows it from itself.
    pinned: Vec<Content>,
    /// The layers it borrows from.
    pub(crate) donors: Vec<DiffId>,
    /// The runs that it borrows, in the order of its tar.
    pub(crate) runs: Vec<Run>,
}

impl Choice {
    /// Creates the choice for a layer with these contents, which borrows nothing yet.
    pub(crate) fn new(mut contents: Vec<Content>) -> Self {
        contents.retain(is_large_enough);
        contents.sort_unstable();
        Self { wanted: contents, pinned: Vec::new(), donors: Vec::new(), runs: Vec::new() }
    }

    /// Whether there is any content to look for in other layers.
    pub(crate) fn has_contents(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Returns the contents that are in the layer's file, in order.
    pub(crate) fn held(&self) -> Vec<Content> {
        let mut held = [self.wanted.as_slice(), &self.pinned].concat();
        held.sort_unstable();
        held
    }

    /// Returns the candidate that saves most and the runs to borrow from it, if it saves enough and one more donor is
    /// allowed.
    ///
    /// `tables` are the candidates' tables of contents; the candidate is returned as its position among them.
    pub(crate) fn best<'a>(&self, tables: impl Iterator<Item = &'a ContentTable>) -> Option<(usize, Vec<Run>)> {
        if self.donors.len() >= DONORS_MAX {
            return None;
        }
        let spared = |table: &ContentTable| -> u64 {
            let twins = self.wanted.iter().zip(table.twins(&self.wanted)).filter(|(_, twin)| twin.is_some());
            twins.filter_map(|(content, _)| blocks_within(content)).map(|blocks| blocks.end - blocks.start).sum()
        };
        let mut best: Option<(usize, &ContentTable, u64)> = None;
        for (place, table) in tables.enumerate() {
            let bytes = spared(table);
            if bytes >= DONOR_MIN && best.is_none_or(|(_, _, most)| bytes > most) {
                best = Some((place, table, bytes));
            }
        }
        let (place, table, _) = best?;
        let donor = self.donors.len() + 1;
        let twins = self.wanted.iter().zip(table.twins(&self.wanted));
        let runs = twins.filter_map(|(content, twin)| run(content, donor, twin?));
        Some((place, in_order(runs.collect())))
    }

    /// Returns what the layer could borrow from itself: all but the first copy of each content that it repeats.
    pub(crate) fn repeated(&self) -> Vec<Run> {
        let repeated = self.wanted.chunk_by(|a, b| (a.hash, a.length) == (b.hash, b.length));
        let runs = repeated.filter_map(|same| same.split_first()).flat_map(|(first, others)| {
            others.iter().filter_map(|content| run(content, 0, first.offset)).collect::<Vec<_>>()
        });
        let runs: Vec<_> = runs.collect();
        let spared: u64 = runs.iter().map(|run| run.length).sum();
        if spared >= DONOR_MIN { in_order(runs) } else { Vec::new() }
    }

    /// Borrows runs that were compared from one donor; `None` is the layer itself.
    pub(crate) fn take(&mut self, donor: Option<DiffId>, runs: Vec<Run>) {
        if runs.is_empty() {
            return;
        }
        let borrowed: HashSet<u64> = runs.iter().map(|run| run.offset).collect();
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.wanted)
            .into_iter()
            .partition(|content| blocks_within(content).is_some_and(|blocks| borrowed.contains(&blocks.start)));
        self.wanted = kept;
        if donor.is_none() {
            let hashes: HashSet<_> = gone.iter().map(|content| content.hash).collect();
            self.pinned.extend(self.wanted.extract_if(.., |content| hashes.contains(&content.hash)));
        }
        self.donors.extend(donor);
        self.runs.extend(runs);
        self.runs.sort_unstable_by_key(|run| run.offset);
    }

    /// Whether all of the layer is in its own file.
    pub(crate) fn is_whole(&self) -> bool {
        self.runs.is_empty()
    }
}

fn run(content: &Content, donor: usize, twin: u64) -> Option<Run> {
    let blocks = blocks_within(content)?;
    let donor_offset = twin.checked_add(blocks.start - content.offset)?;
    donor_offset.checked_add(blocks.end - blocks.start)?;
    Some(Run { offset: blocks.start, length: blocks.end - blocks.start, donor, donor_offset })
}

/// Sorts runs in the order of the tar, so that it is read from start to end.
fn in_order(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable_by_key(|run| run.offset);
    runs
}

#[cfg(test)]
mod tests {
    use super::super::contents;
    use super::*;
    use crate::Digest;
    use crate::mapped::IndexBytes;

    const LARGE: u64 = 1 << 20;

    fn content(hash: u8, offset: u64, length: u64) -> Content {
        Content { hash: [hash; 16], offset, length }
    }

    fn table(contents: &[Content]) -> ContentTable {
        ContentTable::open(IndexBytes::Owned(contents::write(contents).expect("a table"))).expect("a table")
    }

    #[test]
    fn holes_are_whole_blocks_within_one_content() {
        for (content, expected) in [
            (content(1, 512, 4096), None),
            (content(1, 512, 8191 - 512), None),
            (content(1, 512, 8192 - 512), Some(4096..8192)),
            (content(1, 4096, 4096), Some(4096..8192)),
            (content(1, 4096, 12287), Some(4096..16384 - 4096)),
            (content(1, u64::MAX - 5, 5), None),
        ] {
            assert_eq!(blocks_within(&content), expected, "{content:?}");
        }
    }

    #[test]
    fn the_donor_that_spares_most_is_taken_first_and_two_at_most() {
        let mut choice =
            Choice::new((1..5).map(|number| content(number, u64::from(number) * 2 * LARGE, LARGE)).collect());
        let small = table(&[content(1, 512, LARGE)]);
        let tables = [small, table(&[content(1, 512, LARGE), content(2, 3 * LARGE, LARGE)])];
        let (place, runs) = choice.best(tables.iter()).expect("a donor");
        assert_eq!((place, runs.len()), (1, 2));
        assert_eq!(runs[0], Run { offset: 2 * LARGE, length: LARGE, donor: 1, donor_offset: 512 });
        choice.take(Some(DiffId(Digest::of(b"1"))), runs);
        assert!(choice.best(tables.iter()).is_none(), "the other has nothing more to give");
        let others = [table(&[content(3, 512, LARGE)]), table(&[content(4, 512, LARGE)])];
        let (place, runs) = choice.best(others.iter()).expect("a second donor");
        assert_eq!((place, runs[0].donor), (0, 2));
        choice.take(Some(DiffId(Digest::of(b"2"))), runs);
        assert!(choice.best(others.iter()).is_none(), "a third is one too many");
        assert_eq!(choice.held(), [content(4, 8 * LARGE, LARGE)]);
    }

    #[test]
    fn little_is_not_worth_a_donor() {
        let choice = Choice::new(vec![content(1, 4096, DONOR_MIN - 1)]);
        assert!(choice.best([table(&[content(1, 0, DONOR_MIN - 1)])].iter()).is_none());
    }

    #[test]
    fn a_layer_keeps_the_first_of_what_it_repeats() {
        let mut choice = Choice::new([1, 5, 3].map(|place| content(7, place * LARGE, LARGE)).into());
        let runs = choice.repeated();
        let offsets: Vec<_> = runs.iter().map(|run| (run.offset, run.donor, run.donor_offset)).collect();
        assert_eq!(offsets, [(3 * LARGE, 0, LARGE), (5 * LARGE, 0, LARGE)]);
        choice.take(None, runs);
        assert_eq!((choice.held(), choice.donors.len()), (vec![content(7, LARGE, LARGE)], 0));
        assert!(choice.best([table(&[content(7, 0, LARGE)])].iter()).is_none(), "it has to hold what it gives itself");
    }
}
