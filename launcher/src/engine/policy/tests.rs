//! Tests each row of the policy's table, and the reasons for each choice. The engines are made up, because the policy
//! knows no real ones.

use super::super::contract::Accelerator;
use super::*;
use crate::host::confine::Support;

fn able() -> HostCapabilities {
    HostCapabilities {
        fuse: Ok(()),
        virtiofsd: Ok(()),
        image_in_guest: Ok(()),
        disk_in_guest: Ok(()),
        passt: Ok(()),
        passt_by_vhost_user: Ok(()),
        network_in_guest: Ok(()),
    }
}

/// An engine with a quick machine type that has little room, and two accelerators.
fn engine() -> Capabilities {
    Capabilities {
        confinement: Support::default(),
        accelerators: vec![
            Accelerator { name: "fast", works: Ok(()), caution: None, root_by_disk: None },
            Accelerator { name: "slow", works: Ok(()), caution: None, root_by_disk: None },
        ],
        machines: vec![
            MachineType { name: "small", most_devices: 7, advantage: "it boots faster", unfit: Vec::new() },
            MachineType { name: "large", most_devices: 25, advantage: "it has room", unfit: Vec::new() },
        ],
        shares: Ok(()),
        networks: vec![NetworkBackend::Passt, NetworkBackend::Slirp],
        vhost_user_network: false,
        shares_kernel: false,
        notices: Vec::new(),
    }
}

/// An engine whose guests run on the host's kernel.
fn container() -> Capabilities {
    Capabilities {
        accelerators: vec![Accelerator { name: "host", works: Ok(()), caution: None, root_by_disk: None }],
        machines: vec![MachineType { name: "overlay", most_devices: usize::MAX, advantage: "it works", unfit: vec![] }],
        networks: vec![NetworkBackend::Passt],
        shares_kernel: true,
        notices: vec!["container: as it is".to_owned()],
        ..engine()
    }
}

#[test]
fn kernel_of_the_host_is_shared_only_if_that_is_asked_for() {
    let candidates = |vm: Result<Capabilities, Failure>| {
        [Candidate { engine: "vm", can: vm }, Candidate { engine: "container", can: Ok(container()) }]
    };
    let decide = |vm, request: &RunRequest| decide(&able(), &candidates(vm), request);
    let slow = decide(Ok(without_fast("x")), &plain()).unwrap();
    assert_eq!(slow.engine, "vm");
    assert_eq!(
        slow.notices,
        [
            "accelerator slow: fast does not run a guest here (x); --engine container would start at once, and shares the \
          host's kernel"
        ]
    );
    assert!(decide(Ok(engine()), &plain()).unwrap().notices.is_empty());
    let refused = decide(Err(Failure::new("vm", "missing")), &plain()).unwrap_err().to_string();
    assert!(refused.contains("vm: missing; --engine container would start at once"), "{refused}");
    let asked = RunRequest { engine: forced("container"), kept: true, shares: 100, ..plain() };
    let host = HostCapabilities { network_in_guest: no("x"), disk_in_guest: no("x"), virtiofsd: no("x"), ..able() };
    let decision = super::decide(&host, &candidates(Ok(engine())), &asked).unwrap();
    assert_eq!((decision.accelerator, decision.backend, decision.machine), ("host", Backend::Direct, "overlay"));
    assert_eq!((decision.network, decision.notices.len()), (NetworkBackend::Passt, 1));
    let directory = RunRequest { directory_root: true, ..asked.clone() };
    super::decide(&host, &candidates(Ok(engine())), &directory).unwrap();
    let block = RunRequest { backend: Choice::Forced(Backend::Block), ..asked };
    let refused = super::decide(&host, &candidates(Ok(engine())), &block).unwrap_err();
    assert_eq!(refused.hint(), Some("use --backend direct"));
}

fn without_fast(cause: &str) -> Capabilities {
    let mut engine = engine();
    engine.accelerators[0].works = no(cause);
    engine
}

fn no<T>(cause: &str) -> Result<T, String> {
    Err(cause.to_owned())
}

fn forced(name: &str) -> Choice<String> {
    Choice::Forced(name.to_owned())
}

fn plain() -> RunRequest {
    RunRequest::default()
}

fn decide_by(engine: Capabilities, host: &HostCapabilities, request: &RunRequest) -> Result<Decision, Failure> {
    decide(host, &[Candidate { engine: "first", can: Ok(engine) }], request)
}

