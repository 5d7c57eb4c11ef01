//! Messages of `containerd.services.snapshots.v1`, which containerd and the snapshotter serve. Only containerd looks at the
//! name of the snapshotter.

use std::collections::{BTreeMap, HashMap};

use super::grpc::Grpc;

/// The service.
pub(crate) const SERVICE: &str = "/containerd.services.snapshots.v1.Snapshots";

/// The numbers of kinds of snapshots.
pub(crate) const ACTIVE: i32 = 2;
pub(crate) const COMMITTED: i32 = 3;

/// Names and kinds.
pub(crate) type Snapshots = BTreeMap<String, i32>;

/// Of the methods `Prepare` and `View`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Prepare {
    #[prost(string, tag = "1")]
    pub(crate) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(crate) key: String,
    #[prost(string, tag = "3")]
    pub(crate) parent: String,
    #[prost(map = "string, string", tag = "4")]
    pub(crate) labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Commit {
    #[prost(string, tag = "1")]
    pub(crate) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) key: String,
}

/// A question about a snapshot, or what is to be removed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Asked {
    #[prost(string, tag = "1")]
    pub(crate) snapshotter: String,
    #[prost(string, tag = "2")]
    pub(crate) key: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Nothing {}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    info: Vec<Info>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Info {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    kind: i32,
}

/// Returns the snapshots of a snapshotter, as it answers itself.
pub(crate) fn list(grpc: &Grpc) -> Result<Snapshots, String> {
    let found: List = match grpc.call(&format!("{SERVICE}/List"), &Nothing {}) {
        // A list without snapshots has no message.
        Err(error) if error.ends_with("the server has refused the call") => List::default(),
        found => found?,
    };
    Ok(found.info.into_iter().map(|info| (info.name, info.kind)).collect())
}
