//! Programs pass the check, and changed programs fail it.

use proptest::prelude::*;

use super::check_schedule;
use crate::isa::{Command, Kind, Unit, COMMAND_WORDS};
use crate::program::{Program, Segment};
use crate::testing::{cascade, cascaded, design, golden, hardware, shape, Design, Random, GOLDEN};

const SHAPES: [(&str, [u64; 7]); 4] = [
    ("zcu102", [5, 3, 2, 2, 2, 1, 2]),
    ("zcu102", [5, 3, 2, 2, 2, 1, 1]),
    ("pynq-z2", [7, 4, 3, 3, 5, 2, 2]),
    ("zcu102", [32, 64, 32, 8, 8, 4, 2]),
];

#[test]
fn golden_subnets_verify() {
    for name in GOLDEN {
        let subnet = golden(name);
        for (board, shape) in SHAPES {
            let program = Program::compile(&subnet, &hardware(&subnet, board, shape)).unwrap();
            let report = check_schedule(&program).unwrap();
            assert!(report.queues.iter().all(|(_, most, depth)| most <= depth));
            assert_eq!(report.commands.len(), if shape[6] == 1 { 2 } else { 6 });
        }
    }
}

#[test]
fn the_same_subnet_gives_the_same_program() {
    let subnet = golden("mean");
    for (board, shape) in SHAPES {
        let hardware = hardware(&subnet, board, shape);
        let [a, b] = [0, 1].map(|_| Program::compile(&subnet, &hardware).unwrap());
        assert_eq!(a, b);
    }
}

/// Numbers that do not matter for order and places.
const NUMBERS: [&str; 7] = [
    "epsilon",
    "frac",
    "mult",
    "out_mult",
    "out_shift",
    "cap",
    "zero_point",
];

/// Applies a change to every list, as a compiler's mistake would: lists stay interleavings of each
/// other.
fn change_alike(
    program: &mut Program,
    which: Command,
    slot: u8,
    phase: u16,
    to: &[Command],
) -> usize {
    let mut changed = 0;
    for list in &mut program.lists {
        let mut at = 0;
        while at < list.commands.len() {
            let place = list.places[at];
            if list.commands[at] == which && (place.slot, place.phase) == (slot, phase) {
                list.commands.splice(at..=at, to.iter().copied());
                list.places.splice(at..=at, to.iter().map(|_| place));
                changed += 1;
                at += to.len();
            } else {
                at += 1;
            }
        }
    }
    changed
}

/// Commands that differ from one in one field.
fn altered(command: Command) -> Vec<Command> {
    let operation = command.operation();
    let words = command.encode().unwrap();
    let mut all = Vec::new();
    for (field, position) in operation.fields() {
        if NUMBERS.contains(&field.name) {
            continue;
        }
        // Of the field: flip its lowest bit.
        let mut other: [u32; COMMAND_WORDS] = words;
        other[position.word] ^= 1 << position.lsb;
        all.extend(Command::decode(&other));
    }
    all
}

fn mutants(program: &Program) -> Vec<(String, Program)> {
    let mut all = Vec::new();
    let list = program.lists.last().unwrap();
    let mut seen = Vec::new();
    for (&command, place) in list.commands.iter().zip(&list.places) {
        if seen.contains(&(command, place.slot, place.phase)) {
            continue;
        }
        seen.push((command, place.slot, place.phase));
        let mut mutant = |what: &str, to: &[Command]| {
            let mut changed = program.clone();
            assert!(change_alike(&mut changed, command, place.slot, place.phase, to) > 0);
            all.push((format!("{what} {command:?} in {place:?}: {to:?}"), changed));
        };
        mutant("drop", &[]);
        mutant("duplicate", &[command, command]);
        for other in altered(command) {
            mutant("alter", &[other]);
        }
    }
    all
}

#[test]
fn every_dropped_duplicated_or_altered_command_is_noticed() {
    let subnet = golden("overlap");
    for (board, shape) in SHAPES {
        let program = Program::compile(&subnet, &hardware(&subnet, board, shape)).unwrap();
        let all = mutants(&program);
        assert!(all.len() > 300, "{}", all.len());
        let missed: Vec<_> = all
            .iter()
            .filter(|(_, mutant)| check_schedule(mutant).is_ok())
            .map(|(what, _)| what)
            .collect();
        assert!(
            missed.is_empty(),
            "{} of {}: {missed:#?}",
            missed.len(),
            all.len()
        );
    }
}

#[test]
fn an_altered_stride_of_values_alone_is_noticed() {
    let subnet = Design {
        side: 1,
        kernel: 1,
        channels: 3,
        embed: 21,
        prefix: 0,
        blocks: vec![(2, 4, 8), (3, 6, 10)],
        pool: "token",
        embed_norm: false,
        patch_tokens: false,
        classes: 1,
        eight_bit: 5,
        seed: 0,
    }
    .subnet();
    let hardware = hardware(&subnet, "zcu102", [1, 8, 1, 1, 1, 1, 2]);
    let program = Program::compile(&subnet, &hardware).unwrap();
    for (what, mutant) in mutants(&program) {
        assert!(check_schedule(&mutant).is_err(), "{what}");
    }
}

