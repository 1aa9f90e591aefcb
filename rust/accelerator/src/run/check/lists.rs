//! Checks each segment against the halves that it interleaves, and each frame's transfers.

use quasar_core::error::Result;

use super::wrong;
use crate::arena_layout::words;
use crate::isa::{check, Command};
use crate::program::{Program, Segment};

/// Checks that a step is an interleaving of the two halves.
pub(super) fn interleavings(program: &Program) -> Result<()> {
    if program.hardware().configuration().frames == 1 {
        return Ok(());
    }
    let part = |segment: Segment, slot: u8| -> Vec<(Command, u16)> {
        let all = program
            .commands(segment)
            .iter()
            .zip(program.places(segment));
        all.filter(|(_, place)| place.slot == slot)
            .map(|(&command, place)| (command, place.phase))
            .collect()
    };
    for slot in 0..2 {
        let other = 1 - slot;
        let step = Segment::Step(slot);
        if part(step, slot) != part(Segment::End(slot), slot)
            || part(step, other) != part(Segment::Start(other), other)
        {
            return Err(wrong(format!(
                "{step} is not the two halves that it interleaves"
            )));
        }
    }
    Ok(())
}

/// Checks that a frame reads the arena once, from its first to its last beat, and that all checks
/// are right. Returns the beats that a frame reads.
pub(super) fn transfers(program: &Program) -> Result<usize> {
    let (arena, beat) = (&program.arena, program.beat_bytes());
    let mut all = 0;
    for slot in 0..program.hardware().configuration().frames as u8 {
        let mut next = 0;
        for segment in [Segment::Start(slot), Segment::End(slot)] {
            for command in program.commands(segment) {
                let Command::Load(c) = command else { continue };
                if c.input {
                    continue;
                }
                let first = c.address as usize;
                let end = first + c.beats as usize;
                if first != next || (end + 1) * beat > arena.len() {
                    return Err(wrong(format!(
                        "{segment}: {c:?} does not follow beat {next} of the arena"
                    )));
                }
                next = end + 1;
                let check = check(&arena[first * beat..end * beat]);
                if words(&arena[end * beat..]).next() != Some(check) {
                    return Err(wrong(format!("{segment}: the check of {c:?} is wrong")));
                }
            }
        }
        if next * beat != arena.len() {
            return Err(wrong(format!(
                "slot {slot} leaves the arena from beat {next} on unread"
            )));
        }
        all = next;
    }
    Ok(all + program.input_bytes() / beat)
}
