//! The crate's one error type. Each variant is one Python exception under `quasar_rt.QuasarError`.
//!
//! May depend on nothing else in the crate.

use std::path::PathBuf;
use std::time::Duration;

/// An error on the way from a file's first byte to a prediction. Its message has the problem, the
/// place and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", printable(&path.to_string_lossy()))]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file ends before what its header promises.
    #[error("the subnet file is truncated: {what} needs {needed} bytes but {available} are there; copy or export it again")]
    Truncated {
        /// The part that is cut.
        what: &'static str,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are there.
        available: u64,
    },
    /// Something is larger than the documented limit; nothing was allocated for it.
    #[error("{what} is {size} {unit}; at most {limit} are allowed")]
    TooLarge {
        /// The thing that is too large.
        what: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
        /// The unit of both.
        unit: &'static str,
    },
    /// The bytes are not a safetensors container, or one of another format.
    #[error("not a subnet file: {0}; a .qvit file written by Subnet.save or `quasar-rt export` is expected")]
    NotASubnet(String),
    /// A subnet file of a version that this build cannot read.
    #[error("subnet file version \"{found}\" is not supported (this build reads versions \"1\" to \"5\"); export the subnet again or update quasar-rt")]
    UnsupportedVersion {
        /// The version the file states.
        found: String,
    },
    /// The digest does not match the contents: the file was damaged or edited.
    #[error("the subnet file is damaged: its sha256 is stated as \"{stated}\" but is {computed}; copy or export it again")]
    ChecksumMismatch {
        /// The digest in the metadata.
        stated: String,
        /// The digest of what was read.
        computed: String,
    },
    /// A key of the configuration is missing, unknown, or out of its range.
    #[error("invalid subnet config: {key}: {problem}")]
    InvalidConfig {
        /// The key, as a path (`blocks.0.heads`).
        key: String,
        /// The problem.
        problem: String,
    },
    /// A settings file (space, board, hardware configuration, search state) has a key that is
    /// missing, unknown or out of its range.
    #[error("invalid {document}: {key}: {problem}")]
    InvalidSettings {
        /// The kind of file and its name (`space "tiny"`).
        document: String,
        /// The key, as a path (`choices.embed`).
        key: String,
        /// The problem.
        problem: String,
    },
    /// A network does not fit an accelerator's buffers, or an accelerator does not fit its board.
    #[error("{what} needs {needed} {unit}, {} more than the {available} that are there", needed.saturating_sub(*available))]
    DoesNotFit {
        /// The thing that does not fit, and the place.
        what: String,
        /// The amount needed.
        needed: u64,
        /// The amount available.
        available: u64,
        /// The unit of both.
        unit: &'static str,
    },
    /// A tensor is missing or unexpected, or has the wrong dtype, shape or values.
    #[error("invalid tensor {tensor}: {problem}")]
    InvalidTensor {
        /// The tensor's name.
        tensor: String,
        /// The problem.
        problem: String,
    },
    /// A row breaks the bound that keeps every partial sum within 27 bits.
    #[error(
        "layer {layer}, row {row}: 128 * sum|w| + |bias| = {bound} is not below 2^26, so its accumulator could overflow; \
         export with smaller weights or a smaller bias in this row"
    )]
    AccumulatorOverflow {
        /// The layer's name.
        layer: String,
        /// The row within it.
        row: usize,
        /// The left side of the bound.
        bound: u64,
    },
    /// An image has an unusable size or layout.
    #[error("invalid image: {0}")]
    InvalidImage(String),
    /// An argument has an unusable value or shape, or asks for what is not supported.
    #[error("{0}")]
    InvalidValue(String),
    /// A search cannot meet its goal: no network of the space is fast enough.
    #[error("{0}")]
    Infeasible(String),
    /// The requested SIMD tier is not available on this CPU.
    #[error("this CPU has no tier {tier:?}; it has: {available}")]
    UnsupportedTier {
        /// The tier asked for.
        tier: String,
        /// The tiers that can be used, comma-separated.
        available: String,
    },
    /// Worker threads could not be started.
    #[error("cannot start {threads} worker threads: {problem}; ask for fewer")]
    Threads {
        /// The number asked for.
        threads: usize,
        /// The operating system's message.
        problem: String,
    },
    /// The process cannot have the memory that something needs.
    #[error("{what} needs {bytes} bytes of memory, more than this process can have; free some, or raise its limit")]
    OutOfMemory {
        /// The thing that needs memory.
        what: &'static str,
        /// Bytes that it needs.
        bytes: u64,
    },
    /// A device is missing or cannot be used.
    #[error("device \"{device}\": {problem}")]
    DeviceUnavailable {
        /// The device asked for.
        device: String,
        /// The missing part, and the remedy.
        problem: String,
    },
    /// Another engine or process uses an accelerator.
    #[error("{device} is in use by {owner}; close it there, or wait for it: Engine(wait=SECONDS), --wait SECONDS")]
    DeviceBusy {
        /// The device asked for.
        device: String,
        /// The owner.
        owner: String,
    },
    /// An accelerator did not do its work in time.
    #[error("{device}: {what} was not done within {} ms{details}", waited.as_millis())]
    DeviceTimeout {
        /// The device.
        device: String,
        /// The step that took too long.
        what: &'static str,
        /// The time that the driver waited.
        waited: Duration,
        /// The device's own report and what follows from the timeout: empty, or "; " and a
        /// sentence.
        details: String,
    },
    /// An accelerator, or the way to it, reports a fault.
    #[error("{device}: {problem}; the accelerator is reset for the next frame")]
    DeviceFault {
        /// The device.
        device: String,
        /// The report.
        problem: String,
    },
    /// An accelerator's output in memory is not the sound output of the frame.
    #[error(
        "the accelerator's output is not sound: {0}; the accelerator is reset for the next frame"
    )]
    CorruptOutput(String),
    /// The accelerator in the FPGA is not the one that the program is compiled for.
    #[error("{device}: the FPGA's {what} is 0x{found:x}, not 0x{expected:x}; load the bitstream that belongs to the configuration")]
    WrongBitstream {
        /// The device.
        device: String,
        /// The property that differs.
        what: &'static str,
        /// The FPGA's value.
        found: u64,
        /// The program's value.
        expected: u64,
    },
    /// A call was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Declares the names of all variants.
