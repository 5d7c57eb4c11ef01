//! Which system calls a container may make.
//!
//! The rules are podman's, from the file that the host's container packages install. Where there is no such file, a
//! shorter list of our own takes its place: it refuses what a container has no use for and what a kernel bug could be
//! reached by, and allows the rest.

use std::fs;

use serde::Deserialize;
use serde_json::{Value, json};

/// Where the rules are, the administrator's own before those of the package.
const FILES: [&str; 2] = ["/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json"];

const ALLOW: &str = "SCMP_ACT_ALLOW";

/// `SCMP_ACT_ERRNO` with these numbers.
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSYS: u32 = 38;

/// What a container's init makes namespaces with. The kernel refuses these calls to its other processes, which lack the
/// capabilities and may make no user namespace.
const FOR_NAMESPACES: [&str; 6] = ["unshare", "setns", "mount", "umount", "umount2", "reboot"];

/// Returns the filter for a container with these capabilities, as a container's configuration has it
/// (`config-linux.md` of the OCI runtime specification, "Seccomp"). `makes_namespaces` says whether its init does.
pub(super) fn filter(capabilities: &[&str], makes_namespaces: bool) -> Value {
    let installed = FILES.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        serde_json::from_str::<Rules>(&text).inspect_err(|error| tracing::warn!("{file}: {error}")).ok()
    });
    let mut filter = match installed {
        Some(rules) => rules.filter(capabilities),
        None => own(),
    };
    if makes_namespaces {
        permit(&mut filter, &FOR_NAMESPACES);
    }
    filter
}

/// Allows system calls without conditions.
fn permit(filter: &mut Value, calls: &[&str]) {
    let Some(rules) = filter["syscalls"].as_array_mut() else { return };
    for rule in &mut *rules {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(|name| !name.as_str().is_some_and(|name| calls.contains(&name)));
        }
    }
    rules.retain(|rule| rule["names"].as_array().is_some_and(|names| !names.is_empty()));
    // A rule that only repeats the default is refused.
    if filter["defaultAction"] != ALLOW
        && let Some(rules) = filter["syscalls"].as_array_mut()
    {
        rules.push(json!({ "names": calls, "action": ALLOW }));
    }
}

