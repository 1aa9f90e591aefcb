//! The safetensors container of a subnet file: limits, metadata, digest, and tensors as bytes.
//!
//! Knows nothing of networks. The safetensors crate parses the header. This module reads, so that
//! the tensors are read once, after every check of the header. It also writes, because the crate
//! orders the metadata by a randomly seeded hash map and the same subnet must always give the same
//! bytes. Depends on [`crate::error`], [`crate::memory`]
//! and `json`.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

use safetensors::tensor::{Metadata, TensorInfo};
use sha2::{Digest, Sha256};

use super::json;
use crate::error::{excerpt, Error, Result};
use crate::memory;

/// Bytes of a subnet file, at most.
pub const MAX_FILE_BYTES: u64 = 512 << 20;
/// Bytes of its header, at most.
pub const MAX_HEADER_BYTES: u64 = 4 << 20;

/// Bytes of memory that one byte of a header may take once it is parsed: a short text in a list.
const HEADER_FACTOR: usize = 32;
/// The words for a file that does not fit the memory.
const FILE: &str = "reading the subnet";

const FORMAT: &str = "qvit";
/// The versions that this build reads. A file has the oldest one that has all that its config says
/// ([`super::config::Config::version`]).
const VERSIONS: [&str; 5] = ["1", "2", "3", "4", "5"];

/// The dtypes that a subnet file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    /// Unsigned 8-bit.
    U8,
    /// Signed 8-bit.
    I8,
    /// Signed 16-bit.
    I16,
    /// Signed 32-bit.
    I32,
    /// Signed 64-bit.
    I64,
}

impl Dtype {
    /// Returns the safetensors name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::I16 => "I16",
            Self::I32 => "I32",
            Self::I64 => "I64",
        }
    }

    /// Returns the bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// Returns the dtype of a safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::U8, Self::I8, Self::I16, Self::I32, Self::I64]
            .into_iter()
            .find(|d| d.name() == name)
    }
}

/// A tensor as in the file: little-endian, row-major. The size of `data` agrees with dtype and
/// shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Tensor {
    /// Takes a tensor's bytes.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`] if their number does not agree with dtype and shape.
    pub fn new(name: &str, dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Result<Self> {
        let bytes = shape
            .iter()
            .try_fold(dtype.size(), |n, &d| n.checked_mul(d));
        if bytes != Some(data.len()) {
            return Err(Error::tensor(
                name,
                format!(
                    "{} bytes do not make a {} tensor of shape {shape:?}",
                    data.len(),
                    dtype.name()
                ),
            ));
        }
        Ok(Self { dtype, shape, data })
    }

    /// Takes a tensor's bytes, whatever their number is.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn unchecked(dtype: Dtype, shape: Vec<usize>, data: Vec<u8>) -> Self {
        Self { dtype, shape, data }
    }

    /// Returns the element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the little-endian bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Iterates over the elements, widened.
    pub fn values(&self) -> Box<dyn Iterator<Item = i64> + '_> {
        match self.dtype {
            Dtype::U8 => Box::new(self.data.iter().map(|&v| i64::from(v))),
            Dtype::I8 => Box::new(self.data.iter().map(|&v| i64::from(v as i8))),
            Dtype::I16 => Box::new(self.i16s().into_iter().map(i64::from)),
            Dtype::I32 => Box::new(self.i32s().into_iter().map(i64::from)),
            Dtype::I64 => Box::new(self.words().map(i64::from_le_bytes)),
        }
    }

    pub(crate) fn i16s(&self) -> Vec<i16> {
        self.words().map(i16::from_le_bytes).collect()
    }

    pub(crate) fn i32s(&self) -> Vec<i32> {
        self.words().map(i32::from_le_bytes).collect()
    }

    fn words<const N: usize>(&self) -> impl Iterator<Item = [u8; N]> + '_ {
        self.data.as_chunks::<N>().0.iter().copied()
    }
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Computes the digest that the metadata states: see `docs/subnet-file.md`.
pub(crate) fn digest(config: &str, tensors: &Tensors) -> String {
    let mut hash = Sha256::new();
    hash.update(config);
    for (name, tensor) in tensors {
        hash.update(name);
        hash.update([0]);
        hash.update(tensor.dtype.name());
        hash.update([0]);
        hash.update(
            tensor
                .shape
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
        );
        hash.update([0]);
        hash.update(&tensor.data);
    }
    format!("{:x}", hash.finalize())
}

