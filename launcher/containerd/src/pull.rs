//! `lamina containerd pull`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use layer_store::{
    Acquired, Cancellation, Digest, Observer, Platform, PullError, PullOptions, Reference, Registries, RegistriesFiles,
    Store, printable,
};
use transfer_cli::{
    Bars, CredsArg, LimitArgs, PolicyArgs, RegistryArgs, SharingArgs, WrongOption, cancel_on_signal, parse_parallel,
    pull_first,
};

use crate::chain;
use crate::containerd::{Containerd, Document};
use crate::store::StoreOptions;

/// How often it is looked whether a signal has come while containerd works.
const LOOK: Duration = Duration::from_millis(50);

/// For how long after a signal containerd may take to answer whether the image has its name.
const ANSWER: Duration = Duration::from_secs(10);

/// The media type of a manifest that names none.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Fetch an image from a registry into the store, and give it to containerd
///
/// Layers are fetched in parallel, and only those that the store lacks. containerd is given the manifest, the config, the
/// name and snapshots that are ready: nothing is fetched or unpacked again. It has no copy of the compressed layers, so to push
/// the image elsewhere fetch them first with `ctr content fetch`.
///
/// The logins of docker, podman and skopeo are used, as by `lamina pull`. After Ctrl-C, containerd has nothing of the image.
/// If containerd was already naming the image, Ctrl-C is too late, and the pull succeeds.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lamina containerd pull debian:12
  lamina containerd pull --namespace k8s.io ghcr.io/a/b:c
  lamina containerd pull debian:12 && ctr run --snapshotter lamina --rm docker.io/library/debian:12 test ls /")]
pub(crate) struct Pull {
    /// The image, as people write it: debian, debian:12, ghcr.io/a/b:c
    #[arg(value_name = "REF")]
    image: String,
    /// The namespace of containerd that gets the image
    #[arg(short, long, value_name = "NAME", default_value = "default", env = "CONTAINERD_NAMESPACE")]
    namespace: String,
    /// The socket of containerd
    #[arg(
        short,
        long,
        value_name = "SOCKET",
        default_value = "/run/containerd/containerd.sock",
        env = "CONTAINERD_ADDRESS"
    )]
    address: PathBuf,
    /// The name of the snapshotter in containerd's configuration
    #[arg(long, value_name = "NAME", default_value = "lamina")]
    snapshotter: String,
    /// Choose this platform from a multi-platform image [default: linux on this host's processor]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Number of layers to fetch at once, and of connections for a large layer if each is slow
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_parallel)]
    parallel: usize,
    /// Show no progress, and print only the name of the image
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    creds: CredsArg,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    sharing: SharingArgs,
}

impl Pull {
    pub(crate) fn execute(&self, store: &StoreOptions, json: bool) -> anyhow::Result<()> {
        let references = references(&self.image)?;
        let options = self.options()?;
        let cancellation = Cancellation::default();
        cancel_on_signal(&cancellation).context("signals")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Before anything is fetched: without containerd it would be for nothing.
        let connecting = Containerd::connect(&self.address, &self.namespace, &self.snapshotter);
        let mut containerd = runtime.block_on(connecting)?;
        let store = store.open()?.with_purpose("lamina containerd pull");
        let store = store.with_limits(self.limits.limits()).with_file_sharing(self.sharing.shares_files());
        let bars = Arc::new(Bars::new("lamina containerd", self.quiet, cancellation.clone()));
        let observer: Arc<dyn Observer> = Arc::clone(&bars) as Arc<dyn Observer>;
        let pulled = pull_first(&store, &references, &options, &observer);
        bars.finish();
        let pulled = pulled.context("pull")?;
        // One of several that the name may mean.
        let reference = pulled.references.first().context("the image has no name")?;
        runtime.block_on(async {
            containerd.hold().await?;
            let given = async {
                let manifest = tokio::select! {
                    manifest = give(&containerd, &store, &pulled, &self.snapshotter) => manifest?,
                    () = cancelled(&cancellation) => return Err(PullError::Cancelled).context("pull"),
                };
                if cancellation.is_cancelled() {
                    return Err(PullError::Cancelled).context("pull");
                }
                // From here a signal comes too late: containerd may carry out a call that is dropped.
                let name = reference.to_string();
                tokio::select! {
                    named = containerd.name(&name, &manifest) => named,
                    () = cancelled_in_vain(&cancellation) => {
                        containerd.abandon();
                        let address = self.address.display();
                        Err(PullError::Cancelled)
                            .with_context(|| format!("pull: containerd at {address} has not answered, and may still name the image"))
                    }
                }
            }
            .await;
            containerd.release(given.is_ok()).await;
            given
        })?;
        self.report(reference, &pulled, json)
    }