#[test]
fn each_row_of_the_policy() {
    use Backend::{Block, Direct, Materialize, Virtiofsd};
    use Choice::Forced;
    let mut unfit = engine();
    unfit.machines[0].unfit = vec![("slow", "it would lose time")];
    let mut unfit_and_slow = unfit.clone();
    unfit_and_slow.accelerators[0].works = no("x");
    let rows = [
        ("the best of a good host", engine(), able(), plain(), ("fast", Direct, "small")),
        ("second best", without_fast("x"), able(), plain(), ("slow", Direct, "small")),
        ("second best, with which a machine type is unfit", unfit_and_slow, able(), plain(), ("slow", Direct, "large")),
        ("unfit with another accelerator only", unfit, able(), plain(), ("fast", Direct, "small")),
        (
            "forced accelerator",
            engine(),
            able(),
            RunRequest { accelerator: forced("slow"), ..plain() },
            ("slow", Direct, "small"),
        ),
        (
            "forced virtiofsd",
            engine(),
            able(),
            RunRequest { backend: Forced(Virtiofsd), ..plain() },
            ("fast", Virtiofsd, "small"),
        ),
        (
            "forced materialize",
            engine(),
            able(),
            RunRequest { backend: Forced(Materialize), ..plain() },
            ("fast", Materialize, "small"),
        ),
        ("forced block", engine(), able(), RunRequest { backend: Forced(Block), ..plain() }, ("fast", Block, "small")),
        ("a directory", engine(), able(), RunRequest { directory_root: true, ..plain() }, ("fast", Virtiofsd, "small")),
        (
            "as many shares as there is room for",
            engine(),
            able(),
            RunRequest { shares: 5, ..plain() },
            ("fast", Direct, "small"),
        ),
        (
            "one in place of the network card",
            engine(),
            able(),
            RunRequest { shares: 6, network: Forced(NetworkBackend::None), ..plain() },
            ("fast", Direct, "small"),
        ),
        ("one more", engine(), able(), RunRequest { shares: 6, ..plain() }, ("fast", Direct, "large")),
        (
            "forced machine type",
            engine(),
            able(),
            RunRequest { machine: forced("large"), ..plain() },
            ("fast", Direct, "large"),
        ),
        (
            "no virtiofsd and no need",
            engine(),
            HostCapabilities { virtiofsd: no("x"), fuse: no("y"), ..able() },
            plain(),
            ("fast", Direct, "small"),
        ),
        (
            "an engine without virtiofs",
            Capabilities { shares: no("it has no virtiofs"), ..engine() },
            able(),
            plain(),
            ("fast", Block, "small"),
        ),
    ];
    let mut by_disk = engine();
    by_disk.accelerators[0].root_by_disk = Some("it is faster");
    let no_driver = HostCapabilities { image_in_guest: no("x"), ..able() };
    let without_disk = RunRequest { accelerator: forced("slow"), ..plain() };
    let direct = RunRequest { backend: Forced(Direct), ..plain() };
    let directory = RunRequest { directory_root: true, ..plain() };
    let by_measurement = [
        ("a disk where that is faster", by_disk.clone(), able(), plain(), ("fast", Block, "small")),
        ("only with that accelerator", by_disk.clone(), able(), without_disk, ("slow", Direct, "small")),
        ("not without a driver for it", by_disk.clone(), no_driver, plain(), ("fast", Direct, "small")),
        ("not if something else is asked for", by_disk.clone(), able(), direct, ("fast", Direct, "small")),
        ("not for a directory", by_disk, able(), directory, ("fast", Virtiofsd, "small")),
    ];
    for (row, engine, host, request, expected) in rows.into_iter().chain(by_measurement) {
        let decision = decide_by(engine, &host, &request).unwrap();
        assert_eq!((decision.accelerator, decision.backend, decision.machine), expected, "{row}");
        assert_eq!(decision.reasons.len(), 8, "{row}");
    }
}

