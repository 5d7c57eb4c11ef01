//! `lamina run`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use guest_protocol::{GuestOptions, Privileges};
use layer_store::Store;
use transfer_cli::parse_size;

use super::accepted::Accepted;
use super::exec::Exec;
use super::guest_options::GuestArgs;
use super::missing::Missing;
use super::mounts::{Mounts, Resolved};
use super::outcome::{Outcome, refuse_json};
use super::ports::{self, Ports};
use super::values::{Processors, TO_BOOT, parse_disk, parse_log_size, parse_memory, parse_name, split_command};
use super::{config, ending};
use crate::cli::on_top::OnTop;
use crate::cli::{Global, store};
use crate::engine::{Backend, Choice, Limits, RunRequest, table};
use crate::failure::{About, Failure, USAGE};
use crate::host::confine::Level;
use crate::host::network::{GATEWAY, NetworkBackend, Publish};
use crate::machine::kept;
use crate::machine::launch::{self, Prepared};
use crate::machine::{self, Directory, ReadyPipe, Record, Signals, State};
use crate::open_store::open_store;
use crate::print;
use crate::spec::command::{self, Overrides};
use crate::spec::image_config::Defaults;
use crate::spec::ready::Ready;
use crate::spec::secret::{self, Secret};
use crate::spec::{ResolverChanges, Root, Spec, Writes, signal};

/// The memory of a VM in MiB for which no other size is given.
const DEFAULT_MEMORY: u64 = 512;

/// What the options of a help are about.
const COMMAND: &str = "The command";
const ENGINE: &str = "How the machine runs";

