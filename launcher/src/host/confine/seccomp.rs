//! System calls that no confined program needs: those that start processes, reach other processes, or change mounts,
//! namespaces or the kernel.
//!
//! The program may have a stricter filter of its own (`qemu -sandbox on`), which comes on top.

use std::collections::BTreeMap;

use libc::{c_long, c_ulong};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Refused with `EPERM`.
const REFUSED: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    // Namespaces and mounts. For unshare see [`new_namespace`].
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Other processes, and files without their paths.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // The kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

/// Refused with `ENOSYS`, as if the kernel did not have them: libraries then use older ones. The flags of `clone3` are in
/// memory, where a filter cannot see them, and `io_uring` makes system calls that a filter does not see.
const ABSENT: &[c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The numbers of x32, whose system calls an x86-64 kernel may have too, begin here.
#[cfg(target_arch = "x86_64")]
const X32: Option<i64> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const X32: Option<i64> = None;

/// Restricts this process, and the program that it becomes. Needs `no_new_privs`.
pub(super) fn restrict() -> Result<(), seccompiler::Error> {
    for filter in filters()? {
        seccompiler::apply_filter(&filter)?;
    }
    Ok(())
}

/// Refuses to make files set-user-ID or set-group-ID. A server that root starts makes the files of a guest, and other
/// users of the host must not become the server's user through them.
pub(super) fn refuse_set_ids() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(&set_ids()?)?;
    Ok(())
}

fn set_ids() -> Result<BpfProgram, seccompiler::Error> {
    // The system calls that are given a mode, and which of their arguments it is.
    let calls: &[(c_long, u8)] = &[
        (libc::SYS_fchmod, 1),
        (libc::SYS_fchmodat, 2),
        (FCHMODAT2, 2),
        (libc::SYS_openat, 3),
        (libc::SYS_mknodat, 2),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_chmod, 1),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_creat, 1),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, 2),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_mknod, 1),
    ];
    let mut refused = BTreeMap::new();
    for (call, argument) in calls {
        let with = |bit| {
            let set = SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bit), bit)?;
            Ok::<_, seccompiler::Error>(SeccompRule::new(vec![set])?)
        };
        refused.extend(rules(&[*call], &[with(0o4000)?, with(0o2000)?]));
    }
    compile(refused, libc::EPERM)
}

/// The number of `fchmodat2`, the same on all processors, which libc does not have yet.
const FCHMODAT2: c_long = 452;

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, error: i32) -> Result<BpfProgram, seccompiler::Error> {
    let action = SeccompAction::Errno(error.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()?)
}

fn filters() -> Result<[BpfProgram; 2], seccompiler::Error> {
    let mut refused = rules(REFUSED, &[]);
    refused.extend(rules(&[libc::SYS_clone], &[new_process()?]));
    refused.extend(rules(&[libc::SYS_unshare], &new_namespace()?));
    Ok([compile(refused, libc::EPERM)?, compile(rules(ABSENT, &[]), libc::ENOSYS)?])
}

/// Returns the rule for `clone` without `CLONE_THREAD`.
fn new_process() -> Result<SeccompRule, seccompiler::Error> {
    let thread = c_ulong::try_from(libc::CLONE_THREAD).unwrap_or_default();
    let no_thread = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
    Ok(SeccompRule::new(vec![no_thread])?)
}

/// Returns the rules for `unshare` with any kind of namespace. File servers give their threads working directories of
/// their own with it.
fn new_namespace() -> Result<Vec<SeccompRule>, seccompiler::Error> {
    let kinds = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        // CLONE_NEWTIME, which libc does not have for all targets.
        0x80,
    ];
    let rule = |kind| {
        let flag = c_ulong::try_from(kind).unwrap_or_default();
        let wanted = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        Ok(SeccompRule::new(vec![wanted])?)
    };
    kinds.into_iter().map(rule).collect()
}

fn rules(calls: &[c_long], if_any: &[SeccompRule]) -> BTreeMap<i64, Vec<SeccompRule>> {
    let numbers = calls.iter().flat_map(|&call| [Some(call), X32.map(|first| first + call)]);
    numbers.flatten().map(|number| (number, if_any.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::thread::UnshareFlags;

    use super::*;

    #[test]
    fn both_filters_are_programs_that_the_kernel_takes() {
        // BPF_MAXINSNS of linux/bpf_common.h.
        for filter in filters().unwrap() {
            assert!((1..4096).contains(&filter.len()), "{}", filter.len());
        }
    }

    #[test]
    fn files_with_set_ids_are_refused_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            refuse_set_ids().unwrap();
            std::fs::write(&file, "").unwrap();
            let chmod = |mode| std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode));
            chmod(0o1777).unwrap();
            assert!(chmod(0o4755).is_err() && chmod(0o2755).is_err());
            let made = |mode| {
                std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(file.with_extension("x"))
            };
            assert!(made(0o4700).is_err() && made(0o700).is_ok());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn thread_of_its_own_starts_and_process_does_not() {
        std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            restrict().unwrap();
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            assert!(std::process::Command::new("true").status().is_err());
            let unshare = crate::sys::unshare;
            assert_eq!(unshare(UnshareFlags::FS), Ok(()));
            assert_eq!(unshare(UnshareFlags::NEWUTS), Err(rustix::io::Errno::PERM));
            assert_eq!(unshare(UnshareFlags::NEWUSER | UnshareFlags::FS), Err(rustix::io::Errno::PERM));
        })
        .join()
        .unwrap();
    }
}
