//! `lamina run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use composefs_fuse::Server;
use composefs_fuse::linux::StatsSocket;
use composefs_fuse::stats::Stats;
use guest_init::protocol::Overlay;
use layer_store::{BaseId, Cancellation, Store, View};
use oci_spec::image::ImageConfiguration;

use super::meter::Meter;
use super::on_top::OnTop;
use super::{Global, parse_size, store};
use crate::accelerator::Accelerator;
use crate::command::{self, Defaults, Overrides};
use crate::failure::{About, Failure};
use crate::host::Tools;
use crate::hypervisor::qemu::Machine;
use crate::launch::{Prepared, Start};
use crate::machine::{self, DirectRoot, Directory, DirectoryRoot, ImageRoot, MountedRoot, RootServer, Signals};
use crate::network::{Carrier, Publish};
use crate::policy::{Backend, Choice, Request};
use crate::secret::{self, Secret};
use crate::share::{self, Share};
use crate::virtiofsd::Purpose;

/// Boot an image as a VM and run a command in it
///
/// The command's exit status becomes that of `lamina run`; 126 and 127 mean, as in a shell, that it could
/// not be run or was not found, 128 + N that signal N ended it, and 125 that the machine itself failed.
/// What the VM writes is kept in its memory and is gone with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina run debian:12 -- cat /etc/os-release
  lamina run debian:12 -- bash
  lamina run -v .:/work -v ~/.cache:/cache:ro -w /work python:3.12 -- python3 build.py
  lamina run -p 8080:80 -v ./site:/srv:ro nginx:1
  lamina run --secret token=$HOME/.token --env-file dev.env app:1
  lamina run --dry-run debian:12 -- true")]
pub(super) struct Run {
    /// The image
    #[arg(value_name = "REF", required_unless_present = "rootfs")]
    image: Option<String>,
    /// Boot this directory instead of an image
    #[arg(long, value_name = "DIR", conflicts_with_all = ["image", "layers", "variant"])]
    rootfs: Option<PathBuf>,
    #[command(flatten)]
    on_top: OnTop,
    /// Share a directory or a single file with the VM; ":ro" behind it makes it read-only
    #[arg(short = 'v', long = "volume", value_name = "HOST:GUEST[:ro]")]
    volumes: Vec<Share>,
    /// Set an environment variable, or pass on one of ours
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set the environment variables of a file: NAME=VALUE or NAME in each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Give the VM a file as /run/secrets/NAME, in its memory and nowhere else
    #[arg(long = "secret", value_name = "[NAME=]FILE")]
    secrets: Vec<Secret>,
    /// What carries the VM's packets: passt, slirp (QEMU's own), none or auto
    #[arg(long, default_value = "auto", hide_default_value = true)]
    network: Choice<Carrier>,
    /// Let a port of this host lead to one of the VM; only this host reaches it unless an address is given
    #[arg(short, long = "publish", value_name = "[ADDRESS:]HOST:GUEST[/udp]")]
    publish: Vec<Publish>,
    /// The command's working directory, made when missing
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The command's user: a name or number, with ":GROUP" if it is to differ
    #[arg(short, long)]
    user: Option<String>,
    /// Run this instead of the image's Entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Virtual processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// Memory of the VM
    #[arg(long, short, value_name = "SIZE", default_value = "512M", value_parser = parse_memory)]
    memory: u64,
    /// How much of its memory the VM may fill with what it writes [default: half]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "read_only")]
    tmpfs_size: Option<u64>,
    /// Give the VM no writable root at all
    #[arg(long)]
    read_only: bool,
    /// The machine's name, and its host name
    #[arg(long, value_parser = parse_name)]
    name: Option<String>,
    /// What carries the root: direct, virtiofsd, block, materialize or auto
    #[arg(long, default_value = "auto", hide_default_value = true)]
    backend: Choice<Backend>,
    /// What executes the VM: kvm, tcg or auto
    #[arg(long, default_value = "auto", hide_default_value = true)]
    accel: Choice<Accelerator>,
    /// QEMU's machine type: microvm, q35 or auto
    #[arg(long, default_value = "auto", hide_default_value = true)]
    machine: Choice<Machine>,
    /// The VM's kernel [default: the newest under /boot]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Show the kernel's console on standard error
    #[arg(long)]
    console: bool,
    /// Answer `lamina stats` at this socket [default: one of the machine's, found by its name]
    #[arg(long, value_name = "SOCKET", conflicts_with = "rootfs")]
    stats: Option<PathBuf>,
    /// Say what carries the VM, and why
    #[arg(long)]
    explain: bool,
    /// Print the command lines and start nothing
    #[arg(long)]
    dry_run: bool,
    /// How many seconds the VM may take until it can run the command
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    ready_timeout: u64,
    /// The command, behind "--"; the image's own by default
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// The root of a machine and what its image says about running it.
struct Root {
    name: String,
    defaults: Defaults,
    tree: Tree,
}

enum Tree {
    Directory(PathBuf),
    /// A view, and the store and base that it is of.
    View(Arc<View>, Box<Store>, BaseId),
}

impl Run {
    pub(super) fn execute(self, global: &Global) -> Result<u8, Failure> {
        let signals = Signals::catch()?;
        let root = self.root(global)?;
        let shares = self.volumes.iter().map(Share::resolve).collect::<Result<Vec<_>, _>>()?;
        let shares = share::arrange(shares)?;
        let request = Request {
            accelerator: self.accel,
            backend: self.backend,
            machine: self.machine,
            network: self.network,
            published: self.publish.len(),
            shares: shares.len(),
            directory_root: matches!(root.tree, Tree::Directory(_)),
            explain: self.explain,
        };
        let cache = machine::cache_home()?;
        let tools = Tools::find(self.kernel.as_deref(), &cache, &request)?;
        let start = Start {
            name: self.name.clone().unwrap_or_else(machine::random_name),
            root_name: root.name,
            cpus: self.cpus,
            memory_mib: self.memory,
            overlay: if self.read_only { Overlay::ReadOnly } else { Overlay::Memory { limit: self.tmpfs_size } },
            shares,
            published: self.publish.clone(),
            secrets: self.secrets.clone(),
            process: command::assemble(root.defaults, self.overrides()?)?,
            show_console: self.console,
            ready_timeout: Duration::from_secs(self.ready_timeout),
        };
        let name = start.name.clone();
        let prepared = Prepared::new(start, &request, tools, &cache, &signals)?;
        self.explain(&prepared, self.accel);
        let (prepared, (server, asked)) = root_server(root.tree, prepared, &signals)?;
        let directory = Directory::create(&name)?;
        if self.dry_run {
            super::print(&prepared.describe(server.as_ref(), &directory)?)?;
            return Ok(0);
        }
        let _socket = match &asked {
            Some(asked) => Some(self.stats_socket(asked, &directory)?),
            None => None,
        };
        let status = machine::run(prepared.order(server, directory)?, signals)?;
        if let Some(asked) = asked.filter(|_| global.verbose > 0) {
            eprint!("{}", asked.snapshot());
        }
        Ok(status)
    }

