//! Which part of a blob is asked for, and which part an answer has.
//!
//! RFC 9110, section 14. Servers and the caches in front of them get ranges wrong in many ways, so what the answer says
//! about itself decides, and not what was asked for.

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap};

/// How to ask for the rest of a blob, in the order in which the ways are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// `bytes=N-`
    OpenRange,
    /// `bytes=N-M`. Some servers know only this.
    ClosedRange,
    /// The whole blob. The part that has already arrived is skipped.
    Whole,
    /// `bytes=N-M`, up to `end`, which is not included. There is nothing else to try.
    Part { end: u64 },
}

impl Ask {
    /// Returns what to try if the server cannot handle this.
    pub(super) fn next(self) -> Self {
        match self {
            Self::OpenRange => Self::ClosedRange,
            _ => Self::Whole,
        }
    }

    /// Returns the value of the `Range` header for the bytes from `offset` on, or `None` for the whole blob.
    pub(super) fn header(self, offset: u64, size: u64) -> Option<String> {
        match self {
            Self::Part { end } => Some(format!("bytes={offset}-{}", end.saturating_sub(1))),
            _ if offset == 0 => None,
            Self::OpenRange => Some(format!("bytes={offset}-")),
            Self::ClosedRange => Some(format!("bytes={offset}-{}", size.saturating_sub(1))),
            Self::Whole => None,
        }
    }
}

/// Returns where the bytes of an answer begin, or `None` if that is unknown, or if the answer cannot be used from
/// `offset` on.
pub(super) fn start(is_partial: bool, headers: &HeaderMap, offset: u64, size: u64) -> Option<u64> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("multipart/byteranges")) {
        return None;
    }
    let length: Option<u64> = text(CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
    if let Some(range) = text(CONTENT_RANGE).and_then(ContentRange::read) {
        let fits = range.start <= offset && range.end >= offset && range.end < size;
        let is_of_this = range.total.is_none_or(|total| total == size);
        let is_complete = length.is_none_or(|length| length.checked_sub(1) == Some(range.end - range.start));
        return (fits && is_of_this && is_complete).then_some(range.start);
    }
    match (is_partial, length) {
        (true, Some(length)) if offset.checked_add(length) == Some(size) => Some(offset),
        (true, None) => Some(offset),
        (false, Some(length)) if length == size => Some(0),
        (false, None) => Some(0),
        _ => None,
    }
}

/// Whether an answer says that it has exactly the bytes from `start` to `end`, which is not included.
pub(super) fn is_exactly(headers: &HeaderMap, start: u64, end: u64, size: u64) -> bool {
    let said = headers.get(CONTENT_RANGE).and_then(|value| ContentRange::read(value.to_str().ok()?));
    said.is_some_and(|said| {
        let is_of_this = said.total.is_none_or(|total| total == size);
        is_of_this && said.start == start && said.end.checked_add(1) == Some(end)
    })
}

/// Parses `bytes START-END/TOTAL`, both ends included.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    start: u64,
    end: u64,
    total: Option<u64>,
}

impl ContentRange {
    fn read(text: &str) -> Option<Self> {
        let (range, total) = text.trim().strip_prefix("bytes")?.trim_start_matches([' ', '=']).split_once('/')?;
        let (start, end) = range.split_once('-')?;
        let range = Self {
            start: start.trim().parse().ok()?,
            end: end.trim().parse().ok()?,
            total: if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) },
        };
        (range.start <= range.end).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns where the answer to a request for the bytes from 400 on, of 1000, begins.
    fn begins(is_partial: bool, fields: &[(reqwest::header::HeaderName, &'static str)]) -> Option<u64> {
        let fields =
            fields.iter().map(|(name, value)| (name.clone(), reqwest::header::HeaderValue::from_static(value)));
        start(is_partial, &fields.collect(), 400, 1000)
    }

    #[test]
    fn an_answer_begins_where_it_says() {
        for (range, expected) in [
            ("bytes 400-999/1000", Some(400)),
            ("bytes 200-999/1000", Some(200)),
            ("bytes 0-999/1000", Some(0)),
            ("bytes 400-499/1000", Some(400)),
            ("bytes 400-999/*", Some(400)),
            ("bytes 401-999/1000", None),
            ("bytes 0-399/1000", None),
            ("bytes 400-999/2000", None),
            ("bytes 400-1000/1001", None),
        ] {
            assert_eq!(begins(true, &[(CONTENT_RANGE, range)]), expected, "{range}");
            assert_eq!(begins(false, &[(CONTENT_RANGE, range)]), expected, "{range}");
        }
        assert_eq!(begins(true, &[(CONTENT_RANGE, "bytes 400-999/1000"), (CONTENT_LENGTH, "700")]), None);
    }

    #[test]
    fn an_answer_that_says_nothing_is_judged_by_its_length() {
        assert_eq!(begins(true, &[(CONTENT_LENGTH, "600")]), Some(400));
        assert_eq!(begins(true, &[(CONTENT_LENGTH, "1000")]), None);
        assert_eq!(begins(true, &[]), Some(400));
        assert_eq!(begins(false, &[(CONTENT_LENGTH, "1000")]), Some(0));
        assert_eq!(begins(false, &[(CONTENT_LENGTH, "600")]), None);
        assert_eq!(begins(false, &[]), Some(0));
        assert_eq!(begins(true, &[(CONTENT_TYPE, "multipart/byteranges; boundary=x"), (CONTENT_LENGTH, "600")]), None);
        assert_eq!(begins(true, &[(CONTENT_RANGE, "pages 1-2/3"), (CONTENT_LENGTH, "600")]), Some(400));
        assert_eq!(begins(true, &[(CONTENT_LENGTH, "18446744073709551613")]), None);
        assert_eq!(begins(true, &[(CONTENT_RANGE, "bytes 0-18446744073709551615/*"), (CONTENT_LENGTH, "0")]), None);
    }

    #[test]
    fn a_part_is_exactly_what_was_asked_for() {
        let says = |range: Option<&'static str>| {
            let fields = range.map(|range| (CONTENT_RANGE, reqwest::header::HeaderValue::from_static(range)));
            is_exactly(&fields.into_iter().collect(), 400, 500, 1000)
        };
        for (range, expected) in [
            ("bytes 400-499/1000", true),
            ("bytes 400-499/*", true),
            ("bytes 400-999/1000", false),
            ("bytes 399-499/1000", false),
            ("bytes 400-499/999", false),
            ("bytes 400-18446744073709551615/*", false),
        ] {
            assert_eq!(says(Some(range)), expected, "{range}");
        }
        assert!(!says(None));
        assert_eq!(Ask::Part { end: 500 }.header(0, 1000), Some("bytes=0-499".to_owned()));
    }

    #[test]
    fn the_whole_is_asked_for_last() {
        let asks = [Ask::OpenRange, Ask::OpenRange.next(), Ask::OpenRange.next().next()];
        let headers = asks.map(|ask| ask.header(400, 1000));
        assert_eq!(headers, [Some("bytes=400-".to_owned()), Some("bytes=400-999".to_owned()), None]);
        assert_eq!(Ask::OpenRange.header(0, 1000), None);
    }
}
