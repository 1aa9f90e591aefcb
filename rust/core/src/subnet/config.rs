//! The subnet's `config`: types, limits and derived sizes (grid, tokens).
//!
//! Depends on [`crate::error`] and the limits of the kernels. `docs/subnet-file.md` describes the
//! keys, `docs/integer-model.md` the limits.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::error::{in_words, Error, Result};

/// Bytes of `config`, at most.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;
/// Tokens, at most.
pub const MAX_TOKENS: usize = quasar_kernels::MAX_TOKENS;
/// Embedding size, at most.
pub const MAX_EMBED: usize = quasar_kernels::MAX_NORM_COLUMNS;
/// Columns of a linear layer, at most.
pub const MAX_COLUMNS: usize = 4096;
/// Attention heads of a block, at most.
pub const MAX_HEADS: usize = 128;
/// Size of an attention head, at most.
pub const MAX_HEAD_DIM: usize = quasar_kernels::MAX_HEAD_DIM;
/// Rows of all heads (classes, and the embedding's values), at most.
pub const MAX_CLASSES: usize = 32768;
/// Shift of a projected embedding, at most.
pub const MAX_PROJECTED_SHIFT: usize = 15;
/// Outputs of a frame whose head runs on every token, at most.
pub const MAX_OUTPUTS: usize = 1 << 22;
/// Blocks, at most.
pub const MAX_DEPTH: usize = 64;
/// Height and width of the image that the network sees, at most.
pub const MAX_IMAGE_SIDE: usize = 4096;

/// Characters of the subnet's and of a class's name, at most.
pub const MAX_NAME: usize = 1000;
/// `logit_scale` and `embedding.scale`, at least: a float32 of the smallest logit is not 0.
pub const MIN_LOGIT_SCALE: f64 = 1e-20;
/// `logit_scale` and `embedding.scale`, at most: a float32 of the largest logit is finite.
pub const MAX_LOGIT_SCALE: f64 = 1e20;

/// Architecture, preprocessing, class names and provenance of a subnet.
#[allow(clippy::struct_excessive_bools)] // the keys of the file
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The subnet's name.
    pub name: String,
    /// The image that the network sees, after preprocessing.
    pub image: Image,
    /// Geometry of the patches.
    pub patch: Patch,
    /// Embedding size D.
    pub embed: usize,
    /// Tokens before the patches (class token, registers).
    pub prefix_tokens: usize,
    /// True if the patch tokens are normalised before the first block; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embed_norm: bool,
    /// True if q and k are rotated by the positions of the patches; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotary: bool,
    /// The blocks, in order.
    pub blocks: Vec<Block>,
    /// Pooling before the head.
    pub pool: Pool,
    /// True if the head runs on every token, so that a frame's outputs are those of the image and
    /// those of each patch; absent otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub patch_tokens: bool,
    /// Class names, one for each of the head's first rows. Empty only where there is an embedding.
    pub classes: Vec<String>,
    /// The embedding that the head gives behind the classes; absent in a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
    /// A float logit is `logit_scale` times the integer one.
    pub logit_scale: f64,
    /// Preprocessing of a decoded image.
    pub preprocess: Preprocess,
    /// True for trained weights, false for random ones, which are for timing.
    pub trained: bool,
    /// Recipe, data, figures, search record: any JSON object.
    pub provenance: serde_json::Map<String, serde_json::Value>,
}

/// The grid of an embedding, `real = scale * (code - zero_point)`. Its codes are the outputs of the
/// head's last rows. Without a projection these rows repeat the head's D inputs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Embedding {
    /// The real value of one code.
    pub scale: f64,
    /// The code of 0.
    pub zero_point: i8,
    /// The projection of the head's input; absent if that is the embedding itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected: Option<Projected>,
}

/// A projection of the head's input. Its rows give codes times `2^shift`: a mantissa alone would be
/// too coarse for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projected {
    /// The number of values.
    pub values: usize,
    /// At most [`MAX_PROJECTED_SHIFT`].
    pub shift: u8,
}

/// Size of the image that the network sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
}

/// Geometry of the patches, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Side of a patch.
    pub kernel: usize,
    /// Distance between patches.
    pub stride: usize,
    /// Border around the image.
    pub pad: usize,
    /// Value of the border's pixels.
    pub pad_value: u8,
}

/// Sizes of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Attention heads.
    pub heads: usize,
    /// Size of each head.
    pub head_dim: usize,
    /// Rows of fc1.
    pub hidden: usize,
    /// Zero point of fc1's output codes, before the table.
    pub fc1_zero_point: i8,
}

