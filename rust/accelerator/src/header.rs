//! Generates C++ headers, the `SystemVerilog` packages of the array's pass and of the lanes' items,
//! and the tables of `docs/accelerator.md` from the declarations.
//!
//! Depends on [`crate::isa`], [`crate::identity`] and the hardware's configuration.

mod lane_items;

pub use lane_items::{lane_header, lane_package};

use std::fmt::Write;

use quasar_core::subnet::config::{MAX_EMBED, MAX_TOKENS};
use quasar_core::EXP2;
use quasar_hardware::configuration::{key_banks, value_banks};
use quasar_hardware::declared::{
    self, array, beat_ticks, requantize_depth, segment_gap, DRAIN_JOBS, NORM_JOBS, PLAN_JOBS,
    TRANSFERS_AHEAD,
};
use quasar_hardware::design::{ItemField, MainInput};
use quasar_hardware::tiling::{RowTile, Tiling};
use quasar_hardware::Hardware;

use crate::identity::configuration_hash;
use crate::isa::{
    counter_offset, pass_lsb, trailer, CountedUnit, Counter, Field, Form, Operation, Position,
    RowField, Unit, Values, ABI, ACTIVATIONS, AP_DONE, AP_IDLE, AP_START, CHECK_POLYNOMIAL,
    CHECK_WORD, COMMAND_WORDS, COUNTERS_IDENTITY, COUNTERS_RUN, FIELD_WORDS, FIRST_COUNTER,
    HEAD_BITS, MAGIC, MAX_PORTS, OPERANDS, OPERATIONS, PASS_BITS, PASS_FIELDS, PORT_BYTES, QUEUES,
    REGISTERS, ROW_BYTES, ROW_FIELDS, UNIT_COUNTERS_BYTES, VALUES,
};

/// Lists constants of a module with their names.
macro_rules! named {
    ($module:ident: $($name:ident)*) => { &[$( (stringify!($name), $module::$name), )*] };
}

const TIMING: &[(&str, u64)] = named! { array:
    TOKENS_A_STAGE DESCRIPTORS PREPARE DESCRIPTOR_TO_START ROOM_TO_START FILLED_TO_START
    ISSUE_INTERVAL OPERAND_DEPTH SLICE_TO_FIFO DSP48E1_SUM FIFO_TO_ITEM ITEM_TO_SUMS
    ITEM_TO_SCORES OUTPUTS FIFO_DEPTH DEMAND_TO_FILL END_TO_FREED
};

/// Lists constants that advance the simulated device's clocks.
const DECLARED: &[(&str, u64)] = named! { declared:
    SCORE_DEPTH EXPONENTIAL_DEPTH NORM_DEPTH NORM_ROOT COMMAND_GAP FILL_DEPTH PLAN_INTERVAL LOOP_GAP
    FETCH_INTERVAL MEMORY_LATENCY BURST_BEATS SECTION_BEATS OPEN_BURSTS TICKS
};

const GENERATED: &str = "// Generated from rust/accelerator/src/isa.rs; do not edit.";

