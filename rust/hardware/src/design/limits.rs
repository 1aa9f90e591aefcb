//! Refuses configurations that the tools cannot build, whoever made them.
//!
//! Each limit is that of a tool or of the RTL, with its source. [`Hardware::new`] checks them all,
//! so no file, search or preparation gets past them.

use quasar_core::error::{Error, Result};

use crate::configuration::{hls, Hardware};
use crate::declared::BURST_BEATS;

use super::memories::memories;
use super::queues::{Item, Queue, PORT_BITS, QUEUES};
use super::ram::Ram;

/// A burst of an AXI port stays within 4 KiB (Arm IHI 0022, A3.4.1).
const BURST_BYTES: u64 = 4096;
const _: () = assert!(PORT_BITS / 8 * BURST_BEATS <= BURST_BYTES);

/// The least clock at an MMCM's input, in MHz (AMD DS187, DS925).
const MMCM_INPUT_MHZ: f64 = 10.0;

/// Refuses clocks beyond those of the board's part.
fn check_clocks(hardware: &Hardware) -> Result<()> {
    let (c, board) = (hardware.configuration(), hardware.board());
    let refuse = |refused| Err(Error::config("clock_mhz", refused));
    if c.array.clock_ratio > 1 && c.clock_mhz < MMCM_INPUT_MHZ {
        return refuse(format!(
            "is {}, but the MMCM that doubles it needs at least {MMCM_INPUT_MHZ} MHz; take a higher one",
            c.clock_mhz
        ));
    }
    let array = c.clock_mhz * c.array.clock_ratio as f64;
    let Some(most) = board.fastest_mhz else {
        return Ok(());
    };
    let ultra = || (memories(hardware).iter()).any(|memory| memory.ram == Ram::Ultra);
    for (whose, clock, what, most) in [
        ("kernels", c.clock_mhz, "AXI port", most.axi),
        ("array", array, "global clock buffer", most.buffer),
        ("array", array, "DSP slice", most.dsp),
        ("array", array, "block RAM", most.bram),
        ("array", array, "UltraRAM", most.uram),
    ] {
        if clock > most && (what != "UltraRAM" || ultra()) {
            return refuse(format!(
                "makes the clock of the {whose} {clock} MHz, but each {what} of {} bears at most {most}; take a \
                 lower one",
                board.part
            ));
        }
    }
    Ok(())
}

/// Refuses a configuration with more of something than the sources or the tools can have.
///
/// # Errors
/// [`Error::InvalidConfig`] names the key, what it makes too large, and the limit.
pub fn check_limits(hardware: &Hardware) -> Result<()> {
    check_clocks(hardware)?;
    let c = hardware.configuration();
    for (key, value, most, why) in [
        (
            "array.pairs",
            c.array.pairs,
            hls::PAIRS,
            "a FIFO of the array holds the row pairs of a pass",
        ),
        (
            "axi_ports",
            c.axi_ports,
            hls::PORTS,
            "the kernel `load` has one AXI master a port",
        ),
    ] {
        if value > most {
            return Err(Error::config(
                key,
                format!("is {value}, but at most {most} can be built: {why}"),
            ));
        }
    }
    QUEUES.iter().try_for_each(|queue| {
        let Queue { name, from, to, .. } = queue;
        let (bits, depth) = (queue.built_bits(hardware), queue.built_depth(hardware));
        if bits > hls::STREAM_BITS {
            return Err(Error::config(
                key_of_width(queue.item),
                format!(
                    "makes an item of queue `{name}` ({from} to {to}) {bits} bits wide, but an AXI4-Stream of Vitis \
                     HLS has at most {}; take fewer",
                    hls::STREAM_BITS
                ),
            ));
        }
        if depth > hls::STREAM_ITEMS {
            return Err(Error::config(
                "buffers.score",
                format!(
                    "makes queue `{name}` ({from} to {to}) {depth} items deep, but an AXI4-Stream FIFO of Vivado \
                     holds at most {}; take fewer words",
                    hls::STREAM_ITEMS
                ),
            ));
        }
        Ok(())
    })
}

/// Returns the key that sets the width of an item.
const fn key_of_width(item: Item) -> &'static str {
    match item {
        Item::Scores => "array.tokens",
        Item::Maxima => "lanes.exponential",
        Item::Beat => "axi_ports",
        _ => "lanes.requantize",
    }
}