/// Refuses a file larger than the limit before anything is read.
pub(crate) fn check_size(size: u64) -> Result<()> {
    if size > MAX_FILE_BYTES {
        return Err(Error::TooLarge {
            what: "the subnet file".into(),
            size,
            limit: MAX_FILE_BYTES,
            unit: "bytes",
        });
    }
    Ok(())
}

/// The contents of a container, its digest not yet checked.
pub(crate) struct Contents {
    pub(crate) config: String,
    pub(crate) tensors: Tensors,
    version: String,
    stated: String,
}

impl Contents {
    /// Checks the digest.
    pub(crate) fn verify(&self) -> Result<()> {
        let computed = digest(&self.config, &self.tensors);
        if self.stated == computed {
            Ok(())
        } else {
            Err(Error::ChecksumMismatch {
                stated: excerpt(&self.stated),
                computed,
            })
        }
    }

    /// Checks that the stated version is that of the config.
    pub(crate) fn check_version(&self, expected: &str) -> Result<()> {
        if self.version == expected {
            return Ok(());
        }
        Err(Error::not_a_subnet(format!(
            "it states version {:?}, but a subnet with its config has version {expected:?}",
            self.version
        )))
    }
}

/// Reads a container from memory.
pub(crate) fn parse_bytes(bytes: &[u8]) -> Result<Contents> {
    // Reading a slice fails only at its end, an error that `parse` names.
    parse(bytes, bytes.len() as u64, |error| {
        Error::not_a_subnet(error.to_string())
    })
}

/// Reads a container of `size` bytes; `io` names an error of the source. Tensors are read after the
/// header is checked.
pub(crate) fn parse(
    mut source: impl Read,
    size: u64,
    io: impl Fn(io::Error) -> Error,
) -> Result<Contents> {
    check_size(size)?;
    memory::check(FILE, size as usize)?;
    let mut read = |bytes: u64, what: &'static str, needed: u64| {
        if needed > size {
            return Err(Error::Truncated {
                what,
                needed,
                available: size,
            });
        }
        let mut buffer = vec![0; bytes as usize];
        match source.read_exact(&mut buffer) {
            Ok(()) => Ok(buffer),
            // The file has become shorter since its size was read.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Truncated {
                what,
                needed,
                available: size,
            }),
            Err(error) => Err(io(error)),
        }
    };
    let length = read(8, "the header's length", 8)?;
    let length = u64::from_le_bytes(length.try_into().expect("8 bytes were read"));
    if length > MAX_HEADER_BYTES {
        // A file of another format reads as a huge length, but does not continue as a JSON header.
        if read(1, "the header", 9)? != b"{" {
            return Err(Error::not_a_subnet("it is not a safetensors container"));
        }
        return Err(Error::TooLarge {
            what: "the header".into(),
            size: length,
            limit: MAX_HEADER_BYTES,
            unit: "bytes",
        });
    }
    let start = 8 + length;
    let header = read(length, "the header", start)?;
    memory::check(FILE, size as usize + HEADER_FACTOR * length as usize)?;
    let invalid = |e: serde_json::Error| Error::not_a_subnet(format!("its header is invalid: {e}"));
    json::check(&header).map_err(invalid)?;
    // This also checks that the tensors follow one another and that their bytes agree with dtype
    // and shape.
    let header: Metadata = serde_json::from_slice(&header).map_err(invalid)?;
    let [config, version, stated] = check_metadata(header.metadata().as_ref())?;
    let layout = layout(&header)?;
    let end = start + header.data_len() as u64;
    if end < size {
        let extra = size - end;
        return Err(Error::not_a_subnet(format!(
            "{extra} bytes follow its tensors"
        )));
    }
    let mut tensors = Tensors::new();
    for (name, dtype, info) in layout {
        let bytes = info.data_offsets.1 - info.data_offsets.0;
        let data = read(bytes as u64, "the tensors", end)?;
        let tensor = Tensor::new(&name, dtype, info.shape.clone(), data)?;
        tensors.insert(name, tensor);
    }
    Ok(Contents {
        config,
        tensors,
        version,
        stated,
    })
}

