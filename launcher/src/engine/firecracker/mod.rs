//! Firecracker: disks and a socket device only, configured by requests to its REST interface.
//!
//! It has no virtiofs, so the root must be on a disk and there are no shares. Its kernel is an ELF file, which is unpacked
//! from the image of the host's kernel. It has no power button: a guest that powers off leaves it running, so it is
//! killed when init says on the control channel that everything is written, or when the console says that the guest has
//! halted.

mod api;
mod config;
mod console;
mod version;

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use self::api::Api;
use self::console::Stop;
use super::boot_probe;
use super::contract::{
    Accelerator, Capabilities, Description, Document, Engine, Event, Events, Exit, Host, MachineType, Running,
};
use super::plan::{Disk, KVM, MAX_SERIAL, Plan};
use super::request::RunRequest;
use super::socket_device::{SocketDevice, open_pipe};
use crate::failure::{About, Failure};
use crate::host::child;
use crate::host::command_line::CommandLine;
use crate::host::kernel::Kernel;
use crate::host::process::{Handle, Process, Watched};
use crate::host::vmlinux;

/// How many devices it has room for: one for each interrupt line of the IOAPIC from 5 to 23, less one for the socket
/// device.
const MOST_DEVICES: usize = 18;

/// The most virtual processors that it takes (`MAX_SUPPORTED_VCPUS`).
const MOST_CPUS: u32 = 32;

/// Its name, and that of its program and of its only machine type.
const NAME: &str = "firecracker";

/// How long it may take until it answers requests.
const START: Duration = Duration::from_secs(30);

/// How long its end may come after that of a connection to it.
const TICK: Duration = Duration::from_millis(100);

/// How many lines of its log may say why it ended.
const LAST_LINES: usize = 4;

#[derive(Debug)]
pub(super) struct Firecracker;

