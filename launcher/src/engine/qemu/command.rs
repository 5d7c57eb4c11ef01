//! QEMU's command line, for a q35 or a microvm machine.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::machine::{Accelerator, Board};
use super::sandbox::FILTER;
use crate::engine::plan::{NetworkDevice, Plan};
use crate::host::command_line::CommandLine;
use crate::host::network::{ADDRESS, GATEWAY, NAME_SERVER, PREFIX};

/// Returns QEMU's command line for `plan`.
///
/// `tsc_khz` is the frequency of the host's time stamp counter, which QEMU's emulation passes to guests unchanged. A
/// microvm has neither an HPET nor a PM timer to calibrate the counter with, and calibration with the PIT sometimes
/// hangs a guest when the host is busy. So on a microvm the kernel is told the frequency. It must also be told to trust
/// the counter. Otherwise it compares the counter with its own tick, which loses time on a busy host, and then it may
/// switch to the tick as its clock, which is slow and has steps of 4 ms.
#[must_use]
pub(super) fn command(
    program: &Path,
    plan: &Plan,
    machine: Board,
    accelerator: Accelerator,
    tsc_khz: Option<u64>,
) -> CommandLine {
    let mut parameters = vec!["console=ttyS0".to_owned(), "panic=-1 reboot=t".to_owned()];
    if accelerator == Accelerator::Tcg {
        // Emulation does not speculate, so mitigations only cost time.
        parameters.push("mitigations=off".to_owned());
        if let (Board::Microvm, Some(khz)) = (machine, tsc_khz) {
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
        Board::Q35 => "pci",
        Board::Microvm => "device",
    };
    let mut command = CommandLine::new(program)
        .arg("-name")
        .arg(join("guest=", &plan.name))
        .args(["-machine", &format!("{}memory-backend=memory", options_of(machine))])
        .args(["-accel", kind, "-cpu", model, "-smp", &plan.cpus.to_string()])
        .args(["-m", &format!("{}M", plan.memory_mib)])
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={}M,share=on,dump=off", plan.memory_mib)])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    if plan.confine.support.as_ref().is_some_and(|support| support.own_filter) {
        command = command.args(["-sandbox", FILTER]);
    }
    if machine == Board::Microvm {
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
        .args(["-device", &format!("virtserialport,chardev=control,name={}", guest_protocol::PORT_NAME)]);
    for (position, share) in plan.shares.iter().enumerate() {
        let tag = join(&format!("vhost-user-fs-{bus},chardev=fs{position},queue-size=1024,tag="), &share.tag);
        command = command
            .arg("-chardev")
            .arg(join(&format!("socket,id=fs{position},path="), &share.socket))
            .arg("-device")
            .arg(tag);
    }
    let served = match machine {
        Board::Q35 => "vhost-user-blk-pci",
        Board::Microvm => "vhost-user-blk",
    };
    for (position, disk) in plan.served_disks.iter().enumerate() {
        let socket = join(&format!("socket,id=blk{position},path="), &disk.socket);
        let device = format!("{served},chardev=blk{position},num-queues={},queue-size=128", disk.queues);
        command = command.arg("-chardev").arg(socket).args(["-device", &device]);
    }
    for (position, disk) in plan.disks.iter().enumerate() {
        let access = if disk.read_only { "on" } else { "off" };
        let mut drive = format!("driver=raw,node-name=disk{position},read-only={access},");
        if !disk.read_only {
            drive.push_str("discard=unmap,detect-zeroes=unmap,");
        }
        drive.push_str("file.driver=file,file.filename=");
        let mut device = format!("virtio-blk-{bus},drive=disk{position},");
        if !disk.read_only {
            // If the host's disk is full, the guest gets an error. By default QEMU would stop the guest until there is
            // room.
            device.push_str("werror=report,rerror=report,");
        }
        device.push_str("serial=");
        command =
            command.arg("-blockdev").arg(join(&drive, &disk.path)).arg("-device").arg(join(&device, &disk.serial));
    }
    match &plan.network {
        None => return command,
        Some(NetworkDevice::Slirp) => command = command.args(["-netdev", &slirp()]),
        Some(NetworkDevice::Passt(socket)) => {
            let value = join("stream,id=network,server=off,addr.type=unix,addr.path=", socket);
            command = command.arg("-netdev").arg(value);
        }
        Some(NetworkDevice::VhostUser(socket)) => {
            command = command
                .arg("-chardev")
                .arg(join("socket,id=packets,path=", socket))
                .args(["-netdev", "vhost-user,id=network,chardev=packets"]);
        }
    }
    // Its option ROM would boot from the network.
    let rom = if machine == Board::Q35 { ",romfile=" } else { "" };
    command.args(["-device", &format!("virtio-net-{bus},netdev=network{rom}")])
}

/// Returns the value of `-netdev` for QEMU's own network, with the id `network`.
fn slirp() -> String {
    format!("user,id=network,ipv6=off,net=10.0.2.0/{PREFIX},host={GATEWAY},dns={NAME_SERVER},dhcpstart={ADDRESS}")
}

/// Returns the machine type with its options. Under KVM, a microvm has no clock by default, and a guest then waits for
/// it for about 1 s (`rtc_cmos` polls), or about 11 s under nested KVM.
const fn options_of(machine: Board) -> &'static str {
    match machine {
        Board::Q35 => "q35,",
        Board::Microvm => "microvm,rtc=on,",
    }
}

