//! Writes the committed generated files below the folder that is given: commands and other
//! declarations (`fpga/include/isa.hpp`), the array's pass (`fpga/rtl/pass_types.sv`), the lanes'
//! items (`fpga/include/lane_items.hpp`, `fpga/rtl/lane_types.sv`), the softmax's table
//! (`fpga/include/powers.hpp`, `fpga/estimates/powers.hex`), and the tables of
//! `docs/accelerator.md`.

use std::error::Error;
use std::{env, fs};

use quasar_accelerator::header;

fn main() -> Result<(), Box<dyn Error>> {
    let root = env::args().nth(1).ok_or("usage: headers ROOT")?;
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
    Ok(())
}