impl Engine for Firecracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "Firecracker"
    }

    fn accelerators(&self) -> &'static [&'static str] {
        &[KVM]
    }

    fn served_disk_queues(&self, _cpus: u32) -> Option<u16> {
        // It has one queue for every disk (`NUM_QUEUES`).
        Some(1)
    }

    fn program(&self) -> Result<PathBuf, Failure> {
        child::find(NAME, &[])
            .ok_or_else(|| Failure::new(NAME, "not found in PATH").with_hint(version::how_to_install("it")))
    }

    /// Boots a test guest, unless this engine is asked for: then the machine itself is the test.
    fn probe(&self, host: &Host<'_>, request: &RunRequest) -> Result<Capabilities, Failure> {
        let program = self.program()?;
        version::check(&program, host.cache)?;
        let confinement = boot_probe::runs_by_kvm(self, &program, host, request, false)?;
        let advantage = "it is its only one";
        Ok(Capabilities {
            accelerators: vec![Accelerator { name: KVM, works: Ok(()), caution: None, root_by_disk: None }],
            machines: vec![MachineType { name: NAME, most_devices: MOST_DEVICES, advantage, unfit: Vec::new() }],
            shares: Err("Firecracker has no virtiofs".to_owned()),
            networks: Vec::new(),
            vhost_user_network: false,
            confinement,
            shares_kernel: false,
            notices: Vec::new(),
        })
    }

    fn kernel(&self, kernel: &Kernel, cache: &Path) -> Result<PathBuf, Failure> {
        vmlinux::of_kernel(kernel, cache)
    }

    /// Its disks have no serials. Their ids are the numbers of the device, of the device that the file is, and of the
    /// inode, cut to the longest serial.
    fn serial(&self, disk: &Disk) -> Result<String, Failure> {
        let file = disk.path.metadata().about(disk.path.display())?;
        let mut id = format!("{}{}{}", file.dev(), file.rdev(), file.ino());
        id.truncate(MAX_SERIAL);
        Ok(id)
    }

    fn check(&self, plan: &Plan) -> Result<(), Failure> {
        if !plan.shares.is_empty() {
            let shares = match plan.shares.len() {
                1 => "1 share".to_owned(),
                count => format!("{count} shares"),
            };
            let cause = format!("it has no virtiofs, which the machine needs for {shares} (-v, or its root)");
            return Err(Failure::new(self.title(), cause).with_hint("use --backend block and no -v, or another engine"));
        }
        if plan.cpus > MOST_CPUS {
            let cause = format!("Firecracker has at most {MOST_CPUS} processors");
            let hint = format!("ask for at most {MOST_CPUS}, or use another engine");
            return Err(Failure::new(format_args!("--cpus {}", plan.cpus), cause).with_hint(hint));
        }
        // A disk that has not been made yet has no id.
        let mut ids: Vec<String> = plan.disks.iter().filter_map(|disk| self.serial(disk).ok()).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            let cause = "the guest could not tell its disks apart, because the numbers of their inodes are too long";
            return Err(Failure::new(self.title(), cause)
                .with_hint("put the store or XDG_STATE_HOME on another file system, or use another engine"));
        }
        SocketDevice::of(plan).check()?;
        plan.check_room(self.title(), MOST_DEVICES)
    }

    fn describe(&self, plan: &Plan) -> Result<Description, Failure> {
        let device = SocketDevice::of(plan);
        let program = self.program().unwrap_or_else(|_| NAME.into());
        let document = Document {
            about: "Firecracker's configuration, which lamina sends to its API; --config-file takes it too".to_owned(),
            path: plan.log.with_file_name("firecracker.json"),
            body: config::document(plan, &device)?.into(),
        };
        Ok(Description { command: command(&program, &device), document: Some(document) })
    }

    fn start(&self, plan: &Plan, events: Events) -> Result<Box<dyn Running>, Failure> {
        let device = SocketDevice::of(plan);
        let mut requests = config::requests(config::document(plan, &device)?);
        let listener = device.listen()?;
        let pipe = device.make_pipe("console")?;
        let source = open_pipe(&pipe)?;
        requests.insert(0, ("/serial".to_owned(), config::serial(&pipe)?));
        requests.push(("/actions".to_owned(), config::start()));
        let api = device.file(API);
        plan.make_console()?;
        let target = OpenOptions::new().append(true).open(&plan.console).about(plan.console.display())?;
        let command = command(&self.program()?, &device);
        let mut confinement = device.confinement(plan, &command.program);
        if let Some(confinement) = &mut confinement {
            // This process writes there.
            confinement.writable.retain(|path| *path != plan.console);
        }
        let process = Process::start(&command, confinement.as_ref(), &plan.log, move |mut process| {
            let (connecting, reading, told) = (process.handle(), process.handle(), Events::clone(&events));
            let connecting = std::thread::spawn(move || listener.connect(&connecting, &told));
            let reading = std::thread::spawn(move || console::follow(&source, target, &reading));
            // Here, so that the machine can be ended while Firecracker does not answer.
            let refused = configure(&process.handle(), &api, &requests);
            let status = process.wait();
            // Both end with the process.
            let _ = connecting.join();
            let stop = reading.join().ok().flatten();
            events(Event::Exited(match refused {
                Err(Some(words)) => Exit::Ended { status, words },
                // It may have ended, with its guest, before it had answered.
                Err(None) | Ok(()) => exit(status, stop, &process),
            }));
        })?;
        Ok(Box::new(process))
    }
}

/// The name of the socket of its REST interface, among those of its socket device.
const API: &str = "api";

fn command(program: &Path, device: &SocketDevice) -> CommandLine {
    CommandLine::new(program).arg("--api-sock").arg(device.file(API)).args(["--level", "Error"])
}

/// Makes the requests that start the guest. Kills Firecracker if it does not carry one out.
///
/// # Errors
/// Says why it was killed, or nothing if it has ended by itself: what it wrote then says more.
fn configure(engine: &Handle, api: &Path, requests: &[(String, Value)]) -> Result<(), Option<String>> {
    let configured = Api::connect(api, engine, START)
        .and_then(|mut api| requests.iter().try_for_each(|(path, body)| api.put(path, body)));
    configured.map_err(|failure| {
        // A connection ends a moment before the process does.
        let ended = engine.ends_within(TICK);
        engine.kill();
        (!ended).then(|| failure.complaint())
    })
}

