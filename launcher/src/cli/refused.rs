//! Wrong usage: what docker and podman have and Lamina does not is refused with one line that says what to do instead.
//! A tip for any other unknown word is given only if the words differ by a typing error.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::needs_linux;
use crate::failure::{Failure, MACHINE_FAILED, USAGE};

/// Commands whose exit status is that of a command in a machine.
const PASS_ON_A_STATUS: [&str; 5] = ["run", "create", "exec", "shell", "attach"];

/// Commands that have subcommands.
const GROUPS: [&str; 4] = ["image", "container", "volume", "system"];

/// Options of every command that take a value as a separate word.
const WITH_A_VALUE: [&str; 3] = ["--store", "--additional-store", "--also-read"];

const NAMESPACES: &str = "a machine shares no namespace with this host; leave it out";
const PROCESSOR: &str =
    "--cpus sets the processors; to limit the whole machine: systemd-run --user --scope -p CPUQuota=50% lamina run ...";
const MEMORY: &str = "a VM has the memory that --memory says, and no swap; leave it out";
const DISK: &str = "limit the whole machine instead: systemd-run --user --scope -p IOWeight=50 lamina run ...";
const ADDRESS: &str = "the VM's address is always 10.0.2.15, behind this host's; publish ports with -p";
const BUILD: &str = "it makes the image of a disk; Dockerfiles are built by `docker build` or `buildah build`";
const CONTENT_TRUST: &str = "nothing here signs images in docker's way; leave it out";
const REGISTRY: &str = "pull the image first, with the options of `lamina pull`";