/// Generates `fpga/include/isa.hpp`.
pub fn isa_header() -> String {
    let mut text = format!(
        "{GENERATED}\n// clang-format off\n#pragma once\n\n#include \"types.hpp\"\n\nnamespace isa {{\n\n"
    );
    for (name, value) in [
        ("ABI", ABI.to_string()),
        ("MAGIC", format!("0x{MAGIC:08x}")),
        ("HEAD_BITS", HEAD_BITS.to_string()),
        ("COMMAND_WORDS", COMMAND_WORDS.to_string()),
        ("FIELD_WORDS", FIELD_WORDS.to_string()),
        ("CHECK_WORD", CHECK_WORD.to_string()),
        ("CHECK_POLYNOMIAL", format!("0x{CHECK_POLYNOMIAL:08x}")),
        ("PORT_BYTES", PORT_BYTES.to_string()),
        ("MAX_PORTS", MAX_PORTS.to_string()),
        ("ROW_BYTES", ROW_BYTES.to_string()),
        ("MAX_EMBED", MAX_EMBED.to_string()),
        ("MAX_TOKENS", MAX_TOKENS.to_string()),
        ("TRANSFERS_AHEAD", TRANSFERS_AHEAD.to_string()),
        ("PLAN_JOBS", PLAN_JOBS.to_string()),
        ("DRAIN_JOBS", DRAIN_JOBS.to_string()),
        ("NORM_JOBS", NORM_JOBS.to_string()),
    ] {
        let _ = writeln!(text, "constexpr unsigned {name} = {value};");
    }
    let units = Unit::ALL.map(|unit| (unit.name().to_uppercase(), unit as u32));
    text += &constants("unit", "Units.", &units);
    let depths: Vec<_> = QUEUES.iter().map(|q| (q.name, q.depth)).collect();
    text += &constants(
        "depth",
        "Depths of the queues between kernels; the configuration sets those that are 0 here.",
        &depths,
    );
    text += &constants(
        "trailer",
        "Words of an output's trailer.",
        &[
            ("NONCE", trailer::NONCE),
            ("COUNT", trailer::COUNT),
            ("CHECK", trailer::CHECK),
            ("STATUS", trailer::STATUS),
        ],
    );
    text += &cycles();
    let offsets = REGISTERS
        .iter()
        .map(|r| (r.name, format!("0x{:05x}", r.offset)));
    text += &constants(
        "reg",
        "Offsets of the registers.",
        &offsets.collect::<Vec<_>>(),
    );
    text += &constants(
        "counters",
        "The block of counters: its identity, the bit that lets them run, the first unit's counters.",
        &[
            ("IDENTITY", format!("0x{COUNTERS_IDENTITY:08x}")),
            ("RUN", COUNTERS_RUN.to_string()),
            ("FIRST", format!("0x{FIRST_COUNTER:05x}")),
            ("UNIT_BYTES", UNIT_COUNTERS_BYTES.to_string()),
        ],
    );
    text += &constants(
        "counted",
        "Units whose work is counted.",
        &numbered(CountedUnit::ALL.map(CountedUnit::name)),
    );
    text += &constants(
        "counter",
        "Counters of a unit.",
        &numbered(Counter::ALL.map(Counter::name)),
    );
    text += &constants(
        "ap_ctrl",
        "Bits of a kernel's register AP_CTRL.",
        &[("START", AP_START), ("DONE", AP_DONE), ("IDLE", AP_IDLE)],
    );
    for Values {
        name,
        about,
        values,
    } in VALUES
    {
        let values: Vec<_> = values
            .iter()
            .map(|value| (value.name.to_uppercase(), value.code))
            .collect();
        text += &constants(&name.to_lowercase(), about.trim(), &values);
    }
    text += "\n";
    for operation in OPERATIONS {
        text += &command_struct(operation);
    }
    text += &row_struct();
    text.pop();
    text + &pass_struct() + "} // namespace isa\n"
}

/// Generates `fpga/include/powers.hpp`, the softmax's table. Like `leaves.hpp` it includes no
/// header of this project.
pub fn powers_header() -> String {
    let mut text = String::from(
        "// Generated from rust/kernels/src/scalar.rs; do not edit.\n// clang-format off\n\
         #pragma once\n\n#include <stdint.h>\n\n// T[f] = round(4080 * 2^(-f/64)).\n",
    );
    let _ = writeln!(text, "constexpr uint16_t POWERS[{}] = {{", EXP2.len());
    for row in EXP2.chunks(16) {
        let row: Vec<String> = row.iter().map(u16::to_string).collect();
        let _ = writeln!(text, "    {},", row.join(", "));
    }
    text + "};\n"
}

/// Generates `fpga/estimates/powers.hex`: the same table for `$readmemh`.
pub fn powers_memory() -> String {
    let mut text = String::new();
    for power in EXP2 {
        let _ = writeln!(text, "{power:x}");
    }
    text
}

/// Writes the constants that count cycles.
fn cycles() -> String {
    let array = constants(
        "timing",
        "Constants of the array's timing (docs/array-timing.md).",
        TIMING,
    );
    let kernels = constants(
        "declared",
        "Cycles of the kernels' loops and of memory that every model assumes.",
        DECLARED,
    );
    array + &kernels
}