    fn options(&self) -> Result<PullOptions, WrongOption> {
        Ok(PullOptions {
            platform: self.platform.clone(),
            parallel: self.parallel,
            policy: self.policy.policy(),
            // The layers belong to containerd's image: a name in the store would keep them after that is removed.
            names_image: false,
            ..self.registry.options(Some(&self.creds))?
        })
    }

    fn report(&self, reference: &Reference, pulled: &Acquired, json: bool) -> anyhow::Result<()> {
        use std::io::Write;
        let present = pulled.layers.iter().filter(|layer| layer.was_present).count();
        let namespace = &self.namespace;
        let line = if json {
            let row = serde_json::json!({
                "reference": reference.to_string(),
                "manifest": pulled.manifest_digest.to_string(),
                "platform": pulled.platform.to_string(),
                "namespace": namespace,
                "layers": pulled.layers.len(),
                "fetched": pulled.layers.len() - present,
            });
            printable::json(&row.to_string()).into_owned()
        } else if self.quiet {
            printable::line(&reference.to_string()).into_owned()
        } else {
            let layers = pulled.layers.len();
            printable::line(&format!(
                "{reference} is in namespace {namespace} of containerd: {layers} layers, {present} of them already in the store"
            ))
            .into_owned()
        };
        writeln!(std::io::stdout(), "{line}")?;
        Ok(())
    }
}

/// Returns the images that a name may mean, in the order in which they are tried.
fn references(text: &str) -> anyhow::Result<Vec<Reference>> {
    let text = text.strip_prefix("docker://").unwrap_or(text);
    let wrong = |cause: String| WrongOption { thing: "image name".to_owned(), cause };
    Ok(Registries::read(&RegistriesFiles::default())?.candidates(text).map_err(|error| wrong(error.to_string()))?)
}

async fn cancelled(cancellation: &Cancellation) {
    while !cancellation.is_cancelled() {
        tokio::time::sleep(LOOK).await;
    }
}

async fn cancelled_in_vain(cancellation: &Cancellation) {
    cancelled(cancellation).await;
    tokio::time::sleep(ANSWER).await;
}

/// Gives an image of the store to containerd. Returns the manifest, which is to be named.
async fn give(
    containerd: &Containerd,
    store: &Store,
    pulled: &Acquired,
    snapshotter: &str,
) -> anyhow::Result<Document> {
    let mut chains: Vec<Digest> = Vec::new();
    for layer in &pulled.layers {
        chains.push(chain::extended(chains.last(), &layer.diff_id));
    }
    let chains: Vec<String> = chains.iter().map(ToString::to_string).collect();
    let manifest = document(store, &pulled.manifest_digest, MANIFEST)?;
    let fields: serde_json::Value = serde_json::from_slice(&manifest.bytes).context("the manifest")?;
    let config_digest: Digest =
        fields["config"]["digest"].as_str().unwrap_or_default().parse().context("the config")?;
    let config = document(store, &config_digest, CONFIG)?;
    let leads_to = |label: &str, target: String| HashMap::from([(format!("containerd.io/gc.ref.{label}"), target)]);
    let snapshot =
        chains.last().map_or_else(HashMap::new, |top| leads_to(&format!("snapshot.{snapshotter}"), top.clone()));
    // Each of these calls waits for a disk. All end before the first failure is reported: what containerd still carries out
    // would not be removed with the rest.
    let (ready, config, kept) = tokio::join!(
        containerd.make_ready(&chains),
        containerd.put(&config, snapshot),
        containerd.put(&manifest, leads_to("content.config", config_digest.to_string())),
    );
    ready.and(config).and(kept)?;
    Ok(manifest)
}

fn document(store: &Store, digest: &Digest, default_type: &str) -> anyhow::Result<Document> {
    let bytes = store.images().manifest_bytes(digest)?;
    let fields: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let media_type = fields["mediaType"].as_str().unwrap_or(default_type).to_owned();
    Ok(Document { media_type, digest: digest.to_string(), bytes })
}