/// Options of `run` and `create`, and what to do instead. A `*` stands for any ending.
const OF_RUN: &[(&[&str], &str)] = &[
    (
        &["--restart"],
        "systemd restarts machines, as in: systemd-run --user -p Restart=always lamina run --name web IMAGE",
    ),
    (&["--health-*"], "nothing runs health checks; --ready port:N waits for the start, and `lamina exec` asks later"),
    (
        &["--log-driver", "--log-opt"],
        "the output is in a file of the machine, bounded by --log-max-size; `lamina logs --follow --json` passes it on",
    ),
    (
        &["--link*"],
        "publish a port of the other machine with -p; with --host-loopback this one reaches it at host.docker.internal:PORT",
    ),
    (&["--gpus"], "no engine here gives a VM a GPU; run this program on the host"),
    (
        &["--privileged"],
        "in a VM the command is root with all capabilities already; leave it out (in a container: --cap-add ALL)",
    ),
    (&["--volumes-from"], "name the volumes again, as in -v NAME:/path"),
    (&["--network-alias", "--net-alias", "--ip", "--ip6", "--mac-address"], ADDRESS),
    (&["--cpu-*", "--cpuset-*", "-c"], PROCESSOR),
    (&["--memory-*", "--kernel-memory", "--oom-*"], MEMORY),
    (&["--blkio-*", "--device-read-*", "--device-write-*", "--io-*"], DISK),
    (&["--pid", "--ipc", "--uts", "--cgroupns", "--cgroups", "--cgroup-*", "--device-cgroup-rule"], NAMESPACES),
    (
        &["--userns", "--uidmap", "--gidmap", "--subuidname", "--subgidname"],
        "a share belongs to the command's user in the VM already; leave it out, or use -v HOST:GUEST:uid=N,gid=N",
    ),
    (&["--runtime", "--isolation"], "choose what runs the machine with --engine"),
    (&["--storage-opt"], "limit what the VM writes with --tmpfs-size, or with --keep=SIZE on a disk"),
    (&["--security-opt"], "only no-new-privileges can be chosen; take capabilities away with --cap-drop"),
    (&["--sig-proxy"], "signals reach the command, unless it runs with --detach; leave it out"),
    (&["--detach-keys"], "there are none; run it with --detach, and see its output with `lamina logs --follow NAME`"),
    (&["--attach", "-a"], "output and errors are always passed on; add -i for input"),
    (&["--domainname"], "give the whole name: --hostname NAME.DOMAIN"),
    (&["--volume-driver"], "a volume is a directory of this host; mount it here and share it with -v DIR:/path"),
    (&["--pod*"], "there are no pods; run each machine with --detach and publish its ports with -p"),
    (&["--shm-size-systemd"], "use --shm-size"),
    (&["--tz"], "set it as a variable: -e TZ=Europe/Berlin"),
    (&["--umask"], "set it in the command: sh -c 'umask 077; exec program'"),
    (&["--env-host"], "pass on each variable that is needed: -e NAME"),
    (&["--unsetenv*"], "unset it in the command: env -u NAME program"),
    (&["--arch", "--os"], "write --platform OS/ARCH"),
    (&["--authfile", "--tls-verify", "--creds", "--cert-dir"], REGISTRY),
    (&["--timeout"], "limit the time from here: timeout SECONDS lamina run ..."),
    (
        &["--hosts-file", "--no-hosts", "--no-hostname"],
        "the guest's init writes /etc/hosts; add names with --add-host, or share a file: -v ./hosts:/etc/hosts",
    ),
    (
        &["--passwd*", "--group-entry", "--hostuser"],
        "a user needs no entry in /etc/passwd: --user UID:GID; others belong into the image",
    ),
    (&["--http-proxy", "--env-merge"], "pass on each variable that is needed: -e http_proxy"),
    (&["--image-volume"], "volumes of the image take writes anyway; keep them with -v NAME:/path"),
    (&["--read-only-tmpfs"], "with --read-only, add what must take writes: --tmpfs /tmp --tmpfs /run"),
    (&["--pidfile", "--conmon-pidfile"], "`lamina inspect --json NAME` lists the processes; --cidfile writes the name"),
    (&["--preserve-fd*"], "share the file instead, as in -v FILE:/path, or pass its content with -i < FILE"),
    (&["--sdnotify"], "--detach returns when the machine is ready (--ready); in a unit of systemd, use Type=exec"),
    (
        &["--seccomp-policy", "--rdt-class", "--personality", "--chrootdirs", "--cgroup-conf"],
        "Lamina has nothing like it; leave it out",
    ),
    (
        &["--init-path", "--init-ctr", "--requires"],
        "start what must run before by a command of its own, or in a unit of systemd",
    ),
    (&["--decryption-key", "--retry*", "--use-api-socket"], REGISTRY),
    (&["--rmi"], "remove the image afterwards: lamina rmi IMAGE"),
    (&["--hooks-dir"], "no hooks are run; start what must run before by a command of its own"),
];

/// Switches of docker and podman for `run`, `create` and `exec` that Lamina does not have. To turn them off changes nothing.
const SWITCHES: [&str; 11] = [
    "privileged",
    "oom-kill-disable",
    "rmi",
    "no-hosts",
    "no-hostname",
    "env-host",
    "unsetenv-all",
    "http-proxy",
    "passwd",
    "read-only-tmpfs",
    "shm-size-systemd",
];

