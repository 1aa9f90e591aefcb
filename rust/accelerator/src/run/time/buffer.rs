//! Models the double buffers and what loads them.

use std::collections::VecDeque;

use super::queues::Fifo;
use crate::unit::{BufferHalf, QueueName};

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
    pub(super) contents: VecDeque<(u64, BufferHalf)>,
    /// The queue that the beats come in.
    queue: QueueName,
}

impl BufferLoader {
    /// Creates a loader. `depth`: cycles from the last word of a half to its use.
    pub(super) fn new(queue: QueueName, depth: u64) -> Self {
        Self {
            buffer: DoubleBuffer::new(),
            now: 0,
            word: 0,
            filled: false,
            depth,
            taken: None,
            contents: VecDeque::new(),
            queue,
        }
    }

    /// Adds the halves among those of a command that this loader loads, known from `at` on.
    pub(super) fn expect(&mut self, at: u64, halves: &[BufferHalf]) {
        let own = halves.iter().filter(|half| half.queue == self.queue);
        self.contents.extend(own.map(|&half| (at, half)));
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
