//! Lists the memories and queues of the accelerator, each with its ends, its size and the kind of
//! RAM that holds it. The block design, the headers of the HLS sources and the resource model
//! follow from these lists.
//!
//! Depends on [`crate::configuration`].

mod array_cell;
mod counters;
mod counters_cell;
mod lane_items;
mod lanes_cell;
mod limits;
mod memories;
mod multipliers;
mod queues;
mod ram;

pub use crate::configuration::KERNELS;
pub use array_cell::{array_cell, array_parameters};
pub use counters::{CountedUnit, Counter, MainInput};
pub use counters_cell::counters_cell;
pub use lane_items::{
    ItemField, COLUMN_BITS, FILL_BITS, LANE_ADDRESS_BITS, LANE_BANK_BITS, LANE_JOB, LANE_JOB_BITS,
    LANE_PARAMETERS, LANE_ROW, LANE_ROW_BITS, MOMENT_BITS, PAIR_BITS, RECIPROCAL_BITS, SCALE_BITS,
    TOKEN_BITS, ZERO_POINT_BITS,
};
pub use lanes_cell::{lanes_cell, lanes_parameters};
pub use limits::check_limits;
pub use memories::{max_embed, memories, Memory, Place, PORTS_OF_COMMANDS, PORT_BRAM18};
pub use multipliers::{multipliers, Multiplier};
pub use queues::{Item, Queue, COMMAND_BITS, LOAD_COMMANDS, QUEUES};
pub use ram::{Family, Ram, RamCount};

use std::fmt::Write;

use crate::configuration::Hardware;

/// Writes the lists that `fpga/scripts/design.tcl` reads, as a Tcl dictionary.
pub fn block_design(hardware: &Hardware) -> String {
    let mut text = format!("kernels {{{}}}\n\nqueues {{\n", KERNELS.join(" "));
    // VHDL's keyword names no cell.
    let cell = |unit| if unit == "array" { "array_cell" } else { unit };
    for queue in QUEUES {
        let _ = writeln!(
            text,
            "  {} {{writer {}/{} reader {}/{} depth {} ram {}}}",
            queue.name,
            cell(queue.from),
            queue.name,
            cell(queue.to),
            queue.reader_port(),
            queue.built_depth(hardware),
            queue.ram(hardware).name(),
        );
    }
    text += "}\n\nmemories {\n";
    let all = memories(hardware);
    for memory in &all {
        if let Place::Bank { writer, reader } = memory.place {
            let _ = writeln!(
                text,
                "  {} {{writer {writer} reader {reader} banks {} bits {} words {} address_bits {} ram {}}}",
                memory.name,
                memory.banks,
                memory.bits,
                memory.words,
                memory.address_bits(),
                memory.ram.name(),
            );
        }
    }
    text += "}\n\narray_memories {\n";
    for memory in &all {
        if let Place::Array { writer } = memory.place {
            let _ = writeln!(
                text,
                "  {} {{writer {writer} banks {}}}",
                memory.name, memory.banks
            );
        }
    }
    let c = hardware.configuration();
    let _ = writeln!(
        text,
        "}}\n\nports {}\nclock_ratio {}",
        c.axi_ports, c.array.clock_ratio
    );
    text + "\n" + &counters_cell::counters_list(hardware)
}

#[cfg(test)]
mod tests;
