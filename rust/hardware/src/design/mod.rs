//! Lists what the accelerator is built of: memories and queues, each with its ends, its size and
//! the kind of RAM that holds it. The block design, the headers of the HLS sources and the resource
//! model follow from these lists.
//!
//! Depends on [`crate::configuration`].

mod memories;
mod queues;
mod ram;

pub use memories::{memories, Memory, Place};
pub use queues::{moments_depth, Item, Queue, QUEUES};
pub use ram::{Family, Ram, RamCount};

use std::fmt::Write;

use crate::configuration::Hardware;

/// The kernels: name in the block design, and the top function that its IP is named after.
pub const KERNELS: [(&str, &str); 7] = [
    ("fetch", "fetch"),
    ("load", "load"),
    ("array", "systolic"),
    ("drain", "drain"),
    ("norm", "norm"),
    ("softmax", "softmax"),
    ("store", "store"),
];

/// Writes the lists that `fpga/scripts/design.tcl` reads, as a Tcl dictionary.
pub fn block_design(hardware: &Hardware) -> String {
    let mut text = String::from("kernels {\n");
    for (name, top) in KERNELS {
        let _ = writeln!(text, "  {name} {top}");
    }
    text += "}\n\nqueues {\n";
    for queue in QUEUES {
        let _ = writeln!(
            text,
            "  {} {{writer {}/{} reader {}/{} depth {} ram {}}}",
            queue.name,
            queue.from,
            queue.name,
            queue.to,
            queue.reader_port(),
            queue.built_depth(hardware),
            queue.ram(hardware).name(),
        );
    }
    text += "}\n\nmemories {\n";
    for memory in memories(hardware) {
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
    let _ = writeln!(text, "}}\n\nports {}", hardware.configuration().axi_ports);
    text
}

#[cfg(test)]
mod tests;
