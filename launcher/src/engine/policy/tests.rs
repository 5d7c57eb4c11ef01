//! Each row of the policy's table, and what is told of it.

use super::*;

fn able() -> Capabilities {
    Capabilities {
        kvm: Ok(()),
        fuse: Ok(()),
        virtiofsd: Ok(()),
        image_in_guest: Ok(()),
        disk_in_guest: Ok(()),
        passt: Ok(true),
        network_in_guest: Ok(()),
        tsc_khz: Some(1),
    }
}

fn no<T>(cause: &str) -> Result<T, String> {
    Err(cause.to_owned())
}

#[test]
fn each_row_of_the_policy() {
    use Accelerator::{Kvm, Tcg};
    use Backend::{Block, Direct, Materialize, Virtiofsd};
    use Choice::Forced;
    use Machine::{Microvm, Q35};
    let plain = Request::default();
    let without_kvm = Capabilities { kvm: no("kvm_pvm"), ..able() };
    let rows = [
        ("the best of a good host", able(), plain, (Kvm, Direct, Microvm)),
        ("no KVM", without_kvm.clone(), plain, (Tcg, Direct, Microvm)),
        ("no KVM, unknown clock", Capabilities { tsc_khz: None, ..without_kvm }, plain, (Tcg, Direct, Q35)),
        ("unknown clock matters to TCG only", Capabilities { tsc_khz: None, ..able() }, plain, (Kvm, Direct, Microvm)),
        ("forced emulation", able(), Request { accelerator: Forced(Tcg), ..plain }, (Tcg, Direct, Microvm)),
        ("forced virtiofsd", able(), Request { backend: Forced(Virtiofsd), ..plain }, (Kvm, Virtiofsd, Microvm)),
        ("forced materialize", able(), Request { backend: Forced(Materialize), ..plain }, (Kvm, Materialize, Microvm)),
        ("forced block", able(), Request { backend: Forced(Block), ..plain }, (Kvm, Block, Microvm)),
        ("a directory", able(), Request { directory_root: true, ..plain }, (Kvm, Virtiofsd, Microvm)),
        ("as many shares as microvm has room for", able(), Request { shares: 5, ..plain }, (Kvm, Direct, Microvm)),
        (
            "one in place of the network card",
            able(),
            Request { shares: 6, network: Forced(NetworkBackend::None), ..plain },
            (Kvm, Direct, Microvm),
        ),
        ("one more", able(), Request { shares: 6, ..plain }, (Kvm, Direct, Q35)),
        ("forced q35", able(), Request { machine: Forced(Q35), ..plain }, (Kvm, Direct, Q35)),
        (
            "no virtiofsd and no need",
            Capabilities { virtiofsd: no("x"), fuse: no("y"), ..able() },
            plain,
            (Kvm, Direct, Microvm),
        ),
    ];
    for (row, host, request, expected) in rows {
        let decision = decide(&host, &request).unwrap();
        assert_eq!((decision.accelerator, decision.backend, decision.machine), expected, "{row}");
        assert_eq!(decision.reasons.len(), 7, "{row}");
    }
}

