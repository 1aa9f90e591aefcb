//! Settings files in TOML: bounded size, unknown keys refused (by the types), errors that name the file and the key.
//!
//! Depends on [`crate::error`] only.

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Bytes of a settings file, at most.
pub const MAX_BYTES: usize = 1 << 20;

/// Parses `text`; `document` says what it is (`space`) in errors.
///
/// # Errors
/// [`Error::TooLarge`] beyond 1 MiB, [`Error::InvalidSettings`] for anything else; it has the line and what TOML said.
pub fn parse<T: DeserializeOwned>(document: &str, text: &str) -> Result<T> {
    if text.len() > MAX_BYTES {
        return Err(Error::TooLarge {
            what: document.into(),
            size: text.len() as u64,
            limit: MAX_BYTES as u64,
            unit: "bytes",
        });
    }
    toml::from_str(text).map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start));
        let line = 1 + before.unwrap_or("").matches('\n').count();
        Error::settings(document, format!("line {line}"), e.message())
    })
}

/// [`Error::InvalidConfig`] of a shared check, as an error of this settings file.
pub(crate) fn of_config(document: &str, error: Error) -> Error {
    match error {
        Error::InvalidConfig { key, problem } => Error::settings(document, key, problem),
        other => other,
    }
}
