//! The safetensors container of a subnet file: limits, metadata, digest, and tensors as bytes.
//!
//! Knows nothing of networks. Depends on [`crate::error`] only. Parsing is the safetensors crate's; everything that could make it
//! allocate is checked before. Writing is done here, because the crate orders the metadata by a randomly
//! seeded hash map and the same subnet must always be the same bytes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use safetensors::{SafeTensorError, SafeTensors};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Bytes of a subnet file, at most.
pub const MAX_FILE_BYTES: u64 = 512 << 20;
/// Bytes of its header, at most.
pub const MAX_HEADER_BYTES: u64 = 4 << 20;

const FORMAT: &str = "qvit";
const VERSION: &str = "1";

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
    /// The safetensors name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::I16 => "I16",
            Self::I32 => "I32",
            Self::I64 => "I64",
        }
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 => 2,
            Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The dtype of a safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::U8, Self::I8, Self::I16, Self::I32, Self::I64]
            .into_iter()
            .find(|d| d.name() == name)
    }
}

/// A tensor as it stands in the file: little-endian, row-major; `data` has the size that dtype and shape say.
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
    /// [`Error::InvalidTensor`] where their number is not what dtype and shape say.
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

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Little-endian bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The elements, widened.
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

/// The digest that the metadata states: see `docs/subnet-file.md`.
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

/// What a container holds, its digest not yet checked.
pub(crate) struct Contents {
    pub(crate) config: String,
    pub(crate) tensors: Tensors,
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
                stated: shorten(&self.stated),
                computed,
            })
        }
    }
}

/// Reads a container.
pub(crate) fn parse(bytes: &[u8]) -> Result<Contents> {
    check_size(bytes.len() as u64)?;
    let available = bytes.len() as u64;
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::Truncated {
            what: "the header's length",
            needed: 8,
            available,
        });
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        // A file of another format reads as a huge length: say so where the first byte is not that of a JSON header.
        if rest.first() != Some(&b'{') {
            return Err(Error::NotASubnet(
                "it is not a safetensors container".into(),
            ));
        }
        return Err(Error::TooLarge {
            what: "the header".into(),
            size: length,
            limit: MAX_HEADER_BYTES,
            unit: "bytes",
        });
    }
    if length > rest.len() as u64 {
        return Err(Error::Truncated {
            what: "the header",
            needed: 8 + length,
            available,
        });
    }
    check_header(&rest[..length as usize])?;
    let container = SafeTensors::deserialize(bytes).map_err(|e| {
        let header = &rest[..length as usize];
        let needed = data_end(header).map_or(0, |end| end.saturating_add(8 + length));
        match e {
            SafeTensorError::MetadataIncompleteBuffer if needed > available => Error::Truncated {
                what: "the tensors",
                needed,
                available,
            },
            SafeTensorError::MetadataIncompleteBuffer => {
                Error::NotASubnet(format!("{} bytes follow its tensors", available - needed))
            }
            other => Error::NotASubnet(format!("its header is invalid ({other:?})")),
        }
    })?;
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|e| Error::NotASubnet(e.to_string()))?;
    let (config, stated) = check_metadata(header.metadata().as_ref())?;
    let mut tensors = Tensors::new();
    for (name, view) in container.iter() {
        let dtype = format!("{:?}", view.dtype());
        let dtype = Dtype::from_name(&dtype).ok_or_else(|| {
            Error::tensor(name, format!("dtype {dtype} is not used in subnet files"))
        })?;
        let tensor = Tensor::new(name, dtype, view.shape().to_vec(), view.data().to_vec())?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(Contents {
        config,
        tensors,
        stated,
    })
}

/// The metadata's `config` and `sha256`.
fn check_metadata(metadata: Option<&HashMap<String, String>>) -> Result<(String, String)> {
    let metadata = metadata.ok_or_else(|| Error::NotASubnet("it has no metadata".into()))?;
    let get = |key: &str| {
        metadata
            .get(key)
            .ok_or_else(|| Error::NotASubnet(format!("its metadata has no {key:?}")))
    };
    let format = get("format")?;
    if format != FORMAT {
        return Err(Error::NotASubnet(format!(
            "its format is {:?}, not {FORMAT:?}",
            shorten(format)
        )));
    }
    let version = get("version")?;
    if version != VERSION {
        return Err(Error::UnsupportedVersion {
            found: shorten(version),
        });
    }
    let stated = get("sha256")?.clone();
    if let Some(key) = metadata
        .keys()
        .find(|k| !["format", "version", "config", "sha256"].contains(&k.as_str()))
    {
        return Err(Error::NotASubnet(format!(
            "its metadata has an unknown key {:?}",
            shorten(key)
        )));
    }
    Ok((get("config")?.clone(), stated))
}

/// Text from a file, short enough for a message.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Refuses headers with a name twice: parsers disagree about which of the two counts.
fn check_header(header: &[u8]) -> Result<()> {
    struct UniqueKeys;
    impl<'de> Deserialize<'de> for UniqueKeys {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Keys;
            impl<'de> Visitor<'de> for Keys {
                type Value = UniqueKeys;
                fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                    f.write_str("a JSON object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueKeys, A::Error> {
                    let mut seen = HashSet::new();
                    while let Some(key) = map.next_key::<String>()? {
                        map.next_value::<IgnoredAny>()?;
                        if let Some(twice) = seen.replace(key) {
                            return Err(serde::de::Error::custom(format!(
                                "{:?} appears twice",
                                shorten(&twice)
                            )));
                        }
                    }
                    Ok(UniqueKeys)
                }
            }
            deserializer.deserialize_map(Keys)
        }
    }
    serde_json::from_slice::<UniqueKeys>(header)
        .map(|_| ())
        .map_err(|e| Error::NotASubnet(format!("its header is not valid JSON: {e}")))
}

/// The largest end offset in a header.
fn data_end(header: &[u8]) -> Option<u64> {
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    header
        .values()
        .filter_map(|t| t.get("data_offsets")?.get(1)?.as_u64())
        .max()
}

/// Writes a container. Tensors stand by descending element size, then by name, as in every safetensors writer.
pub(crate) fn serialize(config: &str, tensors: &Tensors) -> Result<Vec<u8>> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.dtype.size()), *name));

    let mut header = serde_json::Map::new();
    header.insert(
        "__metadata__".into(),
        serde_json::json!({"format": FORMAT, "version": VERSION, "config": config, "sha256": digest(config, tensors)}),
    );
    let mut end = 0;
    for (name, tensor) in &order {
        let start = end;
        end += tensor.data.len();
        header.insert(
            (*name).clone(),
            serde_json::json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, end]}),
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
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for (_, tensor) in order {
        bytes.extend(&tensor.data);
    }
    Ok(bytes)
}