    /// Answers `lamina stats NAME`, or whoever asks at the socket that the user named.
    fn stats_socket(&self, asked: &Arc<Stats>, directory: &Directory) -> Result<StatsSocket, Failure> {
        let path = match &self.stats {
            Some(path) => std::path::absolute(path).about(path.display())?,
            None => directory.stats_socket(),
        };
        StatsSocket::bind(&path, Arc::clone(asked)).about("lamina run")
    }

    fn root(&self, global: &Global) -> Result<Root, Failure> {
        if let Some(path) = &self.rootfs {
            let path = directory_root(path)?;
            let name = path.display().to_string();
            return Ok(Root { name, defaults: Defaults::default(), tree: Tree::Directory(path) });
        }
        let opened = store::open(global)?;
        let image = store::image(&opened, self.image.as_deref().unwrap_or_default())?;
        let base = store::prepare(&opened, &image, &self.on_top.layers(&opened)?)?;
        let view = opened.open_view(&base).map_err(|error| Failure::new(&image.reference, error))?;
        let tree = Tree::View(Arc::new(view), Box::new(opened), base);
        Ok(Root { name: image.reference, defaults: defaults(&image.config), tree })
    }

    fn overrides(&self) -> Result<Overrides, Failure> {
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(secret::read_env_file(file)?);
        }
        env.extend(self.env.iter().cloned());
        Ok(Overrides {
            command: self.command.clone(),
            entrypoint: self.entrypoint.clone(),
            env,
            working_dir: self.workdir.clone(),
            user: self.user.clone(),
            terminal: machine::terminal_wanted().then(machine::terminal_size),
        })
    }

    /// Tells the reasons when asked, and that a guest is emulated in any case: it is why it is slow.
    fn explain(&self, prepared: &Prepared, asked: Choice<Accelerator>) {
        if self.explain {
            prepared.decision.reasons.iter().for_each(|reason| eprintln!("lamina: {reason}"));
        } else if asked == Choice::Auto && prepared.decision.accelerator == Accelerator::Tcg && !self.dry_run {
            eprintln!("lamina: {}", prepared.decision.reasons[0]);
        }
    }
}

