//! Boards: resources, memory and processor of a device, from a TOML file with known keys only.
//!
//! Depends on [`crate::settings`] and [`crate::packing`]. The package's files are
//! `python/quasar_rt/boards/*.toml`.

use quasar_core::error::{Error, Result};
use quasar_core::subnet::config::within;
use serde::{Deserialize, Serialize};

use crate::packing::DspKind;
use crate::settings;

/// A board. Its file declares every figure with its source; nothing is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// The name for tools and configurations.
    pub name: String,
    /// The device's part number.
    pub part: String,
    /// The device's DSP slice.
    pub dsp_kind: DspKind,
    /// Clocks of the fabric in MHz, the default first. Targets: no design has been synthesised.
    pub clocks_mhz: Vec<f64>,
    /// The array's clock in MHz, at most: a target, too. Twice the first of `clocks_mhz` unless
    /// set.
    #[serde(default)]
    pub array_clock_mhz: Option<f64>,
    /// The highest clocks that the part's primitives bear; without them, none is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fastest_mhz: Option<Fastest>,
    /// Resources of the device.
    pub resources: Amounts,
    /// The share of each resource that a design may take.
    pub usable: Usable,
    /// The processing system's memory.
    pub ddr: Ddr,
    /// The ports from the fabric to that memory.
    pub axi: Axi,
    /// The processor that decodes pictures and submits frames.
    pub host: Host,
    /// Powers, from which energies are estimated; without them there are no estimates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Power>,
}

/// The highest clocks of a part's primitives at its speed grade and voltage, in MHz: global clock
/// buffers and the outputs of an MMCM; DSP slices with all their registers; block RAMs that read
/// before they write; `UltraRAMs` with their output register; AXI ports of the processing system.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Fastest {
    pub buffer: f64,
    pub dsp: f64,
    pub bram: f64,
    pub uram: f64,
    pub axi: f64,
}

/// Numbers of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// DSP slices.
    pub dsp: u64,
    /// Look-up tables.
    pub lut: u64,
    /// Flip-flops.
    pub ff: u64,
    /// Block RAMs of 36 kbit; each is two of 18 kbit.
    pub bram36: u64,
    /// `UltraRAMs` of 288 kbit.
    pub uram: u64,
}

/// Shares of each resource, above 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Usable {
    pub dsp: f64,
    pub lut: f64,
    pub ff: f64,
    pub bram36: f64,
    pub uram: f64,
}

/// Memory behind the AXI ports.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ddr {
    /// Width times data rate, in 10^9 bytes a second.
    pub peak_gb_s: f64,
    /// Share of the peak that the accelerator's bursts reach while the processor uses the memory
    /// too.
    pub efficiency: f64,
}

/// High-performance AXI ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axi {
    /// Data bits of one port.
    pub bits: u64,
    /// Ports.
    pub ports: u64,
}

/// Powers and energies of the device and its memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// Watts of the processing system and of the fabric with its clocks stopped.
    pub idle_w: f64,
    /// Picojoules of a DSP slice's cycle with a product, its share of logic, RAMs and wires
    /// included.
    pub product_pj: f64,
    /// Picojoules of a DSP slice's cycle without a product, the same share included.
    pub waiting_pj: f64,
    /// Picojoules of a byte between memory and fabric.
    pub byte_pj: f64,
}

/// The processor's share of a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub cpu: String,
    /// Cores; frames are decoded on all of them in parallel.
    pub cores: u64,
    /// JPEG decoding, nanoseconds for each pixel of the picture, on one core.
    pub decode_ns_per_pixel: f64,
    /// Conversion of a camera's frame to RGB, nanoseconds for each pixel of the frame, on one core.
    #[serde(default)]
    pub convert_ns_per_pixel: f64,
    /// Resizing and cropping, nanoseconds for each pixel of the picture, on one core.
    pub resize_ns_per_pixel: f64,
    /// Resizing, nanoseconds for each value of the result, on one core.
    #[serde(default)]
    pub resize_ns_per_value: f64,
    /// Cutting patches into the accelerator's buffer, nanoseconds for each of their values, on one
    /// core.
    pub patch_ns_per_value: f64,
    /// Submitting a frame and taking its logits (system calls, cache maintenance, registers),
    /// microseconds of one core.
    pub frame_us: f64,
    /// Microseconds from the end of a segment's reading to the start of the next segment: the
    /// interrupt, the driver's thread wakes up, registers.
    #[serde(default = "default_segment_us")]
    pub segment_us: f64,
}

