//! What `--format` templates see of a machine or an image: docker's fields, and beside them those of `--json`.

use chrono::{DateTime, SecondsFormat, Utc};
use layer_store::{Image, Reference, Store};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::engine::Choice;
use crate::host::network::{ADDRESS, GATEWAY, NetworkBackend, PREFIX};
use crate::machine::{self, Record, State, volumes};
use crate::spec::{Spec, Writes, signal};

/// The first digits of a digest, as lists show an id.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex).to_owned()
}

/// Adds the fields of `own` to those of docker.
pub(super) fn beside(docker: Value, own: &impl Serialize) -> Value {
    let own = serde_json::to_value(own).unwrap_or_default();
    let (Value::Object(mut fields), Value::Object(own)) = (docker, own) else { return Value::Null };
    fields.extend(own.into_iter().filter(|(_, value)| !value.is_null()));
    Value::Object(fields)
}

/// Writes a time as RFC 3339.
pub(super) fn time(seconds: u64) -> String {
    let time = DateTime::<Utc>::from_timestamp(i64::try_from(seconds).unwrap_or_default(), 0);
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default()
}

/// Says how long ago a time was, as docker does.
pub(super) fn ago(seconds: u64) -> String {
    let passed = std::time::Duration::from_secs(machine::now().saturating_sub(seconds));
    format!("{} ago", indicatif::HumanDuration(passed))
}

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

/// A row of `lamina ps`.
pub(super) fn of_machine(record: &Record, spec: Option<&Spec>) -> Value {
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

/// A machine as `docker inspect` has it. The values of the environment are not shown.
pub(super) fn inspected_machine(record: &Record, spec: Option<&Spec>, own: &impl Serialize) -> Value {
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
    }
    beside(docker, own)
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
    docker["HostConfig"]["ShmSize"] = json!(spec.options.shm_size.unwrap_or_default());
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

/// The parts of an image's name: repository, tag and digest.
pub(super) fn name_parts(reference: &str) -> (String, String, Option<String>) {
    let Ok(parsed) = reference.parse::<Reference>() else { return (reference.to_owned(), "<none>".to_owned(), None) };
    let tag = parsed.tag().unwrap_or("<none>").to_owned();
    let digest = parsed.digest().map(|digest| digest.to_string());
    let familiar = parsed.familiar();
    let familiar = familiar.split('@').next().unwrap_or(&familiar);
    let repository = familiar.strip_suffix(&format!(":{tag}")).unwrap_or(familiar).to_owned();
    (repository, tag, digest)
}

/// When an image was created, in seconds since 1970.
pub(super) fn created(image: &Image) -> Option<u64> {
    let created = DateTime::parse_from_rfc3339(image.config.created().as_deref()?).ok()?;
    u64::try_from(created.timestamp()).ok()
}

/// An image as `docker inspect` has it.
pub(super) fn inspected_image(opened: &Store, image: &Image, own: &impl Serialize) -> Value {
    let names: Vec<String> = opened
        .images()
        .list()
        .unwrap_or_default()
        .into_iter()
        .filter(|other| other.manifest_digest == image.manifest_digest)
        .map(|other| other.reference)
        .collect();
    let tags: Vec<String> =
        names.iter().map(|name| name_parts(name)).map(|(repository, tag, _)| format!("{repository}:{tag}")).collect();
    let mut digests: Vec<String> = names
        .iter()
        .map(|name| format!("{}@{}", name_parts(name).0, image.index.unwrap_or(image.manifest_digest)))
        .collect();
    digests.dedup();
    let config = opened.images().manifest_bytes(&image.config_digest).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let bytes: u64 = image.layers.iter().map(|layer| opened.layers().bytes(layer).unwrap_or_default()).sum();
    let layers: Vec<String> = image.layers.iter().map(ToString::to_string).collect();
    let docker = json!({
        "Id": image.manifest_digest.to_string(), "RepoTags": tags, "RepoDigests": digests, "Digest": image.manifest_digest.to_string(),
        "Created": image.config.created().clone().unwrap_or_default(), "Config": config["config"].clone(),
        "Parent": "", "Comment": config["comment"].as_str().unwrap_or_default(), "History": config["history"].clone(),
        "Labels": config["config"]["Labels"].clone(), "User": config["config"]["User"].as_str().unwrap_or_default(),
        "VirtualSize": bytes, "NamesHistory": tags,
        "Architecture": image.config.architecture().to_string(), "Os": image.config.os().to_string(), "Size": bytes,
        "RootFS": { "Type": "layers", "Layers": layers }, "Author": config["author"].as_str().unwrap_or_default(),
    });
    beside(docker, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_docker_shows_them() {
        let parts = |name: &str| {
            let (repository, tag, _) = name_parts(name);
            (repository, tag)
        };
        assert_eq!(parts("docker.io/library/debian:12"), ("debian".into(), "12".into()));
        assert_eq!(parts("localhost:5000/a/b:1"), ("localhost:5000/a/b".into(), "1".into()));
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