/// Returns constants that number the names.
fn numbered<const N: usize>(names: [&str; N]) -> Vec<(String, usize)> {
    let upper = names.iter().map(|name| name.to_uppercase());
    upper.zip(0..).collect()
}

fn pass_struct() -> String {
    let mut text = constants(
        "activations",
        "Memories of a pass's activations.",
        &numbered(ACTIVATIONS),
    );
    text += &constants(
        "operand",
        "Memories of a pass's row operands.",
        &numbered(OPERANDS),
    );
    let words = PASS_BITS / 64;
    let _ = write!(
        text,
        "\n// A pass as an item of the queue `passes`, least significant word first.\n\
         struct packed_pass_t {{\n  uint64_t word[{words}];\n}};\n\n\
         // A pass of the array.\nstruct Pass {{\n"
    );
    let (mut decode, mut encode) = (String::new(), String::new());
    for field in PASS_FIELDS {
        let (name, bits, lsb) = (field.name, field.bits, pass_lsb(field.name));
        let _ = writeln!(
            text,
            "  // {}\n  u<{bits}> {name} = 0;",
            sentence(field.about)
        );
        let (word, low) = (lsb / 64, lsb % 64);
        let within = bits.min(64 - low);
        let mask = |bits: u32| (1u64 << bits) - 1;
        let mut value = format!("packed.word[{word}] >> {low} & 0x{:x}", mask(within));
        let _ = writeln!(
            encode,
            "    packed.word[{word}] |= uint64_t({name}) << {low};"
        );
        if within < bits {
            value = format!(
                "({value}) | (packed.word[{}] & 0x{:x}) << {within}",
                word + 1,
                mask(bits - within)
            );
            let _ = writeln!(
                encode,
                "    packed.word[{}] |= uint64_t({name}) >> {within};",
                word + 1
            );
        }
        let _ = writeln!(decode, "    pass.{name} = u<{bits}>({value});");
    }
    text + &format!(
        "  static Pass decode(const packed_pass_t& packed) {{\n    Pass pass;\n{decode}    \
         return pass;\n  }}\n  packed_pass_t encode() const {{\n    packed_pass_t packed{{}};\n\
         {encode}    return packed;\n  }}\n}};\n\n"
    )
}

/// Returns a text with a capital letter and a full stop.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(char::to_uppercase);
    first
        .into_iter()
        .flatten()
        .chain(letters)
        .chain(['.'])
        .collect()
}

/// Generates `fpga/rtl/pass_types.sv`.
pub fn pass_package() -> String {
    let mut text = format!(
        "{GENERATED}\n\npackage pass_types;\n\n    localparam int PASS_BITS = {PASS_BITS};\n\n    \
         // Memories of a pass's activations.\n"
    );
    text += &value_constants("SOURCE", PASS_FIELDS[0].bits, numbered(ACTIVATIONS));
    text += "\n    // Memories of a pass's row operands.\n";
    text += &value_constants("OPERAND", PASS_FIELDS[1].bits, numbered(OPERANDS));
    let used: u32 = PASS_FIELDS.iter().map(|field| field.bits).sum();
    text += &packed_struct(
        "pass_t",
        "A pass of the array.",
        PASS_BITS - used,
        PASS_FIELDS,
    );
    text + "\nendpackage\n"
}

/// Writes a package's constants for the values of a field.
fn value_constants(
    prefix: &str,
    bits: u32,
    values: impl IntoIterator<Item = (String, impl std::fmt::Display)>,
) -> String {
    let mut text = String::new();
    for (name, value) in values {
        let _ = writeln!(
            text,
            "    localparam logic [{}:0] {prefix}_{name} = {value};",
            bits - 1
        );
    }
    text
}

/// Writes a packed struct of `SystemVerilog`, with bits that are 0 above its fields.
fn packed_struct(name: &str, about: &str, unused: u32, fields: &[ItemField]) -> String {
    let mut text = format!("\n    // {about}\n    typedef struct packed {{\n");
    let mut put = |name: &str, bits: u32, about: &str| {
        let range = match bits {
            1 => String::new(),
            _ => format!("[{}:0] ", bits - 1),
        };
        let _ = writeln!(text, "        // {about}\n        logic {range}{name};");
    };
    // A packed struct's first member has the most significant bits.
    if unused > 0 {
        put("unused", unused, "Zero.");
    }
    for field in fields.iter().rev() {
        put(field.name, field.bits, &sentence(field.about));
    }
    text + &format!("    }} {name};\n")
}

