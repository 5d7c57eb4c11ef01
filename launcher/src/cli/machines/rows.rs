//! What `--format` templates see of a machine: docker's fields, and beside them those of `--json`.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::rows::{ago, beside, time};
use crate::clock;
use crate::engine::{Choice, table};
use crate::host::network::{ADDRESS, GATEWAY, NetworkBackend, PREFIX};
use crate::machine::{Record, State, volumes};
use crate::spec::{Spec, Writes, signal};

fn state(state: &State) -> &'static str {
    match state {
        State::Created => "created",
        State::Starting => "restarting",
        State::Running { .. } => "running",
        State::Exited { .. } => "exited",
        State::Failed { .. } => "dead",
    }
}

/// Describes a state with docker's words.
fn status(state: &State) -> String {
    let without_ago = |at: u64| ago(at).trim_end_matches(" ago").to_owned();
    match state {
        State::Created => "Created".to_owned(),
        State::Starting => "Starting".to_owned(),
        State::Running { since } => format!("Up {}", without_ago(*since)),
        State::Exited { status, at } => format!("Exited ({status}) {}", ago(*at)),
        State::Failed { status, at, .. } => format!("Dead ({status}) {}", ago(*at)),
    }
}

/// Returns a row of `lamina ps`.
pub(in crate::cli) fn row(record: &Record, spec: Option<&Spec>) -> Value {
    let ports: Vec<String> = record.published.iter().map(port).collect();
    let mounts: Vec<String> =
        spec.into_iter().flat_map(|spec| &spec.shares).map(|share| share.host.display().to_string()).collect();
    let labels: Vec<String> = record.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let docker = json!({
        "ID": record.name, "Names": record.name, "Image": record.root, "Command": format!("{:?}", record.command.join(" ")),
        "CreatedAt": time(record.created), "RunningFor": ago(record.created), "Ports": ports.join(", "),
        "State": state(&record.state), "Status": status(&record.state), "Labels": labels.join(","), "Mounts": mounts.join(","),
        "Networks": spec.map_or("", network), "Size": "", "LocalVolumes": "0",
    });
    beside(docker, record)
}

fn port(port: &crate::host::network::Publish) -> String {
    let kind = if port.udp { "udp" } else { "tcp" };
    format!("{}->{}/{kind}", port.on_host(), port.guest)
}

fn network(spec: &Spec) -> &'static str {
    match spec.request.network {
        Choice::Forced(NetworkBackend::None) => "none",
        Choice::Forced(NetworkBackend::Host) => "host",
        _ => "bridge",
    }
}

/// Returns a machine as `docker inspect` has it. The values of the environment are not shown.
pub(super) fn inspected(record: &Record, spec: Option<&Spec>, own: &impl Serialize) -> Value {
    let running = matches!(record.state, State::Running { .. });
    let (started, finished) = match &record.state {
        State::Running { since } => (time(*since), String::new()),
        State::Exited { at, .. } | State::Failed { at, .. } => (time(record.created), time(*at)),
        State::Created | State::Starting => (String::new(), String::new()),
    };
    let reason = if let State::Failed { reason, .. } = &record.state { reason } else { "" };
    let mut docker = json!({
        "Id": record.name, "Name": record.name, "Created": time(record.created), "Image": record.root, "ImageName": record.root,
        "State": {
            "Status": state(&record.state), "Running": running, "Paused": false, "Restarting": false, "Dead": false, "OOMKilled": false,
            "ExitCode": record.state.status().unwrap_or_default(), "Error": reason, "StartedAt": started, "FinishedAt": finished,
            "Pid": record.processes.first().map_or(0, |process| process.pid),
        },
        "Platform": "linux", "Driver": "lamina", "Path": record.command.first(), "Args": record.command.get(1..).unwrap_or_default(), "RestartCount": 0,
        "Config": { "Image": record.root, "Cmd": record.command, "Labels": record.labels },
        "HostConfig": { "AutoRemove": record.ephemeral, "Privileged": false, "RestartPolicy": { "Name": "no" } }, "NetworkSettings": { "IPAddress": "", "Ports": {} }, "Mounts": [],
    });
    if let Some(spec) = spec {
        fill(&mut docker, spec);
        docker["HostConfig"]["ShmSize"] = json!(shared_memory(record, spec));
    }
    beside(docker, own)
}