#[test]
fn what_is_forced_and_cannot_work_names_what_is_missing() {
    use Choice::Forced;
    let poor = Capabilities {
        kvm: no("MSR 0x10a"),
        fuse: no("no /dev/fuse"),
        virtiofsd: no("no virtiofsd"),
        image_in_guest: no("the guest kernel has no driver erofs"),
        disk_in_guest: no("z"),
        passt: no("no passt"),
        network_in_guest: no("the guest kernel has no driver virtio_net"),
        tsc_khz: None,
    };
    let fuseless = Capabilities { fuse: no("no /dev/fuse"), ..able() };
    // What is not looked at must not fail first.
    let plain = Request { network: Forced(NetworkBackend::None), ..Request::default() };
    for (host, request, expected) in [
        (&poor, Request { network: Choice::Auto, ..plain }, "no driver virtio_net"),
        (
            &poor,
            Request { network: Forced(NetworkBackend::Passt), ..plain },
            "--network passt: no passt; use --network slirp",
        ),
        (&poor, Request { published: 1, ..plain }, "-p: a guest without a network"),
        (&poor, Request { accelerator: Forced(Accelerator::Kvm), ..plain }, "--accel kvm: MSR 0x10a; use --accel tcg"),
        (&poor, Request { backend: Forced(Backend::Virtiofsd), ..plain }, "--backend virtiofsd: no virtiofsd"),
        (&fuseless, Request { backend: Forced(Backend::Virtiofsd), ..plain }, "no /dev/fuse"),
        (
            &poor,
            Request { backend: Forced(Backend::Block), ..plain },
            "--backend block: the guest kernel has no driver",
        ),
        (&poor, Request { backend: Forced(Backend::Materialize), ..plain }, "--backend materialize: no virtiofsd"),
        (&poor, Request { directory_root: true, ..plain }, "no virtiofsd"),
        (&able(), Request { backend: Forced(Backend::Direct), directory_root: true, ..plain }, "--backend direct"),
        (&able(), Request { shares: 25, ..plain }, "room for 25 shares"),
        (
            &able(),
            Request { shares: 7, machine: Forced(Machine::Microvm), ..plain },
            "--machine microvm: it has room for 7",
        ),
    ] {
        let failure = decide(host, &request).unwrap_err().to_string();
        assert!(failure.contains(expected), "{failure}");
    }
}

#[test]
fn network_is_passt_unless_it_is_missing_or_cannot_publish_ports() {
    let carrier = |host: &Capabilities, request| decide(host, &request).unwrap().network;
    let plain = Request::default();
    assert_eq!(carrier(&able(), plain), NetworkBackend::Passt);
    assert_eq!(carrier(&able(), Request { published: 1, ..plain }), NetworkBackend::Passt);
    let old = Capabilities { passt: Ok(false), ..able() };
    assert_eq!(carrier(&old, plain), NetworkBackend::Passt);
    assert_eq!(carrier(&old, Request { published: 1, ..plain }), NetworkBackend::Slirp);
    let forced = Request { published: 1, network: Choice::Forced(NetworkBackend::Passt), ..plain };
    assert_eq!(carrier(&old, forced), NetworkBackend::Passt);
    assert_eq!(carrier(&Capabilities { passt: no("none"), ..able() }, plain), NetworkBackend::Slirp);
}

#[test]
fn each_backend_that_is_not_taken_is_told_with_its_reason() {
    let host = Capabilities { fuse: no("no /dev/fuse"), passt: no("no passt"), ..able() };
    let reasons = decide(&host, &Request::default()).unwrap().reasons;
    for expected in [
        "backend direct: no mount and no other program is needed",
        "not virtiofsd: no /dev/fuse",
        "not block: direct comes first",
        "not materialize: direct comes first",
        "network slirp: passt cannot be used (no passt)",
    ] {
        assert!(reasons.iter().any(|reason| reason == expected), "{expected}: {reasons:?}");
    }
}

#[test]
fn the_reason_for_emulation_is_told() {
    let host = Capabilities { kvm: no("failed to set MSR 0x10a"), ..able() };
    let decision = decide(&host, &Request::default()).unwrap();
    assert_eq!(decision.reasons[0], "accelerator tcg: KVM does not run a guest here (failed to set MSR 0x10a)");
}

#[test]
fn choices_are_read_and_wrong_ones_list_the_right_ones() {
    assert_eq!("auto".parse(), Ok(Choice::<Accelerator>::Auto));
    assert_eq!("kvm".parse(), Ok(Choice::Forced(Accelerator::Kvm)));
    let wrong: Result<Choice<Backend>, _> = "nfs".parse();
    assert_eq!(wrong, Err("expected auto, direct, virtiofsd, block, materialize".to_owned()));
}