/// Writes a namespace of constants.
fn constants(
    name: &str,
    about: &str,
    values: &[(impl std::fmt::Display, impl std::fmt::Display)],
) -> String {
    let mut text = format!("\n// {about}\nnamespace {name} {{\n");
    for (name, value) in values {
        let _ = writeln!(text, "constexpr unsigned {name} = {value};");
    }
    text + &format!("}} // namespace {name}\n")
}

fn command_struct(operation: &Operation) -> String {
    let Operation {
        name,
        unit,
        code,
        about,
        ..
    } = operation;
    let unit_name = unit.name().to_uppercase();
    let mut text = format!(
        "//{about}\nstruct {name} {{\n  static constexpr unsigned UNIT = unit::{unit_name};\n  \
         static constexpr unsigned CODE = {code};\n"
    );
    let (mut decode, mut encode) = (String::new(), String::new());
    for (
        Field {
            name,
            bits,
            form,
            about,
        },
        Position { word, lsb },
    ) in operation.fields()
    {
        let kind = if *form == Form::Signed { 's' } else { 'u' };
        let about = match form {
            Form::Named(values) => format!("{about} See `{}`.", values.name.to_lowercase()),
            _ => (*about).to_owned(),
        };
        let _ = writeln!(text, "  //{about}\n  {kind}<{bits}> {name} = 0;");
        let _ = writeln!(
            decode,
            "    fields.{name} = {kind}<{bits}>(bits(command, {word}, {lsb}, {bits}));"
        );
        let _ = writeln!(
            encode,
            "    put_bits(command, {word}, {lsb}, {bits}, uint64_t(int64_t({name})));"
        );
    }
    let argument = if decode.is_empty() { "" } else { " command" };
    text + &format!(
        "  static {name} decode(const fields_t&{argument}) {{\n    {name} fields;\n{decode}    \
         return fields;\n  }}\n  command_t encode() const {{\n    command_t command{{}};\n    \
         command.word[0] = UNIT | CODE << HEAD_BITS;\n{encode}    return command;\n  }}\n}};\n\n"
    )
}

fn row_struct() -> String {
    let (mut fields, mut decode, mut at) = (String::new(), String::new(), 0);
    for RowField {
        name,
        bytes,
        signed,
        about,
    } in ROW_FIELDS
    {
        let kind = format!("{}<{}>", if *signed { 's' } else { 'u' }, 8 * bytes);
        let _ = writeln!(fields, "  //{about}\n  {kind} {name} = 0;");
        let _ = writeln!(
            decode,
            "    row.{name} = {kind}(little_endian(bytes + {at}, {bytes}));"
        );
        at += bytes;
    }
    format!(
        "// The parameters of a row.\nstruct RowParameters {{\n{fields}  \
         static RowParameters decode(const uint8_t* bytes) {{\n#pragma HLS INLINE\n    \
         RowParameters row;\n{decode}    return row;\n  }}\n}};\n\n"
    )
}

