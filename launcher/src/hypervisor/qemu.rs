//! QEMU, as a q35 or a microvm machine.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{CommandLine, Plan};
use crate::accelerator::Accelerator;

/// The machine types that guests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// A PC with PCI Express.
    Q35,
    /// A machine with virtio-mmio devices and no firmware to speak of.
    Microvm,
}

impl Machine {
    /// Its name as `-machine` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Microvm => "microvm",
        }
    }

    /// How many shares it has room for, the root among them: microvm has 8 virtio-mmio transports, one of
    /// which carries the control channel; q35 has 32 slots on its root bus, of which some are taken.
    #[must_use]
    pub const fn most_shares(self) -> usize {
        match self {
            Self::Q35 => 25,
            Self::Microvm => 7,
        }
    }
}

/// The arguments of QEMU for `plan`.
///
/// `tsc_khz` is the frequency of the host's time stamp counter, which QEMU's emulation hands to guests as it
/// is. A microvm has neither HPET nor PM timer to calibrate it by, and the attempt with the PIT hangs a
/// guest now and then when the host is busy, so there the kernel is told. It must also be told to believe
/// it: all that it could compare the counter with is its own tick, of which a busy host loses some, and by
/// which it would then count on, slow and in steps of 4 ms.
#[must_use]
pub fn command(
    program: &Path,
    plan: &Plan,
    machine: Machine,
    accelerator: Accelerator,
    tsc_khz: Option<u64>,
) -> CommandLine {
    let mut parameters = vec!["console=ttyS0".to_owned(), "panic=-1 reboot=t".to_owned()];
    if accelerator == Accelerator::Tcg {
        // There is no speculation to mitigate in emulation, only time to lose.
        parameters.push("mitigations=off".to_owned());
        if let (Machine::Microvm, Some(khz)) = (machine, tsc_khz) {
            parameters.push(format!("tsc_early_khz={khz}"));
            parameters.push("tsc=reliable".to_owned());
        }
    }
    parameters.extend(plan.kernel_parameters.iter().cloned());
    let (kind, model) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg,thread=multi", "max"),
    };
    let bus = match machine {
        Machine::Q35 => "pci",
        Machine::Microvm => "device",
    };
    let mut command = CommandLine::new(program)
        .arg("-name")
        .arg(join("guest=", &plan.name))
        .args(["-machine", &format!("{},memory-backend=memory", machine.name())])
        .args(["-accel", kind, "-cpu", model, "-smp", &plan.cpus.to_string()])
        .args(["-m", &format!("{}M", plan.memory_mib)])
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={}M,share=on", plan.memory_mib)])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    if machine == Machine::Microvm {
        // vhost-user-fs has no legacy mode, and virtio-mmio starts in it.
        command = command.args(["-global", "virtio-mmio.force-legacy=false"]);
    }
    command = command
        .arg("-kernel")
        .arg(&plan.kernel)
        .arg("-initrd")
        .arg(&plan.initramfs)
        .args(["-append", &parameters.join(" ")])
        .arg("-chardev")
        .arg(join("file,id=console,path=", &plan.console))
        .args(["-serial", "chardev:console"])
        .arg("-chardev")
        .arg(join("socket,id=monitor,path=", &plan.monitor))
        .args(["-mon", "chardev=monitor,mode=control"])
        .arg("-chardev")
        .arg(join("socket,id=control,path=", &plan.control))
        .args(["-device", &format!("virtio-serial-{bus}")])
        .args(["-device", &format!("virtserialport,chardev=control,name={}", guest_init::protocol::PORT_NAME)]);
    for (position, share) in plan.shares.iter().enumerate() {
        let tag = join(&format!("vhost-user-fs-{bus},chardev=fs{position},queue-size=1024,tag="), &share.tag);
        command = command
            .arg("-chardev")
            .arg(join(&format!("socket,id=fs{position},path="), &share.socket))
            .arg("-device")
            .arg(tag);
    }
    command
}

/// `before`, then `value` with its commas doubled, which QEMU's option parser takes for the end of a value.
fn join(before: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut text = OsString::from(before);
    text.push(doubled(value));
    text
}

fn doubled(value: impl AsRef<OsStr>) -> OsString {
    let mut bytes = Vec::with_capacity(value.as_ref().len());
    for &byte in value.as_ref().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::example;

    fn text(shares: usize, machine: Machine, accelerator: Accelerator) -> String {
        command(Path::new("qemu-system-x86_64"), &example(shares), machine, accelerator, Some(2_600_000)).to_shell()
    }

    #[test]
    fn q35_under_kvm_with_one_share() {
        insta::assert_snapshot!(text(1, Machine::Q35, Accelerator::Kvm));
    }

    #[test]
    fn q35_under_tcg_calibrates_its_own_clock() {
        insta::assert_snapshot!(text(0, Machine::Q35, Accelerator::Tcg));
    }

    #[test]
    fn microvm_under_tcg_is_told_the_clock_rate() {
        insta::assert_snapshot!(text(2, Machine::Microvm, Accelerator::Tcg));
    }

    #[test]
    fn microvm_under_kvm_needs_no_clock_rate() {
        insta::assert_snapshot!(text(0, Machine::Microvm, Accelerator::Kvm));
    }

    #[test]
    fn every_share_gets_a_chardev_and_a_device() {
        for shares in [0, 1, 8, 24] {
            let text = text(shares, Machine::Q35, Accelerator::Tcg);
            assert_eq!(text.matches("vhost-user-fs-pci").count(), shares + 1);
            assert_eq!(text.matches("-chardev socket,id=fs").count(), shares + 1);
        }
    }

    #[test]
    fn commas_in_values_are_doubled() {
        let mut plan = example(0);
        plan.shares[0].socket = "/run/a,b/x.sock".into();
        plan.shares[0].tag = "t,1".into();
        plan.console = "/state/c,d".into();
        let text = command(Path::new("q"), &plan, Machine::Q35, Accelerator::Tcg, None).to_shell();
        for expected in ["path=/run/a,,b/x.sock", "tag=t,,1", "path=/state/c,,d"] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
