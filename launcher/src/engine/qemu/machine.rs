//! QEMU's machine types and accelerators, and what they depend on in the host.

use std::fs;

/// The machine types that guests run on. QEMU calls them boards too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Board {
    /// A PC with PCI Express.
    Q35,
    /// A machine with virtio-mmio devices and only minimal firmware.
    Microvm,
}

impl Board {
    /// All of them, the best first.
    pub(super) const ALL: [Self; 2] = [Self::Microvm, Self::Q35];

    /// Returns the machine type with this name.
    #[must_use]
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|machine| machine.name() == name)
    }

    /// Returns its name, as `-machine` expects it.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Microvm => "microvm",
        }
    }

    /// Returns how many shares, disks and network cards it has room for, including the root. microvm has 8 virtio-mmio
    /// transports, one of which carries the control channel; q35 has 32 slots on its root bus, some of which are used
    /// already.
    #[must_use]
    pub(super) const fn most_devices(self) -> usize {
        match self {
            Self::Q35 => 25,
            Self::Microvm => 7,
        }
    }
}

/// What executes QEMU's guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The host's processor, through the kernel's KVM.
    Kvm,
    /// QEMU's own translator, which is slow but needs nothing.
    Tcg,
}

impl Accelerator {
    /// All of them, the best first.
    pub(super) const ALL: [Self; 2] = [Self::Kvm, Self::Tcg];

    /// Returns the accelerator with this name.
    #[must_use]
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|accelerator| accelerator.name() == name)
    }

    /// Returns its name, as `-accel` expects it.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Returns the frequency of the host's time stamp counter in kHz, if it is known exactly. Emulated guests use the
/// counter as their clock, and the clock of a guest without another one would be as wrong as this number is.
#[must_use]
pub(super) fn tsc_khz() -> Option<u64> {
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
    fn every_name_leads_back_to_what_it_names() {
        for machine in Board::ALL {
            assert_eq!(Board::of(machine.name()), Some(machine));
        }
        for accelerator in Accelerator::ALL {
            assert_eq!(Accelerator::of(accelerator.name()), Some(accelerator));
        }
        assert_eq!((Board::of("kvm"), Accelerator::of("q35")), (None, None));
    }

    #[test]
    fn the_counter_rate_is_taken_only_where_the_kernel_was_told_it() {
        let cpuinfo = |flags: &str| format!("processor\t: 0\ncpu MHz\t\t: 2596.148\nflags\t\t: fpu tsc {flags}\n");
        assert_eq!(parse_tsc_khz(&cpuinfo("tsc_known_freq hypervisor")), Some(2_596_148));
        assert_eq!(parse_tsc_khz(&cpuinfo("hypervisor")), None);
        assert_eq!(parse_tsc_khz(&cpuinfo("tsc_known_freq aperfmperf")), None);
    }
}
