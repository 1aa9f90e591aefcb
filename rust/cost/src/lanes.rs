//! Counts the logic of the requantizing lanes (`fpga/rtl/lanes.sv`), without RAM, module by module,
//! after Yosys's counts of the modules.
//!
//! Depends on [`crate::circuits`] and [`quasar_hardware::design`].

use quasar_hardware::configuration::{key_banks, value_banks, Hardware};
use quasar_hardware::design::{memories, Memory};

use crate::circuits::Logic;

/// `requantize_lane` with one token, and with two.
const LANE: [Logic; 2] = [Logic { lut: 383, ff: 555 }, Logic { lut: 428, ff: 815 }];

/// Rotary positions in `requantize_lane` with two tokens, and what all lanes share: lanes with
/// angles less those without, of kv260 and zcu102.
const ROTATION: Logic = Logic { lut: 128, ff: 67 };
const TURNS: Logic = Logic { lut: 300, ff: 313 };

/// Returns the logic of a configuration's lanes.
pub fn lanes_logic(hardware: &Hardware) -> Logic {
    let c = hardware.configuration();
    let (t, l, ratio) = (c.array.tokens, c.lanes.requantize, c.array.clock_ratio);
    let beat = 8 * 16 * c.axi_ports;
    let fast = l.div_ceil(ratio);
    let banks = c.frames * t.div_ceil(l);
    let groups = t.div_ceil(l);
    let lanes = LANE[usize::from(ratio == 2)].times(fast);
    let rotations = if c.buffers.angle > 0 {
        [ROTATION.times(fast), TURNS].into_iter().sum()
    } else {
        Logic::default()
    };
    // The adders of a column's codes, and its mean.
    let means = Logic {
        lut: 18 * l + 60,
        ff: 19 * l + 40,
    };
    let moments = Logic {
        lut: 12 * (68 * l).div_ceil(256),
        ff: 68 * l + 13 * (68 * l).div_ceil(256),
    };
    // Sums, residuals that are read and written, a fill's group; the sum of a logit; the beats of
    // fills and tables. The rest is control.
    let items = Logic {
        lut: 16 * l * (1 + banks.div_ceil(3))
            + 16 * l
            + 16 * l * (groups - 1).div_ceil(3)
            + 81 * l.div_ceil(8)
            + beat / 4
            + 380,
        ff: 27 * l
            + 3 * 16 * l
            + 2 * l
            + 16 * t
            + 27 * l.div_ceil(8)
            + beat * (16 * t).div_ceil(beat)
            + beat
            + 900,
    };
    [lanes, rotations, store(hardware), means, moments, items]
        .into_iter()
        .sum()
}

/// Counts `lane_store`: a multiplexer of four inputs for each bit and two bits of a rotation, then
/// the words' registers and addresses. The factors are fitted to four sizes.
fn store(hardware: &Hardware) -> Logic {
    let c = hardware.configuration();
    let (t, l, cascade) = (c.array.tokens, c.lanes.requantize, c.array.cascade);
    let (keys, values) = (key_banks(c.array, c.lanes), value_banks(c.array, c.lanes));
    let address = (memories(hardware).iter())
        .filter(|memory| ["key", "value"].contains(&memory.name))
        .map(Memory::address_bits)
        .max()
        .unwrap_or(1);
    // Keys that always begin in the first bank do not rotate, and share one address.
    let rotates = t % keys != 0 || (l < t && l != keys);
    let (key_rotator, key_addresses) = if rotates {
        (9 * keys * steps(keys), keys)
    } else {
        (0, 1)
    };
    // Words of values that are not zero, after each step of their rotation.
    let span = (l + cascade - 1).div_ceil(cascade);
    let words = (0..steps(values)).map(|step| values.min(span + (4 << (2 * step)) - 1));
    let value_rotator = 9 * cascade * (span * steps(cascade) + words.sum::<u64>());
    let addresses = address * key_addresses + (10 + cascade) * keys + (2 * address + 2) * values;
    Logic {
        lut: ((130 * (key_rotator + value_rotator) + 145 * addresses) / 100).saturating_sub(400),
        ff: 18 * keys
            + address * key_addresses
            + values * (18 * cascade + address)
            + 2 * 8 * l
            + 8 * values
            + 130,
    }
}

/// Returns the multiplexers of four inputs, one after the other, that choose among `count`.
const fn steps(count: u64) -> u64 {
    (count.next_power_of_two().trailing_zeros() as u64).div_ceil(2)
}