/// Pooling: the input of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// The final norm of token 0.
    Token,
    /// The final norm of the patch tokens' mean.
    Mean,
    /// The mean of the patch tokens' final norms.
    MeanAfterNorm,
    /// The final norms of token 0 and of token 1, each with a head of its own. The outputs of the
    /// two heads are added.
    TokenPair,
    /// Token 0 behind the last block, where its residual stream starts at 0. Gain and offset of the
    /// final norm apply to it as it is.
    Attention,
}

impl Pool {
    /// Returns the number of tokens that the heads read, from token 0 on; `None` if they read a
    /// mean.
    pub const fn leading(self) -> Option<usize> {
        match self {
            Self::Token | Self::Attention => Some(1),
            Self::TokenPair => Some(2),
            Self::Mean | Self::MeanAfterNorm => None,
        }
    }

    /// Returns the heads' names, that of token 0 first.
    pub const fn heads(self) -> &'static [&'static str] {
        match self {
            Self::TokenPair => &["head", "head_dist"],
            _ => &["head"],
        }
    }
}

/// Preprocessing of a decoded image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Resizing, before the centre crop.
    pub resize: Resize,
}

/// Resizing. `size` and `filter` depend on the mode, which is checked when the config is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The meaning of `size`.
    pub mode: ResizeMode,
    /// `exact`: height, width. `shorter`: the shorter edge. `none`: empty or absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub size: Vec<usize>,
    /// The filter; absent for `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

/// The target of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// No resizing.
    None,
    /// A given height and width.
    Exact,
    /// A given shorter edge; the aspect ratio is kept.
    Shorter,
}

/// Pillow's resampling filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Area averaging.
    Box,
    /// Triangle.
    Bilinear,
    /// Sharper than bilinear, without its local blur.
    Hamming,
    /// Catmull-Rom with a = -0.5.
    Bicubic,
}

impl Preprocess {
    /// Parses and checks a `preprocess` object on its own, for a network that takes `image`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn from_json(json: &str, image: Image) -> Result<Self> {
        let preprocess: Self = serde_json::from_str(json)
            .map_err(|e| Error::config("preprocess", in_words(&e.to_string())))?;
        image.check()?;
        preprocess.check(image)?;
        Ok(preprocess)
    }

    fn check(&self, image: Image) -> Result<()> {
        let Resize { mode, size, filter } = &self.resize;
        let key = "preprocess.resize.size";
        let expected = match mode {
            ResizeMode::None => 0,
            ResizeMode::Shorter => 1,
            ResizeMode::Exact => 2,
        };
        if size.len() != expected {
            return Err(Error::config(
                key,
                format!("has {} numbers; this mode takes {expected}", size.len()),
            ));
        }
        let Image { height, width, .. } = image;
        match size[..] {
            [edge] => within(key, edge, height.min(width), 2 * MAX_IMAGE_SIDE)?,
            [h, w] => {
                within(&format!("{key}.0"), h, height, 2 * MAX_IMAGE_SIDE)?;
                within(&format!("{key}.1"), w, width, 2 * MAX_IMAGE_SIDE)?;
            }
            _ => {}
        }
        if filter.is_none() && *mode != ResizeMode::None {
            return Err(Error::config("preprocess.resize.filter", "is missing"));
        }
        Ok(())
    }
}

impl Config {
    /// Parses and checks a `config` document.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond 1 MiB, [`Error::InvalidConfig`] for anything else.
    pub fn from_json(json: &str) -> Result<Self> {
        if json.len() > MAX_CONFIG_BYTES {
            return Err(Error::TooLarge {
                what: "the subnet's config".into(),
                size: json.len() as u64,
                limit: MAX_CONFIG_BYTES as u64,
                unit: "bytes",
            });
        }
        let invalid = |e: serde_json::Error| Error::config("config", in_words(&e.to_string()));
        super::json::check(json.as_bytes()).map_err(invalid)?;
        let config: Self = serde_json::from_str(json).map_err(invalid)?;
        config.check()?;
        Ok(config)
    }

