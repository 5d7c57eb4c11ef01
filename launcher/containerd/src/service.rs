//! The gRPC service `containerd.services.snapshots.v1`: messages to calls, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use crate::api::Empty;
use crate::api::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind as ProtoKind, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest, Snapshots,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use crate::error::Error;
use crate::filter::Filters;
use crate::record::{Kind, Moment, Record};
use crate::snapshotter::{Labels, Snapshotter};

/// How many snapshots one message of a list has: it stays far below the largest message, 4 MiB.
const PAGE: usize = 100;

/// Answers calls with a snapshotter.
#[derive(Clone, Debug)]
pub(crate) struct Service(Arc<Snapshotter>);

impl Service {
    pub(crate) const fn new(snapshotter: Arc<Snapshotter>) -> Self {
        Self(snapshotter)
    }

    /// Calls the snapshotter in a thread that may wait for the disk.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshotter) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshotter = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&snapshotter)).await {
            Ok(outcome) => outcome.map_err(Status::from),
            Err(_) => Err(Status::internal("the call ended early; the log of lamina-containerd says why")),
        }
    }
}

#[tonic::async_trait]
impl Snapshots for Service {
    type ListStream = tokio_stream::Iter<std::vec::IntoIter<Result<ListSnapshotsResponse, Status>>>;

    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let mounts = self.call(move |all| all.prepare(named(&key)?, &parent, labels.into_iter().collect())).await?;
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Result<Response<ViewSnapshotResponse>, Status> {
        let ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let mounts = self.call(move |all| all.view(named(&key)?, &parent, labels.into_iter().collect())).await?;
        Ok(Response::new(ViewSnapshotResponse { mounts }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Result<Response<MountsResponse>, Status> {
        let MountsRequest { key, .. } = request.into_inner();
        let mounts = self.call(move |all| all.mounts(&key)).await?;
        Ok(Response::new(MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Result<Response<Empty>, Status> {
        let CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        self.call(move |all| all.commit(named(&name)?, &key, labels.into_iter().collect())).await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Result<Response<Empty>, Status> {
        let RemoveSnapshotRequest { key, .. } = request.into_inner();
        self.call(move |all| all.remove(&key)).await?;
        Ok(Response::new(()))
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Result<Response<StatSnapshotResponse>, Status> {
        let StatSnapshotRequest { key, .. } = request.into_inner();
        let record = self.call(move |all| all.stat(&key)).await?;
        Ok(Response::new(StatSnapshotResponse { info: Some(info(record)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let UpdateSnapshotRequest { info: asked, update_mask, .. } = request.into_inner();
        let asked = asked.ok_or_else(|| Status::invalid_argument("the call names no snapshot"))?;
        let paths = update_mask.unwrap_or_default().paths;
        let record = self
            .call(move |all| {
                check_mask(&paths)?;
                let labels = asked.labels.into_iter().collect();
                all.update(&asked.name, |own| change_labels(own, labels, &paths))
            })
            .await?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(info(record)) }))
    }

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Result<Response<Self::ListStream>, Status> {
        let filters = Filters::parse(&request.into_inner().filters).map_err(Status::invalid_argument)?;
        let records = self.call(move |all| Ok(all.list(&filters))).await?;
        let infos: Vec<Info> = records.into_iter().map(info).collect();
        let pages = infos.chunks(PAGE).map(|page| Ok(ListSnapshotsResponse { info: page.to_vec() }));
        Ok(Response::new(tokio_stream::iter(pages.collect::<Vec<_>>())))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        let UsageRequest { key, .. } = request.into_inner();
        let used = self.call(move |all| all.usage(&key)).await?;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Ok(Response::new(UsageResponse { size: number(used.on_disk), inodes: number(used.inodes) }))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Result<Response<Empty>, Status> {
        self.call(Snapshotter::cleanup).await?;
        Ok(Response::new(()))
    }
}

fn named(name: &str) -> Result<&str, Error> {
    if name.is_empty() { Err(Error::Invalid("a snapshot needs a name".into())) } else { Ok(name) }
}

/// Only labels can be changed.
fn check_mask(paths: &[String]) -> Result<(), Error> {
    let wrong = paths.iter().find(|path| *path != "labels" && !path.starts_with("labels."));
    wrong.map_or(Ok(()), |path| Err(Error::Invalid(format!("{path:?} of a snapshot cannot be changed"))))
}

/// Changes the labels that the paths name, and all labels if there are none.
fn change_labels(own: &mut Labels, new: BTreeMap<String, String>, paths: &[String]) {
    if paths.is_empty() || paths.iter().any(|path| path == "labels") {
        *own = new;
        return;
    }
    for label in paths.iter().filter_map(|path| path.strip_prefix("labels.")) {
        match new.get(label).filter(|value| !value.is_empty()) {
            Some(value) => drop(own.insert(label.to_owned(), value.clone())),
            None => drop(own.remove(label)),
        }
    }
}

fn info(record: Record) -> Info {
    let time = |moment: Moment| {
        Some(Timestamp { seconds: moment.seconds, nanos: i32::try_from(moment.nanoseconds).unwrap_or_default() })
    };
    let kind = match record.kind {
        Kind::Active => ProtoKind::Active,
        Kind::View => ProtoKind::View,
        Kind::Committed => ProtoKind::Committed,
    };
    Info {
        created_at: time(record.created),
        updated_at: time(record.updated),
        kind: kind.into(),
        name: record.name,
        parent: record.parent,
        labels: record.labels.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_mask_decides_which_labels_change() {
        let changed = |paths: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
            let mut own = labels(&[("a", "1"), ("b", "2")]);
            change_labels(&mut own, labels(&[("a", "3"), ("c", "4")]), &paths);
            own
        };
        assert_eq!(changed(&[]), labels(&[("a", "3"), ("c", "4")]));
        assert_eq!(changed(&["labels"]), labels(&[("a", "3"), ("c", "4")]));
        assert_eq!(changed(&["labels.a", "labels.b"]), labels(&[("a", "3")]));
        assert!(check_mask(&["parent".to_owned()]).is_err() && check_mask(&["labels.x".to_owned()]).is_ok());
    }
}