/// Options of other commands.
const OF_OTHERS: &[(&str, &[&str], &str)] = &[
    ("exec", &["--privileged"], "root has all capabilities that the machine has; leave it out"),
    ("exec", &["--detach-keys"], "there are none; run it with --detach"),
    (
        "attach",
        &["--detach-keys"],
        "there are none; `lamina logs --follow NAME` shows the output without passing on signals",
    ),
    ("exec", &["--preserve-fd*", "--cidfile"], "name the machine, and pass content with -i < FILE"),
    ("pull", &["--arch", "--os", "--variant"], "write --platform OS/ARCH/VARIANT"),
    ("pull", &["--retry*", "--decryption-key"], "a transfer that breaks off is tried again by itself; leave it out"),
    ("pull", &["--disable-content-trust"], CONTENT_TRUST),
    ("push", &["--disable-content-trust"], CONTENT_TRUST),
    ("save", &["--multi-image-archive", "-m"], "an archive may have several images anyway; leave it out"),
    ("diff", &["--format"], "--json prints it as JSON"),
    ("commit", &["--include-volumes"], "what is in volumes is never a part of an image; leave it out"),
    ("create", &["--name"], "write the name by itself: lamina volume create NAME"),
    ("push", &["--all-tags", "-a"], "name each tag: lamina images --format '{{.Repository}}:{{.Tag}}' NAME"),
    (
        "push",
        &["--sign-*", "--remove-signatures", "--encrypt*", "--retry*", "--format", "-f", "--compression-level"],
        "the manifest is sent as it is, and broken transfers are tried again; for the rest use skopeo copy",
    ),
    ("push", &["--platform"], "pull that platform, or push all that are kept with --all-platforms"),
    ("build-image", &["-t", "--tag", "--build-arg", "--no-cache", "--target"], BUILD),
    ("rmi", &["--ignore", "-i"], "use --force, which does not fail for an image that does not exist"),
    (
        "rm",
        &["--ignore", "-i", "--depend", "--time", "-t", "--filter", "--cidfile"],
        "use --force, which ends the machine first; choose with lamina ps --all --quiet --filter",
    ),
    ("kill", &["--cidfile"], "name the machine: lamina kill $(cat FILE)"),
    (
        "stop",
        &["--cidfile", "--filter", "-f"],
        "choose the machines: lamina stop $(lamina ps --quiet --filter KEY=VALUE)",
    ),
    ("restart", &["--running"], "name the machines: lamina restart $(lamina ps --quiet)"),
    ("restart", &["--signal", "-s"], "lamina stop --signal SIGNAL NAME && lamina start NAME"),
    (
        "restart",
        &["--cidfile", "--filter", "-f"],
        "choose the machines: lamina restart $(lamina ps --quiet --filter KEY=VALUE)",
    ),
    (
        "start",
        &["--detach-keys", "--checkpoint*", "--sig-proxy"],
        "signals reach the command, and no key detaches; leave it out",
    ),
    ("cp", &["--overwrite"], "what is there is replaced anyway; leave it out"),
    ("login", &["--verbose", "-v"], "it says where the login is stored; leave it out"),
    ("images", &["--history"], "lamina history IMAGE"),
    ("logs", &["--latest", "-l"], "name the machine; `lamina ps --latest --quiet` prints the last one"),
    ("rmi", &["--all", "-a"], "use lamina image prune --all --force"),
    ("ps", &["--size", "-s"], "`lamina inspect --text NAME` shows the size of a machine's disk"),
    ("images", &["--tree"], "`lamina du` shows what images share"),
    ("build-image", &["-f", "--file"], BUILD),
    ("rm", &["--link", "-l"], "machines have no links; leave it out"),
    (
        "prune",
        &["--filter", "--until", "--build"],
        "prune removes all that is not used; choose with `lamina ps --all --filter` and `rm`",
    ),
    ("create", &["--opt", "-o"], "a volume is a directory of this host; mount it here and share it with -v DIR:/path"),
    ("logs", &["--names", "--color"], "it shows the output of one machine as it is"),
    (
        "stop",
        &["--ignore", "-i"],
        "a machine that does not exist is an error; `lamina container exists NAME` asks first",
    ),
    ("wait", &["--condition", "--interval", "-i"], "it waits for the end; --ready of `run` waits for the start"),
    (
        "save",
        &["--compress", "--uncompressed"],
        "layers are saved as they are stored; compress the archive, as in lamina save IMAGE | zstd",
    ),
    ("commit", &["--squash", "-s", "--format", "-f"], "the new image has the config of the old one and one more layer"),
    ("ps", &["--sort"], "sort what it prints: lamina ps --format '{{.CreatedAt}} {{.Names}}' | sort"),
    ("ps", &["--watch", "-w"], "watch -n 1 lamina ps"),
    ("ps", &["--pod", "-p", "--ns", "--namespace", "--external", "--sync"], "machines have none of that; leave it out"),
    ("ps", &["--noheading"], "--format prints no headings, as in --format '{{.Names}}'"),
    (
        "images",
        &["--sort"],
        "sort what it prints: lamina images --format '{{.CreatedAt}} {{.Repository}}:{{.Tag}}' | sort",
    ),
    ("images", &["--noheading", "-n"], "--format prints no headings, as in --format '{{.Repository}}:{{.Tag}}'"),
    (
        "stats",
        &["--interval", "-i", "--no-reset"],
        "it shows the use of each second; for one mount or machine: --watch SECONDS",
    ),
    ("start", &["--all"], "lamina start $(lamina ps --all --quiet --filter status=exited)"),
];

