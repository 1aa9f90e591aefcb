//! Records a frame's intermediates, or the time between them, while the executor runs it.
//!
//! A frame without an observer pays one branch a stage. Depends on the subnet's config and the
//! kernels.

use std::time::{Duration, Instant};

use quasar_kernels::MatrixView;

use crate::subnet::config::Config;

/// A place on a frame's path where a value is complete, with the number of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    /// The embedded patches before their norm.
    Sum,
    /// The norm of the embedded patches.
    EmbedNorm,
    Embed,
    Norm1(usize),
    Qkv(usize),
    Attention(usize),
    Mid(usize),
    Norm2(usize),
    Act(usize),
    X(usize),
    Pooled,
    Logits,
}

const POINTS_OF_BLOCK: usize = 7;

impl Point {
    fn all(config: &Config) -> impl Iterator<Item = Self> + use<> {
        let (depth, embed_norm) = (config.blocks.len(), config.embed_norm);
        let normed = [Self::Sum, Self::EmbedNorm];
        let normed = normed.into_iter().filter(move |_| embed_norm);
        let block = |i| {
            [
                Self::Norm1(i),
                Self::Qkv(i),
                Self::Attention(i),
                Self::Mid(i),
                Self::Norm2(i),
                Self::Act(i),
                Self::X(i),
            ]
        };
        let blocks = (0..depth).flat_map(block);
        normed
            .chain([Self::Embed])
            .chain(blocks)
            .chain([Self::Pooled, Self::Logits])
    }

    fn index(self, depth: usize) -> usize {
        let block = |i: usize, at: usize| 3 + i * POINTS_OF_BLOCK + at;
        match self {
            Self::Sum => 0,
            Self::EmbedNorm => 1,
            Self::Embed => 2,
            Self::Norm1(i) => block(i, 0),
            Self::Qkv(i) => block(i, 1),
            Self::Attention(i) => block(i, 2),
            Self::Mid(i) => block(i, 3),
            Self::Norm2(i) => block(i, 4),
            Self::Act(i) => block(i, 5),
            Self::X(i) => block(i, 6),
            Self::Pooled => block(depth, 0),
            Self::Logits => block(depth, 1),
        }
    }

    /// Returns the name of the value, as in golden vectors.
    fn tensor(self) -> String {
        let block = |i: usize, part: &str| format!("blocks.{i}.{part}");
        match self {
            Self::Sum => "embed_sum".into(),
            Self::EmbedNorm => "embed_norm".into(),
            Self::Embed => "embed".into(),
            Self::Norm1(i) => block(i, "norm1"),
            Self::Qkv(i) => block(i, "qkv"),
            Self::Attention(i) => block(i, "attn"),
            Self::Mid(i) => block(i, "mid"),
            Self::Norm2(i) => block(i, "norm2"),
            Self::Act(i) => block(i, "act"),
            Self::X(i) => block(i, "x"),
            Self::Pooled => "pooled".into(),
            Self::Logits => "logits".into(),
        }
    }

    /// Returns the name of the stage that ends here.
    fn stage(self) -> String {
        match self {
            Self::Sum => "patches".into(),
            Self::Attention(i) => format!("blocks.{i}.attention"),
            Self::Mid(i) => format!("blocks.{i}.proj"),
            Self::Act(i) => format!("blocks.{i}.fc1"),
            Self::X(i) => format!("blocks.{i}.fc2"),
            Self::Pooled => "pool".into(),
            Self::Logits => "head".into(),
            other => other.tensor(),
        }
    }
}

/// Records of one range of tokens.
#[derive(Clone, Debug, Default)]
pub(crate) enum Observer {
    /// Nothing.
    #[default]
    Off,
    /// The time before each point, since the last one.
    Clock {
        depth: usize,
        last: Instant,
        spent: Vec<Duration>,
    },
    /// Parts of the values.
    Trace(Vec<Part>),
}

