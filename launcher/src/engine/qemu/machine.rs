//! What QEMU emulates, and with what.

/// The machine types that guests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    /// A PC with PCI Express.
    Q35,
    /// A machine with virtio-mmio devices and no firmware to speak of.
    Microvm,
}

impl Machine {
    /// All of them, the best first.
    pub(super) const ALL: [Self; 2] = [Self::Microvm, Self::Q35];

    /// The machine type of a name.
    #[must_use]
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|machine| machine.name() == name)
    }

    /// Its name as `-machine` has it.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Microvm => "microvm",
        }
    }

    /// How many shares and disks it has room for, the root among them: microvm has 8 virtio-mmio transports, one of
    /// which carries the control channel; q35 has 32 slots on its root bus, of which some are taken.
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
    /// The host's processor, by the kernel's KVM.
    Kvm,
    /// QEMU's own translator: slow, and needs nothing.
    Tcg,
}

impl Accelerator {
    /// All of them, the best first.
    pub(super) const ALL: [Self; 2] = [Self::Kvm, Self::Tcg];

    /// The accelerator of a name.
    #[must_use]
    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|accelerator| accelerator.name() == name)
    }

    /// Its name as `-accel` has it.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_what_it_names() {
        for machine in Machine::ALL {
            assert_eq!(Machine::of(machine.name()), Some(machine));
        }
        for accelerator in Accelerator::ALL {
            assert_eq!(Accelerator::of(accelerator.name()), Some(accelerator));
        }
        assert_eq!((Machine::of("kvm"), Accelerator::of("q35")), (None, None));
    }
}
