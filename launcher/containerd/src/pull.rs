//! `lamina containerd pull`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use layer_store::{Acquired, Cancellation, Digest, Observer, Platform, PullOptions, Reference, Store, printable};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::chain;
use crate::containerd::{Containerd, Document};
use crate::store::StoreOptions;

/// The media type of a manifest that names none.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Fetch an image from a registry into the store, and give it to containerd
///
/// Layers are fetched in parallel, and only those that the store lacks. containerd is given the manifest, the config, the
/// name and snapshots that are ready: nothing is fetched or unpacked again. It has no copy of the compressed layers, so to push
/// the image elsewhere fetch them first with `ctr content fetch`.
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
    /// Use HTTP without TLS (detected automatically for registries on this host)
    #[arg(long)]
    plain_http: bool,
    /// Check the certificates of registries; =false also allows registries without TLS [default: as registries.conf says,
    /// else true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// Trust the certificates in this PEM file too
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Read logins from this file only [default: $REGISTRY_AUTH_FILE, else those of podman and docker]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Number of layers to fetch at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    parallel: u8,
}

impl Pull {
    pub(crate) fn execute(&self, store: &StoreOptions, json: bool) -> anyhow::Result<()> {
        let reference: Reference = self.image.parse()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Before anything is fetched: without containerd it would be for nothing.
        let connecting = Containerd::connect(&self.address, &self.namespace, &self.snapshotter);
        let mut containerd = runtime.block_on(connecting)?;
        let store = store.open()?.with_purpose("lamina containerd pull");
        let pulled = self.fetch(&store, &reference)?;
        runtime.block_on(async {
            containerd.hold().await?;
            let given = give(&containerd, &store, &pulled, &reference, &self.snapshotter).await;
            containerd.release().await;
            given
        })?;
        report(&reference, &pulled, &self.namespace, json)
    }

    fn fetch(&self, store: &Store, reference: &Reference) -> anyhow::Result<Acquired> {
        let cancellation = Cancellation::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // The second signal ends the program.
            flag::register_conditional_shutdown(signal, 128 + signal, cancellation.flag())?;
            flag::register(signal, cancellation.flag())?;
        }
        let options = PullOptions {
            platform: self.platform.clone(),
            plain_http: self.plain_http,
            verify_tls: self.tls_verify,
            ca_file: self.ca_file.clone(),
            credential_files: self.authfile.clone().map(|file| vec![file]),
            parallel: self.parallel.into(),
            // The layers belong to containerd's image: a name in the store would keep them after that is removed.
            names_image: false,
            ..PullOptions::default()
        };
        let observer: Arc<dyn Observer> = Arc::new(Telling(cancellation));
        Ok(store.images().pull(reference, &options, &observer)?)
    }
}

/// Prints what the user should know.
#[derive(Debug)]
struct Telling(Cancellation);

impl Observer for Telling {
    fn notice(&self, line: &str) {
        crate::tell(&line);
    }

    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Gives an image of the store to containerd: snapshots first, and its name last.
async fn give(
    containerd: &Containerd,
    store: &Store,
    pulled: &Acquired,
    reference: &Reference,
    snapshotter: &str,
) -> anyhow::Result<()> {
    let mut chains: Vec<Digest> = Vec::new();
    for layer in &pulled.layers {
        chains.push(chain::extended(chains.last(), &layer.diff_id));
    }
    let chains: Vec<String> = chains.iter().map(ToString::to_string).collect();
    containerd.make_ready(&chains).await?;
    let manifest = document(store, &pulled.manifest_digest, MANIFEST)?;
    let fields: serde_json::Value = serde_json::from_slice(&manifest.bytes).context("the manifest")?;
    let config_digest: Digest =
        fields["config"]["digest"].as_str().unwrap_or_default().parse().context("the config")?;
    let config = document(store, &config_digest, CONFIG)?;
    let leads_to = |label: &str, target: String| HashMap::from([(format!("containerd.io/gc.ref.{label}"), target)]);
    let snapshot =
        chains.last().map_or_else(HashMap::new, |top| leads_to(&format!("snapshot.{snapshotter}"), top.clone()));
    containerd.put(&config, snapshot).await?;
    containerd.put(&manifest, leads_to("content.config", config_digest.to_string())).await?;
    containerd.name(&reference.to_string(), &manifest).await
}

fn document(store: &Store, digest: &Digest, default_type: &str) -> anyhow::Result<Document> {
    let bytes = store.images().manifest_bytes(digest)?;
    let fields: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let media_type = fields["mediaType"].as_str().unwrap_or(default_type).to_owned();
    Ok(Document { media_type, digest: digest.to_string(), bytes })
}

fn report(reference: &Reference, pulled: &Acquired, namespace: &str, json: bool) -> anyhow::Result<()> {
    use std::io::Write;
    let present = pulled.layers.iter().filter(|layer| layer.was_present).count();
    let line = match json {
        true => serde_json::json!({
            "reference": reference.to_string(),
            "manifest": pulled.manifest_digest.to_string(),
            "namespace": namespace,
            "layers": pulled.layers.len(),
            "fetched": pulled.layers.len() - present,
        })
        .to_string(),
        false => format!(
            "{reference} is in namespace {namespace} of containerd: {} layers, {present} of them already in the store",
            pulled.layers.len()
        ),
    };
    let line = if json { printable::json(&line) } else { printable::line(&line) };
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