/// A part of a value: the rows and columns from `place` on.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    point: Point,
    place: [usize; 2],
    size: [usize; 2],
    data: TraceData,
}

impl Observer {
    pub(crate) fn clock(config: &Config) -> Self {
        let depth = config.blocks.len();
        Self::Clock {
            depth,
            last: Instant::now(),
            spent: vec![Duration::ZERO; Point::Logits.index(depth) + 1],
        }
    }

    pub(crate) fn trace() -> Self {
        Self::Trace(Vec::new())
    }

    /// Starts the clock: earlier time does not count.
    pub(crate) fn start(&mut self) {
        if let Self::Clock { last, .. } = self {
            *last = Instant::now();
        }
    }

    /// Records the time up to a point, without a value.
    pub(crate) fn elapsed(&mut self, point: Point) {
        if let Self::Clock { .. } = self {
            self.note(point, [0, 0], || unreachable!("a clock records no value"));
        }
    }

    /// Records a part of a value of codes, of which it has the rows and columns from `place` on.
    pub(crate) fn i8(&mut self, point: Point, place: [usize; 2], rows: MatrixView<i8>) {
        self.note(point, place, || {
            (rows.rows(), rows.cols(), TraceData::I8(gather(rows)))
        });
    }

    /// Records a part of a value of the residual stream, as [`Self::i8`].
    pub(crate) fn i16(&mut self, point: Point, place: [usize; 2], rows: MatrixView<i16>) {
        self.note(point, place, || {
            (rows.rows(), rows.cols(), TraceData::I16(gather(rows)))
        });
    }

    /// Records logits.
    pub(crate) fn i32(&mut self, point: Point, values: &[i32]) {
        self.note(point, [0, 0], || {
            (1, values.len(), TraceData::I32(values.to_vec()))
        });
    }

    fn note(
        &mut self,
        point: Point,
        place: [usize; 2],
        value: impl FnOnce() -> (usize, usize, TraceData),
    ) {
        match self {
            Self::Off => {}
            Self::Clock { depth, last, spent } => {
                let now = Instant::now();
                spent[point.index(*depth)] += now - *last;
                *last = now;
            }
            Self::Trace(parts) => {
                let (rows, columns, data) = value();
                if rows == 0 {
                    return;
                }
                parts.push(Part {
                    point,
                    place,
                    size: [rows, columns],
                    data,
                });
            }
        }
    }
}

fn gather<T: Copy>(rows: MatrixView<T>) -> Vec<T> {
    (0..rows.rows())
        .flat_map(|i| rows.row(i))
        .copied()
        .collect()
}

/// The elements of an intermediate, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceData {
    /// Codes.
    I8(Vec<i8>),
    /// The residual stream.
    I16(Vec<i16>),
    /// Logits.
    I32(Vec<i32>),
}

/// An intermediate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceTensor {
    /// `[tokens, columns]`; `[columns]` for `pooled` and `logits` (the tokens of a pair one after
    /// the other), but for `pooled` of a subnet with patch tokens.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: TraceData,
}

/// Every intermediate of one frame, in the order of its path: `embed_sum` and `embed_norm` where
/// the embedded patches are normalised; `embed`; for each block `blocks.i.`
/// with `norm1`, `qkv`, `attn`, `mid` (the residual after attention), `norm2`, `act`, `x`;
/// `pooled`; `logits`.
///
/// Rows that are not computed are left out: with `token` pooling the last block has one row after
/// its qkv, and only the first of its queries (the others are 0). With `token_pair` it has two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    tensors: Vec<(String, TraceTensor)>,
}