#[test]
fn what_is_forced_and_cannot_work_names_what_is_missing() {
    use Choice::Forced;
    let poor = HostCapabilities {
        fuse: no("no /dev/fuse"),
        virtiofsd: no("no virtiofsd"),
        image_in_guest: no("the guest kernel has no driver erofs"),
        disk_in_guest: no("the guest kernel has no driver ext4"),
        passt: no("no passt"),
        passt_by_vhost_user: no("no passt"),
        network_in_guest: no("the guest kernel has no driver virtio_net"),
    };
    let fuseless = HostCapabilities { fuse: no("no /dev/fuse"), ..able() };
    // So that what is not tested here does not fail first.
    let quiet = || RunRequest { network: Forced(NetworkBackend::None), ..plain() };
    for (host, request, expected) in [
        (&poor, plain(), "no driver virtio_net"),
        (
            &poor,
            RunRequest { network: Forced(NetworkBackend::Passt), ..quiet() },
            "--network passt: no passt; use --network slirp",
        ),
        (&poor, RunRequest { host_loopback: true, ..quiet() }, "--host-loopback: a guest without a network"),
        (&poor, RunRequest { accelerator: forced("fast"), ..quiet() }, "--accel fast: MSR 0x10a; use --accel slow"),
        (&able(), RunRequest { accelerator: forced("warp"), ..quiet() }, "--accel warp: first does not have it"),
        (&able(), RunRequest { engine: forced("second"), ..quiet() }, "--engine second: this version of lamina"),
        (&able(), RunRequest { machine: forced("odd"), ..quiet() }, "--machine odd: first does not have it"),
        (&poor, RunRequest { backend: Forced(Backend::Virtiofsd), ..quiet() }, "--backend virtiofsd: no virtiofsd"),
        (&fuseless, RunRequest { backend: Forced(Backend::Virtiofsd), ..quiet() }, "no /dev/fuse"),
        (
            &poor,
            RunRequest { backend: Forced(Backend::Block), ..quiet() },
            "--backend block: the guest kernel has no driver",
        ),
        (&poor, RunRequest { backend: Forced(Backend::Materialize), ..quiet() }, "--backend materialize: no virtiofsd"),
        (&poor, RunRequest { kept: true, ..quiet() }, "--keep: the guest kernel has no driver ext4"),
        (&poor, RunRequest { directory_root: true, ..quiet() }, "no virtiofsd"),
        (&able(), RunRequest { backend: Forced(Backend::Direct), directory_root: true, ..quiet() }, "--backend direct"),
        (&able(), RunRequest { shares: 25, ..quiet() }, "room for 25 shares"),
        (
            &able(),
            RunRequest { shares: 7, machine: forced("small"), ..quiet() },
            "not for 8; share a directory that holds the others, or use --machine large",
        ),
    ] {
        let failure = decide_by(without_fast("MSR 0x10a"), host, &request).unwrap_err().to_string();
        assert!(failure.contains(expected), "{expected}: {failure}");
    }
}

#[test]
fn first_engine_that_can_be_used_is_taken_and_the_others_have_their_reasons() {
    let cannot = |name: &str| Err(Failure::new(name, "not found in PATH").with_hint("install it"));
    let candidates = [
        Candidate { engine: "first", can: cannot("first-program") },
        Candidate { engine: "second", can: Ok(engine()) },
        Candidate { engine: "third", can: Ok(engine()) },
    ];
    let decision = decide(&able(), &candidates, &plain()).unwrap();
    assert_eq!(decision.engine, "second");
    let expected = [
        "engine second: the first that can be used here",
        "not first: first-program: not found in PATH",
        "not third: second is preferred",
    ];
    assert_eq!(decision.reasons[..3], expected);
    let by = |name| decide(&able(), &candidates, &RunRequest { engine: forced(name), ..plain() });
    let third = by("third").unwrap();
    assert_eq!((third.engine, third.reasons[2].as_str()), ("third", "not second: third was asked for"));
    let failure = by("first").unwrap_err().to_string();
    assert_eq!(failure, "--engine first: first-program: not found in PATH; install it");
    let none = decide(&able(), &candidates[..1], &plain()).unwrap_err().to_string();
    assert_eq!(none, "first-program: not found in PATH; install it");
}

#[test]
fn network_is_passt_unless_it_is_missing_and_slirp_says_what_it_leaves_open() {
    use NetworkBackend::{None, Passt, Slirp};
    let decided = |host: &HostCapabilities, request| decide_by(engine(), host, &request).unwrap();
    let network = |host: &HostCapabilities, request| decided(host, request).network;
    let missing = HostCapabilities { passt: no("none"), ..able() };
    assert_eq!(network(&able(), plain()), Passt);
    assert_eq!(network(&missing, plain()), Slirp);
    let slirp = || RunRequest { network: Choice::Forced(Slirp), ..plain() };
    for (host, request, told) in [
        (able(), plain(), false),
        (able(), slirp(), true),
        (missing.clone(), plain(), true),
        (missing.clone(), RunRequest { host_loopback: true, ..plain() }, false),
    ] {
        let notices = decided(&host, request).notices;
        assert_eq!(notices.iter().any(|notice| notice.contains("this host's loopback")), told, "{notices:?}");
    }

    let only_passt = || Capabilities { networks: vec![Passt], ..engine() };
    assert_eq!(decide_by(only_passt(), &missing, &plain()).unwrap().network, None);
    let refused = |request| decide_by(only_passt(), &missing, &request).unwrap_err().to_string();
    let open = RunRequest { host_loopback: true, ..plain() };
    assert!(refused(open).starts_with("--host-loopback: passt cannot be used"));
    assert_eq!(refused(slirp()), "--network slirp: first does not have it");
}

