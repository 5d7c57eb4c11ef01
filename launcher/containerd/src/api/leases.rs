//! `containerd.services.leases.v1`.

use std::collections::HashMap;

/// The client.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, unused_qualifications, clippy::all)]
#[allow(clippy::pedantic, clippy::nursery, dead_code)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/containerd.services.leases.v1.Leases.rs"));
}

pub(crate) use generated::leases_client::LeasesClient;

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct CreateRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct CreateResponse {}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct AddResourceRequest {
    /// The lease.
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) resource: Option<Resource>,
}

/// Something that a lease keeps. It need not exist yet.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Resource {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    /// Such as `snapshots/<name of the snapshotter>`.
    #[prost(string, tag = "2")]
    pub(crate) r#type: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct DeleteRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    /// Whether the call waits for the garbage collection that follows.
    #[prost(bool, tag = "2")]
    pub(crate) sync: bool,
}
