//! Signals by name, as people, images and signal(7) write them.

use signal_hook::low_level::signal_name;

/// The first and the last real-time signal of the C libraries that images have: they keep 32 and 33 for themselves.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Reads a signal: `TERM`, `SIGTERM`, `term`, `15`, or a real-time signal such as `SIGRTMIN+3` or `RTMAX-1`.
///
/// # Errors
/// It is none of these; says what was expected.
pub(crate) fn parse(text: &str) -> Result<i32, String> {
    let wanted = text.trim().to_ascii_uppercase();
    let wanted = wanted.strip_prefix("SIG").unwrap_or(&wanted);
    let found = real_time(wanted).or_else(|| {
        (1..=*REAL_TIME.end()).find(|number| {
            signal_name(*number).is_some_and(|name| name.strip_prefix("SIG") == Some(wanted))
                || number.to_string() == wanted
        })
    });
    found.ok_or_else(|| "expected the name or number of a signal, as in TERM, 15 or RTMIN+3".to_owned())
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        _ => text.strip_prefix(sign).filter(|digits| digits.starts_with(|c: char| c.is_ascii_digit()))?.parse().ok(),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME.start().checked_add(offset(rest, '+')?)?,
        (_, Some(rest)) => REAL_TIME.end().checked_sub(offset(rest, '-')?)?,
        _ => return None,
    };
    REAL_TIME.contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("term", 15),
            ("SIGTERM", 15),
            ("15", 15),
            ("KILL", 9),
            ("SIGWINCH", 28),
            ("37", 37),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmin+30", 64),
            ("RTMAX", 64),
            ("SIGRTMAX-1", 63),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        let wrong =
            ["", "0", "NOPE", "999", "-1", "65", "RTMIN+31", "RTMIN-1", "RTMIN+", "RTMIN+-1", "RTMAX-31", "SIG"];
        for text in wrong {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