/// Options of every command, and what to do instead.
const OF_ALL: &[(&[&str], &str)] = &[
    (&["-D", "--debug", "--log-level", "--syslog"], "--verbose logs what is done, and twice logs it in detail"),
    (
        &["-H", "--host", "--context", "--connection", "--url", "--remote", "--identity", "--tls*"],
        "there is no daemon to connect to; Lamina works on this host: ssh HOST lamina ...",
    ),
    (&["--root", "--runroot", "--storage-driver", "--imagestore"], "name the store of images with --store DIR"),
    (
        &[
            "--config",
            "--cgroup-manager",
            "--conmon",
            "--events-backend",
            "--tmpdir",
            "--noout",
            "--out",
            "--volumepath",
            "--runtime",
            "--module",
            "--ssh",
        ],
        "Lamina has no such setting; leave it out",
    ),
    (&["--latest", "-l"], "name the machine; `lamina ps --latest --quiet` prints the last one"),
];

/// Commands of groups, and what to do instead.
const OF_GROUPS: &[(&str, &str, &str)] = &[
    ("volume", "export", "pack its directory: tar -C $(lamina volume inspect --format '{{.Mountpoint}}' NAME) -c ."),
    (
        "volume",
        "import",
        "unpack into its directory: tar -C $(lamina volume inspect --format '{{.Mountpoint}}' NAME) -x",
    ),
    (
        "volume",
        "mount",
        "it is a directory of this host already: lamina volume inspect --format '{{.Mountpoint}}' NAME",
    ),
    ("volume", "update", "a volume has no options; create another one with `lamina volume create`"),
    ("image", "diff", "`lamina diff` shows what a machine has written; `lamina history` shows the steps of an image"),
    ("image", "sign", "sign it with cosign; `lamina pull --policy` checks signatures"),
    ("image", "scp", "lamina save IMAGE | ssh HOST lamina load"),
    ("container", "mount", "`lamina cp NAME:/path DIR` copies files out; `lamina mount IMAGE DIR` mounts an image"),
    ("container", "umount", "nothing of a machine is mounted on this host"),
    ("container", "clone", "lamina commit NAME REF, and run REF with the options that the clone needs"),
    ("container", "restore", "`lamina start` starts a machine again; with --keep it has what it wrote"),
    ("container", "cleanup", "nothing is left to clean up after a machine"),
    (
        "container",
        "runlabel",
        "read the label, and run what it says: lamina inspect --format '{{.Config.Labels}}' IMAGE",
    ),
    ("volume", "unmount", "it is a directory of this host, and never mounted"),
    ("volume", "reload", "there are no plugins; `lamina volume ls` lists all volumes"),
    ("system", "service", "there is no daemon, and nothing listens; each command does its own work"),
    ("system", "migrate", "machines and images of earlier versions are used as they are"),
    ("system", "renumber", "machines hold their locks themselves"),
    ("system", "check", "`lamina verify` checks the store"),
    ("system", "dial-stdio", "there is no daemon to connect to; use ssh HOST lamina ..."),
    ("image", "tree", "`lamina du --layers` shows which images share layers"),
    ("system", "connection", "Lamina works on this host only; use ssh HOST lamina ..."),
    ("system", "reset", "lamina rm --all --force && lamina system prune --all --volumes --force"),
    ("system", "info", "`lamina doctor` tests this host; `lamina system df` shows the space"),
];

