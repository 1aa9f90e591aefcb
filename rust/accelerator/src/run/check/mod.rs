//! Checks the schedule of a program: no deadlock, no race, nothing left over, nothing out of place,
//! whatever the order in which the units run.
//!
//! | module | what it does |
//! |---|---|
//! | `fields` | checks each command on its own |
//! | `lists` | checks each segment against the halves that it interleaves, and each frame's transfers |
//! | `items` | declares what queues and memories hold in the abstract run |
//! | `machine` | runs segments abstractly, by the steps of [`crate::unit`] |
//!
//! The units take from and give to bounded queues, and wait where they cannot. So they form a Kahn
//! process network: a deadlock does not depend on which unit runs first, and one run decides. The
//! run is abstract. Commands take and give counted items that carry tags, and access memory cells,
//! where a cell is a column of a tile of tokens. Units have no room within them; the hardware's
//! double buffers only add room. If two accesses to a cell include a write, credits, sums, moments
//! or maxima must order them: the hardware sends these after its memory accesses. Vector clocks
//! decide that. Each read must find what was written for it: frame, phase, layout, and as many
//! tokens. Depends on [`crate::program`], [`crate::shape`], [`crate::isa`], `unit`
//! and `arena_layout`.

mod fields;
mod items;
mod lists;
mod machine;
#[cfg(test)]
mod tests;

use quasar_core::error::{Error, Result};

use self::fields::Checker;
use self::machine::Machine;
use crate::isa::QUEUES;
use crate::program::{Program, Segment};

/// Needs of a program that passes the check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Name, most items in the run, and depth of each queue.
    pub queues: Vec<(&'static str, usize, usize)>,
    /// Commands of each segment.
    pub commands: Vec<(Segment, usize)>,
    /// Beats that a frame reads, its patches and all checks included.
    pub beats: usize,
}

/// Checks a program: each command on its own, each segment against the halves that it interleaves,
/// each frame's transfers, and a run of segments that contains every pair of successive segments.
///
/// # Errors
/// [`Error::InvalidValue`] names the fault and its place.
pub fn check_schedule(program: &Program) -> Result<Report> {
    let checker = Checker::new(program);
    for list in &program.lists {
        for (at, (command, place)) in list.commands.iter().zip(&list.places).enumerate() {
            checker
                .command(*command, *place)
                .map_err(|e| wrong(format!("{} {at}, {command:?}: {e}", list.segment)))?;
        }
    }
    lists::interleavings(program)?;
    let beats = lists::transfers(program)?;
    let mut machine = Machine::new(program);
    let mut states = [None, None, None];
    for &segment in tour(machine.frames_in_flight()) {
        machine.run(segment)?;
        // After a segment the queues hold the same, whatever ran before. So each sequence of
        // segments is like this one.
        let state = match segment {
            Segment::Start(slot) => 1 + slot as usize,
            Segment::Step(slot) => 2 - slot as usize,
            Segment::End(_) => 0,
        };
        let held = machine.held();
        if *states[state].get_or_insert_with(|| held.clone()) != held {
            return Err(wrong(format!(
                "after {segment} the queues hold {held:?}, which differs from before"
            )));
        }
    }
    if let Some(held) = &states[0] {
        if !QUEUES
            .iter()
            .map(|queue| queue.initial)
            .eq(held.iter().copied())
        {
            return Err(wrong(format!(
                "when all frames have ended the queues hold {held:?}"
            )));
        }
    }
    Ok(Report {
        queues: machine
            .queues
            .iter()
            .zip(QUEUES)
            .map(|(queue, declared)| (declared.name, queue.most, queue.depth))
            .collect(),
        commands: program.segments().map(|(s, c)| (s, c.len())).collect(),
        beats,
    })
}

/// Returns a sequence of segments that contains every pair of successive segments.
fn tour(frames: usize) -> &'static [Segment] {
    use Segment::{End, Start, Step};
    const SINGLE: [Segment; 4] = [Start(0), End(0), Start(0), End(0)];
    const DOUBLE: [Segment; 20] = [
        Start(0),
        Step(0),
        Step(1),
        Step(0),
        Step(1),
        End(0),
        Start(0),
        End(0),
        Start(1),
        End(1),
        Start(1),
        Step(1),
        Step(0),
        End(1),
        Start(0),
        Step(0),
        End(1),
        Start(1),
        Step(1),
        End(0),
    ];
    if frames == 1 {
        &SINGLE
    } else {
        &DOUBLE
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::InvalidValue(format!("program: {}", what.into()))
}

fn ensure(condition: bool, what: &str) -> Result<(), String> {
    if condition {
        Ok(())
    } else {
        Err(what.into())
    }
}
