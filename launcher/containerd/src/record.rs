//! What is known about one snapshot.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use layer_store::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::chain;
use crate::filter::Fields;

/// The label with the chain id of the layers that a snapshot holds or is made for.
pub(crate) const REF: &str = "containerd.io/snapshot.ref";

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Can be read and written.
    Active,
    /// Can be read.
    View,
    /// A layer, on which other snapshots are made.
    Committed,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::View => "view",
            Self::Committed => "committed",
        }
    }
}

/// A moment, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

impl Moment {
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
    }
}

/// The file `record.json` of a snapshot, and the note of the pin of a committed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The key of an active snapshot or a view, the name of a committed one. containerd chooses both.
    pub(crate) name: String,
    /// The name of the snapshot below, or nothing.
    pub(crate) parent: String,
    pub(crate) kind: Kind,
    pub(crate) created: Moment,
    pub(crate) updated: Moment,
    pub(crate) labels: BTreeMap<String, String>,
    /// The layers of the store, bottom first: those that a committed snapshot consists of, or those below another one.
    pub(crate) layers: Vec<DiffId>,
    /// The key of the active snapshot that was committed as this one: the same call can come again, if its answer was lost.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) made_of: String,
}

impl Record {
    pub(crate) fn new(name: &str, parent: &str, kind: Kind, labels: BTreeMap<String, String>) -> Self {
        let now = Moment::now();
        let (name, parent) = (name.to_owned(), parent.to_owned());
        Self { name, parent, kind, created: now, updated: now, labels, layers: Vec::new(), made_of: String::new() }
    }

    /// Returns the chain id of what a committed snapshot holds, if containerd has said it.
    pub(crate) fn chain(&self) -> Option<Digest> {
        let labelled = self.labels.get(REF).and_then(|target| target.parse().ok());
        labelled.or_else(|| chain::in_name(&self.name))
    }

    /// Returns what users are told keeps its layers: containerd, and the namespace if the name has one.
    pub(crate) fn purpose(&self) -> String {
        match self.name.split_once('/') {
            Some((namespace, _)) => format!("containerd (namespace {namespace})"),
            None => "containerd".to_owned(),
        }
    }
}

impl Fields for Record {
    fn field(&self, path: &[String]) -> Option<&str> {
        match path.split_first()? {
            (field, []) if field == "name" => Some(&self.name),
            (field, []) if field == "parent" => Some(&self.parent),
            (field, []) if field == "kind" => Some(self.kind.name()),
            (field, label) if field == "labels" => self.labels.get(&label.join(".")).map(String::as_str),
            _ => None,
        }
    }
}