/// Commands, and what to do instead.
const COMMANDS: &[(&[&str], &str)] = &[
    (
        &["build", "buildx", "builder", "bake"],
        "Lamina builds no Dockerfiles: use `buildah build` or `docker build` and `lamina import`; or `lamina commit` a machine",
    ),
    (
        &["compose", "stack", "kube", "play", "generate", "quadlet"],
        "start each machine with `lamina run --detach`, or by a unit of systemd",
    ),
    (
        &["network"],
        "each machine has a network of its own; publish ports with -p, and reach those of others with --host-loopback",
    ),
    (&["pod"], "there are no pods; run each machine with `lamina run --detach` and publish its ports with -p"),
    (&["search"], "search on the registry's own page; `skopeo list-tags docker://NAME` lists tags"),
    (
        &["swarm", "service", "node", "config", "context", "machine", "farm"],
        "Lamina runs machines on this host only; use ssh HOST lamina ...",
    ),
    (&["secret"], "name the file when a machine is run: lamina run --secret NAME=FILE IMAGE"),
    (
        &["plugin", "checkpoint", "trust", "manifest", "artifact"],
        "Lamina has nothing like it; `lamina --help` lists the commands",
    ),
    (&["pause"], "stop its command with `lamina kill --signal STOP NAME`, and continue it with --signal CONT"),
    (&["unpause"], "continue its command with `lamina kill --signal CONT NAME`"),
    (&["events"], "poll `lamina ps --all --json`, or wait for an end with `lamina wait NAME`"),
    (&["update"], "a machine keeps the options that it was created with; create another with `lamina run`"),
    (
        &["info"],
        "`lamina doctor` tests this host; `lamina version` shows the version; `lamina system df` shows the space",
    ),
    (&["healthcheck"], "nothing runs health checks; ask with `lamina exec NAME COMMAND`"),
    (&["untag"], "remove the name with `lamina rmi NAME`; other names of the image stay"),
    (&["auto-update"], "pull the image, and run the machine again"),
    (
        &["restore", "clone", "cleanup", "runlabel", "scp"],
        "`lamina container` and `lamina image` list what can be done instead",
    ),
    (&["init"], "`lamina --help` lists the commands, and `lamina COMMAND --help` their options"),
    (
        &["scout", "sbom", "debug", "desktop", "extension", "model", "mcp"],
        "Lamina has nothing like it; `lamina --help` lists the commands",
    ),
    (&["unshare"], "nothing here needs a user namespace; `lamina mount` needs no root"),
];

/// Returns the refusal of an option of `run`, which may have a value.
#[cfg(target_os = "linux")]
pub(super) fn of_run(option: &str) -> Failure {
    let name = option.split('=').next().unwrap_or(option);
    Failure::new(option, find(OF_RUN, name).unwrap_or("Lamina has nothing like it; leave it out")).with_status(USAGE)
}

/// Whether a command of docker or podman has this switch, and Lamina does not.
pub(super) fn is_switch(command: &str, name: &str) -> bool {
    ["run", "create", "shell", "exec"].contains(&command) && SWITCHES.contains(&name)
}

/// Returns the exit status of a command line that is wrong, or asks for help.
pub(super) fn status(error: &clap::Error, arguments: &[OsString]) -> u8 {
    match error.exit_code() {
        0 => 0,
        _ if has_command(&path(arguments), &PASS_ON_A_STATUS) => MACHINE_FAILED,
        _ => USAGE,
    }
}

/// Prints why the arguments are wrong, or the help that they ask for. Returns the exit status.
pub(super) fn report(mut error: clap::Error, arguments: &[OsString]) -> u8 {
    let (path, status) = (path(arguments), status(&error, arguments));
    if let Some(failure) = instead(&error, &path) {
        tell!("lamina: {failure}");
        return status;
    }
    drop_far_tips(&mut error);
    // There is nowhere else to report that it cannot be written.
    let _ = error.print();
    status
}

