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
        Error::settings(document, format!("line {line}"), in_words(e.message()))
    })
}

/// What serde says, with the user's words for the type that it expected: it names Rust's.
pub(crate) fn in_words(message: &str) -> String {
    const EXPECTED: &str = ", expected ";
    let Some(at) = message.rfind(EXPECTED) else {
        return message.into();
    };
    let (found, expected) = message.split_at(at);
    let expected = &expected[EXPECTED.len()..];
    // JSON's place stands last.
    let (kind, place) = expected.split_at(expected.find(" at line ").unwrap_or(expected.len()));
    let kind = match kind {
        "usize" | "u64" | "u32" => "a whole number of at least 0",
        "u16" => "a whole number from 0 to 65535",
        "u8" => "a whole number from 0 to 255",
        "i64" | "i32" => "a whole number",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    let found = found
        .replace("invalid type: map", "invalid type: table")
        .replace("invalid type: sequence", "invalid type: list")
        .replace(" as i128", "");
    format!("{found}{EXPECTED}{kind}{place}")
}

/// [`Error::InvalidConfig`] of a shared check, as an error of this settings file.
pub(crate) fn of_config(document: &str, error: Error) -> Error {
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
