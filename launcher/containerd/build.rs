//! Writes the server of containerd's snapshots service.
//!
//! The crate `containerd-client` has containerd's messages, but only clients of its services. The messages of a server are
//! the same, so the service is described here with them, and no description of containerd's is copied into this
//! repository. (The crate `containerd-snapshots` has such a server, but its last release needs tonic 0.9, and with it a
//! second HTTP stack, and leaves a snapshot's parent out when it commits.)

use tonic_build::manual::{Builder, Method, Service};

/// The calls of the service, and what they answer with: a message, or nothing.
const CALLS: [(&str, &str, bool); 10] = [
    ("Prepare", "PrepareSnapshotRequest", true),
    ("View", "ViewSnapshotRequest", true),
    ("Mounts", "MountsRequest", true),
    ("Commit", "CommitSnapshotRequest", false),
    ("Remove", "RemoveSnapshotRequest", false),
    ("Stat", "StatSnapshotRequest", true),
    ("Update", "UpdateSnapshotRequest", true),
    ("List", "ListSnapshotsRequest", true),
    ("Usage", "UsageRequest", true),
    ("Cleanup", "CleanupRequest", false),
];

fn main() {
    let mut service = Service::builder().name("Snapshots").package("containerd.services.snapshots.v1");
    for (call, request, answers) in CALLS {
        let message = |name: &str| format!("containerd_client::services::v1::snapshots::{name}");
        let answer =
            if answers { message(&request.replace("Request", "Response")) } else { "crate::service::Empty".into() };
        let method = Method::builder()
            .name(call.to_lowercase())
            .route_name(call)
            .input_type(message(request))
            .output_type(answer)
            .codec_path("tonic_prost::ProstCodec");
        let method = if call == "List" { method.server_streaming() } else { method };
        service = service.method(method.build());
    }
    Builder::new().build_client(false).compile(&[service.build()]);
    println!("cargo:rerun-if-changed=build.rs");
}