macro_rules! kinds {
    ($($variant:ident)*) => {
        impl Error {
            /// The names of all variants, in order of declaration. Python checks its exceptions
            /// against this list.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($variant)),*];

            /// Returns the variant's name, one of [`Self::KINDS`].
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => stringify!($variant),)*
                }
            }
        }
    };
}

kinds! {
    Io
    Truncated
    TooLarge
    NotASubnet
    UnsupportedVersion
    ChecksumMismatch
    InvalidConfig
    InvalidSettings
    DoesNotFit
    InvalidTensor
    AccumulatorOverflow
    InvalidImage
    InvalidValue
    Infeasible
    UnsupportedTier
    Threads
    OutOfMemory
    DeviceUnavailable
    DeviceBusy
    DeviceTimeout
    DeviceFault
    CorruptOutput
    WrongBitstream
    Interrupted
}

impl Error {
    // Arguments may hold text from a file.

    pub(crate) fn not_a_subnet(problem: impl AsRef<str>) -> Self {
        Self::NotASubnet(excerpt(problem.as_ref()))
    }

    /// Returns [`Error::InvalidConfig`]; the texts may come from a file and are cut to a bounded
    /// length.
    pub fn config(key: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        Self::InvalidConfig {
            key: excerpt(key.as_ref()),
            problem: excerpt(problem.as_ref()),
        }
    }

    /// Returns [`Error::InvalidSettings`]; the texts may come from a file and are cut to a bounded
    /// length.
    pub fn settings(
        document: impl AsRef<str>,
        key: impl AsRef<str>,
        problem: impl AsRef<str>,
    ) -> Self {
        Self::InvalidSettings {
            document: excerpt(document.as_ref()),
            key: excerpt(key.as_ref()),
            problem: excerpt(problem.as_ref()),
        }
    }

    pub(crate) fn tensor(tensor: impl AsRef<str>, problem: impl AsRef<str>) -> Self {
        Self::InvalidTensor {
            tensor: excerpt(tensor.as_ref()),
            problem: excerpt(problem.as_ref()),
        }
    }
}

/// Returns serde's message with the user's words for the type that it expected; serde names Rust's
/// types.
pub fn in_words(message: &str) -> String {
    const EXPECTED: &str = ", expected ";
    let Some(at) = message.rfind(EXPECTED) else {
        return message.into();
    };
    let (found, expected) = message.split_at(at);
    let expected = &expected[EXPECTED.len()..];
    // serde_json appends the place.
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

/// Characters of a file's text in a message, at most.
const MAX_EXCERPT: usize = 200;

/// Returns text of unknown origin for a message: of bounded length, without control characters.
/// Keeps both ends, because the problem often comes last.
pub fn excerpt(text: &str) -> String {
    if text.chars().nth(MAX_EXCERPT).is_none() {
        return printable(text);
    }
    let half = MAX_EXCERPT / 2;
    let first = text.char_indices().nth(half).map_or(0, |(at, _)| at);
    let last = text
        .char_indices()
        .nth_back(half - 1)
        .map_or(0, |(at, _)| at);
    format!(
        "{}...{}",
        printable(&text[..first]),
        printable(&text[last..])
    )
}

/// Returns text with its control characters escaped.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_files_is_escaped_and_shortened() {
        assert_eq!(excerpt("class \u{1f600} 'a'\\"), "class \u{1f600} 'a'\\");
        assert_eq!(excerpt("\u{1b}[31m\r\u{9b}"), "\\u{1b}[31m\\u{d}\\u{9b}");
        let exact = "é".repeat(200);
        assert_eq!(excerpt(&exact), exact);
        let long = excerpt(&format!("{}{}", "ä".repeat(3_000_000), "z".repeat(100)));
        assert_eq!(long, format!("{}...{}", "ä".repeat(100), "z".repeat(100)));
        assert!(excerpt(&"\u{1b}".repeat(9999)).len() < 2000);
    }

    #[test]
    fn errors_are_of_bounded_length() {
        let huge = "\u{1b}".repeat(1 << 20);
        for error in [
            Error::not_a_subnet(&huge),
            Error::config(&huge, &huge),
            Error::tensor(&huge, &huge),
        ] {
            let message = error.to_string();
            assert!(
                message.len() < 4000 && !message.contains('\u{1b}'),
                "{}",
                message.len()
            );
        }
    }
}