    /// Checks every limit; the error names the key.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn check(&self) -> Result<()> {
        self.image.check()?;
        self.patch.check(self.image)?;
        // Both tokens of a pair are prefix tokens: a class token and a distillation token.
        let prefix = if self.pool == Pool::TokenPair { 2 } else { 0 };
        within("prefix_tokens", self.prefix_tokens, prefix, MAX_TOKENS - 1)?;
        within(
            "tokens (from image, patch and prefix_tokens)",
            self.tokens(),
            1,
            MAX_TOKENS,
        )?;
        within("embed", self.embed, 1, MAX_EMBED)?;
        within("blocks (their number)", self.blocks.len(), 1, MAX_DEPTH)?;
        for (i, block) in self.blocks.iter().enumerate() {
            within(&format!("blocks.{i}.heads"), block.heads, 1, MAX_HEADS)?;
            within(
                &format!("blocks.{i}.head_dim"),
                block.head_dim,
                1,
                MAX_HEAD_DIM,
            )?;
            within(
                &format!("blocks.{i}: heads * head_dim"),
                block.inner(),
                1,
                MAX_COLUMNS,
            )?;
            within(&format!("blocks.{i}.hidden"), block.hidden, 1, MAX_COLUMNS)?;
        }
        self.check_rotary()?;
        self.check_embedding()?;
        let fewest = usize::from(self.embedding.is_none());
        let most = MAX_CLASSES / self.pool.heads().len() - self.embedding_size();
        let key = "classes (their number)";
        within(key, self.classes.len(), fewest, most)?;
        self.check_patch_tokens()?;
        check_scale("logit_scale", self.logit_scale)?;
        check_text("name", &self.name)?;
        for (i, class) in self.classes.iter().enumerate() {
            check_text(&format!("classes.{i}"), class)?;
        }
        self.preprocess.check(self.image)
    }

    fn check_rotary(&self) -> Result<()> {
        let dim = self.blocks[0].head_dim;
        let same = self.blocks.iter().all(|block| block.head_dim == dim);
        let problem = match self.pool {
            _ if !self.rotary => return Ok(()),
            Pool::Attention => "needs another pooling than attention",
            _ if same && dim.is_multiple_of(4) => return Ok(()),
            _ => "needs heads of one head_dim in all blocks, a multiple of 4",
        };
        Err(Error::config("rotary", problem))
    }

    fn check_embedding(&self) -> Result<()> {
        let Some(Embedding {
            scale, projected, ..
        }) = self.embedding
        else {
            return Ok(());
        };
        check_scale("embedding.scale", scale)?;
        if let Some(Projected { values, shift }) = projected {
            let key = "embedding.projected";
            within(&format!("{key}.values"), values, 1, MAX_EMBED)?;
            within(
                &format!("{key}.shift"),
                shift.into(),
                0,
                MAX_PROJECTED_SHIFT,
            )?;
            if self.pool == Pool::TokenPair {
                let problem = "is for one head: the pooling token_pair has two";
                return Err(Error::config(key, problem));
            }
        }
        Ok(())
    }

    fn check_patch_tokens(&self) -> Result<()> {
        let key = "patch_tokens";
        if !self.patch_tokens {
            return Ok(());
        }
        if !matches!(self.pool, Pool::Token | Pool::MeanAfterNorm) {
            let problem =
                "needs the pooling token or mean_after_norm: the head of another one does \
                           not read single tokens";
            return Err(Error::config(key, problem));
        }
        let outputs = self.head_tokens() * self.head_rows();
        within(&format!("{key} (outputs)"), outputs, 1, MAX_OUTPUTS)
    }

    /// Returns the rows and columns of patches.
    pub fn grid(&self) -> (usize, usize) {
        self.patch.grid(self.image)
    }

    /// Returns the number of patches.
    pub fn patches(&self) -> usize {
        let (rows, columns) = self.grid();
        rows * columns
    }

    /// Returns the number of tokens N: prefix and patches.
    pub fn tokens(&self) -> usize {
        self.prefix_tokens + self.patches()
    }

    /// Returns the tokens whose attention output and MLP a block has to compute: those that the
    /// heads read in the last block, all tokens in the others.
    pub fn needed(&self, block: usize) -> usize {
        match self.leading() {
            Some(leading) if block + 1 == self.blocks.len() => leading,
            _ => self.tokens(),
        }
    }

    /// Returns true for a last block that pools by attention.
    pub fn pools(&self, block: usize) -> bool {
        self.pool == Pool::Attention && block + 1 == self.blocks.len()
    }

    /// Returns the number of tokens that the heads read, from token 0 on; `None` if they need all.
    pub fn leading(&self) -> Option<usize> {
        self.pool.leading().filter(|_| !self.patch_tokens)
    }

    /// Returns the number of tokens that a head runs on.
    pub fn head_tokens(&self) -> usize {
        if self.patch_tokens {
            self.tokens()
        } else {
            1
        }
    }

    /// Returns the oldest version of the subnet file that has all keys and values of this config.
    pub fn version(&self) -> &'static str {
        if self.rotary || self.pool == Pool::Attention {
            "5"
        } else if self.embedding.is_some_and(|e| e.projected.is_some()) {
            "4"
        } else if self.patch_tokens {
            "3"
        } else if self.pool == Pool::TokenPair || self.embed_norm {
            "2"
        } else {
            "1"
        }
    }

    /// Returns the rows of each head: the classes, then the embedding's values.
    pub fn head_rows(&self) -> usize {
        self.classes.len() + self.embedding_size()
    }

    /// Returns the outputs of a frame: one for each row of the head, and with `patch_tokens` as
    /// many more for each patch.
    pub fn outputs(&self) -> usize {
        let patches = if self.patch_tokens { self.patches() } else { 0 };
        (1 + patches) * self.head_rows()
    }

    /// Returns the number of the embedding's values: D or those of a projection; 0 without an
    /// embedding.
    pub fn embedding_size(&self) -> usize {
        self.embedding
            .map_or(0, |e| e.projected.map_or(self.embed, |p| p.values))
    }

    /// Returns the shift from the outputs of the embedding's rows to codes.
    pub fn embedding_shift(&self) -> u8 {
        self.embedding
            .and_then(|e| e.projected)
            .map_or(0, |p| p.shift)
    }

    /// Returns true if the head's last rows repeat its inputs.
    pub fn repeats_inputs(&self) -> bool {
        self.embedding.is_some_and(|e| e.projected.is_none())
    }

    /// Returns the values of a patch, channels * kernel^2: the patch embedding's K.
    pub fn patch_len(&self) -> usize {
        self.patch.len(self.image)
    }
}