#[cfg(test)]
mod tests {
    use crate::boards::Board;
    use crate::configuration::{hls, Configuration, Hardware};

    fn shipped(name: &str) -> Hardware {
        let read = |path: &str| {
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
            std::fs::read_to_string(format!("{root}/{path}/{name}.toml")).unwrap()
        };
        let board = Board::from_toml(&read("python/quasar_rt/boards")).unwrap();
        Hardware::from_toml(&read("fpga/configs"), board).unwrap()
    }

    fn refusal(change: impl Fn(&mut Configuration)) -> String {
        let hardware = shipped("zcu102");
        let mut configuration = hardware.configuration().clone();
        change(&mut configuration);
        match Hardware::new(configuration, hardware.board().clone()) {
            Ok(_) => String::from("built"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_queue_wider_than_a_stream_is_refused_by_its_name() {
        let wide = |tokens, requantize, exponential| {
            refusal(|c| {
                c.array.tokens = tokens;
                c.lanes.requantize = requantize;
                c.lanes.gelu = requantize;
                c.lanes.exponential = exponential;
            })
        };
        assert_eq!(wide(66, 60, 66), "built");
        let moments = wide(66, 61, 66);
        for part in [
            "lanes.requantize",
            "`moments` (lanes to norm)",
            "4152 bits",
            "at most 4096",
        ] {
            assert!(moments.contains(part), "{moments}");
        }
        assert!(wide(66, 66, 66).contains("`moments` (lanes to norm) 4488 bits"));
        assert_eq!(wide(170, 60, 170), "built");
        let scores = wide(171, 57, 57);
        assert!(
            scores.contains("array.tokens")
                && scores.contains("`scores` (array to scores) 4104 bits"),
            "{scores}"
        );
    }

    #[test]
    fn a_queue_deeper_than_a_fifo_is_refused_by_its_name() {
        let deep = |score| refusal(|c| c.buffers.score = score);
        assert_eq!(deep(50 * 32768), "built");
        let moments = deep(50 * 32768 + 1);
        for part in [
            "buffers.score",
            "`moments` (lanes to norm) 65536 items",
            "at most 32768",
        ] {
            assert!(moments.contains(part), "{moments}");
        }
    }

    #[test]
    fn a_clock_beyond_the_part_s_own_is_refused_by_the_primitive() {
        let refused = |name, clock| shipped(name).with_clock(clock).unwrap_err().to_string();
        let (ultra, dsp) = (refused("kv260", 250.5), refused("kv260", 333.0));
        // DS925: 500 MHz at 0.72 V (-2LV) with UltraRAM, and 637 at 0.85 V (-2) without.
        assert!(
            shipped("kv260").with_clock(250.0).is_ok()
                && shipped("zcu102").with_clock(318.0).is_ok()
        );
        assert!(
            ultra.contains("array 501 MHz, but each UltraRAM of XCK26-SFVC784-2LV-C"),
            "{ultra}"
        );
        assert!(dsp.contains("array 666 MHz, but each DSP slice"), "{dsp}");
        assert!(refused("kv260", 445.0).contains("kernels 445 MHz, but each AXI port"));
        assert!(refused("pynq-z2", 200.0).contains("array 400 MHz, but each block RAM"));
        assert!(refused("zcu102", 9.0).contains("at least 10 MHz"));
    }

    #[test]
    fn more_than_the_sources_have_is_refused() {
        assert_eq!(refusal(|c| c.array.pairs = hls::PAIRS), "built");
        let pairs = refusal(|c| c.array.pairs = hls::PAIRS + 1);
        assert!(
            pairs.contains("array.pairs: is 65, but at most 64"),
            "{pairs}"
        );
        let hardware = shipped("zcu102");
        let mut board = hardware.board().clone();
        board.axi.ports = 5;
        let mut configuration = hardware.configuration().clone();
        configuration.axi_ports = 5;
        let ports = Hardware::new(configuration, board).unwrap_err().to_string();
        assert!(ports.contains("axi_ports: is 5, but at most 4"), "{ports}");
    }

    #[test]
    fn fifos_are_as_deep_as_vivado_makes_them() {
        for queue in crate::design::QUEUES {
            let depth = queue.built_depth(&shipped("zcu102"));
            assert!(
                (16..=hls::STREAM_ITEMS).contains(&depth) && depth.is_power_of_two(),
                "{}",
                queue.name
            );
        }
    }
}