/// Returns why it ended. A guest that reboots, or whose kernel panics and then reboots, ends it with the status 0.
fn exit(status: ExitStatus, stop: Option<Stop>, process: &Watched) -> Exit {
    match stop {
        Some(Stop::PoweredOff) => Exit::PoweredOff,
        Some(Stop::Panicked) if status.success() => Exit::Panicked,
        _ if status.success() => Exit::Rebooted,
        _ => Exit::Ended { status, words: words(&process.tail(LAST_LINES)) },
    }
}

/// Joins the lines of its log that say why it ended, without the time and the place before each.
fn words(log: &str) -> String {
    let message = |line: &'_ str| -> String {
        let stamped = line.split_once(" [").filter(|(time, _)| time.contains('T') && !time.contains(' '));
        stamped.and_then(|(_, rest)| Some(rest.split_once("] ")?.1)).unwrap_or(line).to_owned()
    };
    let lines = log.lines().map(message);
    let says_more = |line: &String| !line.starts_with("Firecracker exiting") && !line.starts_with("Error: RunWith");
    lines.filter(says_more).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::example;

    fn with_image(path: &str) -> Plan {
        let mut plan = example(0);
        plan.shares.clear();
        plan.disks = vec![Disk { serial: "root".into(), path: path.into(), read_only: true }];
        plan
    }

    #[test]
    fn block_root_as_command_and_document() {
        let plan = with_image("/store/it's a, \"b\" = ü.erofs");
        Firecracker.check(&plan).unwrap();
        let Description { command, document } = Firecracker.describe(&plan).unwrap();
        insta::assert_snapshot!(format!("{}\n{:#}", command.to_shell(), document.unwrap().body));
    }

    #[test]
    fn shares_are_refused_with_the_way_out() {
        for shares in [0, 1, 2, 8, 40] {
            let failure = Firecracker.check(&example(shares)).unwrap_err().to_string();
            let counted = if shares == 0 { "for 1 share (".into() } else { format!("for {} shares (", shares + 1) };
            assert!(failure.contains(&counted) && failure.contains("--backend block"), "{failure}");
        }
    }

    #[test]
    fn more_processors_than_it_has_are_refused_with_their_number() {
        let plan = |cpus| Plan { cpus, ..with_image("/store/a.erofs") };
        Firecracker.check(&plan(32)).unwrap();
        let failure = Firecracker.check(&plan(33)).unwrap_err().to_string();
        assert!(failure.contains("--cpus 33: Firecracker has at most 32"), "{failure}");
    }

    #[test]
    fn disks_are_found_by_ids_that_follow_from_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let disk = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            Disk { serial: name.into(), path, read_only: false }
        };
        let (first, second) = (disk("first"), disk("second"));
        let id = |disk: &Disk| Firecracker.serial(disk).unwrap();
        let file = first.path.metadata().unwrap();
        let whole = format!("{}0{}", file.dev(), file.ino());
        assert!(whole.starts_with(&id(&first)) && (1..=MAX_SERIAL).contains(&id(&first).len()));
        let plan = |disks| Plan { disks, ..with_image("/x") };
        assert_ne!(id(&first), id(&second));
        Firecracker.check(&plan(vec![first.clone(), second])).unwrap();
        let failure = Firecracker.check(&plan(vec![first.clone(), first])).unwrap_err().to_string();
        assert!(failure.contains("tell its disks apart"), "{failure}");
        assert!(
            Firecracker.serial(&Disk { serial: "x".into(), path: "/nonexistent".into(), read_only: true }).is_err()
        );
    }

    #[test]
    fn words_are_its_last_lines_without_their_stamps() {
        let log = "2026-11-28T11:00:00.123456789 [anonymous-instance:main] Building VMM: no [such] thing\n\
            Error: RunWithApi(MicroVMStoppedWithError(GenericError))\n\
            2026-11-28T11:00:00.123456790 [anonymous-instance:main] Firecracker exiting with error. exit_code=1\n";
        assert_eq!(words(log), "Building VMM: no [such] thing");
        assert_eq!(words("lamina: /usr/bin/firecracker: [x] y\n"), "lamina: /usr/bin/firecracker: [x] y");
        assert_eq!(words(""), "");
    }
}
