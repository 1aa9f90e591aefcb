//! Prints the resources of configurations: `resources BOARD.toml HARDWARE.toml ...`.

use std::error::Error;
use std::fs;

use quasar_cost::Resources;
use quasar_hardware::{Board, Hardware};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let board = Board::from_toml(&fs::read_to_string(arguments.next().ok_or("no board")?)?)?;
    for path in arguments {
        let hardware = Hardware::from_toml(&fs::read_to_string(&path)?, board.clone())?;
        let resources = Resources::of(&hardware);
        println!("{path}");
        for part in &resources.parts {
            println!(
                "  {:<24} dsp {:>5} lut {:>7} ff {:>7} bram18 {:>4} uram {:>3}",
                part.name, part.dsp, part.lut, part.ff, part.bram18, part.uram
            );
        }
        let (total, usable) = (resources.total, board.usable());
        println!("  total {total:?}\n  usable {usable:?}");
    }
    Ok(())
}