/// Run a command on an image, in a VM or a container
///
/// `lamina run` exits with the command's status. As in a shell, 126 and 127 mean that the command could not be run or was
/// not found, and 128 + N that signal N ended it; 125 means that Lamina itself failed.
/// The command gets standard input only with -i, as in docker, or when both standard input and output are a terminal; it
/// then gets a terminal too. All that follows the image is the command, even what looks like an option. An image that is not in
/// the store is pulled. What the VM writes stays in its memory and is lost when it ends, unless --keep gives it a disk. --json works as for
/// `lamina exec`.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "lamina run [OPTIONS] IMAGE [CMD] [ARG]...\n       lamina run [OPTIONS] --rootfs DIR [CMD] [ARG]...",
    after_help = "\
Examples:
  lamina run debian:12 cat /etc/os-release
  lamina run debian:12 bash
  lamina run -i debian:12 sort < words
  lamina run -v .:/work -v ~/.cache:/cache:ro -w /work python:3.12 python3 build.py
  lamina run -p 8080:80 -v ./site:/srv:ro nginx:1
  lamina run --secret token=$HOME/.token --env-file dev.env app:1
  lamina run --detach --name web --ready port:8000 -p 8000:8000 debian:12 python3 -m http.server
  lamina run --keep --name build debian:12 make install && lamina commit build app:2
  lamina run --engine container debian:12 apt-get --version
  lamina run --engine cloud-hypervisor --keep --name db debian:12
  lamina run --dry-run debian:12 true"
)]
pub(in crate::cli) struct Run {
    /// Boot this directory instead of an image; all words are then the command
    #[arg(long, value_name = "DIR", conflicts_with_all = ["layers", "variant"])]
    rootfs: Option<PathBuf>,
    #[command(flatten)]
    on_top: OnTop,
    #[command(flatten)]
    missing: Missing,
    #[command(flatten)]
    mounts: Mounts,
    /// Pass standard input to the command; without it, only a terminal is passed on. With --detach: keep its input open
    #[arg(short, long, help_heading = COMMAND)]
    interactive: bool,
    /// Give the command a terminal, even if standard input or output is not one
    #[arg(short, long, help_heading = COMMAND)]
    tty: bool,
    /// Set an environment variable; without a value, pass on this process's
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = COMMAND)]
    env: Vec<String>,
    /// Read environment variables from a file with NAME=VALUE or NAME on each line
    #[arg(long, value_name = "FILE", help_heading = COMMAND)]
    env_file: Vec<PathBuf>,
    /// Give the VM a file as /run/secrets/NAME, in its memory only; also id=NAME,src=FILE
    #[arg(long = "secret", value_name = "[NAME=]FILE", help_heading = COMMAND)]
    secrets: Vec<Secret>,
    /// The machine's network: passt, slirp (built into QEMU), none, auto (also bridge), or host (a container only), which is
    /// this host's own
    #[arg(long, alias = "net", default_value = "auto", hide_default_value = true)]
    network: Choice<NetworkBackend>,
    /// Forward a port of this host to the VM; it is bound to 127.0.0.1 unless an address is given. Ports may be ranges, as
    /// in 8000-8010:80-90; an IPv6 address is in brackets. Without HOST, a free port is taken, which `lamina port` shows
    #[arg(short, long = "publish", value_name = "[[ADDRESS:]HOST:]GUEST[/udp]")]
    publish: Vec<Ports>,
    /// Forward free ports of this host to all ports that the image exposes
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Let the VM reach services that listen on this host's loopback, as host.docker.internal or
    /// host.containers.internal
    #[arg(long, alias = "allow-host-loopback")]
    host_loopback: bool,
    /// The command's working directory, created if missing
    #[arg(short, long, value_name = "DIR", help_heading = COMMAND)]
    workdir: Option<String>,
    /// The command's user: a name or number, optionally followed by ":GROUP"
    #[arg(short, long, help_heading = COMMAND)]
    user: Option<String>,
    /// Run this instead of the image's Entrypoint
    #[arg(long, value_name = "PROGRAM", help_heading = COMMAND)]
    entrypoint: Option<String>,
    /// The signal that asks the command to end [default: the image's StopSignal, else TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = signal::parse, help_heading = COMMAND)]
    stop_signal: Option<u32>,
    /// Processors; a VM's are whole, so a fraction is rounded up [default: 1; a container is limited only on request]
    #[arg(long, value_name = "N", help_heading = ENGINE)]
    cpus: Option<Processors>,
    /// Memory of the machine [default: 512M; a container is limited only on request]
    #[arg(long, short, value_name = "SIZE", value_parser = parse_memory, help_heading = ENGINE)]
    memory: Option<u64>,
    /// The most processes and threads of a container; 0 or -1 for any number
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..), help_heading = ENGINE)]
    pids_limit: Option<i64>,
    /// How much of its memory the VM may fill with what it writes [default: half]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "read_only", help_heading = ENGINE)]
    tmpfs_size: Option<u64>,
    /// Make the VM's root read-only
    #[arg(long)]
    read_only: bool,
    /// Run in the background: return once the command runs, and print the machine's name
    #[arg(short, long)]
    detach: bool,
    /// With --detach: remove the machine when it ends, as a machine in the foreground is anyway
    #[arg(long = "rm")]
    remove: bool,
    /// Keep what the VM writes on a sparse disk of this size, until `lamina rm` [default: 10G]
    #[arg(
        long,
        value_name = "SIZE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10G",
        value_parser = parse_disk,
        conflicts_with_all = ["read_only", "tmpfs_size", "remove"]
    )]
    keep: Option<u64>,
    /// The machine's name, and its host name
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// Remove the machine that has this name first, even if it runs
    #[arg(long, requires = "name")]
    replace: bool,
    /// How the VM reads its root: direct, virtiofsd, block, materialize or auto
    #[arg(long, default_value = "auto", hide_default_value = true, help_heading = ENGINE)]
    backend: Choice<Backend>,
    /// What runs the machine: qemu, cloud-hypervisor (with KVM), container (at full speed without KVM, on the host's
    /// kernel) or auto, which takes the first hypervisor that works and never a container [default: $LAMINA_ENGINE, else
    /// engine in ~/.config/lamina/config.toml, else auto]
    #[arg(long, value_parser = table::parse_engine, help_heading = ENGINE)]
    engine: Option<Choice<String>>,
    /// The accelerator: kvm, tcg (emulation) or auto
    #[arg(long, default_value = "auto", hide_default_value = true, value_parser = table::parse_accelerator, help_heading = ENGINE)]
    accel: Choice<String>,
    /// QEMU's machine type: microvm, q35 or auto
    #[arg(long, default_value = "auto", hide_default_value = true, value_parser = table::parse_machine, help_heading = ENGINE)]
    machine: Choice<String>,
    /// How much the hypervisor is confined: auto (as much as the host permits), strict (all of it, or refuse) or off
    /// [default: $LAMINA_CONFINE, else auto]
    #[arg(long, value_name = "HOW", help_heading = ENGINE)]
    confine: Option<Level>,
    /// As root: the user that the VM's programs run as [default: $LAMINA_AS, else lamina]
    #[arg(long = "as", value_name = "USER", help_heading = ENGINE)]
    run_as: Option<String>,
    /// The VM's kernel [default: the newest under /boot]
    #[arg(long, value_name = "FILE", help_heading = ENGINE)]
    kernel: Option<PathBuf>,
    /// How much of the host's disk the log of the command's output may take, and the log of the console as much; the
    /// oldest lines are discarded
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_log_size, help_heading = ENGINE)]
    log_max_size: u64,
    /// Show the kernel's console on standard error
    #[arg(long, help_heading = ENGINE)]
    console: bool,
    /// Answer `lamina stats` at this socket as well
    #[arg(long, value_name = "SOCKET", conflicts_with = "rootfs", help_heading = ENGINE)]
    stats: Option<PathBuf>,
    /// Explain how the VM is run, and why
    #[arg(long, help_heading = ENGINE)]
    explain: bool,
    /// Print the command lines and start nothing
    #[arg(long, help_heading = ENGINE)]
    dry_run: bool,
    /// With --detach: return when the root is up (root), the command runs (exec), or something in the VM listens on a
    /// TCP port (port:N)
    #[arg(long, value_name = "WHEN", default_value = "exec", requires = "detach", help_heading = ENGINE)]
    ready: Ready,
    /// How many seconds the VM may take to become ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120, help_heading = ENGINE)]
    ready_timeout: u64,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    accepted: Accepted,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Set by `lamina create`.
    #[arg(skip)]
    only_create: bool,
    /// The image, and the command to run in it; the image's own by default
    #[arg(trailing_var_arg = true, value_name = "IMAGE", required_unless_present = "rootfs")]
    words: Vec<String>,
}