/// Returns the tensors in the order of their bytes.
fn layout(header: &Metadata) -> Result<Vec<(String, Dtype, &TensorInfo)>> {
    let tensor = |name: String| {
        let info = header.info(&name).expect("offset_keys are the names");
        let dtype = format!("{:?}", info.dtype);
        let known = Dtype::from_name(&dtype).ok_or_else(|| {
            Error::tensor(&name, format!("dtype {dtype} is not used in subnet files"))
        })?;
        Ok((name, known, info))
    };
    header.offset_keys().into_iter().map(tensor).collect()
}

/// Checks the metadata; returns its `config`, `version` and `sha256`.
fn check_metadata(metadata: Option<&HashMap<String, String>>) -> Result<[String; 3]> {
    let metadata = metadata.ok_or_else(|| Error::not_a_subnet("it has no metadata"))?;
    let get = |key: &str| {
        metadata
            .get(key)
            .ok_or_else(|| Error::not_a_subnet(format!("its metadata has no {key:?}")))
    };
    let format = get("format")?;
    if format != FORMAT {
        return Err(Error::not_a_subnet(format!(
            "its format is \"{}\", not {FORMAT:?}",
            excerpt(format)
        )));
    }
    let version = get("version")?;
    if !VERSIONS.contains(&version.as_str()) {
        return Err(Error::UnsupportedVersion {
            found: excerpt(version),
        });
    }
    let stated = get("sha256")?.clone();
    if let Some(key) = metadata
        .keys()
        .find(|k| !["format", "version", "config", "sha256"].contains(&k.as_str()))
    {
        return Err(Error::not_a_subnet(format!(
            "its metadata has an unknown key \"{}\"",
            excerpt(key)
        )));
    }
    Ok([get("config")?.clone(), version.clone(), stated])
}

/// Writes a container. Tensors are in order of descending element size, then of name, as every
/// safetensors writer has them.
pub(crate) fn serialize(version: &str, config: &str, tensors: &Tensors) -> Result<Vec<u8>> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.dtype.size()), *name));

    let mut header = serde_json::Map::new();
    header.insert(
        "__metadata__".into(),
        serde_json::json!({
            "format": FORMAT,
            "version": version,
            "config": config,
            "sha256": digest(config, tensors),
        }),
    );
    let mut end = 0;
    for (name, tensor) in &order {
        let start = end;
        end += tensor.data.len();
        header.insert(
            (*name).clone(),
            serde_json::json!({
                "dtype": tensor.dtype.name(),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            }),
        );
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() as u64 > MAX_HEADER_BYTES {
        return Err(Error::TooLarge {
            what: "the header".into(),
            size: header.len() as u64,
            limit: MAX_HEADER_BYTES,
            unit: "bytes",
        });
    }
    check_size((8 + header.len() + end) as u64)?;
    memory::check("the subnet's file", 8 + header.len() + end)?;
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for (_, tensor) in order {
        bytes.extend(&tensor.data);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that panics if more than these bytes are read.
    struct Unread<'a>(&'a [u8]);

    impl Read for Unread<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!self.0.is_empty(), "the tensors are read");
            self.0.read(buffer)
        }
    }

    #[test]
    fn tensors_are_read_only_where_the_header_is_right() {
        let metadata =
            r#""__metadata__":{"format":"qvit","version":"1","config":"{}","sha256":""}"#;
        let cases = [
            (MAX_FILE_BYTES, String::new()),
            (MAX_FILE_BYTES, "{}".into()),
            (MAX_FILE_BYTES, format!("{{{metadata}}}")),
            (
                MAX_FILE_BYTES,
                format!(
                    r#"{{{metadata},"a":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}}}"#
                ),
            ),
            (
                1000,
                format!(
                    r#"{{{metadata},"a":{{"dtype":"U8","shape":[999],"data_offsets":[0,999]}}}}"#
                ),
            ),
        ];
        for (size, header) in cases {
            let mut head = (header.len() as u64).to_le_bytes().to_vec();
            head.extend(header.as_bytes());
            let io = |_| unreachable!("the source has no errors");
            assert!(parse(Unread(&head), size, io).is_err(), "{header}");
        }
    }

    #[test]
    fn a_source_that_ends_early_is_truncated_and_its_errors_are_its_own() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        let io = |_| Error::Interrupted;
        let kind = |result: Result<Contents>| result.map(|_| ()).unwrap_err().kind();
        assert_eq!(kind(parse(Broken, 100, io)), "Interrupted");
        assert_eq!(kind(parse([1, 2].as_slice(), 100, io)), "Truncated");
    }
}
