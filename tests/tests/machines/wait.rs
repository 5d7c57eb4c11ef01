//! Waiting for the end of a machine, even an ephemeral one.

use end_to_end::{Engine, Finished, Image, Started, on_engines, until};
use rustix::process::{Signal, kill_process};

use crate::fixture::Machines;

on_engines! {
    every: exit_status_of_an_ephemeral_machine_reaches_every_waiting_command;
}

impl Machines {
    /// Three commands that wait for the machine `m`; returns when all of them wait.
    fn waiters(&self) -> Vec<Started> {
        until("the trap", || self.session.ok(["logs", "m"]) == "set\n");
        let lock = self.session.machine_directory("m").join("lock");
        let started = (0..3).map(|_| self.session.start(self.session.lamina(["wait", "m"]))).collect();
        let has_it_open = |pid: rustix::process::Pid| {
            let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).into_iter().flatten().flatten();
            open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|path| path == lock)
        };
        until("the waiters", || {
            let processes = self.session.traces().processes();
            processes.iter().filter(|process| process.command.ends_with("wait m") && has_it_open(process.pid)).count()
                == 3
        });
        started
    }
}

fn exit_status_of_an_ephemeral_machine_reaches_every_waiting_command(engine: Engine) {
    let machines = Machines::on(engine, Image::Debian);
    let session = &machines.session;
    let script = "trap 'exit 7' TERM; echo set; while :; do sleep 0.1; done";
    let options = ["--rm", "--network", "none"];
    let all_say = |waiters: Vec<Started>, status: &str| {
        for waiter in waiters {
            assert_eq!(waiter.finish().succeeded().stdout, status);
        }
        // If the launcher was killed, the cleaner removes what is left.
        until("the machine's removal", || !machines.session.machine_directory("m").exists());
    };
    Finished::of(&mut machines.detach("m", &options, script)).succeeded();
    let waiters = machines.waiters();
    assert_eq!(session.ok(["stop", "m"]), "m: stopped\n");
    all_say(waiters, "7\n");
    session.run(["wait", "m"]).refused("no machine has this name");

    // A machine that had to be killed has a status too, and so has one whose launcher could not report any.
    Finished::of(&mut machines.detach("m", &options, "trap '' TERM; echo set; while :; do sleep 0.1; done"))
        .succeeded();
    let waiters = machines.waiters();
    assert_eq!(session.ok(["stop", "--timeout", "1", "m"]), "m: killed\n");
    all_say(waiters, "137\n");
    Finished::of(&mut machines.detach("m", &options, script)).succeeded();
    let waiters = machines.waiters();
    kill_process(machines.session.process("m", "lamina"), Signal::KILL).unwrap();
    all_say(waiters, "125\n");
    session.traces().assert_nothing_left();
}