/// Who serves a root, and the counters of what it is asked where we are the ones who answer.
type Served = (Box<dyn RootServer>, Option<Arc<Stats>>);

fn root_server(tree: Tree, prepared: Prepared, signals: &Signals) -> Result<(Prepared, Served), Failure> {
    let virtiofsd = prepared.tools.virtiofsd.clone();
    let (view, store, base) = match tree {
        Tree::Directory(path) => {
            let server = Box::new(DirectoryRoot { path, virtiofsd: virtiofsd?, purpose: Purpose::Root, view: None });
            return Ok((prepared, (server, None)));
        }
        Tree::View(view, store, base) => (view, store, base),
    };
    if prepared.decision.backend == Backend::Block {
        let image = block_image(&store, &base, signals)?;
        return Ok((prepared.with_root_image(image), (Box::new(ImageRoot { view }), None)));
    }
    if prepared.decision.backend == Backend::Materialize {
        let own = !rustix::process::geteuid().is_root();
        let path = unpacked(&store, &base, own, signals)?;
        let purpose = if own { Purpose::OwnRoot } else { Purpose::Root };
        let server = DirectoryRoot { path, virtiofsd: virtiofsd?, purpose, view: Some(view) };
        return Ok((prepared, (Box::new(server), None)));
    }
    let server = Arc::new(Server::new(view));
    let asked = Some(Arc::clone(server.stats()));
    let server: Box<dyn RootServer> = match prepared.decision.backend {
        Backend::Virtiofsd => Box::new(MountedRoot::new(server, virtiofsd?)),
        _ => Box::new(DirectRoot::new(server)),
    };
    Ok((prepared, (server, asked)))
}

/// The image of a base, made by the first machine that wants it.
fn block_image(store: &Store, base: &BaseId, signals: &Signals) -> Result<PathBuf, Failure> {
    let mut waiting = || eprintln!("lamina: waiting for another process that makes the block image");
    let doing = "making a block image, once for this base:";
    let image =
        making(doing, signals, |cancellation, progress| store.block_image(base, &mut waiting, cancellation, progress));
    image?.about("block image")
}

/// The directory of a base, made by the first machine that wants it. Of an ordinary user it belongs to that user.
fn unpacked(store: &Store, base: &BaseId, without_owners: bool, signals: &Signals) -> Result<PathBuf, Failure> {
    let mut waiting = || eprintln!("lamina: waiting for another process that unpacks the image");
    let made = making("unpacking, once for this base:", signals, |cancellation, progress| {
        store.tree(base, without_owners, &mut waiting, cancellation, progress)
    });
    let (path, _) = made?.about("tree")?;
    if without_owners {
        eprintln!(
            "lamina: all files of the root belong to root in the guest, and devices and set-user-ID bits are left out"
        );
    }
    Ok(path)
}

/// Makes something in the store, showing how far it is, until it is done or a signal comes.
fn making<T>(
    doing: &str,
    signals: &Signals,
    make: impl FnOnce(&Cancellation, &mut dyn FnMut(u64)) -> T,
) -> Result<T, Failure> {
    let meter = Meter::new(doing, false);
    let cancellation = Cancellation::default();
    let made = make(&cancellation, &mut |bytes| {
        meter.add(bytes);
        if signals.check().is_err() {
            cancellation.cancel();
        }
    });
    signals.check()?;
    Ok(made)
}

/// What the image's config says about running it.
fn defaults(config: &ImageConfiguration) -> Defaults {
    let Some(config) = config.config() else { return Defaults::default() };
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Defaults {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        working_dir: set(config.working_dir()),
        user: set(config.user()),
    }
}

fn directory_root(path: &Path) -> Result<PathBuf, Failure> {
    let about = || format!("--rootfs {}", path.display());
    let found = path.canonicalize().map_err(|error| Failure::new(about(), error))?;
    if found.is_dir() { Ok(found) } else { Err(Failure::new(about(), "it is not a directory")) }
}

/// Reads a size of memory as MiB.
fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_size(text)? >> 20 {
        mib if mib >= 96 => Ok(mib),
        _ => Err("a guest needs at least 96M to boot".to_owned()),
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    if machine::is_valid_name(text) {
        return Ok(text.to_owned());
    }
    Err("expected 1 to 40 letters, digits, \"-\", \"_\" or \".\", the first a letter or digit".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_size("1K"), Ok(1024));
        assert_eq!(parse_size("2g"), Ok(2 << 30));
        assert_eq!(parse_memory("512M"), Ok(512));
        assert_eq!(parse_memory("1G"), Ok(1024));
        for wrong in ["", "M", "1", "1X", "-1M", "0M", "99999999999T", "é"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert!(parse_memory("32M").is_err());
    }
}
