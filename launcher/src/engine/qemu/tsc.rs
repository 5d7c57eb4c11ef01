//! The rate of the host's time stamp counter.

use std::fs;

/// Returns the frequency of the host's time stamp counter in kHz, if it is known exactly. Emulated guests use the
/// counter as their clock, and the clock of a guest without another one would be as wrong as this number is.
#[must_use]
pub(super) fn khz() -> Option<u64> {
    parse_tsc_khz(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// "cpu MHz" is the counter's rate if the kernel was told that rate (`tsc_known_freq`) and does not measure the
/// processor's current speed instead (`aperfmperf`). That is so on virtual hosts.
fn parse_tsc_khz(cpuinfo: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let flags: Vec<&str> = field("flags")?.split(' ').collect();
    if !flags.contains(&"tsc_known_freq") || flags.contains(&"aperfmperf") {
        return None;
    }
    let (mega, fraction) = field("cpu MHz")?.split_once('.')?;
    let kilo: u64 = fraction.get(..3)?.parse().ok()?;
    Some(mega.parse::<u64>().ok()? * 1000 + kilo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_rate_is_taken_only_where_the_kernel_was_told_it() {
        let cpuinfo = |flags: &str| format!("processor\t: 0\ncpu MHz\t\t: 2596.148\nflags\t\t: fpu tsc {flags}\n");
        assert_eq!(parse_tsc_khz(&cpuinfo("tsc_known_freq hypervisor")), Some(2_596_148));
        assert_eq!(parse_tsc_khz(&cpuinfo("hypervisor")), None);
        assert_eq!(parse_tsc_khz(&cpuinfo("tsc_known_freq aperfmperf")), None);
    }
}
