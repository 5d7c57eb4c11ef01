//! containerd's API, as far as it is used here: messages, and the services that `build.rs` writes.
//!
//! Field numbers are those of containerd's `api/services/*/v1/*.proto`, and fields that nothing here reads are left out:
//! protobuf skips them. So no protobuf compiler is needed to build this program.

pub(crate) mod content;
pub(crate) mod images;
pub(crate) mod leases;
pub(crate) mod snapshots;

/// `containerd.types.Mount`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Mount {
    #[prost(string, tag = "1")]
    pub(crate) r#type: String,
    #[prost(string, tag = "2")]
    pub(crate) source: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) options: Vec<String>,
}

/// `google.protobuf.Empty`.
pub(crate) type Empty = ();