/// Prepare a machine as `lamina run` does, and start nothing
///
/// `lamina start` starts it, in the background or, with --attach, at this terminal.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "lamina create [OPTIONS] IMAGE [CMD] [ARG]...",
    after_help = "\
Examples:
  lamina create --name web -p 8000:80 nginx:1
  lamina start web"
)]
pub(in crate::cli) struct Create {
    #[command(flatten)]
    run: Run,
}

impl Create {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        for (given, option) in [(self.run.remove, "--rm"), (self.run.dry_run, "--dry-run")] {
            if given {
                return Err(Failure::new(option, "a machine that is only created is not removed or tried")
                    .with_hint("use lamina run")
                    .with_status(USAGE));
            }
        }
        Run { detach: true, only_create: true, ..self.run }.execute(global)
    }
}

impl Run {
    /// Returns the image, if there is one and no command; otherwise how many words there are.
    pub(super) fn only_word(&self) -> Result<&str, usize> {
        match self.words.as_slice() {
            [word] if self.rootfs.is_none() => Ok(word),
            words => Err(words.len()),
        }
    }

    /// Returns the same machine with this command and with input instead of the image's command.
    pub(super) fn with_shell(mut self, terminal: bool, shell: [String; 3]) -> Self {
        (self.interactive, self.tty, self.entrypoint) = (true, terminal, Some(String::new()));
        self.words.extend(shell);
        self
    }

    /// Returns the options that a further command in a machine has too.
    pub(super) fn for_exec(self) -> Exec {
        let Self { env, env_file, workdir, user, .. } = self;
        Exec { env, env_file, workdir, user, ..Exec::default() }
    }