/// Generates `config.hpp` for a configuration.
pub fn config_header(hardware: &Hardware) -> String {
    let c = hardware.configuration();
    let hash = configuration_hash(hardware);
    let mut text = format!(
        "// Generated from the configuration of {}; do not edit.\n// clang-format off\n#pragma once\n\nnamespace config {{\n\n",
        c.board
    );
    let mut put = |name: &str, value: u64| {
        let _ = writeln!(text, "constexpr unsigned {name} = {value}u;");
    };
    put("HASH_LOW", hash & 0xffff_ffff);
    put("HASH_HIGH", hash >> 32);
    put("PORTS", c.axi_ports);
    put("COUNTERS", c.counters.into());
    put("FRAMES", c.frames);
    put("TOKENS", c.array.tokens);
    put("PAIRS", c.array.pairs);
    put("CASCADE", c.array.cascade);
    put("CLOCK_RATIO", c.array.clock_ratio);
    put("LANES", c.lanes.requantize);
    put("NORM_LANES", c.lanes.norm);
    put("EXP_LANES", c.lanes.exponential);
    put("SHIFT", hardware.board().dsp_kind.shift().into());
    put("NORM_IN_FABRIC", (!c.lanes.multipliers.are_slices()).into());
    put(
        "EXP_IN_FABRIC",
        (!c.lanes.exponential_multipliers.are_slices()).into(),
    );
    put("KEY_BANKS", key_banks(c.array, c.lanes));
    put("VALUE_BANKS", value_banks(c.array, c.lanes));
    for (name, words) in c.buffers.entries() {
        put(&format!("{}_WORDS", name.to_uppercase()), words);
    }
    for queue in QUEUES.iter().filter(|queue| queue.depth == 0) {
        let name = format!("{}_DEPTH", queue.name.to_uppercase());
        put(&name, queue.depth_in(hardware) as u64);
    }
    // For the simulated device's clocks.
    let beat = c.axi_ports * PORT_BYTES as u64;
    put("BEAT_TICKS", beat_ticks(hardware, beat));
    put("REQUANTIZE_DEPTH", requantize_depth(c.array.clock_ratio));
    put("SEGMENT_GAP", segment_gap(hardware));
    text + "\n} // namespace config\n\n" + &tiling_assertions(Tiling::of(hardware))
}

/// Writes assertions that `tiling.hpp` agrees with [`Tiling`] for ragged numbers of rows and
/// tokens.
fn tiling_assertions(tiling: Tiling) -> String {
    let mut text = String::from(
        "#include \"tiling.hpp\"\n\n// `Tiling` of rust/hardware divides rows and tokens so:\n",
    );
    let Tiling {
        tokens: t,
        pairs: p,
    } = tiling;
    for (rows4, rows8) in [
        (0, 1),
        (1, 0),
        (1, p),
        (2 * p - 1, 1),
        (2 * p, p + 1),
        (2 * p + 1, 0),
        (2 * p + 1, 2 * p),
        (6 * p - 2, 1),
        (6 * p, 2 * p),
    ] {
        let tiles = tiling.row_tiles(rows4, rows8);
        let pairs: u64 = tiles.clone().map(RowTile::pairs).sum();
        let _ = writeln!(
            text,
            "static_assert(row_pairs({rows4}, {rows8}) == {pairs});"
        );
        for (i, tile) in tiles.enumerate() {
            let _ = writeln!(
                text,
                "static_assert(row_tile({rows4}, {pairs}, {i}) == row_tile_t{{{}, {}, {}, {}}});",
                tile.pairs(),
                tile.rows4.div_ceil(2),
                tile.rows4 % 2 == 1,
                tile.rows()
            );
        }
    }
    for tokens in [1, t, t + 1, 3 * t - 1] {
        let tiles = tiling.token_tiles(tokens);
        let _ = writeln!(
            text,
            "static_assert(ceil_div({tokens}, config::TOKENS) == {tiles});"
        );
        for (tile, size) in tiling.token_sizes(tokens).enumerate() {
            let _ = writeln!(
                text,
                "static_assert(tile_tokens({tokens}, {tile}) == {size});"
            );
        }
    }
    text
}

/// Generates the table of commands in Markdown.
pub fn isa_table() -> String {
    let mut text = String::from("| command: unit, code; field: word, bits | |\n|---|---|\n");
    for operation in OPERATIONS {
        let (name, unit, code) = (operation.name, operation.unit.name(), operation.code);
        let _ = writeln!(text, "| **{name}** {unit} {code} |{} |", operation.about);
        for (field, Position { word, lsb }) in operation.fields() {
            let (name, last) = (field.name, lsb + field.bits - 1);
            let _ = write!(text, "| `{name}` {word}:{lsb}..{last} |{}", field.about);
            let _ = match field.form {
                Form::Named(values) => writeln!(text, " (`{}`) |", values.name.to_lowercase()),
                _ => writeln!(text, " |"),
            };
        }
    }
    text
}

