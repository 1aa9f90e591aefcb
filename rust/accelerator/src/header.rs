//! What is generated from the declarations: C++ headers and the tables of `docs/accelerator.md`.
//!
//! Depends on [`crate::isa`] and the hardware's configuration.

use std::fmt::Write;

use quasar_hardware::configuration::{key_banks, value_banks, Multipliers};
use quasar_hardware::declared::TRANSFERS_AHEAD;
use quasar_hardware::Hardware;

use crate::identity::configuration_hash;
use crate::isa::{
    moments_depth, Operation, Unit, ABI, CHECK_WORD, HEAD_BITS, MAGIC, MAX_PORTS, OPERATIONS,
    PORT_BYTES, QUEUES, REGISTERS, ROW_BYTES,
};

const GENERATED: &str = "// Generated from rust/accelerator/src/isa.rs; do not edit.";

/// `fpga/include/isa.hpp`.
pub fn isa_header() -> String {
    let mut text = format!(
        "{GENERATED}\n// clang-format off\n#pragma once\n\n#include \"types.hpp\"\n\nnamespace isa {{\n\n\
         constexpr unsigned ABI = {ABI};\nconstexpr unsigned MAGIC = 0x{MAGIC:08x};\nconstexpr unsigned HEAD_BITS = {HEAD_BITS};\n\
         constexpr unsigned CHECK_WORD = {CHECK_WORD};\n\
         constexpr unsigned PORT_BYTES = {PORT_BYTES};\nconstexpr unsigned MAX_PORTS = {MAX_PORTS};\nconstexpr unsigned ROW_BYTES = {ROW_BYTES};\n\
         constexpr unsigned TRANSFERS_AHEAD = {TRANSFERS_AHEAD};\n\n"
    );
    text += "enum Unit : unsigned {";
    for unit in Unit::ALL {
        let _ = write!(text, " {} = {},", unit.name().to_uppercase(), unit as u32);
    }
    text += " };\n\n// Depths of the queues between kernels; 0 is set by the configuration.\nnamespace depth {\n";
    for queue in QUEUES {
        let _ = writeln!(text, "constexpr unsigned {} = {};", queue.name, queue.depth);
    }
    text += "} // namespace depth\n\nnamespace reg {\n";
    for register in REGISTERS {
        let _ = writeln!(
            text,
            "constexpr unsigned {} = 0x{:05x};",
            register.name, register.offset
        );
    }
    text += "} // namespace reg\n\n";
    for operation in OPERATIONS {
        text += &command_struct(operation);
    }
    text + "} // namespace isa\n"
}

fn command_struct(operation: &Operation) -> String {
    let Operation {
        name,
        unit,
        code,
        about,
        fields,
    } = operation;
    let mut text = format!(
        "//{about}\nstruct {name} {{\n  static constexpr unsigned UNIT = {};\n  static constexpr unsigned CODE = {code};\n",
        *unit as u32
    );
    let mut from = String::new();
    for (field, place) in fields.iter().zip(operation.places()) {
        let kind = if field.signed { 's' } else { 'u' };
        let _ = writeln!(
            text,
            "  {kind}<{}> {}; //{}",
            field.bits, field.name, field.about
        );
        let _ = write!(
            from,
            "\n    {} = {kind}<{}>(bits(c, {}, {}, {}));",
            field.name, field.bits, place.word, place.lsb, field.bits
        );
    }
    let argument = if fields.is_empty() { "" } else { " c" };
    let end = if from.is_empty() { "}" } else { "\n  }" };
    text + &format!("  explicit {name}(const command_t&{argument}) {{{from}{end}\n}};\n\n")
}

/// `config.hpp` of a configuration.
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
    put("FRAMES", c.frames);
    put("TOKENS", c.array.tokens);
    put("PAIRS", c.array.pairs);
    put("LANES", c.lanes.requantize);
    put("NORM_LANES", c.lanes.norm);
    put("EXP_LANES", c.lanes.exponential);
    put("SHIFT", hardware.board().dsp_kind.shift().into());
    put(
        "FABRIC_MULTIPLIERS",
        (c.lanes.multipliers == Multipliers::Fabric).into(),
    );
    put("KEY_BANKS", key_banks(c.array, c.lanes));
    put("VALUE_BANKS", value_banks(c.array, c.lanes));
    for (name, words) in c.buffers.entries() {
        put(&format!("{}_WORDS", name.to_uppercase()), words);
    }
    put(
        "MOMENTS_DEPTH",
        moments_depth(
            c.array.tokens as usize,
            c.lanes.requantize as usize,
            c.buffers.score as usize,
        ) as u64,
    );
    text + "\n} // namespace config\n"
}

/// The table of commands in Markdown.
pub fn isa_table() -> String {
    let mut text =
        String::from("| command | unit, code | field | word: bits | |\n|---|---|---|---|---|\n");
    for operation in OPERATIONS {
        let (name, unit, code) = (operation.name, operation.unit.name(), operation.code);
        let _ = writeln!(
            text,
            "| `{name}` | {unit} {code} | | |{} |",
            operation.about
        );
        for (field, place) in operation.fields.iter().zip(operation.places()) {
            let last = place.lsb + field.bits - 1;
            let _ = writeln!(
                text,
                "| | | `{}` | {}: {}..{last} |{} |",
                field.name, place.word, place.lsb, field.about
            );
        }
    }
    text
}

/// The table of registers in Markdown.
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

#[cfg(test)]
mod tests {
    use quasar_hardware::declared::{BURST_BEATS, OPEN_BURSTS};

    use super::*;

    #[test]
    fn committed_files_are_what_the_declarations_give() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
        assert_eq!(
            read("fpga/include/isa.hpp"),
            isa_header(),
            "run make isa and commit"
        );
        let page = read("docs/accelerator.md");
        for table in [isa_table(), register_table()] {
            assert!(page.contains(&table), "run make isa and commit");
        }
    }
    #[test]
    fn ports_of_load_hold_the_bursts_that_are_declared() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fpga/src/load.cpp");
        let source = std::fs::read_to_string(path).unwrap();
        let declared = format!(
            "max_read_burst_length = {BURST_BEATS} latency = 0 num_read_outstanding = {OPEN_BURSTS} "
        );
        assert_eq!(source.matches(&declared).count(), MAX_PORTS);
    }
}
