//! Credential helpers: programs that keep logins in a key chain, and print them on request.
//!
//! The protocol is that of docker-credential-helpers: the name of the server on standard input, and an object
//! with `Username` and `Secret` as the answer.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::credential::Credential;

/// Asks the helper `name` for the login to `server`. Blocks for as long as the helper takes.
pub(super) fn ask(name: &str, server: &str) -> Result<Option<Credential>, String> {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        return Err(format!("{name:?} is not the name of a credential helper"));
    }
    let program = format!("docker-credential-{name}");
    let failed = |cause: &dyn std::fmt::Display| format!("its credential helper {program}: {cause}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper may answer without reading.
        let _ = writeln!(input, "{server}");
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // What helpers say about a server that they do not know.
        if answer.contains("credentials not found") {
            return Ok(None);
        }
        let said = if answer.trim().is_empty() { String::from_utf8_lossy(&output.stderr) } else { answer };
        let said = said.trim().lines().next().unwrap_or_default().to_owned();
        return Err(failed(&format!("{} ({said})", output.status)));
    }
    if answer.trim().is_empty() {
        return Ok(None);
    }
    let Ok(Value::Object(fields)) = serde_json::from_str(answer.trim()) else {
        return Err(failed(&"its answer is not JSON"));
    };
    let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let (user, secret) = (field("Username"), field("Secret"));
    Ok(if secret.is_empty() { None } else { Credential::login(user.as_bytes(), secret.as_bytes()) })
}