/// Generates the table of named values in Markdown.
pub fn value_table() -> String {
    let mut text = String::from("| values | | numbers from 0 on |\n|---|---|---|\n");
    for set in VALUES {
        let names = set.values.iter().map(|value| value.name.to_lowercase());
        let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
        let (set_name, names) = (set.name.to_lowercase(), names.join(", "));
        let _ = writeln!(text, "| `{set_name}` |{} | {names} |", set.about);
    }
    text
}

/// Generates the table of a row's parameters in Markdown.
pub fn row_table() -> String {
    let mut text = String::from("| bytes | parameter | |\n|---|---|---|\n");
    let mut at = 0;
    for field in ROW_FIELDS {
        let (name, end) = (field.name, at + field.bytes);
        let kind = if field.signed { 's' } else { 'u' };
        let bits = 8 * field.bytes;
        let _ = writeln!(
            text,
            "| {at}..{} | `{name}` {kind}{bits} |{} |",
            end - 1,
            field.about
        );
        at = end;
    }
    let _ = writeln!(text, "| {at}..{} | | spare |", ROW_BYTES - 1);
    text
}

/// Generates the table of registers in Markdown.
pub fn register_table() -> String {
    let mut text = String::from("| offset | register | host | |\n|---|---|---|---|\n");
    for register in REGISTERS {
        let access = if register.writable { "writes" } else { "reads" };
        let _ = writeln!(
            text,
            "| 0x{:05x} | `{}` | {access} | {} |",
            register.offset, register.name, register.about
        );
    }
    text
}

/// Generates the table of the units' counters in Markdown.
pub fn counter_table() -> String {
    let mut text = String::from("| offset | unit | starved of |\n|---|---|---|\n");
    for unit in CountedUnit::ALL {
        let offset = counter_offset(unit, Counter::ALL[0]);
        let input = match unit.main_input() {
            Some(MainInput::Queue(name)) => format!("`{name}`: the queue is empty"),
            Some(MainInput::Memory) => "beats: a read is open and none comes".to_owned(),
            Some(MainInput::Array) => {
                "a pass or its weights: nothing else keeps the next pass back".to_owned()
            }
            None => "nothing that shows: stays 0".to_owned(),
        };
        let _ = writeln!(text, "| 0x{offset:05x} | {} | {input} |", unit.name());
    }
    text
}

/// Returns the tables of `docs/accelerator.md` with the names of their markers.
pub fn tables() -> [(&'static str, String); 5] {
    [
        ("isa", isa_table()),
        ("values", value_table()),
        ("rows", row_table()),
        ("registers", register_table()),
        ("counters", counter_table()),
    ]
}

#[cfg(test)]
mod tests {
    use quasar_hardware::declared::{BURST_BEATS, OPEN_BURSTS};

    use super::*;

    #[test]
    fn committed_files_are_what_the_declarations_give() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
        for (path, text) in [
            ("fpga/include/isa.hpp", isa_header()),
            ("fpga/rtl/pass_types.sv", pass_package()),
            ("fpga/include/lane_items.hpp", lane_header()),
            ("fpga/rtl/lane_types.sv", lane_package()),
            ("fpga/include/powers.hpp", powers_header()),
            ("fpga/estimates/powers.hex", powers_memory()),
        ] {
            assert_eq!(read(path), text, "run make isa and commit");
        }
        let page = read("docs/accelerator.md");
        for (name, table) in tables() {
            let marked = format!("<!-- {name} begin -->\n{table}<!-- {name} end -->");
            assert!(page.contains(&marked), "run make isa and commit");
        }
    }

    #[test]
    fn ports_that_read_hold_the_bursts_that_are_declared() {
        let declared = format!(
            "max_read_burst_length = {BURST_BEATS} latency = 0 num_read_outstanding = {OPEN_BURSTS} "
        );
        for (kernel, ports) in [("fetch", 1), ("load", MAX_PORTS)] {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fpga/src");
            let source = std::fs::read_to_string(format!("{folder}/{kernel}.cpp")).unwrap();
            assert_eq!(source.matches(&declared).count(), ports, "{kernel}");
        }
    }
}