/// Returns `before`, then `value` with its commas doubled, because QEMU's option parser ends a value at a single comma.
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
    use crate::engine::contract::check;
    use crate::engine::plan::{Disk, ServedDisk, example};
    use crate::engine::qemu::Qemu;

    fn text(shares: usize, machine: Board, accelerator: Accelerator) -> String {
        command(Path::new("qemu-system-x86_64"), &example(shares), machine, accelerator, Some(2_600_000)).to_shell()
    }

    #[test]
    fn q35_under_kvm_with_one_share() {
        insta::assert_snapshot!(text(1, Board::Q35, Accelerator::Kvm));
    }

    #[test]
    fn q35_under_tcg_calibrates_its_own_clock() {
        insta::assert_snapshot!(text(0, Board::Q35, Accelerator::Tcg));
    }

    #[test]
    fn microvm_under_tcg_is_told_the_clock_rate() {
        insta::assert_snapshot!(text(2, Board::Microvm, Accelerator::Tcg));
    }

    #[test]
    fn microvm_under_kvm_needs_no_clock_rate() {
        insta::assert_snapshot!(text(0, Board::Microvm, Accelerator::Kvm));
    }

    #[test]
    fn every_share_gets_a_chardev_and_a_device() {
        for shares in [0, 1, 2, 8, 24] {
            let text = text(shares, Board::Q35, Accelerator::Tcg);
            assert_eq!(text.matches("vhost-user-fs-pci").count(), shares + 1);
            assert_eq!(text.matches("-chardev socket,id=fs").count(), shares + 1);
        }
    }

    #[test]
    fn more_devices_than_slots_are_refused_with_the_way_out() {
        let plan_of = |machine: Board, shares| Plan { machine: machine.name(), ..example(shares) };
        for (machine, shares, fits) in [
            (Board::Microvm, 6, true),
            (Board::Microvm, 7, false),
            (Board::Q35, 24, true),
            (Board::Q35, 25, false),
            (Board::Q35, 40, false),
        ] {
            let outcome = check(&Qemu, &plan_of(machine, shares));
            assert_eq!(outcome.is_ok(), fits, "{machine:?} with {shares} shares");
            if let Err(failure) = outcome {
                assert!(failure.to_string().contains("share a directory that holds the others"), "{failure}");
            }
        }
        let mut plan = plan_of(Board::Microvm, 6);
        plan.network = Some(NetworkDevice::Slirp);
        assert!(check(&Qemu, &plan).is_err(), "the network card takes a slot too");
    }

    #[test]
    fn microvm_has_a_clock_under_every_accelerator() {
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            assert!(text(0, Board::Microvm, accelerator).contains("-machine microvm,rtc=on,"));
        }
    }

    #[test]
    fn memory_is_shared_with_the_servers_of_shares() {
        for machine in [Board::Q35, Board::Microvm] {
            let text = text(1, machine, Accelerator::Tcg);
            assert!(text.contains("memory-backend=memory") && text.contains("share=on"), "{text}");
        }
    }

    #[test]
    fn network_card_of_either_kind() {
        let mut plan = example(0);
        plan.network = Some(NetworkDevice::Slirp);
        let slirp = command(Path::new("q"), &plan, Board::Q35, Accelerator::Kvm, None).to_shell();
        plan.network = Some(NetworkDevice::Passt("/run/m,1/network.sock".into()));
        let passt = command(Path::new("q"), &plan, Board::Microvm, Accelerator::Kvm, None).to_shell();
        let network =
            |text: &str| text.lines().filter(|line| line.contains("net")).map(str::to_owned).collect::<Vec<_>>();
        insta::assert_snapshot!([network(&slirp), network(&passt)].concat().join("\n"));
    }

    #[test]
    fn spaces_quotes_and_other_scripts_pass_through() {
        let mut plan = example(1);
        plan.shares[1].socket = "/run/a b/it's \"x\" = ü.sock".into();
        plan.shares[1].tag = "t = \"ü'".into();
        let line = command(Path::new("q"), &plan, Board::Q35, Accelerator::Tcg, None);
        for expected in [
            "socket,id=fs1,path=/run/a b/it's \"x\" = ü.sock",
            "vhost-user-fs-pci,chardev=fs1,queue-size=1024,tag=t = \"ü'",
        ] {
            assert!(line.arguments.iter().any(|word| word == expected), "{line:?}");
        }
    }

    #[test]
    fn every_disk_gets_a_node_and_a_device_with_its_serial() {
        let mut plan = example(0);
        plan.shares.clear();
        let disk =
            |serial: &str, read_only| Disk { serial: serial.into(), path: format!("/d/{serial}").into(), read_only };
        plan.disks = vec![disk("root", true), disk("kept", false)];
        insta::assert_snapshot!(command(Path::new("q"), &plan, Board::Microvm, Accelerator::Kvm, None).to_shell());
    }

    #[test]
    fn served_disk_gets_a_chardev_and_a_device_on_either_machine() {
        let mut plan = example(0);
        plan.shares.clear();
        plan.served_disks = vec![ServedDisk { serial: "root".into(), socket: "/run/a,b/root.sock".into(), queues: 2 }];
        for (machine, device) in [(Board::Q35, "vhost-user-blk-pci"), (Board::Microvm, "vhost-user-blk")] {
            let text = command(Path::new("q"), &plan, machine, Accelerator::Tcg, None).to_shell();
            for expected in
                ["socket,id=blk0,path=/run/a,,b/root.sock", &format!("{device},chardev=blk0,num-queues=2,"), "share=on"]
            {
                assert!(text.contains(expected), "{expected}: {text}");
            }
        }
    }

    #[test]
    fn commas_in_values_are_doubled() {
        let mut plan = example(0);
        plan.disks = vec![Disk { serial: "s".into(), path: "/disks/e,f".into(), read_only: true }];
        plan.shares[0].socket = "/run/a,b/x.sock".into();
        plan.shares[0].tag = "t,1".into();
        plan.console = "/state/c,d".into();
        let text = command(Path::new("q"), &plan, Board::Q35, Accelerator::Tcg, None).to_shell();
        for expected in ["path=/run/a,,b/x.sock", "tag=t,,1", "path=/state/c,,d", "filename=/disks/e,,f"] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