impl Trace {
    /// Joins the records of all ranges.
    pub(crate) fn new(config: &Config, ranges: impl Iterator<Item = Observer>) -> Self {
        let parts = ranges.flat_map(|observer| match observer {
            Observer::Trace(parts) => parts,
            _ => Vec::new(),
        });
        let parts: Vec<Part> = parts.collect();
        let tensors = Point::all(config).filter_map(|point| {
            let parts = parts.iter().filter(|part| part.point == point);
            let (name, mut tensor) = (point.tensor(), TraceTensor::join(parts)?);
            if name == "logits" || (name == "pooled" && !config.patch_tokens) {
                tensor.shape.remove(0);
            }
            Some((name, tensor))
        });
        Self {
            tensors: tensors.collect(),
        }
    }

    /// Returns name and value of each intermediate.
    pub fn tensors(&self) -> &[(String, TraceTensor)] {
        &self.tensors
    }

    /// Returns one intermediate.
    pub fn tensor(&self, name: &str) -> Option<&TraceTensor> {
        self.tensors
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, tensor)| tensor)
    }
}

impl TraceTensor {
    /// Joins the parts of a value, `None` if there are none. Elements of no part are 0.
    fn join<'a>(parts: impl Iterator<Item = &'a Part> + Clone) -> Option<Self> {
        let size =
            |axis: usize| (parts.clone().map(|part| part.place[axis] + part.size[axis])).max();
        let shape = [size(0)?, size(1)?];
        let len = shape[0] * shape[1];
        let mut data = match parts.clone().next()?.data {
            TraceData::I8(_) => TraceData::I8(vec![0; len]),
            TraceData::I16(_) => TraceData::I16(vec![0; len]),
            TraceData::I32(_) => TraceData::I32(vec![0; len]),
        };
        for part in parts {
            match (&mut data, &part.data) {
                (TraceData::I8(all), TraceData::I8(codes)) => part.put(codes, all, shape[1]),
                (TraceData::I16(all), TraceData::I16(x)) => part.put(x, all, shape[1]),
                (TraceData::I32(all), TraceData::I32(logits)) => part.put(logits, all, shape[1]),
                _ => unreachable!("a point has one type"),
            }
        }
        Some(Self {
            shape: shape.to_vec(),
            data,
        })
    }
}

impl Part {
    /// Puts its values in their place among all of the value's, which has `width` columns.
    fn put<T: Copy>(&self, values: &[T], all: &mut [T], width: usize) {
        let ([row, column], [_, columns]) = (self.place, self.size);
        let rows = all.chunks_exact_mut(width).skip(row);
        for (all, values) in rows.zip(values.chunks_exact(columns)) {
            all[column..column + columns].copy_from_slice(values);
        }
    }
}

/// The time of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageTime {
    /// `preprocess`; `patches` and `embed_norm` where the embedded patches are normalised; `embed`;
    /// for each block `blocks.i.` with `norm1`, `qkv`, `attention`, `proj`,
    /// `norm2`, `fc1`, `fc2`; `pool`; `head`.
    pub name: String,
    /// Wall time.
    pub seconds: f64,
}

impl StageTime {
    pub(crate) fn collect<'a>(
        config: &Config,
        preprocess: Duration,
        ranges: impl Iterator<Item = &'a Observer>,
    ) -> Vec<Self> {
        let depth = config.blocks.len();
        let mut total = vec![Duration::ZERO; Point::Logits.index(depth) + 1];
        let mut count = 0u32;
        for observer in ranges {
            let Observer::Clock { spent, .. } = observer else {
                continue;
            };
            count += 1;
            total
                .iter_mut()
                .zip(spent)
                .for_each(|(total, spent)| *total += *spent);
        }
        let mean = |point: Point| {
            // Pooling and head run once, not in ranges.
            let shares = if point >= Point::Pooled {
                1
            } else {
                count.max(1)
            };
            Self {
                name: point.stage(),
                seconds: (total[point.index(depth)] / shares).as_secs_f64(),
            }
        };
        let first = Self {
            name: "preprocess".into(),
            seconds: preprocess.as_secs_f64(),
        };
        std::iter::once(first)
            .chain(Point::all(config).map(mean))
            .collect()
    }
}
