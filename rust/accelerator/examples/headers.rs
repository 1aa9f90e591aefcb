//! Writes generated files.
//!
//! `headers isa ROOT` writes the committed ones: commands and other declarations
//! (`fpga/include/isa.hpp`), the array's pass (`fpga/rtl/pass_types.sv`), the lanes' items
//! (`fpga/include/lane_items.hpp`, `fpga/rtl/lane_types.sv`), the softmax's table
//! (`fpga/include/powers.hpp`, `fpga/estimates/powers.hex`), and the tables of
//! `docs/accelerator.md`. `headers config HARDWARE.toml BOARD.toml OUT` writes the header of a
//! configuration, `headers design HARDWARE.toml BOARD.toml OUT` the lists of its block design.

use std::error::Error;
use std::fs;

use quasar_accelerator::header;
use quasar_hardware::{design, Board, Hardware};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["isa", root] => {
            for (path, text) in [
                ("fpga/include/isa.hpp", header::isa_header()),
                ("fpga/rtl/pass_types.sv", header::pass_package()),
                ("fpga/include/lane_items.hpp", header::lane_header()),
                ("fpga/rtl/lane_types.sv", header::lane_package()),
                ("fpga/include/powers.hpp", header::powers_header()),
                ("fpga/estimates/powers.hex", header::powers_memory()),
            ] {
                fs::write(format!("{root}/{path}"), text)?;
            }
            let page = format!("{root}/docs/accelerator.md");
            let mut text = fs::read_to_string(&page)?;
            for (name, table) in header::tables() {
                let (begin, end) = (
                    format!("<!-- {name} begin -->\n"),
                    format!("<!-- {name} end -->"),
                );
                let (head, rest) = text.split_once(&begin).ok_or("marker is missing")?;
                let (_, tail) = rest.split_once(&end).ok_or("marker is missing")?;
                text = format!("{head}{begin}{table}{end}{tail}");
            }
            fs::write(page, text)?;
        }
        ["config", hardware, board, out] => {
            fs::write(out, header::config_header(&read(hardware, board)?))?;
        }
        ["design", hardware, board, out] => {
            let hardware = read(hardware, board)?;
            fs::write(format!("{out}/design.txt"), design::block_design(&hardware))?;
            fs::write(format!("{out}/array_cell.v"), design::array_cell(&hardware))?;
            fs::write(format!("{out}/lanes_cell.v"), design::lanes_cell(&hardware))?;
            let counters = design::counters_cell(&hardware);
            fs::write(format!("{out}/counters_cell.v"), counters)?;
        }
        _ => {
            return Err(
                "usage: headers isa ROOT | headers config|design HARDWARE.toml BOARD.toml OUT"
                    .into(),
            )
        }
    }
    Ok(())
}

fn read(hardware: &str, board: &str) -> Result<Hardware, Box<dyn Error>> {
    let board = Board::from_toml(&fs::read_to_string(board)?)?;
    Ok(Hardware::from_toml(&fs::read_to_string(hardware)?, board)?)
}