    pub(super) fn execute(mut self, global: &Global) -> Result<u8, Failure> {
        if self.tty && !self.detach {
            refuse_json(global, "a terminal")?;
        }
        self.check_accepted()?;
        let words = std::mem::take(&mut self.words);
        let (image, command) = if self.rootfs.is_some() { (String::new(), words) } else { split_command(words) };
        // The store keeps its leases until the end. Until there is a machine, a signal may simply end this process.
        let (root, defaults, _store) = self.root(&image, global)?;
        let spec = self.spec(root, defaults, command, global)?;
        self.tell_of_limits(&spec)?;
        let tree = spec.root.open(&spec.name)?;
        let signals = Signals::catch()?;
        if let Some(file) = &self.guest.cidfile {
            write_name(file, &spec.name)?;
        }
        let ephemeral = self.remove || !(self.detach || self.keep.is_some());
        let record = machine::new_record(&spec.name, &spec.root.name(), &spec.process.argv, ephemeral);
        let record = Record {
            labels: spec.labels.clone(),
            published: spec.published.clone(),
            memory_mib: (!table::forces_container(&spec.request)).then_some(spec.memory_mib),
            ..record
        };
        if self.replace && (self.only_create || self.detach) && !self.dry_run {
            // The machine of that name stays if another one cannot take its place.
            drop(Prepared::new(spec.clone(), &signals)?);
            ending::remove_one(&spec.name, true)?;
        }
        if self.only_create {
            create(&spec, Record { state: State::Created, ..record }, true)?;
            return Self::created(global, &spec);
        }
        if self.detach && !self.dry_run {
            return Self::start_detached(global, &spec, record, &signals);
        }
        let mut prepared = Prepared::new(spec.clone(), &signals)?;
        // A dry run prints all reasons.
        if !self.dry_run {
            prepared.notice().iter().for_each(|line| tell!("lamina: {line}"));
        }
        if self.dry_run {
            let directory = Directory::create(Record { ephemeral: true, ..record })?;
            let (server, _) = prepared.root_server(tree, &signals)?;
            print::result_lines(&prepared.describe(server.as_ref(), &directory)?)?;
            return Ok(0);
        }
        if self.replace {
            ending::remove_one(&spec.name, true)?;
        }
        let directory = create(&spec, record, false)?;
        let input = self.interactive || machine::terminal_wanted();
        let (outcome, ends) = Outcome::of(global, input);
        let name = spec.name;
        let (ending, asked) = launch::run(prepared, tree, directory, ends, ReadyPipe::none(), signals)?;
        if let Some(asked) = asked.filter(|_| global.verbose > 0) {
            print::message_lines(asked.snapshot().to_string().trim_end());
        }
        outcome.tell(&name, ending)
    }

    fn most_processes(&self) -> Option<u64> {
        self.pids_limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
    }

    fn check_accepted(&self) -> Result<(), Failure> {
        let engine = config::engine(self.engine.clone())?;
        self.accepted.check(table::forces_container(&RunRequest { engine, ..RunRequest::default() }))
    }

    /// Tells what a VM cannot be limited to.
    fn tell_of_limits(&self, spec: &Spec) -> Result<(), Failure> {
        if table::forces_container(&spec.request) {
            return Ok(());
        }
        if self.most_processes().is_some() {
            return Err(Failure::new("--pids-limit", "the processes of a VM are limited by its memory")
                .with_hint("use --ulimit nproc=N, or --engine container"));
        }
        if spec.memory_mib < TO_BOOT {
            let cause = format!("a VM needs at least {TO_BOOT}M to boot");
            return Err(Failure::new(format_args!("--memory {}M", spec.memory_mib), cause));
        }
        if self.cpus.is_some_and(|cpus| cpus.rounded) {
            tell!("lamina: --cpus: a VM has whole processors; this one gets {}", spec.cpus);
        }
        Ok(())
    }

    fn start_detached(global: &Global, spec: &Spec, record: Record, signals: &Signals) -> Result<u8, Failure> {
        machine::start_detached(create(spec, record, true)?, signals)?;
        Self::created(global, spec)
    }

    fn created(global: &Global, spec: &Spec) -> Result<u8, Failure> {
        if global.json {
            print::json(&serde_json::json!({ "name": spec.name }))?;
        } else {
            say!("{}", spec.name);
        }
        Ok(0)
    }

