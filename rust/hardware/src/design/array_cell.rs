//! Writes the Verilog module that the block design instantiates as the array's cell: the parameters
//! of a configuration, and ports by the names of the kernels' ports.

use std::fmt::Write;

use crate::configuration::{key_banks, value_banks, Hardware};
use crate::declared::array;
use crate::packing::DspKind;

use super::memories::{memories, Memory, Place};
use super::queues::{Queue, QUEUES};

/// Returns the parameters of `array_top` (`fpga/rtl/array_top.sv`).
pub fn array_parameters(hardware: &Hardware) -> Vec<(String, String)> {
    let c = hardware.configuration();
    let all = memories(hardware);
    let kind = hardware.board().dsp_kind;
    let number = |name: &str, value: u64| (name.to_owned(), value.to_string());
    let mut parameters = vec![
        number("T", c.array.tokens),
        number("P", c.array.pairs),
        number("C", c.array.cascade),
        number("L", c.lanes.requantize),
        number("M", c.lanes.norm),
        number("E", c.lanes.exponential),
        number("S", kind.shift().into()),
        number("FRAMES", c.frames),
        number("KEY_BANKS", key_banks(c.array, c.lanes)),
        number("VALUE_BANKS", value_banks(c.array, c.lanes)),
        number("BEAT", 16 * c.axi_ports),
        number("WEIGHT_WORDS", c.buffers.weight.div_ceil(c.array.cascade)),
        number("ADDRESS_BITS", address_bits(&all, false)),
        number("ROW_BITS", address_bits(&all, true)),
        number("FIFO_DEPTH", array::FIFO_DEPTH),
        number("DSP48E1", (kind == DspKind::Dsp48e1).into()),
        number("PRIMITIVES", 1),
    ];
    for memory in in_array(&all) {
        let name = memory.name.to_uppercase();
        let words = match memory.name {
            "normed" => "NORM",
            "probability" => "SCORE",
            _ => &name,
        };
        parameters.push(number(&format!("{words}_WORDS"), memory.words));
        parameters.push(number(&format!("{words}_RAM"), memory.ram as u64));
    }
    parameters
}

fn in_array(all: &[Memory]) -> impl Iterator<Item = &Memory> {
    (all.iter()).filter(|memory| matches!(memory.place, Place::Array { .. }))
}

/// Returns the bits of an address of activations, or of row operands.
fn address_bits(all: &[Memory], rows: bool) -> u64 {
    let memory_of_rows = |memory: &&Memory| ["key", "value", "weights"].contains(&memory.name);
    let of_array =
        |memory: &&Memory| matches!(memory.place, Place::Array { .. }) || memory.name == "weights";
    (all.iter().filter(of_array))
        .filter(|memory| memory_of_rows(memory) == rows)
        .map(Memory::address_bits)
        .max()
        .unwrap_or(1)
}

/// Adds the write ports of a memory's banks, and the pins of the array that they drive.
fn memory_ports(
    hardware: &Hardware,
    all: &[Memory],
    memory: &Memory,
    ports: &mut Vec<String>,
    pins: &mut Vec<String>,
) {
    let name = memory.name;
    let cascade = hardware.configuration().array.cascade;
    let rows = ["key", "value"].contains(&name);
    // A word of keys or values brings an enable for each of its codes.
    let bits = memory.bits + if rows { cascade } else { 0 };
    let address = memory.address_bits();
    let fill = address_bits(all, rows) - address;
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for i in 0..memory.banks {
        let bank = format!("{name}_{i}");
        ports.push(format!(
            "    input  wire [{}:0] {bank}_address0",
            address - 1
        ));
        ports.push(format!("    input  wire {bank}_ce0"));
        ports.push(format!("    input  wire {bank}_we0"));
        ports.push(format!("    input  wire [{}:0] {bank}_d0", bits - 1));
        parts[0].push(format!("{bank}_ce0 && {bank}_we0"));
        parts[1].push(if fill == 0 {
            format!("{bank}_address0")
        } else {
            format!("{fill}'d0, {bank}_address0")
        });
        parts[2].push(format!("{bank}_d0"));
    }
    // The last bank comes first in a concatenation.
    for (suffix, mut list) in ["", "_address", "_d"].into_iter().zip(parts) {
        list.reverse();
        pins.push(format!(
            ".{name}_write{suffix}({{\n            {}\n        }})",
            list.join(",\n            ")
        ));
    }
}

/// Writes the module `array_cell`.
pub fn array_cell(hardware: &Hardware) -> String {
    let all = memories(hardware);
    let queues: Vec<&Queue> = (QUEUES.iter())
        .filter(|queue| [queue.from, queue.to].contains(&"array"))
        .collect();
    let buses: Vec<&str> = queues.iter().map(|queue| queue.name).collect();
    let mut ports = vec![
        format!(
            "    (* X_INTERFACE_INFO = \"xilinx.com:signal:clock:1.0 clk CLK\" *)\n    \
             (* X_INTERFACE_PARAMETER = \"ASSOCIATED_BUSIF {}, ASSOCIATED_RESET resetn\" *)\n    \
             input  wire clk",
            buses.join(":")
        ),
        "    input  wire clk_array".to_owned(),
        "    input  wire resetn".to_owned(),
    ];
    let mut pins = vec![
        ".clk(clk)".to_owned(),
        ".clk_array(clk_array)".to_owned(),
        ".reset(!resetn)".to_owned(),
    ];
    for event in ["retired", "starved"] {
        ports.push(format!("    output wire {event}"));
        pins.push(format!(".{event}({event})"));
    }
    for queue in queues {
        let (name, last) = (queue.name, queue.built_bits(hardware) - 1);
        let (forward, back) = if queue.to == "array" {
            ("input ", "output")
        } else {
            ("output", "input ")
        };
        ports.push(format!("    {forward} wire {name}_tvalid"));
        ports.push(format!("    {back} wire {name}_tready"));
        ports.push(format!("    {forward} wire [{last}:0] {name}_tdata"));
        pins.extend(["tvalid", "tready", "tdata"].map(|s| format!(".{name}_{s}({name}_{s})")));
    }
    for memory in in_array(&all) {
        memory_ports(hardware, &all, memory, &mut ports, &mut pins);
    }
    let parameters: Vec<String> = (array_parameters(hardware).iter())
        .map(|(name, value)| format!(".{name}({value})"))
        .collect();
    let mut text = String::from(
        "// Generated from rust/hardware/src/design; do not edit.\n\nmodule array_cell (\n",
    );
    let _ = write!(
        text,
        "{}\n);\n\n    array_top #(\n        {}\n    ) top (\n        {}\n    );\n\nendmodule\n",
        ports.join(",\n"),
        parameters.join(",\n        "),
        pins.join(",\n        ")
    );
    text
}
