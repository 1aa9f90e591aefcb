//! Any subnet gives the executor's logits, and changed transfers are noticed.

use std::sync::Arc;

use proptest::prelude::*;
use quasar_core::preprocess::patches_channels_first;
use quasar_core::{Executor, Kernels, Network, Subnet, Tier};

use super::*;
use crate::testing::{cascade, cascaded, design, golden, hardware, shape, Random, GOLDEN};

/// Returns random images, their patch codes and the executor's logits.
fn frames(subnet: &Subnet, count: usize) -> Vec<(Vec<u8>, Vec<i8>, Vec<i32>)> {
    let config = subnet.config();
    let network = Arc::new(Network::new(subnet, Tier::Scalar).unwrap());
    let executor = Executor::new(network, Some(1)).unwrap();
    let mut random = Random::new(1);
    (0..count)
        .map(|_| {
            let image: Vec<u8> = (0..config.image.bytes())
                .map(|_| random.within(0, 255) as u8)
                .collect();
            let mut codes = vec![0; config.patches() * config.patch_len()];
            let (_, columns) = config.grid();
            patches_channels_first(&image, config.image, config.patch, columns, 0, &mut codes);
            let mut logits = vec![0; config.outputs()];
            executor.run(&image, &mut logits).unwrap();
            (image, codes, logits)
        })
        .collect()
}

/// Returns the segments of successive frames.
fn segments(frames: usize, in_flight: usize) -> Vec<Segment> {
    if in_flight == 1 {
        return [Segment::Start(0), Segment::End(0)].repeat(frames);
    }
    let slot = |frame: usize| (frame % 2) as u8;
    let mut all = vec![Segment::Start(0)];
    all.extend((0..frames - 1).map(|frame| Segment::Step(slot(frame))));
    all.push(Segment::End(slot(frames - 1)));
    all
}

fn agrees(subnet: &Subnet, board: &str, shape: [u64; 7]) {
    cascades_agree(subnet, board, shape, [1, 1, 1]);
}

fn cascades_agree(subnet: &Subnet, board: &str, shape: [u64; 7], cascade: [u64; 3]) {
    let hardware = cascaded(subnet, board, shape, cascade);
    let program = Program::compile(subnet, &hardware).unwrap();
    let frames = frames(subnet, 3);
    let mut interpreter = Interpreter::new(&program);
    let (mut begun, mut ended) = (0, 0);
    for segment in segments(frames.len(), shape[6] as usize) {
        let mut input = vec![0; program.input_bytes()];
        if !matches!(segment, Segment::End(_)) {
            let (image, codes, _) = &frames[begun];
            program.pack_input(codes, &mut input);
            for kernels in Tier::ALL.into_iter().filter_map(Kernels::new) {
                let (config, mut packed) = (subnet.config(), vec![1; input.len()]);
                let (size, patch, columns) = (config.image, config.patch, config.grid().1);
                program.pack_image(kernels, image, size, patch, columns, &mut packed);
                assert!(packed == input, "frame {begun}, {}", kernels.tier());
            }
            begun += 1;
            program.change_input_key(&mut input, begun as u32);
        }
        interpreter.run(segment, &input).unwrap();
        if !matches!(segment, Segment::Start(_)) {
            let output = interpreter.output().unwrap();
            let mut logits = vec![0; program.outputs()];
            program
                .read_output(&output, ended as u32 + 1, &mut logits)
                .unwrap();
            assert_eq!(logits, frames[ended].2, "frame {ended}");
            ended += 1;
        }
    }
    assert_eq!((begun, ended), (3, 3));
    assert!(interpreter.idle());
}

#[test]
fn golden_subnets_give_the_executors_logits() {
    for name in GOLDEN {
        let subnet = golden(name);
        for frames in [1, 2] {
            agrees(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, frames]);
            agrees(&subnet, "pynq-z2", [7, 4, 3, 3, 5, 2, frames]);
            agrees(&subnet, "zcu102", [32, 64, 32, 8, 8, 4, frames]);
            cascades_agree(&subnet, "zcu102", [7, 4, 3, 3, 5, 2, frames], [4, 2, 2]);
            cascades_agree(&subnet, "pynq-z2", [5, 3, 5, 2, 2, 1, frames], [16, 1, 3]);
        }
    }
}

#[test]
fn columns_beyond_a_slices_bound_take_passes() {
    let mut design = crate::testing::Design {
        side: 24,
        kernel: 24,
        channels: 3,
        embed: 4,
        prefix: 1,
        blocks: vec![(1, 2, 5)],
        pool: "mean",
        embed_norm: false,
        patch_tokens: false,
        classes: 2,
        eight_bit: 4,
        seed: 3,
    };
    for (eight_bit, frames) in [(8, 1), (4, 2), (0, 2)] {
        design.eight_bit = eight_bit;
        agrees(&design.subnet(), "pynq-z2", [2, 3, 2, 1, 1, 3, frames]);
        cascades_agree(
            &design.subnet(),
            "pynq-z2",
            [2, 3, 2, 1, 1, 3, frames],
            [8, 2, 1],
        );
    }
}

#[test]
fn a_changed_bit_of_the_arena_fails_its_frames_check() {
    let subnet = golden("token");
    let hardware = hardware(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, 1]);
    let mut program = Program::compile(&subnet, &hardware).unwrap();
    let middle = program.arena.len() / 2;
    program.arena[middle] ^= 1;
    let mut interpreter = Interpreter::new(&program);
    let mut input = vec![0; program.input_bytes()];
    program.pack_input(&vec![0; program.patch_codes()], &mut input);
    program.change_input_key(&mut input, 7);
    for segment in [Segment::Start(0), Segment::End(0)] {
        interpreter.run(segment, &input).unwrap();
    }
    let output = interpreter.output().unwrap();
    let mut logits = vec![0; program.outputs()];
    let error = program.read_output(&output, 7, &mut logits).unwrap_err();
    assert!(error.to_string().contains("failed its check"), "{error}");
}

#[test]
fn a_frame_with_another_number_of_transfers_fails_its_check() {
    let subnet = golden("token");
    let hardware = hardware(&subnet, "zcu102", [5, 3, 2, 2, 2, 1, 1]);
    for by in [-1, 0, 1] {
        let mut program = Program::compile(&subnet, &hardware).unwrap();
        for command in program.lists.iter_mut().flat_map(|list| &mut list.commands) {
            if let Command::LoadEnd(end) = command {
                end.transfers = end.transfers.checked_add_signed(by).unwrap();
            }
        }
        let mut interpreter = Interpreter::new(&program);
        let mut input = vec![0; program.input_bytes()];
        program.pack_input(&vec![0; program.patch_codes()], &mut input);
        program.change_input_key(&mut input, 7);
        // The frame after it starts to count anew.
        for _ in 0..2 {
            for segment in [Segment::Start(0), Segment::End(0)] {
                interpreter.run(segment, &input).unwrap();
            }
            let output = interpreter.output().unwrap();
            let read = program.read_output(&output, 7, &mut vec![0; program.outputs()]);
            assert_eq!(read.is_ok(), by == 0, "{by}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_subnet_on_any_shape_gives_the_executors_logits(
        design in design(), (board, shape) in shape(), cascade in cascade(),
    ) {
        cascades_agree(&design.subnet(), board, shape, cascade);
    }
}
