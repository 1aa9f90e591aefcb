//! Holds items on their way between units.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

use quasar_core::error::{Error, Result};

use crate::isa::QUEUES;
use crate::unit::QueueName;

/// Scale of a token's output: mantissa, shift, rounding residue.
pub(super) type Scale = (i16, u32, i32);

/// An item of a queue.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Beat(Vec<u8>),
    /// L sums; lanes without a token hold garbage.
    Sums(Vec<i32>),
    Moments(Vec<(i32, i64)>),
    Maxima(Vec<i32>),
    Scale(Scale),
    Logit(i32),
    /// Soundness of a frame's transfers of the arena, and the nonce of its input.
    Checks {
        sound: bool,
        nonce: u32,
    },
    Credit,
}

/// All queues that steps name.
pub(super) struct Queues([VecDeque<Item>; QueueName::ALL.len()]);

impl Index<QueueName> for Queues {
    type Output = VecDeque<Item>;

    fn index(&self, name: QueueName) -> &VecDeque<Item> {
        &self.0[name as usize]
    }
}

impl IndexMut<QueueName> for Queues {
    fn index_mut(&mut self, name: QueueName) -> &mut VecDeque<Item> {
        &mut self.0[name as usize]
    }
}

impl Queues {
    pub(super) fn new() -> Self {
        let initial = |name: QueueName| vec![Item::Credit; QUEUES[name.index()].initial];
        Self(QueueName::ALL.map(|name| initial(name).into()))
    }

    /// Returns true if the queues hold what they hold after a reset.
    pub(super) fn idle(&self) -> bool {
        let initial = |name: QueueName| QUEUES[name.index()].initial;
        QueueName::ALL
            .iter()
            .all(|&name| self[name].len() == initial(name))
    }

    /// Moves items to a queue; credits are made here.
    pub(super) fn give(
        &mut self,
        queue: QueueName,
        count: usize,
        items: &mut VecDeque<Item>,
    ) -> Result<()> {
        for _ in 0..count {
            let item = if queue.holds_credits() {
                Item::Credit
            } else {
                items.pop_front().ok_or_else(|| {
                    let name = QUEUES[queue.index()].name;
                    Error::InvalidValue(format!("{name}: a step gives more than its unit made"))
                })?
            };
            self[queue].push_back(item);
        }
        Ok(())
    }
}
