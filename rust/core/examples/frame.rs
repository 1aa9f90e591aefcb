//! Runs a number of frames of a subnet on one thread and prints a digest of the logits;
//! `tools/lab/count_instructions.py` counts the instructions.
//!
//! `frame TIER SUBNET TIMES`

use std::sync::Arc;

use quasar_core::{Executor, Network, Subnet, Tier};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [tier, path, times] = &arguments[..] else {
        return Err("frame TIER SUBNET TIMES".into());
    };
    let tier: Tier = tier.parse()?;
    let network = Network::new(&Subnet::load(path)?, tier)?;
    let image = &network.config().image;
    let pixels: Vec<u8> = (0..image.height * image.width * image.channels)
        .map(|i| (i * 31 + i / 97 * 5) as u8)
        .collect();
    let mut logits = vec![0; network.config().classes.len()];
    let executor = Executor::new(Arc::new(network), Some(1))?;
    for _ in 0..times.parse()? {
        executor.run(&pixels, &mut logits)?;
    }
    // FNV-1a.
    let digest = (logits.iter().flat_map(|logit: &i32| logit.to_le_bytes()))
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    println!("{digest:016x}");
    Ok(())
}
