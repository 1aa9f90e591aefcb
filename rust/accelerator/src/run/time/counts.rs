//! Counts what the counters on the chip count: commands, and busy, blocked and starved cycles.

use crate::counts::UnitCounts;

/// A set of cycles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CycleSet {
    /// First cycles, and first cycles after; neither sorted nor disjoint.
    ranges: Vec<(u64, u64)>,
}

impl CycleSet {
    /// Adds the cycles from `from` up to, but without, `to`.
    pub(super) fn add(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        match self.ranges.last_mut() {
            // Adjacent ranges are merged, so that few are kept.
            Some((first, end)) if *first <= from && from <= *end => *end = to.max(*end),
            _ => self.ranges.push((from, to)),
        }
    }

    /// Returns the ranges, sorted and disjoint.
    fn sorted(&self) -> Vec<(u64, u64)> {
        let mut sorted = self.ranges.clone();
        sorted.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
        for (from, to) in sorted {
            match joined.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => joined.push((from, to)),
            }
        }
        joined
    }

    /// Returns the cycles that are in both sets.
    pub(super) fn common(&self, other: &Self) -> Self {
        let (a, b) = (self.sorted(), other.sorted());
        let (mut i, mut j) = (0, 0);
        let mut ranges = Vec::new();
        while i < a.len() && j < b.len() {
            let (from, to) = (a[i].0.max(b[j].0), a[i].1.min(b[j].1));
            if from < to {
                ranges.push((from, to));
            }
            if a[i].1 <= b[j].1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        Self { ranges }
    }

    /// Returns the number of cycles.
    pub(super) fn len(&self) -> u64 {
        self.sorted().iter().map(|(from, to)| to - from).sum()
    }
}

/// Cycles in which a unit's main input has nothing, as far as the unit is busy.
#[derive(Clone, Debug, Default)]
pub(super) enum Lacking {
    /// They cannot be observed.
    #[default]
    Unknown,
    /// Cycles without an item in the queue.
    Without(CycleSet),
    /// These cycles, except those in the second set.
    Within(CycleSet, CycleSet),
}

/// Activity of a unit, for its counters.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity {
    /// Commands that have ended.
    pub(super) commands: u64,
    /// Cycles with a command that is taken and has not ended.
    pub(super) busy: CycleSet,
    /// Cycles in which an output queue refuses an item.
    pub(super) blocked: CycleSet,
}

impl Activity {
    /// Adds a command that ended.
    pub(super) fn command(&mut self, taken: u64, ended: u64) {
        self.commands += 1;
        self.busy.add(taken, ended);
    }

