//! Finds out whether containers run here, by running one: with a view of one file, which the container's overlay must be
//! able to change, and with the init that every container has.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use composefs_fuse::Server;
use guest_protocol::archive::{Packer, pack_tree};
use guest_protocol::{GuestOptions, MACHINE, Message, Side};
use layer_store::{ExpectedLayer, Silent, Store};
use serde::{Deserialize, Serialize};

use super::runtime::Runtime;
use super::{Container, namespace};
use crate::engine::contract::{Engine, Event, Events, Exit, Host};
use crate::engine::plan::{Container as ContainerPlan, ContainerRoot, Format, Limits, Plan, Upper};
use crate::failure::{About, Failure};
use crate::host::child;
use crate::host::confine;
use crate::host::fuse_socket::FuseSocket;
use crate::host::initramfs;
use crate::host::probe_cache::ProbeCache;

/// How long a container may take to say that its init runs, and to end.
const DEADLINE: Duration = Duration::from_secs(30);

/// The file of the image.
const FILE: &str = "probe";

/// Returns the formats that work, the best first: only `wanted` if that is given, and otherwise only the first one,
/// unless everything is to be tried. If all that was tried lately has failed, it is tried again only if containers are
/// `asked` for: a run of a VM only mentions them.
///
/// # Errors
/// None works; says why the best one does not.
pub(super) fn formats(
    engine: &Container,
    runtime: &Runtime,
    host: &Host<'_>,
    wanted: Option<Format>,
    accelerator: &'static str,
    asked: bool,
) -> Result<Vec<Format>, Failure> {
    let wanted: Vec<Format> =
        Format::ALL.into_iter().filter(|format| wanted.is_none_or(|wanted| wanted == *format)).collect();
    let overlay = child::find("fuse-overlayfs", &[]).unwrap_or_default();
    let with = [runtime.program.as_path(), Path::new("/etc/subuid"), Path::new("/dev/fuse"), &overlay];
    let account = host.confine.1.as_ref().map_or_else(String::new, |account| format!(" as {}", account.uid));
    let what = |format: Format| format!("container {} {accelerator}{account}", format.name());
    let mut works = Vec::new();
    let mut first_failure = None;
    // A failure that is remembered saves the attempt while something else works, or is asked for.
    for remembers in [!host.thorough, false] {
        for format in wanted.iter().copied() {
            let known = ProbeCache::of(host.cache).get(&what(format), &with).filter(|_| remembers);
            let outcome: Result<(), Failure> = match known {
                Some(Ok(())) => Ok(()),
                Some(Err(Known { cause })) => Err(Failure::new("container", cause)),
                None => {
                    let tried = attempt(engine, host, format, accelerator);
                    (host.check)()?;
                    let known = tried.as_ref().map(drop).map_err(|failure| Known { cause: failure.cause().to_owned() });
                    let keep = tried.is_err().then_some(FORGOTTEN);
                    ProbeCache::of(host.cache).put(&what(format), &with, &known, keep);
                    tried
                }
            };
            match outcome {
                Ok(()) => works.push(format),
                Err(failure) => drop(first_failure.get_or_insert(failure)),
            }
            if !works.is_empty() && !host.thorough {
                break;
            }
        }
        if !works.is_empty() || host.thorough || !asked {
            break;
        }
    }
    match first_failure {
        Some(failure) if works.is_empty() => Err(failure),
        _ => Ok(works),
    }
}

/// How long a failure is remembered: its cause may be mended.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// A failure that is remembered.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    cause: String,
}

fn attempt(engine: &Container, host: &Host<'_>, format: Format, accelerator: &'static str) -> Result<(), Failure> {
    let scratch = tempfile::Builder::new().prefix("lamina-probe-").tempdir().about("temporary directory")?;
    let place = scratch.path().join("place");
    fs::create_dir(&place).about(place.display())?;
    let namespace = namespace(accelerator, format.name());
    let server = Arc::new(server(scratch.path())?.in_user_namespace(namespace));
    let root = place.join("root.sock");
    let served = FuseSocket::listen(server, &root, Box::new(|| {}))?;
    let plan = plan(host, &place, root, format, accelerator)?;
    let (sender, events) = channel();
    let running = engine.start(
        &plan,
        Events::from(Arc::new(move |event| {
            // Fails once nobody listens.
            let _ = sender.send(event);
        }) as Arc<_>),
    )?;
    let ended = |exit: Exit| match exit {
        Exit::Ended { status, words } if words.is_empty() => Failure::new("container", status),
        Exit::Ended { words, .. } => Failure::new("container", words),
        _ => Failure::new("container", "it ended before its init ran"),
    };
    let outcome = loop {
        match events.recv_timeout(DEADLINE) {
            Ok(Event::Connected(mut stream)) => match Message::read(&mut stream, Side::Guest) {
                Ok(Some((MACHINE, Message::Hello(_)))) => break Ok(()),
                _ => continue,
            },
            Ok(Event::Exited(exit)) => break Err(ended(exit)),
            Ok(Event::DiskFailed(_) | Event::HelperEnded(_)) => {}
            Err(_) => break Err(Failure::new("container", "its init did not run in time")),
        }
    };
    drop(running);
    served.await_end();
    outcome
}

/// Creates a server of an image with one file, and with the directories that a runtime mounts on.
fn server(scratch: &Path) -> Result<Server, Failure> {
    let about = "temporary store";
    let image = scratch.join("image");
    for name in ["dev", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(image.join(name)).about(image.display())?;
    }
    fs::write(image.join(FILE), "of the image ").about(image.display())?;
    let mut packer = Packer::new(Vec::new()).owned_by_root();
    pack_tree(&mut packer, &image, Path::new("")).about(about)?;
    let tar = packer.finish().about(about)?;
    let store = Store::open(&scratch.join("store")).about(about)?;
    let expected = ExpectedLayer { compressed: None, diff_id: None };
    let layer = store.layers().ingest(&mut tar.as_slice(), &expected).about(about)?;
    let base = store.bases().prepare_layers(&[layer.diff_id], &[], &Silent).about(about)?;
    Ok(Server::new(Arc::new(store.bases().open(&base).about(about)?)))
}

fn plan(
    host: &Host<'_>,
    place: &Path,
    root: std::path::PathBuf,
    format: Format,
    accelerator: &'static str,
) -> Result<Plan, Failure> {
    Ok(Plan {
        name: "lamina-probe".into(),
        accelerator,
        machine: format.name(),
        control: place.join("control.sock"),
        monitor: place.join("monitor.sock"),
        console: place.join("console.log"),
        log: place.join("network.log"),
        container: Some(ContainerPlan {
            root: ContainerRoot::View(root),
            upper: Upper::Memory { limit: None },
            binds: Vec::new(),
            volumes: Vec::new(),
            has_secrets: false,
            owner: (0, 0),
            init: initramfs::init(host.cache)?,
            place: place.to_owned(),
            check: Some(FILE.to_owned()),
            host_loopback: false,
            host_network: false,
            hostname: "lamina-probe".to_owned(),
            options: GuestOptions::default(),
            added_capabilities: 0,
            init_system: false,
            may_be_systemd: false,
            limits: Limits::default(),
        }),
        confine: confine::Decision { support: None, account: host.confine.1.clone() },
        ..Plan::default()
    })
}