impl Patch {
    /// Returns the rows and columns of patches in `image`; both must have been checked.
    pub fn grid(self, image: Image) -> (usize, usize) {
        let count = |side: usize| (side + 2 * self.pad - self.kernel) / self.stride + 1;
        (count(image.height), count(image.width))
    }

    /// Returns the values of a patch: channels * kernel^2.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self, image: Image) -> usize {
        image.channels * self.kernel * self.kernel
    }

    /// Refuses sizes beyond the limits.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the key.
    pub fn check(self, image: Image) -> Result<()> {
        within("patch.kernel", self.kernel, 1, MAX_IMAGE_SIDE)?;
        within("patch.stride", self.stride, 1, MAX_IMAGE_SIDE)?;
        within("patch.pad", self.pad, 0, self.kernel - 1)?;
        within(
            "patch.kernel",
            self.kernel,
            1,
            image.height.min(image.width) + 2 * self.pad,
        )?;
        within(
            "patch: channels * kernel^2",
            self.len(image),
            1,
            MAX_COLUMNS,
        )
    }
}

impl Block {
    /// Returns the columns of q, of k, of v, and of the projection: `heads * head_dim`.
    pub fn inner(&self) -> usize {
        self.heads * self.head_dim
    }
}

impl Image {
    /// Refuses sizes beyond the limits.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the key.
    pub fn check(self) -> Result<()> {
        within("image.height", self.height, 1, MAX_IMAGE_SIDE)?;
        within("image.width", self.width, 1, MAX_IMAGE_SIDE)?;
        if self.channels != 1 && self.channels != 3 {
            return Err(Error::config(
                "image.channels",
                format!("{} is neither 1 (gray) nor 3 (RGB)", self.channels),
            ));
        }
        Ok(())
    }

    /// Returns the bytes of the image: height * width * channels.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// Refuses scales whose float32 products with the integers would be infinite or subnormal.
fn check_scale(key: &str, scale: f64) -> Result<()> {
    if (MIN_LOGIT_SCALE..=MAX_LOGIT_SCALE).contains(&scale) {
        return Ok(());
    }
    let limits = format!("[{MIN_LOGIT_SCALE:e}, {MAX_LOGIT_SCALE:e}]");
    Err(Error::config(key, format!("{scale:e} is outside {limits}")))
}

/// Refuses names that could harm a terminal or a log.
fn check_text(key: &str, text: &str) -> Result<()> {
    if text.chars().nth(MAX_NAME).is_some() {
        return Err(Error::config(
            key,
            format!("has more than {MAX_NAME} characters"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::config(
            key,
            format!("'{text}' has control characters"),
        ));
    }
    Ok(())
}

/// Refuses a value outside `[least, most]`; NaN is outside.
///
/// # Errors
/// [`Error::InvalidConfig`] names `key` and the limits.
pub fn within<T: Copy + PartialOrd + Display>(
    key: &str,
    value: T,
    least: T,
    most: T,
) -> Result<()> {
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(Error::config(
            key,
            format!("{value} is outside [{least}, {most}]"),
        ))
    }
}