    fn root(&self, image: &str, global: &Global) -> Result<(Root, Defaults, Option<Store>), Failure> {
        if let Some(path) = &self.rootfs {
            return Ok((Root::Directory(directory_root(path)?), Defaults::default(), None));
        }
        let opened = self.on_top.open(global)?;
        let image = self.missing.image(&opened, image)?;
        let variant = self.on_top.layers(&opened)?;
        // A machine with a disk copies its layers into the user's own store.
        if self.keep.is_none() {
            store::tell_unleased(&opened, &image.layers, &variant);
        }
        let config = image.manifest.config().digest().to_string();
        let config = config.parse().map_err(|error| Failure::new(&image.reference, error))?;
        let defaults = Defaults::read(&opened.images().manifest_bytes(&config).about(&image.reference)?);
        defaults.notices.iter().for_each(|notice| tell!("lamina: {}: {notice}", image.reference));
        let root = Root::Image {
            store: opened.root().to_owned(),
            also_read: opened.additional_roots(),
            variant,
            reference: image.reference,
            manifest: image.manifest_digest,
            layers: image.layers,
        };
        Ok((root, defaults, Some(opened)))
    }

    fn spec(&self, root: Root, defaults: Defaults, command: Vec<String>, global: &Global) -> Result<Spec, Failure> {
        let Resolved { shares, anonymous, tmpfs } = self.mounts.resolve(self.dry_run)?;
        let mut options = GuestOptions { tmpfs, ..self.guest.options() };
        if self.network == Choice::Forced(NetworkBackend::Host) {
            // `host-gateway` is the host's own loopback there.
            let gateways = options.hosts.iter_mut().filter(|(address, _)| *address == IpAddr::V4(GATEWAY));
            gateways.for_each(|(address, _)| *address = Ipv4Addr::LOCALHOST.into());
        }
        let resolver = self.guest.resolver();
        let published = self.published(&defaults)?;
        if self.network == Choice::Forced(NetworkBackend::None) && resolver != ResolverChanges::default() {
            let failure = Failure::new("--dns", "the VM has no network");
            return Err(failure.with_hint("leave out --dns or --network none").with_status(USAGE));
        }
        check_servers(&resolver, self.network)?;
        let secrets = self.secrets.iter().map(|secret| {
            let file = std::path::absolute(&secret.file).about(secret.file.display())?;
            Ok(Secret { file, ..secret.clone() })
        });
        let limits = Limits {
            memory: self.memory.map(|mib| mib << 20),
            hundredths: self.cpus.map(|cpus| cpus.hundredths),
            processes: self.most_processes(),
        };
        Ok(Spec {
            // The machine that a dry run would replace stays.
            name: self.name.clone().filter(|_| !(self.replace && self.dry_run)).unwrap_or_else(machine::random_name),
            cpus: self.cpus.unwrap_or(Processors::ONE).whole,
            memory_mib: self.memory.unwrap_or(DEFAULT_MEMORY),
            limits,
            writes: match self.keep {
                Some(size) => Writes::Disk { size },
                None if self.read_only => Writes::Nowhere,
                None => Writes::Memory { limit: self.tmpfs_size },
            },
            image_volumes: defaults.volumes.iter().cloned().chain(anonymous).collect(),
            published: published.clone(),
            secrets: secrets.collect::<Result<_, Failure>>()?,
            hostname: self.guest.hostname.clone(),
            options,
            resolver,
            labels: self.guest.labels()?,
            stop_timeout: self.guest.stop_timeout,
            keeps_input_open: self.detach && (self.interactive || self.tty),
            process: command::assemble(defaults, self.overrides(command, global)?)?,
            request: RunRequest {
                engine: config::engine(self.engine.clone())?,
                accelerator: self.accel.clone(),
                backend: self.backend,
                machine: self.machine.clone(),
                network: self.network,
                host_loopback: self.host_loopback,
                shares: shares.len(),
                directory_root: matches!(root, Root::Directory(_)),
                limited: limits != Limits::default(),
                kept: self.keep.is_some(),
                confine: self.confine.map_or_else(confine_by_default, Ok)?,
                run_as: self.run_as.clone(),
                explain: self.explain,
            },
            shares,
            kernel: self.kernel.clone().map(std::path::absolute).transpose().about("--kernel")?,
            log_max_size: self.log_max_size,
            show_console: self.console,
            ready: self.ready,
            ready_timeout: self.ready_timeout,
            stats: self.stats.clone().map(std::path::absolute).transpose().about("--stats")?,
            root,
        })
    }