#[test]
fn two_commands_of_a_unit_that_change_places_are_noticed() {
    let subnet = golden("token");
    let program = Program::compile(&subnet, &hardware(&subnet, "zcu102", SHAPES[0].1)).unwrap();
    let list = program
        .lists
        .iter()
        .position(|l| l.segment == Segment::Step(0))
        .unwrap();
    let mut tried = 0;
    for unit in Unit::ALL {
        let commands = &program.lists[list].commands;
        let of_unit: Vec<usize> = (0..commands.len())
            .filter(|&i| commands[i].unit() == unit)
            .collect();
        for pair in of_unit.windows(2) {
            let mut mutant = program.clone();
            mutant.lists[list].commands.swap(pair[0], pair[1]);
            mutant.lists[list].places.swap(pair[0], pair[1]);
            assert!(
                check_schedule(&mutant).is_err(),
                "{:?} and {:?}",
                commands[pair[0]],
                commands[pair[1]]
            );
            tried += 1;
        }
    }
    assert!(tried > 100);
}

#[test]
fn a_matrix_of_more_transfers_than_the_load_queue_holds_needs_its_commands_first() {
    let subnet = Design {
        side: 2,
        kernel: 1,
        channels: 1,
        embed: 6,
        prefix: 1,
        blocks: vec![(1, 3, 5)],
        pool: "token",
        embed_norm: false,
        patch_tokens: false,
        classes: 300,
        eight_bit: 8,
        seed: 1,
    }
    .subnet();
    let hardware = hardware(&subnet, "zcu102", [3, 2, 2, 1, 1, 1, 2]);
    let program = Program::compile(&subnet, &hardware).unwrap();
    check_schedule(&program).unwrap();
    let mut late = program.clone();
    for list in &mut late.lists {
        let rows = |c: &Command| matches!(c, Command::Rows(c) if c.kind == Kind::Logits);
        let Some(at) = list.commands.iter().position(rows) else {
            continue;
        };
        let end = list.commands[at..]
            .iter()
            .position(|c| matches!(c, Command::LoadEnd(_)))
            .unwrap();
        // `Rows` moves behind its transfers.
        list.commands[at..at + end].rotate_left(1);
        list.places[at..at + end].rotate_left(1);
    }
    let error = check_schedule(&late).unwrap_err().to_string();
    assert!(error.contains("deadlock"), "{error}");
}

#[test]
fn products_of_more_columns_than_a_slice_adds_take_the_fewest_passes() {
    // Patches of 1728 columns, and a context of 548 keys, just what a pass takes.
    for (side, kernel, prefix) in [(24, 24, 1), (23, 1, 19)] {
        let subnet = Design {
            side,
            kernel,
            channels: 3,
            embed: 4,
            prefix,
            blocks: vec![(1, 2, 5)],
            pool: "mean",
            embed_norm: false,
            patch_tokens: false,
            classes: 2,
            eight_bit: 4,
            seed: 3,
        }
        .subnet();
        for cascade in [[1, 1, 1], [8, 2, 1]] {
            let hardware = cascaded(&subnet, "pynq-z2", [50, 3, 2, 1, 1, 3, 2], cascade);
            let program = Program::compile(&subnet, &hardware).unwrap();
            let divided = |c: &Command| matches!(c, Command::Gemm(c) if c.pass < c.columns);
            let start = program.commands(Segment::Start(0));
            assert_eq!(start.iter().any(divided), kernel == 24);
            check_schedule(&program).unwrap();
        }
    }
}

#[test]
fn a_changed_arena_is_noticed() {
    let subnet = golden("token");
    let program = Program::compile(&subnet, &hardware(&subnet, "zcu102", SHAPES[0].1)).unwrap();
    let mut random = Random::new(5);
    let beat = program.beat_bytes();
    for _ in 0..50 {
        let at = random.within(0, program.arena.len() as i64 - 1) as usize;
        let mut mutant = program.clone();
        mutant.arena[at] ^= 4;
        // Only the rest of a check's beat has no meaning.
        let padding = at % beat >= 4
            && program.arena[at - at % beat + 4..][..beat - 4]
                .iter()
                .all(|&b| b == 0);
        assert!(check_schedule(&mutant).is_err() || padding, "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_program_verifies(
        design in design(), (board, shape) in shape(), cascade in cascade(),
    ) {
        let subnet = design.subnet();
        let hardware = cascaded(&subnet, board, shape, cascade);
        let program = Program::compile(&subnet, &hardware).unwrap();
        check_schedule(&program).unwrap();
    }

    #[test]
    fn any_mutant_is_noticed(
        design in design(), (board, shape) in shape(), cascade in cascade(),
        pick in any::<prop::sample::Index>(),
    ) {
        let subnet = design.subnet();
        let hardware = cascaded(&subnet, board, shape, cascade);
        let program = Program::compile(&subnet, &hardware).unwrap();
        let all = mutants(&program);
        let (what, mutant) = &all[pick.index(all.len())];
        prop_assert!(check_schedule(mutant).is_err(), "{}", what);
    }
}
