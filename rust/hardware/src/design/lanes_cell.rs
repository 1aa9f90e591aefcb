//! Writes the Verilog module that the block design instantiates as the lanes' cell: the parameters
//! of a configuration, and ports by the names of queues and memories.

use std::fmt::Write;

use crate::configuration::{key_banks, value_banks, Hardware};
use crate::packing::DspKind;

use super::memories::{memories, Memory};
use super::queues::{max_tiles, Queue, QUEUES};

/// Returns the parameters of `lanes` (`fpga/rtl/lanes.sv`).
pub fn lanes_parameters(hardware: &Hardware) -> Vec<(String, String)> {
    let c = hardware.configuration();
    let all = memories(hardware);
    let bits = |names: &[&str]| {
        (all.iter().filter(|memory| names.contains(&memory.name)))
            .map(Memory::address_bits)
            .max()
            .unwrap_or(1)
    };
    [
        ("T", c.array.tokens),
        ("P", c.array.pairs),
        ("C", c.array.cascade),
        ("L", c.lanes.requantize),
        ("R", c.array.clock_ratio),
        ("FRAMES", c.frames),
        ("KEY_BANKS", key_banks(c.array, c.lanes)),
        ("VALUE_BANKS", value_banks(c.array, c.lanes)),
        ("BEAT", 16 * c.axi_ports),
        ("TILES", max_tiles(hardware)),
        ("MEANS", c.buffers.query.min(c.buffers.weight)),
        ("ANGLES", c.buffers.angle),
        ("ADDRESS_BITS", bits(&["query", "hidden"])),
        ("ROW_BITS", bits(&["key", "value"])),
        ("RESIDUAL_BITS", bits(&["residual"])),
        (
            "DSP48E1",
            (hardware.board().dsp_kind == DspKind::Dsp48e1).into(),
        ),
        ("PRIMITIVES", 1),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_string()))
    .into()
}

/// Ports, wires and assignments of the module, and the pins of `lanes`.
#[derive(Default)]
struct Text {
    ports: Vec<String>,
    wires: String,
    pins: Vec<String>,
}

impl Text {
    fn port(&mut self, direction: &str, bits: u64, name: &str) {
        let range = match bits {
            0 => String::new(),
            _ => format!("[{}:0] ", bits - 1),
        };
        self.ports
            .push(format!("    {direction} wire {range}{name}"));
    }

    fn pin(&mut self, name: &str, value: &str) {
        self.pins.push(format!(".{name}({value})"));
    }

    /// Adds a vector of the banks' bits that `lanes` drives.
    fn vector(&mut self, bits: u64, name: &str) {
        let _ = writeln!(self.wires, "    wire [{}:0] {name};", bits - 1);
        self.pin(name, name);
    }

    fn assign(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.wires, "    assign {name} = {value};");
    }

    /// Adds a queue's port; its pins are named `pin`.
    fn queue(&mut self, hardware: &Hardware, queue: &Queue, pin: &str) {
        let name = queue.name;
        let (own, built) = (queue.item.bits(hardware), queue.built_bits(hardware));
        let reads = queue.to == "lanes";
        let (forward, back) = if reads {
            ("input ", "output")
        } else {
            ("output", "input ")
        };
        self.port(forward, 0, &format!("{name}_tvalid"));
        self.port(back, 0, &format!("{name}_tready"));
        self.port(forward, built, &format!("{name}_tdata"));
        self.pin(&format!("{pin}_valid"), &format!("{name}_tvalid"));
        self.pin(&format!("{pin}_ready"), &format!("{name}_tready"));
        if own == 1 {
            self.assign(&format!("{name}_tdata"), "8'd1");
        } else if reads {
            self.pin(pin, &format!("{name}_tdata[{}:0]", own - 1));
        } else if own == built {
            self.pin(pin, &format!("{name}_tdata"));
        } else {
            self.vector(own, pin);
            let item = format!("{{{}'d0, {pin}}}", built - own);
            self.assign(&format!("{name}_tdata"), &item);
        }
    }

    /// Adds the write ports of a memory's banks. `address` is the address of bank i.
    fn writes(
        &mut self,
        port: &str,
        memory: &Memory,
        enable: &str,
        bits: u64,
        [address, data]: [&dyn Fn(u64) -> String; 2],
    ) {
        for i in 0..memory.banks {
            let bank = format!("{port}_{i}");
            self.port("output", memory.address_bits(), &format!("{bank}_address0"));
            self.port("output", 0, &format!("{bank}_ce0"));
            self.port("output", 0, &format!("{bank}_we0"));
            self.port("output", bits, &format!("{bank}_d0"));
            self.assign(&format!("{bank}_address0"), &address(i));
            self.assign(&format!("{bank}_ce0"), &format!("{enable}[{i}]"));
            self.assign(&format!("{bank}_we0"), &format!("{enable}[{i}]"));
            self.assign(&format!("{bank}_d0"), &data(i));
        }
    }
}