#[test]
fn network_card_by_vhost_user_needs_a_passt_that_serves_one_and_otherwise_there_is_no_network() {
    use NetworkBackend::{None, Passt};
    let by_vhost_user = || Capabilities { networks: vec![Passt], vhost_user_network: true, ..engine() };
    let old = HostCapabilities { passt_by_vhost_user: no("passt is too old"), ..able() };
    let decision = decide_by(by_vhost_user(), &able(), &plain()).unwrap();
    assert_eq!((decision.network, decision.vhost_user_network, decision.notices.len()), (Passt, true, 0));
    let decision = decide_by(by_vhost_user(), &old, &plain()).unwrap();
    assert_eq!(decision.network, None);
    assert_eq!(decision.notices, ["network none: passt cannot be used (passt is too old)"]);
    assert_eq!(decide_by(engine(), &old, &plain()).unwrap().network, Passt, "another engine's passt may be older");
    let asked = RunRequest { network: Choice::Forced(Passt), ..plain() };
    let refused = decide_by(by_vhost_user(), &old, &asked).unwrap_err().to_string();
    assert!(refused.starts_with("--network passt: passt is too old; use --network none"), "{refused}");
    let unasked = RunRequest { network: Choice::Forced(None), ..plain() };
    assert!(decide_by(by_vhost_user(), &old, &unasked).unwrap().notices.is_empty());
}

#[test]
fn each_backend_that_is_not_taken_is_told_with_its_reason() {
    let host = HostCapabilities { fuse: no("no /dev/fuse"), passt: no("no passt"), ..able() };
    let reasons = decide_by(engine(), &host, &plain()).unwrap().reasons;
    for expected in [
        "backend direct: no mount and no other program is needed",
        "not virtiofsd: no /dev/fuse",
        "not block: direct is preferred",
        "not materialize: direct is preferred",
        "network slirp: passt cannot be used (no passt)",
    ] {
        assert!(reasons.iter().any(|reason| reason == expected), "{expected}: {reasons:?}");
    }
}

#[test]
fn a_root_on_a_disk_is_told_with_the_reason() {
    let mut engine = engine();
    engine.accelerators[0].root_by_disk = Some("it is faster");
    let reasons = decide_by(engine, &able(), &plain()).unwrap().reasons;
    for expected in ["backend block: it is faster", "not direct: block is preferred"] {
        assert!(reasons.iter().any(|reason| reason == expected), "{expected}: {reasons:?}");
    }
}

#[test]
fn second_best_accelerator_is_a_notice_unless_it_was_asked_for() {
    let notices = |engine, request| decide_by(engine, &able(), &request).unwrap().notices;
    let expected = "accelerator slow: fast does not run a guest here (failed to set MSR 0x10a)";
    assert_eq!(notices(without_fast("failed to set MSR 0x10a"), plain()), [expected]);
    let mut unsafe_slow = without_fast("no");
    unsafe_slow.accelerators[1].caution = Some("it is no boundary");
    assert_eq!(
        notices(unsafe_slow, plain()),
        ["accelerator slow: fast does not run a guest here (no); it is no boundary"]
    );
    assert!(notices(engine(), plain()).is_empty());
    assert!(notices(engine(), RunRequest { accelerator: forced("slow"), ..plain() }).is_empty());
}

#[test]
fn engine_with_disks_only_gets_a_block_root_and_what_it_lacks_is_refused_with_the_way_out() {
    use Choice::Forced;
    let disks_only = || Capabilities { shares: no("it has no virtiofs"), networks: Vec::new(), ..engine() };
    let decision = decide_by(disks_only(), &able(), &plain()).unwrap();
    assert_eq!((decision.backend, decision.network), (Backend::Block, NetworkBackend::None));
    let why = "network none: a network card of first needs a tap device, which only root can make";
    assert!(decision.reasons.iter().any(|reason| reason.starts_with(why)), "{:?}", decision.reasons);
    for (request, expected) in [
        (
            RunRequest { shares: 1, ..plain() },
            "-v: it has no virtiofs; use --engine qemu, or copy files with lamina cp",
        ),
        (RunRequest { directory_root: true, ..plain() }, "it has no virtiofs; use --engine qemu"),
        (
            RunRequest { backend: Forced(Backend::Direct), ..plain() },
            "--backend direct: it has no virtiofs; use --backend block",
        ),
        (RunRequest { network: Forced(NetworkBackend::Passt), ..plain() }, "needs a tap device"),
        (RunRequest { host_loopback: true, ..plain() }, "--host-loopback: a network card of first needs a tap device"),
    ] {
        let failure = decide_by(disks_only(), &able(), &request).unwrap_err().to_string();
        assert!(failure.contains(expected), "{expected}: {failure}");
    }
}