/// Returns the command that the arguments name, with the group that it is in.
fn path(arguments: &[OsString]) -> Vec<String> {
    let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let mut path = Vec::new();
    while let Some(word) = words.next() {
        if WITH_A_VALUE.contains(&word) {
            words.next();
        } else if !word.starts_with('-') {
            path.push(word.to_owned());
            if !GROUPS.contains(&word) {
                break;
            }
        }
    }
    path
}

/// Returns the refusal of a word that docker or podman has.
fn instead(error: &clap::Error, path: &[String]) -> Option<Failure> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let (word, line) = match error.kind() {
        ErrorKind::UnknownArgument => {
            let word = word(ContextKind::InvalidArg)?;
            let word = word.split('=').next().unwrap_or(word);
            (word, option(path, word).or_else(|| find(OF_ALL, word))?)
        }
        ErrorKind::InvalidSubcommand => {
            let word = word(ContextKind::InvalidSubcommand)?;
            let of_group = path.first().filter(|group| GROUPS.contains(&group.as_str()));
            let own = of_group.and_then(|group| OF_GROUPS.iter().find(|(of, own, _)| of == group && *own == word));
            let own = own.map(|(.., line)| *line);
            (word, own.or_else(|| needs_linux::instead(word)).or_else(|| find(COMMANDS, word))?)
        }
        _ => return None,
    };
    Some(Failure::new(word, needs_linux::remedy(line)))
}

/// Whether the command is one of these, and not a command on volumes of the same name.
fn has_command(path: &[String], commands: &[&str]) -> bool {
    let is_about_volumes = path.first().is_some_and(|group| group == "volume");
    !is_about_volumes && path.last().is_some_and(|command| commands.contains(&command.as_str()))
}

fn option(path: &[String], word: &str) -> Option<&'static str> {
    if has_command(path, &["run", "create", "shell"]) {
        return find(OF_RUN, word);
    }
    let command = path.last()?;
    let own = OF_OTHERS.iter().filter(|(of, ..)| of == command);
    own.copied().find(|(_, words, _)| words.iter().any(|known| fits(known, word))).map(|(.., line)| line)
}

