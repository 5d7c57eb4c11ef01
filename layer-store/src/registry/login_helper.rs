//! Credential helpers: programs that keep logins in a key chain, and print them on request.
//!
//! The protocol is that of docker-credential-helpers: the name of the server on standard input, and an object
//! with `Username` and `Secret` as the answer. To store a login, the helper is given such an object with `ServerURL`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::credential::Credential;

/// Asks the helper `name` for the login to `server`. Blocks for as long as the helper takes.
pub(super) fn ask(name: &str, server: &str) -> Result<Option<Credential>, String> {
    let answer = match run(name, "get", server) {
        Err(Problem::NotThere) => return Ok(None),
        Err(Problem::Failed(cause)) => return Err(cause),
        Ok(answer) => answer,
    };
    if answer.trim().is_empty() {
        return Ok(None);
    }
    let Ok(Value::Object(fields)) = serde_json::from_str(answer.trim()) else {
        return Err(failed(name, &"its answer is not JSON"));
    };
    let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let (user, secret) = (field("Username"), field("Secret"));
    Ok(if secret.is_empty() { None } else { Credential::login(user.as_bytes(), secret.as_bytes()) })
}

/// Makes the helper `name` store a login (`store`, an object) or forget one (`erase`, the name of the server).
pub(super) fn change(name: &str, action: &str, input: &str) -> Result<(), String> {
    match run(name, action, input) {
        Ok(_) | Err(Problem::NotThere) => Ok(()),
        Err(Problem::Failed(cause)) => Err(cause),
    }
}

enum Problem {
    /// The helper has no login for the server.
    NotThere,
    Failed(String),
}

fn failed(name: &str, cause: &dyn std::fmt::Display) -> String {
    format!("its credential helper docker-credential-{name}: {cause}")
}

/// Runs a helper, and returns what it prints. What it is told goes through its standard input: an argument is seen by everybody.
fn run(name: &str, action: &str, input: &str) -> Result<String, Problem> {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err(Problem::Failed(format!("{name:?} is not the name of a credential helper")));
    }
    let failed = |cause: &dyn std::fmt::Display| Problem::Failed(failed(name, cause));
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut to) = child.stdin.take() {
        // A helper may answer without reading.
        let _ = writeln!(to, "{input}");
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        // What helpers say about a server that they do not know.
        if answer.contains("credentials not found") {
            return Err(Problem::NotThere);
        }
        let said = if answer.trim().is_empty() { String::from_utf8_lossy(&output.stderr).into_owned() } else { answer };
        let said = said.trim().lines().next().unwrap_or_default().to_owned();
        return Err(failed(&format!("{} ({said})", output.status)));
    }
    Ok(answer)
}
