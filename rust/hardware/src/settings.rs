//! Settings files in TOML: bounded size, unknown keys refused (by the types), errors that name the
//! file and the key.
//!
//! Depends on [`quasar_core::error`] only.

use quasar_core::error::{in_words, Error, Result};
use serde::de::DeserializeOwned;

/// Bytes of a settings file, at most.
pub const MAX_BYTES: usize = 1 << 20;

/// Parses `text`; `document` names the kind of file (`space`) in errors.
///
/// # Errors
/// [`Error::TooLarge`] beyond 1 MiB, [`Error::InvalidSettings`] for anything else, with the line
/// and TOML's message.
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
        Error::settings(document, format!("line {line}"), in_words(e.message()))
    })
}

/// Converts [`Error::InvalidConfig`] of a shared check to an error of this settings file.
pub fn of_config(document: &str, error: Error) -> Error {
    match error {
        Error::InvalidConfig { key, problem } => Error::settings(document, key, problem),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        share: f64,
    }

    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code)]
    struct Outer {
        count: Option<usize>,
        small: Option<u8>,
        wide: Option<i64>,
        flag: Option<bool>,
        list: Option<Vec<u32>>,
        inner: Option<Inner>,
    }

    #[test]
    fn errors_speak_of_values_and_not_of_rust_types() {
        for (text, problem) in [
            (
                "count = -1",
                "invalid value: integer `-1`, expected a whole number of at least 0",
            ),
            (
                "count = \"a\"",
                "string \"a\", expected a whole number of at least 0",
            ),
            (
                "count = 99999999999999999999",
                "integer `99999999999999999999`, expected a whole number of at least 0",
            ),
            (
                "small = 256",
                "integer `256`, expected a whole number from 0 to 255",
            ),
            (
                "wide = 1.5",
                "floating point `1.5`, expected a whole number",
            ),
            ("flag = 1", "integer `1`, expected true or false"),
            ("list = 3", "integer `3`, expected a list"),
            (
                "list = [-3]",
                "integer `-3`, expected a whole number of at least 0",
            ),
            (
                "count = {}",
                "invalid type: table, expected a whole number of at least 0",
            ),
            (
                "small = []",
                "invalid type: list, expected a whole number from 0 to 255",
            ),
            (
                "inner = {share = \"u8\"}",
                "string \"u8\", expected a number",
            ),
            ("inner = {}", "missing field `share`"),
            (
                "inner = {shar = 1.0}",
                "unknown field `shar`, expected `share`",
            ),
            (
                "list = [\", expected usize\"]",
                "expected usize\", expected a whole number",
            ),
        ] {
            let error = parse::<Outer>("test", text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let json = serde_json::from_str::<Outer>("{\n\"count\": -1}").unwrap_err();
        assert_eq!(
            in_words(&json.to_string()),
            "invalid value: integer `-1`, expected a whole number of at least 0 at line 2 column 11"
        );
    }
}