fn find(table: &[(&[&str], &'static str)], word: &str) -> Option<&'static str> {
    table.iter().find(|(words, _)| words.iter().any(|known| fits(known, word))).map(|(_, line)| *line)
}

fn fits(known: &str, word: &str) -> bool {
    known.strip_suffix('*').map_or(known == word, |start| word.starts_with(start))
}

/// Removes tips that name a word other than the one that was meant.
fn drop_far_tips(error: &mut clap::Error) {
    for (given, tip) in [
        (ContextKind::InvalidArg, ContextKind::SuggestedArg),
        (ContextKind::InvalidSubcommand, ContextKind::SuggestedSubcommand),
        (ContextKind::InvalidValue, ContextKind::SuggestedValue),
    ] {
        let (Some(ContextValue::String(given)), Some(tips)) = (error.get(given), error.get(tip)) else { continue };
        let near: Vec<String> = match tips {
            ContextValue::String(word) => vec![word.clone()],
            ContextValue::Strings(words) => words.clone(),
            _ => continue,
        };
        let single = matches!(tips, ContextValue::String(_));
        let mut near: Vec<String> = near.into_iter().filter(|word| is_typing_error(given, word)).collect();
        error.remove(tip);
        if single && let Some(word) = near.pop() {
            error.insert(tip, ContextValue::String(word));
        } else if !near.is_empty() {
            error.insert(tip, ContextValue::Strings(near));
        }
    }
    // What follows is right only for a word without a tip.
    if error.get(ContextKind::SuggestedArg).is_none() && error.kind() == ErrorKind::UnknownArgument {
        error.remove(ContextKind::SuggestedSubcommand);
        error.remove(ContextKind::Suggested);
    }
}

fn is_typing_error(given: &str, meant: &str) -> bool {
    let [given, meant] =
        [given, meant].map(|word| word.trim_start_matches('-').split(['=', ' ']).next().unwrap_or(word));
    let most = if given.len() < 7 { 1 } else { 2 };
    strsim::osa_distance(given, meant) <= most
}

/// Returns every remedy, and what it is for.
#[cfg(test)]
pub(super) fn lines() -> impl Iterator<Item = (String, &'static str)> {
    let lines = OF_RUN
        .iter()
        .chain(COMMANDS)
        .chain(OF_ALL)
        .chain(needs_linux::COMMANDS)
        .map(|(words, line)| (words.join(" "), *line));
    let others = OF_OTHERS.iter().map(|(command, words, line)| (format!("{command} {}", words.join(" ")), *line));
    let groups = OF_GROUPS.iter().map(|(group, word, line)| (format!("{group} {word}"), *line));
    lines.chain(others).chain(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_after_options_and_within_its_group() {
        for (line, expected) in [
            ("lamina run --restart=always x", &["run"][..]),
            ("lamina --store /s --json image ls -q", &["image", "ls"]),
            ("lamina --store=/s exec x ls", &["exec"]),
            ("lamina volume create --opt x", &["volume", "create"]),
            ("lamina", &[]),
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(path(&arguments), expected, "{line}");
        }
    }

    #[test]
    fn only_typing_errors_have_tips() {
        for (given, meant) in
            [("--labels", "--label"), ("imagse", "images"), ("--memroy <SIZE>", "--memory"), ("rn", "run")]
        {
            assert!(is_typing_error(given, meant), "{given}");
        }
        for (given, meant) in [("--label", "--accel"), ("login", "logs"), ("tag", "gc"), ("top", "stop2")] {
            assert!(!is_typing_error(given, meant), "{given}");
        }
    }

    /// Whether a command, or one of its subcommands, has the option.
    fn has_option(command: &clap::Command, option: &str) -> bool {
        let own = command.get_arguments().any(|argument| {
            let names = argument.get_long_and_visible_aliases().unwrap_or_default();
            names.contains(&option)
        });
        own || command.get_subcommands().any(|command| has_option(command, option))
    }

    #[test]
    fn every_line_names_only_commands_and_options_that_exist() {
        use clap::CommandFactory;
        let lamina = super::super::Cli::command();
        // What is said about other programs.
        const OF_OTHER_PROGRAMS: [&str; 1] = ["user"];
        for (what, line) in lines() {
            for rest in line.split("lamina ").skip(1) {
                let word = rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
                let exists = lamina.get_subcommands().any(|command| command.get_name() == word);
                assert!(exists || ["", "--help"].contains(&word), "{what}: lamina {word}");
            }
            for rest in line.split("--").skip(1) {
                let option = rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
                let known = ["help", "scope"].contains(&option) || OF_OTHER_PROGRAMS.contains(&option);
                assert!(option.is_empty() || known || has_option(&lamina, option), "{what}: --{option}");
            }
        }
    }

    #[test]
    fn what_is_refused_does_not_exist() {
        use clap::CommandFactory;
        let lamina = super::super::Cli::command();
        for word in COMMANDS.iter().flat_map(|(words, _)| *words) {
            assert!(lamina.find_subcommand(word).is_none(), "{word}");
        }
        let run = lamina.find_subcommand("run").unwrap();
        // Some of their values are accepted.
        let accepted = super::super::linux::accepted::VALUES.map(|(option, _)| option);
        let is_refused = |word: &&&str| !accepted.contains(word) && **word != "--security-opt";
        for word in OF_RUN.iter().flat_map(|(words, _)| *words).filter(is_refused) {
            let option = word.trim_start_matches('-');
            let takes = |argument: &clap::Arg| {
                let long = argument.get_long_and_visible_aliases().unwrap_or_default();
                let short = argument.get_short().map(String::from);
                long.into_iter().map(str::to_owned).chain(short).any(|name| fits(option, &name))
            };
            assert!(!run.get_arguments().any(takes), "{word}");
        }
    }

    #[test]
    fn every_line_is_one_line() {
        for (what, line) in lines() {
            assert!(!line.contains('\n') && line.len() < 140, "{what}: {line}");
        }
    }
}
