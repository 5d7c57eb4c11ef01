//! Entry points for fuzzing: login files, and what a registry sends besides images.

use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};

use super::login_file::LoginFile;
use super::{attachments, auth, client, range};

/// Reads bytes as a file with logins, and asks it for some.
pub(crate) fn login_file(bytes: &[u8]) {
    for legacy in [false, true] {
        let Ok(file) = LoginFile::read(bytes, legacy) else { continue };
        for place in ["docker.io", "index.docker.io", "a.test", "a.test/x", "localhost:5000", ""] {
            let _ = (file.helper(place), file.store());
            if let Ok(Some(login)) = file.entry(place) {
                assert!(login.user().len() <= bytes.len() * 3 + 32, "a user name comes from the file");
            }
        }
    }
}

/// Reads bytes as an error, a token, a challenge, a range and a list of signatures.
pub(crate) fn answer(bytes: &[u8]) {
    if let Ok(value) = serde_json::from_slice(bytes) {
        let _ = client::messages(&value);
    }
    let _ = (auth::bearer_of(bytes), attachments::parse(bytes));
    let lines: Vec<HeaderValue> =
        bytes.split(|byte| *byte == b'\n').take(3).filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let mut headers = HeaderMap::new();
    for line in &lines {
        headers.append(WWW_AUTHENTICATE, line.clone());
    }
    let _ = auth::Challenge::all(&headers);
    let names = [CONTENT_RANGE, CONTENT_LENGTH, CONTENT_TYPE];
    let headers: HeaderMap = names.into_iter().zip(lines).collect();
    for (offset, size) in [(0, 0), (0, u64::MAX), (400, 1000), (u64::MAX - 1, u64::MAX)] {
        for is_partial in [false, true] {
            if let Some(start) = range::start(is_partial, &headers, offset, size) {
                assert!(start <= offset, "what follows the start may be skipped, what precedes it is missing");
            }
        }
    }
}
