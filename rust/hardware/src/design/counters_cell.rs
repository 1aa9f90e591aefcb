//! Writes the Verilog module that the block design instantiates as the counters' cell. It watches
//! queues and ports of memory, and makes the units' events of their signals.

use std::fmt::Write;

use crate::configuration::Hardware;

use super::counters::{CountedUnit, MainInput};
use super::queues::{Item, Queue, QUEUES};

/// Ports of memory that are watched: unit, and port of the kernel. Those of load move in step.
const MEMORIES: [(&str, &str); 2] = [("fetch", "m_axi_commands"), ("load", "m_axi_memory0")];
/// Signals of AXI4: bits, or 0 for a single one.
const AXI4: [(&str, u64); 20] = [
    ("awaddr", 64),
    ("awlen", 8),
    ("awvalid", 0),
    ("awready", 0),
    ("wdata", 128),
    ("wstrb", 16),
    ("wlast", 0),
    ("wvalid", 0),
    ("wready", 0),
    ("bresp", 2),
    ("bvalid", 0),
    ("bready", 0),
    ("araddr", 64),
    ("arlen", 8),
    ("arvalid", 0),
    ("arready", 0),
    ("rdata", 128),
    ("rlast", 0),
    ("rvalid", 0),
    ("rready", 0),
];
/// Signals of the block's AXI4-Lite port: direction, name, bits.
const AXI_LITE: [(&str, &str, u64); 17] = [
    ("input ", "awvalid", 0),
    ("output", "awready", 0),
    ("input ", "awaddr", 8),
    ("input ", "wvalid", 0),
    ("output", "wready", 0),
    ("input ", "wdata", 32),
    ("input ", "wstrb", 4),
    ("output", "bvalid", 0),
    ("input ", "bready", 0),
    ("output", "bresp", 2),
    ("input ", "arvalid", 0),
    ("output", "arready", 0),
    ("input ", "araddr", 8),
    ("output", "rvalid", 0),
    ("input ", "rready", 0),
    ("output", "rdata", 32),
    ("output", "rresp", 2),
];

/// Returns the queue that shows which commands a unit takes; fetch and store have none.
fn commands_of(unit: CountedUnit) -> Option<&'static Queue> {
    let array = matches!(unit, CountedUnit::Array);
    QUEUES.iter().find(|queue| {
        queue.to == unit.name() && queue.item == if array { Item::Pass } else { Item::Command }
    })
}

/// Returns true if the counters watch the reader's side of a queue.
fn is_read_watched(queue: &Queue) -> bool {
    CountedUnit::ALL.into_iter().any(|unit| {
        commands_of(unit) == Some(queue) || unit.main_input() == Some(MainInput::Queue(queue.name))
    })
}

/// Returns true if the counters watch the writer's side of a queue.
fn is_write_watched(queue: &Queue) -> bool {
    // From the drain's plan to its lanes: both are one unit.
    (queue.from, queue.to) != ("drain", "lanes")
}

/// Writes the queues and ports that the counters watch, for the lists that
/// `fpga/scripts/design.tcl` reads.
pub(super) fn counters_list(hardware: &Hardware) -> String {
    if !hardware.configuration().counters {
        return "counters {}\n".to_owned();
    }
    let written = (QUEUES.iter()).filter(|queue| is_write_watched(queue));
    let written: Vec<&str> = written.map(|queue| queue.name).collect();
    let read = (QUEUES.iter()).filter(|queue| is_read_watched(queue));
    let read: Vec<&str> = read.map(|queue| queue.name).collect();
    let memories = MEMORIES.map(|(unit, port)| format!("{unit} {unit}/{port}"));
    format!(
        "counters {{\n  written {{{}}}\n  read {{{}}}\n  memories {{{}}}\n}}\n",
        written.join(" "),
        read.join(" "),
        memories.join(" ")
    )
}

/// Returns a bus that watches another cell's bus: each of its signals is an input.
fn monitor(kind: &str, name: &str, signals: &[(&str, u64)]) -> Vec<String> {
    let ports = signals.iter().enumerate().map(|(i, (signal, bits))| {
        let mode = if i == 0 {
            "    (* X_INTERFACE_MODE = \"monitor\" *)\n"
        } else {
            ""
        };
        let range = match bits {
            0 => String::new(),
            _ => format!("[{}:0] ", bits - 1),
        };
        format!(
            "{mode}    (* X_INTERFACE_INFO = \"xilinx.com:interface:{kind}:1.0 {name} {}\" *)\n    \
             input  wire {range}{name}_{signal}",
            signal.to_uppercase()
        )
    });
    ports.collect()
}

