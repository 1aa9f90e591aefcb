//! Makes the mock's program, which has no network, and the logits that it expects of a frame.

use std::sync::Arc;

use quasar_core::subnet::config::Pool;

use crate::arena_layout::words;
use crate::isa::{check, check_after, Command, Fill, Load, LoadEnd, Target, PORT_BYTES};
use crate::program::{List, NetworkSizes, Place, Program, Segment};
use crate::testing::{golden, hardware};

pub(super) const CLASSES: usize = 3;
/// Beats of the arena, without its check.
const ARENA_BEATS: usize = 4;

/// Makes a program without a network. A segment that starts a frame loads its patches; a segment
/// that finishes a frame loads the arena and ends the frame's transfers. The last command of a
/// segment is for another unit.
pub(crate) fn program(frames: u64, ports: u64) -> Arc<Program> {
    let hardware = hardware(&golden("token"), "zcu102", [8, 8, 1, 1, 1, ports, frames]);
    let segments = Segment::all(frames as usize);
    let list = |&segment| {
        let (finishes, starts) = frames_of(segment);
        let mut commands: Vec<Command> = Vec::new();
        if let Some(slot) = starts {
            let patches = Load {
                target: Target::Patches,
                input: true,
                frame: slot.into(),
                begins: true,
                ..Load::default()
            };
            commands.push(patches.into());
        }
        if let Some(slot) = finishes {
            let weights = Load {
                target: Target::Weights,
                frame: slot.into(),
                beats: ARENA_BEATS as u32,
                ..Load::default()
            };
            let end = LoadEnd {
                frame: slot.into(),
                transfers: 1,
            };
            commands.extend([Command::from(weights), end.into()]);
        }
        commands.push(Fill::default().into());
        let place = Place {
            slot: 0,
            phase: 0,
            stage: "mock",
        };
        List {
            segment,
            places: vec![place; commands.len()],
            commands,
        }
    };
    Arc::new(Program {
        hardware,
        name: "mock".into(),
        sizes: NetworkSizes {
            tokens: 8,
            prefix: 0,
            patch_len: 2,
            embed: 1,
            pool: Pool::Mean,
            patch_tokens: false,
            embed_norm: false,
            phases: 2,
            pairs: 0,
        },
        lists: segments.iter().map(list).collect(),
        arena: arena(ports as usize * PORT_BYTES),
        arena_checks: vec![ARENA_BEATS * ports as usize * PORT_BYTES],
        output_of_logit: (0..CLASSES as u32).collect(),
        outputs: CLASSES,
        head_rows: CLASSES,
        first_code: CLASSES,
    })
}

/// Returns the slots of the frames that a segment finishes and starts.
pub(super) fn frames_of(segment: Segment) -> (Option<u8>, Option<u8>) {
    match segment {
        Segment::Start(slot) => (None, Some(slot)),
        Segment::Step(slot) => (Some(slot), Some(1 - slot)),
        Segment::End(slot) => (Some(slot), None),
    }
}

/// Makes an arena of one transfer and its check.
fn arena(beat: usize) -> Vec<u8> {
    let mut arena: Vec<u8> = (0..ARENA_BEATS * beat).map(|i| (i * 37) as u8).collect();
    arena.extend(check(&arena).to_le_bytes());
    arena.resize((ARENA_BEATS + 1) * beat, 0);
    arena
}

/// Splits a transfer into its data and the key of its check.
pub(super) fn key_of(transfer: &[u8], beat: usize) -> (&[u8], u32) {
    let (data, last) = transfer.split_at(transfer.len().saturating_sub(beat));
    let stated = words(last).next().unwrap_or_default();
    (data, stated ^ check(data))
}

/// Returns the logits of a packed input.
pub(crate) fn expected(program: &Program, input: &[u8]) -> Vec<i32> {
    let data = |transfer| key_of(transfer, program.beat_bytes()).0;
    logits(data(program.arena()), data(input))
}

pub(super) fn logits(arena: &[u8], input: &[u8]) -> Vec<i32> {
    let sum = check_after(check(input), arena);
    (0..CLASSES as u32)
        .map(|class| sum.wrapping_mul(2 * class + 1) as i32)
        .collect()
}