/// The file's format, that of docker and podman.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    arch_map: Vec<Architecture>,
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Architecture {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

/// When a rule holds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// This processor's name in the file, and in filters.
const ARCHITECTURE: (&str, &str) = ("amd64", "SCMP_ARCH_X86_64");

impl Rules {
    fn filter(self, capabilities: &[&str]) -> Value {
        let kernel = kernel();
        let holds = |rule: &Rule| rule.holds(capabilities, kernel);
        let syscalls: Vec<Value> = self.syscalls.into_iter().filter(holds).map(Rule::into_filter).collect();
        let ours = self.arch_map.into_iter().find(|known| known.architecture == ARCHITECTURE.1);
        let further = ours.and_then(|known| known.sub_architectures).unwrap_or_default();
        let architectures: Vec<String> = [ARCHITECTURE.1.to_owned()].into_iter().chain(further).collect();
        let mut filter =
            json!({ "defaultAction": self.default_action, "architectures": architectures, "syscalls": syscalls });
        if let Some(number) = self.default_errno_ret {
            filter["defaultErrnoRet"] = number.into();
        }
        filter
    }
}

impl Rule {
    fn holds(&self, capabilities: &[&str], kernel: (u32, u32)) -> bool {
        let has = |name: &String| capabilities.contains(&name.as_str());
        let here = |name: &String| name == ARCHITECTURE.0;
        let is_new = |least: &String| version(least).is_some_and(|least| kernel >= least);
        let Self { includes, excludes, .. } = self;
        // An empty list asks for nothing.
        let listed = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
        let excluded = listed(&excludes.caps).is_some_and(|caps| caps.iter().any(has))
            || listed(&excludes.arches).is_some_and(|arches| arches.iter().any(here))
            || excludes.min_kernel.as_ref().is_some_and(is_new);
        let included = listed(&includes.caps).is_none_or(|caps| caps.iter().all(has))
            && listed(&includes.arches).is_none_or(|arches| arches.iter().any(here))
            && includes.min_kernel.as_ref().is_none_or(is_new);
        included && !excluded
    }

    fn into_filter(self) -> Value {
        let mut rule = json!({ "names": self.names, "action": self.action });
        if let Some(args) = self.args.filter(|args| !args.is_empty()) {
            rule["args"] = args.into();
        }
        if let Some(number) = self.errno_ret {
            rule["errnoRet"] = number.into();
        }
        rule
    }
}

fn kernel() -> (u32, u32) {
    version(&rustix::system::uname().release().to_string_lossy()).unwrap_or_default()
}

/// Reads the first two numbers of a kernel's release, such as `6.1.0-18-amd64`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// System calls that change the host or its kernel, or that read what is not the container's.
const REFUSED: [&str; 60] = [
    "acct",
    "bdflush",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "get_mempolicy",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "sysfs",
    "umount",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "_sysctl",
];

/// The flags of clone(2) that create namespaces: `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and
/// `NEWNET`.
const NAMESPACES: u32 = 0x7E02_0000;

/// Address families that lead out of a container, `AF_VSOCK` and `AF_ALG`.
const FAMILIES: [u32; 2] = [40, 38];

/// The list that is used where the host has none.
fn own() -> Value {
    let refuse =
        |names: &[&str], number: u32| json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number });
    let mut syscalls = vec![refuse(&REFUSED, EPERM), refuse(&["clone3"], ENOSYS)];
    for bit in (0..32).map(|shift| 1_u32 << shift).filter(|bit| NAMESPACES & bit != 0) {
        let mut rule = refuse(&["clone"], EPERM);
        rule["args"] = json!([{ "index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ" }]);
        syscalls.push(rule);
    }
    for family in FAMILIES {
        let mut rule = refuse(&["socket"], EINVAL);
        rule["args"] = json!([{ "index": 0, "value": family, "valueTwo": 0, "op": "SCMP_CMP_EQ" }]);
        syscalls.push(rule);
    }
    let architectures = [ARCHITECTURE.1, "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": syscalls })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
            {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["s390"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["later"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "999.0"}}]}"#;

    #[test]
    fn rules_hold_for_the_capabilities_the_processor_and_the_kernel() {
        let rules: Rules = serde_json::from_str(RULES).unwrap();
        let filter = rules.filter(&["CAP_SYS_CHROOT"]);
        let names: Vec<&str> =
            filter["syscalls"].as_array().unwrap().iter().map(|rule| rule["names"][0].as_str().unwrap()).collect();
        assert_eq!(names, ["read", "chroot", "bpf", "arch_prctl", "ptrace"]);
        assert_eq!(filter["syscalls"][2]["errnoRet"], 1);
        assert_eq!(filter["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
        assert_eq!(filter["defaultErrnoRet"], 38);
    }

    #[test]
    fn what_init_needs_is_allowed_and_not_refused_by_another_rule() {
        let rules: Rules = serde_json::from_str(RULES).unwrap();
        let mut filter = rules.filter(&[]);
        permit(&mut filter, &["bpf"]);
        let rules: Vec<(&Value, &Value)> =
            filter["syscalls"].as_array().unwrap().iter().map(|rule| (&rule["names"], &rule["action"])).collect();
        let of_bpf: Vec<_> = rules.iter().filter(|(names, _)| names.to_string().contains("bpf")).collect();
        assert_eq!(of_bpf, [&(&json!(["bpf"]), &json!(ALLOW))]);
        let mut own = own();
        permit(&mut own, &FOR_NAMESPACES);
        assert!(!own.to_string().contains("unshare") && own.to_string().contains("clone3"));
    }

    #[test]
    fn own_list_refuses_new_namespaces_whichever_call_makes_them() {
        let text = own().to_string();
        for name in ["unshare", "setns", "mount", "clone3", "SCMP_CMP_MASKED_EQ"] {
            assert!(text.contains(name), "{name}");
        }
        assert_eq!(own()["syscalls"].as_array().unwrap().len(), 2 + 7 + 2);
    }
}
