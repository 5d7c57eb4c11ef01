//! Defaults of options: `config.toml`, of the user or else of the host.
//!
//! ```toml
//! engine = "container"
//! ```

use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use crate::engine::{Choice, table};
use crate::failure::{About, Failure};
use crate::text_file;

/// The variable that chooses what runs machines.
const ENGINE: &str = "LAMINA_ENGINE";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What runs machines.
    engine: Option<String>,
}

/// Returns what runs a machine: what the option says, or else the variable, or else the configuration.
///
/// # Errors
/// There is no such engine, or a file cannot be read.
pub(super) fn engine(option: Option<Choice<String>>) -> Result<Choice<String>, Failure> {
    if let Some(option) = option {
        return Ok(option);
    }
    let variable = std::env::var(ENGINE).ok().filter(|name| !name.is_empty());
    if let Some(name) = variable {
        return table::parse_engine(&name).about(ENGINE);
    }
    for file in files() {
        let text = match text_file::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read.about(file.display())?,
        };
        let config: Config = toml::from_str(&text).map_err(|error| error.message().to_owned()).about(file.display())?;
        return config.engine.map_or(Ok(Choice::Auto), |name| {
            table::parse_engine(&name).map_err(|cause| Failure::new(file.display(), format_args!("engine: {cause}")))
        });
    }
    Ok(Choice::Auto)
}

/// Returns the files that may hold the configuration. The first that exists counts.
fn files() -> impl Iterator<Item = PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(absolute);
    let own = own.or_else(|| Some(std::env::home_dir()?.join(".config")).filter(absolute));
    own.into_iter().chain([PathBuf::from("/etc")]).map(|directory| directory.join("lamina/config.toml"))
}