/// The longest pause between two of the driver's polls, for a board that does not state its own.
const fn default_segment_us() -> f64 {
    100.0
}

impl Board {
    /// Parses and checks a board.
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] names the key; [`Error::TooLarge`] beyond 1 MiB.
    pub fn from_toml(text: &str) -> Result<Self> {
        let board: Self = settings::parse("board", text)?;
        board
            .check()
            .map_err(|e| settings::of_config(&format!("board {:?}", board.name), e))?;
        Ok(board)
    }

    /// Writes the board as TOML, for [`Self::from_toml`].
    ///
    /// # Panics
    /// Never: every value of a board has a TOML form.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("numbers, strings and lists")
    }

    /// Returns the part of each resource that a design may take, rounded down.
    pub fn usable(&self) -> Amounts {
        let share = |amount: u64, share: f64| (amount as f64 * share) as u64;
        let (all, part) = (self.resources, self.usable);
        Amounts {
            dsp: share(all.dsp, part.dsp),
            lut: share(all.lut, part.lut),
            ff: share(all.ff, part.ff),
            bram36: share(all.bram36, part.bram36),
            uram: share(all.uram, part.uram),
        }
    }

    /// Returns the array's clock in MHz, at most.
    pub fn array_clock_mhz(&self) -> f64 {
        (self.array_clock_mhz).unwrap_or_else(|| 2.0 * self.clocks_mhz[0])
    }

    fn check(&self) -> Result<()> {
        for (key, text) in [
            ("name", &self.name),
            ("part", &self.part),
            ("host.cpu", &self.host.cpu),
        ] {
            within(&format!("{key} (its length)"), text.chars().count(), 1, 100)?;
            if text.chars().any(char::is_control) {
                return Err(Error::config(key, "has control characters"));
            }
        }
        within("clocks_mhz (their number)", self.clocks_mhz.len(), 1, 16)?;
        for &clock in &self.clocks_mhz {
            within("clocks_mhz", clock, 1.0, MAX_CLOCK_MHZ)?;
        }
        within(
            "array_clock_mhz",
            self.array_clock_mhz(),
            1.0,
            2.0 * MAX_CLOCK_MHZ,
        )?;
        let Amounts {
            dsp,
            lut,
            ff,
            bram36,
            uram,
        } = self.resources;
        for (key, amount, least) in [
            ("resources.dsp", dsp, 1),
            ("resources.lut", lut, 1),
            ("resources.ff", ff, 1),
            ("resources.bram36", bram36, 1),
            ("resources.uram", uram, 0),
        ] {
            within(key, amount as usize, least, 100_000_000)?;
        }
        for (key, share) in [
            ("usable.dsp", self.usable.dsp),
            ("usable.lut", self.usable.lut),
            ("usable.ff", self.usable.ff),
            ("usable.bram36", self.usable.bram36),
            ("usable.uram", self.usable.uram),
            ("ddr.efficiency", self.ddr.efficiency),
        ] {
            within(key, share, 0.01, 1.0)?;
        }
        within("ddr.peak_gb_s", self.ddr.peak_gb_s, 0.01, 10_000.0)?;
        within("axi.ports", self.axi.ports as usize, 1, 64)?;
        if ![32, 64, 128, 256, 512].contains(&self.axi.bits) {
            return Err(Error::config(
                "axi.bits",
                format!("{} is none of 32, 64, 128, 256, 512", self.axi.bits),
            ));
        }
        within("host.cores", self.host.cores as usize, 1, 1024)?;
        for (key, cost) in [
            ("host.decode_ns_per_pixel", self.host.decode_ns_per_pixel),
            ("host.convert_ns_per_pixel", self.host.convert_ns_per_pixel),
            ("host.resize_ns_per_pixel", self.host.resize_ns_per_pixel),
            ("host.resize_ns_per_value", self.host.resize_ns_per_value),
            ("host.patch_ns_per_value", self.host.patch_ns_per_value),
            ("host.frame_us", self.host.frame_us),
            ("host.segment_us", self.host.segment_us),
        ] {
            within(key, cost, 0.0, 1e9)?;
        }
        if let Some(power) = self.power {
            for (key, value) in [
                ("power.idle_w", power.idle_w),
                ("power.product_pj", power.product_pj),
                ("power.waiting_pj", power.waiting_pj),
                ("power.byte_pj", power.byte_pj),
            ] {
                within(key, value, 0.0, 1e6)?;
            }
        }
        Ok(())
    }
}

/// The highest clock that a file may state: beyond any device's.
pub const MAX_CLOCK_MHZ: f64 = 1000.0;
