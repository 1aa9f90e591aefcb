//! The bodies of the fuzz targets in `rust/fuzz` that compile subnets and read commands and a
//! device's answers, so that an ordinary test can replay their corpus.
//!
//! Each accepts any bytes and must return: a panic, a hang or a large allocation is a bug.

use std::sync::OnceLock;

use quasar_core::Subnet;
use quasar_hardware::configuration::{Array, Buffers, Configuration, Lanes, Margins, Multipliers};
use quasar_hardware::{Board, Hardware, Mode, Workload};

use crate::disasm;
use crate::isa::{check, check_after, trailer, Command, COMMAND_WORDS, PORT_BYTES};
use crate::run::check::check_schedule;
use crate::{Program, Segment};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Edits a golden subnet and signs it: see [`quasar_core::fuzzing::signed_subnet`]. The last eight
/// bytes are sizes of an accelerator. A subnet that it holds must compile to a sound schedule.
///
/// # Panics
/// On a bug.
pub fn signed_subnet(bytes: &[u8]) {
    let (edits, sizes) = match bytes.split_last_chunk() {
        Some((edits, sizes)) => (edits, *sizes),
        None => (bytes, [0; 8]),
    };
    let Some(subnet) = quasar_core::fuzzing::signed_subnet(edits) else {
        return;
    };
    let Ok(hardware) = hardware(&subnet, sizes) else {
        return;
    };
    let program = match Program::compile(&subnet, &hardware) {
        Ok(program) => program,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    check_schedule(&program).expect("a sound schedule");
    for &segment in Segment::all(hardware.configuration().frames as usize) {
        assert!(!disasm::disassemble(&program, segment).is_empty());
    }
}

/// Returns a configuration that holds a subnet.
fn hardware(subnet: &Subnet, sizes: [u8; 8]) -> quasar_core::Result<Hardware> {
    let [tokens, pairs, requantize, norm, exponential, cascade, ports, board] =
        sizes.map(u64::from);
    let array = Array {
        tokens: 1 + tokens % 12,
        pairs: 1 + pairs % 10,
        cascade: 1 << (cascade % 5),
        clock_ratio: 1 + cascade / 5 % 2,
    };
    let some = |lanes: u64| 1 + lanes % array.tokens;
    let lanes = Lanes {
        requantize: some(requantize),
        gelu: some(requantize),
        norm: some(norm),
        exponential: some(exponential),
        multipliers: Multipliers::Dsp,
        exponential_multipliers: Multipliers::Dsp,
    };
    let name = ["zcu102", "pynq-z2"][(board % 2) as usize];
    let configuration = Configuration {
        board: name.into(),
        clock_mhz: 100.0,
        mode: Mode::Nibble,
        frames: 1 + ports / 4 % 2,
        axi_ports: 1 + ports % 4,
        counters: true,
        array,
        lanes,
        buffers: Buffers::needed(&Workload::of_subnet(subnet)?, array, lanes),
        margins: Margins::default(),
    };
    let board = read(&format!("python/quasar_rt/boards/{name}.toml"));
    Hardware::new(configuration, Board::from_toml(&board).expect("a board"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/{path}")).expect("a file")
}

/// Decodes commands. What is decoded must be encoded to the same words.
///
/// # Panics
/// On a bug.
pub fn command_words(bytes: &[u8]) {
    for chunk in bytes.chunks_exact(4 * COMMAND_WORDS) {
        let words: [u32; COMMAND_WORDS] =
            std::array::from_fn(|i| word(&chunk[4 * i..]).expect("four bytes"));
        match Command::decode(&words) {
            Ok(command) => assert_eq!(command.encode().expect("a decoded command"), words),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Reads a device's output: as it is, then with a sound trailer, then with one bit flipped, of the
/// logits or of the trailer.
///
/// # Panics
/// On a bug.
pub fn device_output(bytes: &[u8]) {
    let program = program();
    let nonce = word(bytes).unwrap_or(1);
    let place = bytes
        .last_chunk()
        .map_or(0, |&last| u16::from_le_bytes(last));
    let mut output = bytes.get(4..).unwrap_or(&[]).to_vec();
    let mut logits = vec![0; program.outputs()];
    let _ = program.read_output(&output, nonce, &mut logits);
    output.resize(program.output_bytes(), 0);
    let _ = program.read_output(&output, nonce, &mut logits);

    let (data, last) = output.split_at_mut(program.output_bytes() - PORT_BYTES);
    last.fill(0);
    for (at, value) in [
        (trailer::NONCE, nonce),
        (trailer::COUNT, program.logits() as u32),
    ] {
        last[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let stated = 4 * trailer::CHECK;
    let computed = check_after(check(data), &last[..stated]);
    last[stated..stated + 4].copy_from_slice(&computed.to_le_bytes());
    program
        .read_output(&output, nonce, &mut logits)
        .expect("a sound answer");
    let bit = usize::from(place) % (8 * output.len());
    output[bit / 8] ^= 1 << (bit % 8);
    assert!(program.read_output(&output, nonce, &mut logits).is_err());
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// Returns a small network's program, compiled once.
fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let board = Board::from_toml(&read("python/quasar_rt/boards/pynq-z2.toml")).expect("board");
        let hardware = Hardware::from_toml(&read("fpga/configs/odd.toml"), board).expect("sizes");
        let subnet = Subnet::load(format!("{ROOT}/tests/vectors/all-4.qvit")).expect("a subnet");
        Program::compile(&subnet, &hardware).expect("a program")
    })
}
