//! Prepares a number of camera frames for an accelerator on one thread and prints a digest of the
//! last input; `tools/lab/count_instructions.py` counts the instructions. The shorter side becomes
//! 256 pixels (bicubic), of which the network takes the centre, as `DeiT` does.
//!
//! `input TIER SUBNET CONFIGURATION BOARD FORMAT WIDTH HEIGHT TIMES`, where the configuration and
//! the board are TOML files.

use std::fs::read_to_string;

use quasar_accelerator::Program;
use quasar_core::preprocess::{ImageView, PixelFormat};
use quasar_core::subnet::config::{Filter, Resize, ResizeMode};
use quasar_core::{Kernels, Subnet, Tier};
use quasar_device::Packer;
use quasar_hardware::{Board, Hardware};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tier, subnet, configuration, board, format, width, height, times] = &arguments[..] else {
        return Err("input TIER SUBNET CONFIGURATION BOARD FORMAT WIDTH HEIGHT TIMES".into());
    };
    let tier: Tier = tier.parse()?;
    let kernels = Kernels::new(tier).ok_or("this CPU does not run the tier")?;
    let board = Board::from_toml(&read_to_string(board)?)?;
    let hardware = Hardware::from_toml(&read_to_string(configuration)?, board)?;
    let subnet = Subnet::load(subnet)?;
    let program = Program::compile(&subnet, &hardware)?;
    let (width, height): (usize, usize) = (width.parse()?, height.parse()?);
    let format: PixelFormat = format.parse()?;
    let stride = format.row_bytes(width);
    // NV12 has half as many rows of chroma.
    let pixels: Vec<u8> = (0..stride * height * 3 / 2)
        .map(|i| (i * 31 + i / 97 * 5) as u8)
        .collect();
    let frame = ImageView::frame(&pixels, None, (height, width), format, stride)?;
    let mut config = subnet.config().clone();
    config.preprocess.resize = Resize {
        mode: ResizeMode::Shorter,
        size: vec![256],
        filter: Some(Filter::Bicubic),
    };
    let mut packer = Packer::new(&config)?.with_kernels(kernels);
    let mut input = Vec::new();
    for _ in 0..times.parse()? {
        input = packer.input(&config, &program, &frame)?;
    }
    // FNV-1a.
    let digest = (input.iter()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    println!("{digest:016x}");
    Ok(())
}
