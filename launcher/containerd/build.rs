//! Writes the servers and clients of the services of containerd that are used here.
//!
//! The messages are in `src/api`, and the services are described here: no description of containerd's is copied into this
//! repository, and no protobuf compiler is needed. The crate `containerd-client` needs one, and has no servers; the last
//! release of `containerd-snapshots` needs an old tonic, and with it a second HTTP stack, and leaves a snapshot's parent
//! out when it commits.

use tonic_build::manual::{Builder, Method, Service};

/// What a call answers with.
#[derive(Clone, Copy)]
enum Answer {
    Message(&'static str),
    Empty,
}
use Answer::{Empty, Message};

const SNAPSHOTS: [(&str, &str, Answer); 10] = [
    ("Prepare", "PrepareSnapshotRequest", Message("PrepareSnapshotResponse")),
    ("View", "ViewSnapshotRequest", Message("ViewSnapshotResponse")),
    ("Mounts", "MountsRequest", Message("MountsResponse")),
    ("Commit", "CommitSnapshotRequest", Empty),
    ("Remove", "RemoveSnapshotRequest", Empty),
    ("Stat", "StatSnapshotRequest", Message("StatSnapshotResponse")),
    ("Update", "UpdateSnapshotRequest", Message("UpdateSnapshotResponse")),
    ("List", "ListSnapshotsRequest", Message("ListSnapshotsResponse")),
    ("Usage", "UsageRequest", Message("UsageResponse")),
    ("Cleanup", "CleanupRequest", Empty),
];
const CONTENT: [(&str, &str, Answer); 2] = [
    ("Write", "WriteContentRequest", Message("WriteContentResponse")),
    ("Update", "UpdateRequest", Message("UpdateResponse")),
];
const IMAGES: [(&str, &str, Answer); 2] = [
    ("Create", "CreateImageRequest", Message("CreateImageResponse")),
    ("Update", "UpdateImageRequest", Message("UpdateImageResponse")),
];
const LEASES: [(&str, &str, Answer); 3] = [
    ("Create", "CreateRequest", Message("CreateResponse")),
    ("Delete", "DeleteRequest", Empty),
    ("AddResource", "AddResourceRequest", Empty),
];

fn main() {
    builder().compile(&[service("Snapshots", &SNAPSHOTS)]);
    let others = [service("Content", &CONTENT), service("Images", &IMAGES), service("Leases", &LEASES)];
    builder().build_server(false).compile(&others);
    println!("cargo:rerun-if-changed=build.rs");
}

fn builder() -> Builder {
    Builder::new().build_transport(false)
}

fn service(name: &str, calls: &[(&str, &str, Answer)]) -> Service {
    let module = name.to_lowercase();
    let mut service = Service::builder().name(name).package(format!("containerd.services.{module}.v1"));
    for &(call, request, answer) in calls {
        let message = |name: &str| format!("crate::api::{module}::{name}");
        let answer = match answer {
            Message(name) => message(name),
            Empty => "crate::api::Empty".to_owned(),
        };
        let method = Method::builder()
            .name(call.to_lowercase())
            .route_name(call)
            .input_type(message(request))
            .output_type(answer)
            .codec_path("tonic_prost::ProstCodec");
        let method = match (name, call) {
            ("Snapshots", "List") => method.server_streaming(),
            ("Content", "Write") => method.client_streaming().server_streaming(),
            _ => method,
        };
        service = service.method(method.build());
    }
    service.build()
}
