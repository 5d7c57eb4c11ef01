//! Signals as people write them.

use signal_hook::low_level::signal_name;

/// The first and the last real-time signal as a C library numbers them; the C library keeps the kernel's first two for
/// itself.
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// Reads a signal: `TERM`, `SIGTERM`, `term`, `15`, `SIGRTMIN+3` or `RTMAX-1`.
///
/// # Errors
/// One line for the user.
pub(crate) fn parse(text: &str) -> Result<u32, String> {
    let wanted = text.trim().to_ascii_uppercase();
    let wanted = wanted.strip_prefix("SIG").unwrap_or(&wanted);
    let found = match wanted.parse::<u32>() {
        Ok(number) => Some(number),
        Err(_) => real_time(wanted).or_else(|| named(wanted)),
    };
    found
        .filter(|number| (1..=RTMAX).contains(number))
        .ok_or_else(|| "expected the name or number of a signal, as in TERM, 15 or RTMIN+3".to_owned())
}

/// Returns the name of a signal, as [`parse`] reads it.
pub(crate) fn name(number: u32) -> String {
    match number {
        16 => "SIGSTKFLT".to_owned(),
        30 => "SIGPWR".to_owned(),
        RTMIN..=RTMAX => format!("SIGRTMIN+{}", number - RTMIN),
        _ => i32::try_from(number).ok().and_then(signal_name).map_or_else(|| number.to_string(), str::to_owned),
    }
}

fn named(wanted: &str) -> Option<u32> {
    let wanted = match wanted {
        "POLL" => "IO",
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "UNUSED" => "SYS",
        wanted => wanted,
    };
    // Names that the C library's table leaves out.
    match wanted {
        "STKFLT" => return Some(16),
        "PWR" => return Some(30),
        _ => {}
    }
    (1..RTMIN).find(|&number| {
        let name = i32::try_from(number).ok().and_then(signal_name);
        name.and_then(|name| name.strip_prefix("SIG")) == Some(wanted)
    })
}

fn real_time(wanted: &str) -> Option<u32> {
    let offset = |text: &str, sign: char| match text {
        "" => Some(0),
        text => text.strip_prefix(sign)?.parse::<u32>().ok().filter(|offset| *offset <= RTMAX - RTMIN),
    };
    if let Some(rest) = wanted.strip_prefix("RTMIN") {
        return Some(RTMIN + offset(rest, '+')?);
    }
    Some(RTMAX - offset(wanted.strip_prefix("RTMAX")?, '-')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name_that_is_read_as_its_number() {
        for number in (1..32).chain(RTMIN..=RTMAX) {
            assert_eq!(parse(&name(number)), Ok(number), "{}", name(number));
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("term", 15),
            ("SIGTERM", 15),
            ("sigquit", 3),
            ("15", 15),
            ("WINCH", 28),
            ("SIGPWR", 30),
            ("SIGPOLL", 29),
            ("KILL", 9),
            ("37", 37),
            ("64", 64),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("sigrtmin+3", 37),
            ("SIGRTMIN+30", 64),
            ("RTMAX", 64),
            ("SIGRTMAX-14", 50),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
    }

    #[test]
    fn every_named_signal_of_linux_is_known() {
        let names = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN \
                     TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";
        for (number, name) in (1..).zip(names.split(' ')) {
            assert_eq!(parse(name), Ok(number), "{name}");
            assert_eq!(parse(&format!("SIG{name}")), Ok(number), "{name}");
        }
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for text in ["", "0", "65", "NOPE", "999", "-1", "SIG", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMAX-31", "RTMIN+x"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
