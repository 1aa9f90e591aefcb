//! Models the double buffers and what loads them.

use std::collections::VecDeque;

use super::process::Sizes;
use super::queues::Fifo;
use crate::isa::{Command, ROW_BYTES};

/// Two halves, of which one is filled while the other is used.
pub(super) struct DoubleBuffer {
    pub(super) free: Fifo,
    pub(super) full: Fifo,
}

impl DoubleBuffer {
    pub(super) fn new() -> Self {
        let (mut free, full) = (Fifo::new(2), Fifo::new(2));
        free.put(0, ());
        free.put(0, ());
        Self { free, full }
    }
}

/// Content of a half.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    /// Beats in which the content arrives.
    pub(super) beats: u64,
    /// Words that are written, at most one a cycle.
    pub(super) words: u64,
    /// Bytes of a word.
    pub(super) word_bytes: u64,
}

impl Content {
    /// Returns the content of a half of weights, a tile of row pairs, in words of `word_bytes`.
    pub(super) const fn weights(words: u64, word_bytes: u64, beat_bytes: u64) -> Self {
        Self {
            beats: (words * word_bytes).div_ceil(beat_bytes),
            words,
            word_bytes,
        }
    }

    /// Returns the content of a half of row parameters: a tile of row pairs.
    pub(super) const fn rows(rows: u64, beat_bytes: u64) -> Self {
        Self {
            beats: (rows * ROW_BYTES as u64).div_ceil(beat_bytes),
            words: rows,
            word_bytes: ROW_BYTES as u64,
        }
    }

    /// Returns the content of a half of gains and offsets: a `LayerNorm`.
    pub(super) const fn gains(embed: u64, beat_bytes: u64) -> Self {
        Self {
            beats: (embed * 4).div_ceil(beat_bytes),
            words: embed,
            word_bytes: 4,
        }
    }
}

/// Loads a double buffer from a queue of beats.
///
/// In a cycle at most one beat is taken and one word written. A beat is taken only if less than a
/// word is left of the beats before.
pub(super) struct BufferLoader {
    pub(super) buffer: DoubleBuffer,
    /// First cycle in which a beat can be taken.
    pub(super) now: u64,
    /// Cycle in which the last word was written.
    pub(super) word: u64,
    /// A half has been filled.
    pub(super) filled: bool,
    /// Cycles from the last word of a half to its use.
    pub(super) depth: u64,
    /// Beats that were taken for the present half.
    pub(super) taken: Option<u64>,
    /// Contents to come, and the time since which each is known.
    pub(super) contents: VecDeque<(u64, Content)>,
    /// Returns the contents that a command needs.
    contents_of: fn(Command, &Sizes) -> Vec<Content>,
}

impl BufferLoader {
    /// Creates a loader. `depth`: cycles from the last word of a half to its use.
    pub(super) fn new(depth: u64, contents_of: fn(Command, &Sizes) -> Vec<Content>) -> Self {
        Self {
            buffer: DoubleBuffer::new(),
            now: 0,
            word: 0,
            filled: false,
            depth,
            taken: None,
            contents: VecDeque::new(),
            contents_of,
        }
    }

    /// Adds the contents that a command needs, known from `at` on.
    pub(super) fn expect(&mut self, at: u64, command: Command, sizes: &Sizes) {
        let contents = (self.contents_of)(command, sizes);
        self.contents
            .extend(contents.into_iter().map(|content| (at, content)));
    }

    /// Takes the next beat. Returns false if that is not possible yet.
    pub(super) fn advance(&mut self, beat_bytes: u64, beats: &mut Fifo) -> bool {
        let Some(&(known, content)) = self.contents.front() else {
            return false;
        };
        let Some(taken) = self.taken else {
            let after = if self.filled { self.word + 1 } else { 0 };
            let Some((free, ())) = self.buffer.free.take(after.max(known)) else {
                return false;
            };
            (self.now, self.taken) = (free, Some(0));
            return true;
        };
        if taken == content.beats {
            let ready = self.word + self.depth;
            if self.buffer.full.put(ready, ()).is_none() {
                return false;
            }
            self.filled = true;
            self.contents.pop_front();
            self.taken = None;
            return true;
        }
        let Some((at, ())) = beats.take(self.now.max(self.word)) else {
            return false;
        };
        let words = |beats: u64| {
            if beats == content.beats {
                content.words
            } else {
                beats * beat_bytes / content.word_bytes
            }
        };
        let whole = words(taken + 1) - words(taken);
        if whole > 0 {
            self.word = self.word.max(at) + whole;
        }
        (self.now, self.taken) = (at + 1, Some(taken + 1));
        true
    }
}
