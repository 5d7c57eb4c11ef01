//! The options that choose the policy for images.

use std::path::PathBuf;

use layer_store::{ImagePolicy, PolicyFiles};

/// Which images may enter the store.
#[derive(Clone, Debug, clap::Args)]
pub struct PolicyArgs {
    /// Obey this policy for images [default: ~/.config/containers/policy.json, else /etc/containers/policy.json, if it exists]
    #[arg(long, alias = "signature-policy", value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Read from this directory which registries keep signatures [default: registries.d beside the policy's default]
    #[arg(long = "registries.d", value_name = "DIR")]
    registries: Option<PathBuf>,
}

impl PolicyArgs {
    /// Returns the policy for the library.
    #[must_use]
    pub fn policy(&self) -> ImagePolicy {
        ImagePolicy::Of(PolicyFiles { policy: self.policy.clone(), registries: self.registries.clone() })
    }
}