    /// Returns the counts.
    pub(super) fn counts(&self, lacking: &Lacking) -> UnitCounts {
        let Self {
            commands,
            busy,
            blocked,
        } = self;
        let all = busy.len();
        UnitCounts {
            commands: *commands,
            busy: all,
            blocked: busy.common(blocked).len(),
            starved: match lacking {
                Lacking::Unknown => 0,
                Lacking::Without(fed) => all - busy.common(fed).len(),
                Lacking::Within(waiting, fed) => {
                    let waiting = busy.common(waiting);
                    waiting.len() - waiting.common(fed).len()
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Command, CountedUnit, Load, LoadEnd, Table, Target};
    use crate::program::{List, Place, Segment};
    use crate::run::time::{replay_segments, Trace};
    use crate::testing::{golden, hardware};

    fn set(ranges: &[(u64, u64)]) -> CycleSet {
        let mut set = CycleSet::default();
        for &(from, to) in ranges {
            set.add(from, to);
        }
        set
    }

    #[test]
    fn cycles_are_counted_once() {
        let a = set(&[(4, 6), (6, 9), (5, 7), (20, 20), (1, 2), (8, 11)]);
        assert_eq!(a.len(), 1 + 7);
        let b = set(&[(10, 30), (0, 5)]);
        assert_eq!(a.common(&b).sorted(), [(1, 2), (4, 5), (10, 11)]);
        assert_eq!(b.common(&a).len(), 3);
    }

    #[test]
    fn only_busy_cycles_are_blocked_or_starved() {
        let mut activity = Activity::default();
        activity.command(10, 20);
        // The next command is taken before the first one has ended.
        activity.command(15, 25);
        activity.blocked = set(&[(5, 12), (24, 26)]);
        let fed = set(&[(0, 11), (13, 14)]);
        let counts = |lacking| activity.counts(&lacking);
        let found = counts(Lacking::Without(fed.clone()));
        let expected = UnitCounts {
            commands: 2,
            busy: 15,
            blocked: 2 + 1,
            starved: 15 - 2,
        };
        assert_eq!(found, expected);
        let waiting = set(&[(8, 16)]);
        assert_eq!(counts(Lacking::Within(waiting, fed)).starved, 6 - 2);
        assert_eq!(counts(Lacking::Unknown).starved, 0);
    }

    fn traced(commands: Vec<Command>, gap: u64) -> Trace {
        let hardware = hardware(&golden("token"), "zcu102", [8, 8, 1, 1, 1, 1, 1]);
        let place = Place {
            slot: 0,
            phase: 0,
            stage: "test",
        };
        let list = List {
            segment: Segment::Start(0),
            places: vec![place; commands.len()],
            commands,
        };
        replay_segments(&hardware, &[list], &[Segment::Start(0)], Some(gap)).unwrap()
    }

    /// Compares with counts by hand: a table of 256 bytes and its check, 17 beats of 16 bytes, for
    /// the drain.
    #[test]
    fn a_table_takes_the_cycles_counted_by_hand() {
        let load = Load {
            target: Target::Table,
            beats: 16,
            ..Load::default()
        };
        let end = LoadEnd::default();
        let trace = traced(vec![load.into(), end.into(), Table::default().into()], 0);
        let unit = |unit: CountedUnit| trace.units[unit as usize];
        // Fetch's first beat comes 64 cycles after its start, then a command every 2 cycles.
        let expected = |[commands, busy, blocked, starved]: [u64; 4]| UnitCounts {
            commands,
            busy,
            blocked,
            starved,
        };
        assert_eq!(unit(CountedUnit::Fetch), expected([1, 64 + 3 * 2, 0, 64]));
        // Load takes its first command in cycle 64 and requests the beats in cycle 80. They come in
        // cycles 144 to 161, 9 in 10 cycles; load has the check in cycle 162, 16 cycles later it
        // takes the end of the transfers, and reports it in one more.
        assert_eq!(
            unit(CountedUnit::Load),
            expected([2, 162 + 16 + 1 - 64, 0, 64 + 18 - 17])
        );
        // The drain takes the table's command in cycle 68 and the last beat in cycle 161. After it
        // come 240 entries.
        assert_eq!(
            unit(CountedUnit::Drain),
            expected([1, 162 + 240 + 22 - 68, 0, 356])
        );
        let idle = trace
            .units
            .iter()
            .filter(|&&counts| counts == UnitCounts::default());
        assert_eq!(idle.count(), 6);
    }

    #[test]
    fn fetch_waits_for_each_burst_beyond_the_open_ones() {
        let starved = |commands| {
            let patches = Load {
                target: Target::Patches,
                beats: 1,
                ..Load::default()
            };
            traced(vec![patches.into(); commands], 0).units[CountedUnit::Fetch as usize].starved
        };
        // A burst has 32 commands, and 8 are open from the start.
        assert_eq!([starved(1), starved(256)], [64, 64]);
        assert_eq!([starved(257), starved(288), starved(289)], [128, 128, 192]);
    }

    /// Load fills the queue of the drain's beats, which no command of the drain takes.
    #[test]
    fn a_full_queue_blocks_its_writer() {
        let table = |beats| Load {
            target: Target::Table,
            beats,
            ..Load::default()
        };
        let commands = vec![table(96).into()];
        let taken = [Table::default(); 6].map(Command::from);
        let trace = traced([commands, taken.to_vec()].concat(), 0);
        let load = trace.units[CountedUnit::Load as usize];
        let free = traced(
            vec![
                table(32).into(),
                Table::default().into(),
                Table::default().into(),
            ],
            0,
        )
        .units[CountedUnit::Load as usize];
        assert_eq!(free.blocked, 0);
        // The drain takes the first 16 beats, and the queue holds 64. The next one comes in cycle
        // 144 + 80 * 10 / 9, rounded up, and has room once the second table is begun: 240 entries
        // and a gap of 16 cycles after cycle 162.
        assert_eq!(load.blocked, (162 + 240 + 16 + 1) - 233);
        assert_eq!(load.commands, 1);
    }
}