/// Returns the wires that make a unit's events: taken, ended, blocked, starved.
fn events(unit: CountedUnit) -> [(&'static str, String); 4] {
    let name = unit.name();
    let item = format!("{name}_retired_tvalid && {name}_retired_tdata[0]");
    // The lanes end the drain's commands.
    let ended = match unit {
        CountedUnit::Array => "array_retired".to_owned(),
        CountedUnit::Drain => "lanes_retired".to_owned(),
        _ => item,
    };
    let writer = match unit {
        CountedUnit::Drain => "lanes",
        _ => name,
    };
    let taken = match commands_of(unit) {
        Some(queue) => format!("{0}_read_tvalid && {0}_read_tready", queue.name),
        None => format!("{name}_retired_tvalid && !{name}_retired_tdata[0]"),
    };
    let refused = (QUEUES.iter())
        .filter(|queue| queue.from == writer)
        .map(|queue| format!("{0}_written_tvalid && !{0}_written_tready", queue.name));
    let refused: Vec<String> = refused.collect();
    let blocked = if refused.is_empty() {
        "1'b0".to_owned()
    } else {
        refused.join("\n        || ")
    };
    let starved = match unit.main_input() {
        Some(MainInput::Queue(queue)) => format!("!{queue}_read_tvalid"),
        Some(MainInput::Memory) => format!("{name}_waits"),
        Some(MainInput::Array) => "array_starved".to_owned(),
        None => "1'b0".to_owned(),
    };
    [
        ("taken", taken),
        ("ended", ended),
        ("blocked", blocked),
        ("starved", starved),
    ]
}

/// Writes the block's own bus: its ports, and how the core's pins are connected to them.
fn own_bus() -> (String, String) {
    let (mut ports, mut pins) = (Vec::new(), Vec::new());
    for (direction, signal, bits) in AXI_LITE {
        let range = match bits {
            0 => String::new(),
            _ => format!("[{}:0] ", bits - 1),
        };
        ports.push(format!(
            "    (* X_INTERFACE_INFO = \"xilinx.com:interface:aximm:1.0 s_axi {}\" *)\n    \
             {direction} wire {range}s_axi_{signal}",
            signal.to_uppercase()
        ));
        pins.push(format!(".s_axi_{signal}(s_axi_{signal})"));
    }
    let protocol = "PROTOCOL AXI4LITE, ADDR_WIDTH 8, DATA_WIDTH 32";
    let first = format!("    (* X_INTERFACE_PARAMETER = \"{protocol}\" *)\n");
    (first + &ports.join(",\n"), pins.join(",\n        "))
}

/// Writes the module `counters_cell`, or nothing where the configuration has no counters.
pub fn counters_cell(hardware: &Hardware) -> String {
    if !hardware.configuration().counters {
        return String::new();
    }
    let mut buses = vec!["s_axi".to_owned()];
    let mut ports = Vec::new();
    let watch = |queue: &Queue, side: &str, buses: &mut Vec<String>, ports: &mut Vec<String>| {
        let name = format!("{}_{side}", queue.name);
        let data = queue.built_bits(hardware);
        ports.extend(monitor(
            "axis",
            &name,
            &[("tvalid", 0), ("tready", 0), ("tdata", data)],
        ));
        buses.push(name);
    };
    for queue in QUEUES {
        if is_write_watched(queue) {
            watch(queue, "written", &mut buses, &mut ports);
        }
        if is_read_watched(queue) {
            watch(queue, "read", &mut buses, &mut ports);
        }
    }
    for (unit, _) in MEMORIES {
        ports.extend(monitor("aximm", &format!("{unit}_memory"), &AXI4));
        buses.push(format!("{unit}_memory"));
    }
    let mut assigns = String::new();
    for (index, unit) in CountedUnit::ALL.into_iter().enumerate() {
        let name = unit.name();
        if unit == CountedUnit::Array {
            ports.push("    input  wire array_retired".to_owned());
            ports.push("    input  wire array_starved".to_owned());
        } else if unit == CountedUnit::Drain {
            ports.push("    input  wire lanes_retired".to_owned());
        } else {
            ports.push(format!("    input  wire {name}_retired_tvalid"));
            ports.push(format!("    output wire {name}_retired_tready"));
            ports.push(format!("    input  wire [7:0] {name}_retired_tdata"));
            buses.push(format!("{name}_retired"));
            let _ = writeln!(assigns, "    assign {name}_retired_tready = 1'b1;");
        }
        for (signal, value) in events(unit) {
            let _ = writeln!(assigns, "    assign {signal}[{index}] = {value};");
        }
    }
    for (unit, _) in MEMORIES {
        let _ = writeln!(
            assigns,
            "    wire {unit}_waits;\n    open_reads {unit}_reads (\n        .clk(clk), \
             .resetn(kernels_resetn),\n        \
             .arvalid({unit}_memory_arvalid), .arready({unit}_memory_arready),\n        \
             .rvalid({unit}_memory_rvalid), .rready({unit}_memory_rready), \
             .rlast({unit}_memory_rlast),\n        .waits({unit}_waits)\n    );"
        );
    }
    let (lite, pins) = own_bus();
    let last = CountedUnit::ALL.len() - 1;
    format!(
        "// Generated from rust/hardware/src/design; do not edit.\n\nmodule counters_cell (\n    \
         (* X_INTERFACE_INFO = \"xilinx.com:signal:clock:1.0 clk CLK\" *)\n    \
         (* X_INTERFACE_PARAMETER = \"ASSOCIATED_BUSIF {}, ASSOCIATED_RESET resetn:kernels_resetn\" \
         *)\n    input  wire clk,\n    input  wire resetn,\n    input  wire kernels_resetn,\n\
         {},\n{}\n);\n\n    wire [{last}:0] taken, ended, blocked, starved;\n{assigns}\n    \
         counters #(.UNITS({})) core (\n        .clk(clk), .resetn(resetn), \
         .kernels_resetn(kernels_resetn),\n        .taken(taken), .ended(ended), \
         .blocked(blocked), .starved(starved),\n        {}\n    );\n\nendmodule\n",
        buses.join(":"),
        lite,
        ports.join(",\n"),
        last + 1,
        pins,
    )
}