/// Returns a memory that each configuration has.
fn named<'a>(all: &'a [Memory], name: &str) -> &'a Memory {
    (all.iter().find(|memory| memory.name == name)).expect("the list has this memory")
}

/// Writes the module `lanes_cell`.
pub fn lanes_cell(hardware: &Hardware) -> String {
    let all = memories(hardware);
    let c = hardware.configuration();
    let (l, cascade) = (c.lanes.requantize, c.array.cascade);
    let find = |name: &str| named(&all, name);
    let mut text = Text::default();
    let queues = (QUEUES.iter()).filter(|queue| [queue.from, queue.to].contains(&"lanes"));
    let buses: Vec<&str> = queues.clone().map(|queue| queue.name).collect();
    text.ports.push(format!(
        "    (* X_INTERFACE_INFO = \"xilinx.com:signal:clock:1.0 clk CLK\" *)\n    \
         (* X_INTERFACE_PARAMETER = \"ASSOCIATED_BUSIF {}, ASSOCIATED_RESET resetn\" *)\n    \
         input  wire clk",
        buses.join(":")
    ));
    text.port("input ", 0, "clk_array");
    text.port("input ", 0, "resetn");
    text.port("output", 0, "retired");
    for (pin, value) in [
        ("clk", "clk"),
        ("clk_array", "clk_array"),
        ("reset", "!resetn"),
        ("retired", "retired"),
    ] {
        text.pin(pin, value);
    }
    for queue in queues {
        let pin = queue.name.strip_prefix("lane_").unwrap_or(queue.name);
        text.queue(hardware, queue, pin);
    }
    let part = |i: u64, bits: u64, name: &str| format!("{name}[{} +: {bits}]", i * bits);

    // The residual: banks with one address, read and written.
    let residual = find("residual");
    let (banks, bits) = (residual.banks, residual.address_bits());
    text.vector(banks, "residual_enable");
    text.vector(bits, "residual_address");
    text.vector(banks * 16 * l, "residual_word");
    text.vector(banks, "residual_write");
    text.vector(bits, "residual_write_address");
    text.vector(16 * l, "residual_write_d");
    for i in 0..banks {
        text.port("output", bits, &format!("residual_{i}_address0"));
        text.port("output", 0, &format!("residual_{i}_ce0"));
        text.port("input ", 16 * l, &format!("residual_{i}_q0"));
        text.assign(&format!("residual_{i}_address0"), "residual_address");
        text.assign(
            &format!("residual_{i}_ce0"),
            &format!("residual_enable[{i}]"),
        );
        text.assign(
            &part(i, 16 * l, "residual_word"),
            &format!("residual_{i}_q0"),
        );
    }
    for port in ["own_residual", "norm_residual"] {
        let address = |_| "residual_write_address".to_owned();
        let data = |_| "residual_write_d".to_owned();
        text.writes(port, residual, "residual_write", 16 * l, [&address, &data]);
    }

    // Codes.
    let bits = find("query")
        .address_bits()
        .max(find("hidden").address_bits());
    text.vector(bits, "code_write_address");
    text.vector(8 * l, "code_write_d");
    for name in ["query", "hidden"] {
        let memory = find(name);
        let enable = format!("{name}_write");
        text.vector(memory.banks, &enable);
        let last = memory.address_bits() - 1;
        let address = |_| format!("code_write_address[{last}:0]");
        let data = |_| "code_write_d".to_owned();
        text.writes(name, memory, &enable, 8 * l, [&address, &data]);
    }

    // Keys and values: a word brings an enable for each of its codes.
    let bits = find("key").address_bits().max(find("value").address_bits());
    for name in ["key", "value"] {
        let memory = find(name);
        let (enable, addresses, words) = (
            format!("{name}_write"),
            format!("{name}_write_address"),
            format!("{name}_write_d"),
        );
        text.vector(memory.banks, &enable);
        text.vector(memory.banks * bits, &addresses);
        text.vector(memory.banks * 9 * cascade, &words);
        let own = memory.address_bits();
        let address = |i: u64| format!("{addresses}[{} +: {own}]", i * bits);
        let data = |i: u64| part(i, 9 * cascade, &words);
        text.writes(name, memory, &enable, 9 * cascade, [&address, &data]);
    }

    let parameters: Vec<String> = (lanes_parameters(hardware).iter())
        .map(|(name, value)| format!(".{name}({value})"))
        .collect();
    format!(
        "// Generated from rust/hardware/src/design; do not edit.\n\nmodule lanes_cell (\n{}\n);\n\n{}\n    \
         lanes #(\n        {}\n    ) core (\n        {}\n    );\n\nendmodule\n",
        text.ports.join(",\n"),
        text.wires,
        parameters.join(",\n        "),
        text.pins.join(",\n        ")
    )
}