    /// Returns the ports that are published. A container in the host's network listens on them itself.
    fn published(&self, defaults: &Defaults) -> Result<Vec<Publish>, Failure> {
        if self.network != Choice::Forced(NetworkBackend::Host) {
            return ports::resolve(&self.publish, self.publish_all, &defaults.exposed);
        }
        if self.publish_all || !self.publish.is_empty() {
            tell!(
                "lamina: -p has no effect with --network host: what the command listens on is open on this host already"
            );
        }
        Ok(Vec::new())
    }

    fn overrides(&self, command: Vec<String>, global: &Global) -> Result<Overrides, Failure> {
        Ok(Overrides {
            command,
            entrypoint: self.entrypoint.clone(),
            env: secret::environment(&self.env_file, &self.env)?,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            stop_signal: self.stop_signal,
            privileges: Privileges { no_new_privileges: self.accepted.no_new_privileges(), ..self.guest.privileges() },
            terminal: (self.tty || !self.detach && !global.json && machine::terminal_wanted())
                .then(machine::terminal_size),
        })
    }
}

/// Checks that the machine's network reaches the name servers that are asked for.
fn check_servers(resolver: &ResolverChanges, network: Choice<NetworkBackend>) -> Result<(), Failure> {
    match resolver.servers.iter().find(|server| server.is_ipv6()) {
        Some(server) if network != Choice::Forced(NetworkBackend::Host) => {
            Err(Failure::new(format_args!("--dns {server}"), "a machine's own network has no IPv6")
                .with_hint("name an IPv4 server, or use --engine container --network host")
                .with_status(USAGE))
        }
        _ => Ok(()),
    }
}

/// Creates the directory of a new machine. A machine that outlives this process has its spec there; one that outlives its
/// run also pins its base in the store.
fn create(spec: &Spec, record: Record, detach: bool) -> Result<Directory, Failure> {
    let (on_disk, stays) = (detach || !record.ephemeral, !record.ephemeral);
    let mut directory = Directory::create(record)?;
    let written = || {
        if on_disk {
            spec.write(directory.path())?;
        }
        if let Writes::Disk { size } = spec.writes {
            if table::forces_container(&spec.request) {
                kept::make_directory(&directory.file(kept::DIRECTORY))?;
            } else {
                kept::make_disk(&directory.file(kept::DISK), size)?;
            }
        }
        match &spec.root {
            Root::Image { store, also_read, manifest, layers, variant, .. } if stays => {
                let purpose = format!("machine {}", spec.name);
                let opened = open_store(store, also_read)?;
                let all = layers.iter().chain(variant);
                // A disk is useless without the layers below it; a machine without a disk starts from scratch anyway.
                match spec.writes {
                    Writes::Disk { .. } => opened.layers().adopt(all).about("store")?,
                    _ => opened.layers().adopt_if_free(all).about("store")?,
                }
                opened.pins().add(directory.path(), &purpose, manifest, layers, variant).about("store")
            }
            _ => Ok(()),
        }
    };
    match written() {
        Ok(()) => Ok(directory),
        Err(failure) => {
            directory.give_up(&failure);
            Err(failure)
        }
    }
}

/// Reads `LAMINA_CONFINE`. An empty variable is the same as none.
fn confine_by_default() -> Result<Level, Failure> {
    match std::env::var("LAMINA_CONFINE") {
        Ok(text) if !text.is_empty() => text.parse().map_err(|cause: String| Failure::new("LAMINA_CONFINE", cause)),
        _ => Ok(Level::Auto),
    }
}

/// Writes a machine's name to a file that must not exist, as docker does.
fn write_name(file: &Path, name: &str) -> Result<(), Failure> {
    use std::io::Write;
    let about = || format!("--cidfile {}", file.display());
    let mut file = std::fs::File::create_new(file).about(about())?;
    file.write_all(name.as_bytes()).about(about())
}

fn directory_root(path: &Path) -> Result<PathBuf, Failure> {
    let about = || format!("--rootfs {}", path.display());
    let found = path.canonicalize().map_err(|error| Failure::new(about(), error))?;
    if found.is_dir() { Ok(found) } else { Err(Failure::new(about(), "it is not a directory")) }
}