/// Returns how many bytes a machine's `/dev/shm` can have.
fn shared_memory(record: &Record, spec: &Spec) -> u64 {
    let asked = match &spec.request.engine {
        Choice::Forced(name) => Some(name.as_str()),
        Choice::Auto => None,
    };
    let engine = record.engine.as_deref().or(asked).and_then(|name| table::find(name).ok());
    let memory = spec.memory_mib << 20;
    // `auto` takes an engine of VMs.
    spec.options.shm_size.unwrap_or_else(|| engine.map_or(memory / 2, |engine| engine.shared_memory(memory)))
}

/// Adds what only the spec of a machine says.
fn fill(docker: &mut Value, spec: &Spec) {
    let env: Vec<String> = spec.process.env.iter().map(|(name, _)| format!("{name}=…")).collect();
    docker["Config"]["Env"] = json!(env);
    docker["Config"]["Hostname"] = json!(spec.hostname());
    docker["Config"]["User"] = json!(spec.process.user.clone().unwrap_or_default());
    docker["Config"]["WorkingDir"] = json!(spec.process.cwd.clone().unwrap_or_default());
    docker["Config"]["Tty"] = json!(spec.process.terminal.is_some());
    docker["Config"]["OpenStdin"] = json!(spec.keeps_input_open);
    docker["HostConfig"]["Memory"] = json!(spec.memory_mib << 20);
    docker["HostConfig"]["NanoCpus"] = json!(u64::from(spec.cpus) * 1_000_000_000);
    docker["HostConfig"]["NetworkMode"] = json!(network(spec));
    let mut ports = Map::new();
    for port in &spec.published {
        let name = format!("{}/{}", port.guest, if port.udp { "udp" } else { "tcp" });
        let binding = json!({ "HostIp": port.address.to_string(), "HostPort": port.host.to_string() });
        if let Value::Array(bindings) = ports.entry(name).or_insert_with(|| json!([])) {
            bindings.push(binding);
        }
    }
    let mut networks = Map::new();
    if network(spec) == "bridge" {
        let (address, gateway) = (ADDRESS.to_string(), GATEWAY.to_string());
        docker["NetworkSettings"]["IPAddress"] = json!(address);
        docker["NetworkSettings"]["Gateway"] = json!(gateway);
        let card = json!({ "IPAddress": address, "Gateway": gateway, "IPPrefixLen": PREFIX });
        networks.insert("bridge".to_owned(), card);
    }
    docker["NetworkSettings"]["Networks"] = Value::Object(networks);
    docker["HostConfig"]["PortBindings"] = Value::Object(ports.clone());
    docker["NetworkSettings"]["Ports"] = Value::Object(ports);
    docker["HostConfig"]["ReadonlyRootfs"] = json!(spec.writes == Writes::Nowhere);
    docker["Config"]["StopSignal"] = json!(spec.process.stop_signal.map(signal::name));
    let binds = spec.shares.iter().map(|share| {
        let mode = if share.read_only { ":ro" } else { "" };
        format!("{}:{}{mode}", share.host.display(), share.guest)
    });
    docker["HostConfig"]["Binds"] = binds.collect();
    let mounts = spec.shares.iter().map(|share| {
        let is_volume = volumes::is_volume(&share.host);
        let kind = if is_volume { "volume" } else { "bind" };
        let name = share.host.parent().filter(|_| is_volume).and_then(|volume| volume.file_name());
        json!({
            "Type": kind, "Name": name.map(|name| name.display().to_string()), "Source": share.host, "Destination": share.guest,
            "RW": !share.read_only, "Mode": if share.read_only { "ro" } else { "" },
        })
    });
    docker["Mounts"] = mounts.collect();
}

/// Describes a machine's state for people.
pub(in crate::cli) fn describe(state: &State) -> String {
    let ago = |at: u64| {
        let passed = clock::now().saturating_sub(at);
        indicatif::HumanDuration(Duration::from_secs(passed)).to_string()
    };
    match state {
        State::Created => "created".to_owned(),
        State::Starting => "starting".to_owned(),
        State::Running { since } => format!("running for {}", ago(*since)),
        State::Exited { status, at } => format!("exited ({status}) {} ago", ago(*at)),
        State::Failed { reason, at, .. } => format!("failed {} ago: {reason}", ago(*at)),
    }
}
