//! The numbers of tar headers and PAX records.

use crate::Timestamp;

/// Reads a header's numeric field: octal text between spaces and NULs, or base-256 where the first
/// byte has its highest bit set (GNU tar manual, "Extending GNU tar format": bit 6 is the sign).
///
/// An empty field is 0, as V7 wrote it. Returns `None` if the field is neither, or does not fit.
pub(super) fn header_number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let text = field.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
    text.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    // Sign-extends the six value bits of the first byte.
    let start = if negative { i64::from(*first) - 0x100 } else { i64::from(first & 0x3f) };
    rest.iter().try_fold(start, |value, &byte| value.checked_mul(256)?.checked_add(i64::from(byte)))
}

/// Reads a PAX record's decimal number: digits only, as POSIX requires.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Reads a PAX time: decimal seconds with an optional fraction and sign.
///
/// Digits beyond nanoseconds are rounded towards the past, so that a file never looks newer than it is.
pub(super) fn time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let (nanoseconds, remainder) = fraction(parts.next().unwrap_or_default())?;
    if !negative {
        return Some(Timestamp { seconds, nanoseconds });
    }
    let below = u64::from(nanoseconds) + u64::from(remainder);
    Some(match below {
        0 => Timestamp { seconds: -seconds, nanoseconds: 0 },
        _ if below >= 1_000_000_000 => Timestamp { seconds: -seconds - 1, nanoseconds: 0 },
        _ => Timestamp { seconds: -seconds - 1, nanoseconds: u32::try_from(1_000_000_000 - below).ok()? },
    })
}

/// Returns the nanoseconds of a fraction's digits, and whether anything but zeros follows the ninth digit.
fn fraction(digits: &[u8]) -> Option<(u32, bool)> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9)
        .map(|place| digits.get(place).map_or(0, |digit| u32::from(digit - b'0')))
        .fold(0, |value, digit| value * 10 + digit);
    Some((nanoseconds, digits.iter().skip(9).any(|&digit| digit != b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_numbers_are_octal_or_base_256() {
        assert_eq!(header_number(b"0000644\0"), Some(0o644));
        assert_eq!(header_number(b"   644 \0"), Some(0o644));
        assert_eq!(header_number(b"\0\0\0\0"), Some(0));
        assert_eq!(header_number(b"77777777777\0"), Some(0o77_777_777_777));
        assert_eq!(header_number(b"12x\0"), None);
        assert_eq!(header_number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(2 << 32));
        assert_eq!(header_number(&[0xff; 12]), Some(-1));
        assert_eq!(header_number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]), None);
    }

    #[test]
    fn times_keep_nanoseconds_and_round_towards_the_past() {
        let at = |seconds, nanoseconds| Some(Timestamp { seconds, nanoseconds });
        assert_eq!(time(b"1"), at(1, 0));
        assert_eq!(time(b"1.5"), at(1, 500_000_000));
        assert_eq!(time(b"1.123456789999"), at(1, 123_456_789));
        assert_eq!(time(b"-1"), at(-1, 0));
        assert_eq!(time(b"-1.25"), at(-2, 750_000_000));
        assert_eq!(time(b"-0.0000000001"), at(-1, 999_999_999));
        assert_eq!(time(b"-0.9999999999"), at(-1, 0));
        assert_eq!(time(b""), None);
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b"9223372036854775808"), None);
    }
}
