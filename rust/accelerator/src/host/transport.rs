//! Declares the interface to an accelerator: registers, DMA memory, the interrupt.
//!
//! Depends on [`crate::isa`] and [`quasar_core::error`].

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use quasar_core::error::{Error, Result};

use crate::isa::clocks::ClockStatus;
use crate::isa::{same_name, REGISTERS};

/// Returns the offset of a register at compile time. An undeclared name does not compile.
const fn offset(name: &str) -> u32 {
    let mut at = 0;
    while at < REGISTERS.len() {
        if same_name(REGISTERS[at].name, name) {
            return REGISTERS[at].offset;
        }
        at += 1;
    }
    panic!("no such register")
}

/// Offsets of the registers that the driver uses.
pub mod register {
    use super::offset;
    use crate::isa::MAX_PORTS;

    /// `AP_CTRL` of fetch.
    pub const FETCH_CTRL: u32 = offset("fetch_CTRL");
    /// Global interrupt enable of fetch.
    pub const FETCH_GIE: u32 = offset("fetch_GIE");
    /// Interrupt enable of fetch.
    pub const FETCH_IER: u32 = offset("fetch_IER");
    /// Interrupt status of fetch.
    pub const FETCH_ISR: u32 = offset("fetch_ISR");
    /// Address of a segment's commands.
    pub const FETCH_COMMANDS: u32 = offset("fetch_COMMANDS");
    /// Number of commands.
    pub const FETCH_COUNT: u32 = offset("fetch_COUNT");
    /// First beat of the patches.
    pub const FETCH_INPUT: u32 = offset("fetch_INPUT");
    /// The seed of the commands' checks.
    pub const FETCH_SEED: u32 = offset("fetch_SEED");
    /// Magic number of the identity.
    pub const FETCH_MAGIC: u32 = offset("fetch_MAGIC");
    /// Version of commands, registers and memory formats.
    pub const FETCH_ABI: u32 = offset("fetch_ABI");
    /// Configuration hash, low word.
    pub const FETCH_HASH_LOW: u32 = offset("fetch_HASH_LOW");
    /// Configuration hash, high word.
    pub const FETCH_HASH_HIGH: u32 = offset("fetch_HASH_HIGH");
    /// First command that fails its check or has no unit.
    pub const FETCH_ERROR: u32 = offset("fetch_ERROR");
    /// `AP_CTRL` of store.
    pub const STORE_CTRL: u32 = offset("store_CTRL");
    /// Global interrupt enable of store.
    pub const STORE_GIE: u32 = offset("store_GIE");
    /// Interrupt enable of store.
    pub const STORE_IER: u32 = offset("store_IER");
    /// Interrupt status of store.
    pub const STORE_ISR: u32 = offset("store_ISR");
    /// Address of the output.
    pub const STORE_OUTPUT: u32 = offset("store_OUTPUT");
    /// Number of logits.
    pub const STORE_COUNT: u32 = offset("store_COUNT");
    /// `AP_CTRL` of load.
    pub const LOAD_CTRL: u32 = offset("load_CTRL");
    /// Address of each stripe of the arena.
    pub const LOAD_ARENA: [u32; MAX_PORTS] = [
        offset("load_ARENA0"),
        offset("load_ARENA1"),
        offset("load_ARENA2"),
        offset("load_ARENA3"),
    ];
    /// The seed of the keys of the arena's checks.
    pub const LOAD_SEED: u32 = offset("load_SEED");
    /// Holds all kernels in reset.
    pub const RESET: u32 = offset("reset");
    /// Identity of the counters.
    pub const COUNTERS_IDENTITY: u32 = offset("counters_IDENTITY");
    /// Clears and starts the counters, or stops them.
    pub const COUNTERS_CONTROL: u32 = offset("counters_CONTROL");
    /// Cycles while the counters ran.
    pub const COUNTERS_CYCLES: u32 = offset("counters_CYCLES");
}

/// The length of a reset. Draining the AXI ports takes a millisecond at most.
const RESET_PULSE: Duration = Duration::from_millis(2);
/// The pause after a reset.
const RESET_RECOVERY: Duration = Duration::from_micros(100);
/// Longest wait for the MMCM's lock. The design's watchdog tries again every 65,536 cycles: 1.3 ms
/// at 50 MHz.
const LOCK_LIMIT: Duration = Duration::from_millis(100);
/// Pause between two looks at the clocks' status.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// DMA memory: contiguous for the device, and never moved. It lives as long as its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Index among the transport's buffers.
    pub index: usize,
    /// Address in the device's view.
    pub physical: u64,
    /// Size in bytes.
    pub bytes: usize,
}

impl Buffer {
    /// Returns the range `offset..offset + bytes` of this buffer.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if the range leaves the buffer.
    pub fn range(&self, offset: usize, bytes: usize) -> Result<Range<usize>> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(offset..end),
            _ => Err(Error::InvalidValue(format!(
                "a buffer of {} bytes does not have bytes {offset} to {offset} + {bytes}",
                self.bytes
            ))),
        }
    }
}

/// Access to an accelerator. The host accesses DMA memory through its cache: [`Self::flush`] makes
/// the host's writes visible to the device, [`Self::invalidate`] makes the device's writes visible
/// to the host. The caller aligns both to [`CACHE_LINE`].
///
/// Every method fails with [`Error::DeviceFault`] if the access itself fails.
pub trait Transport: Send {
    /// Returns the device's name for messages.
    fn name(&self) -> String;

    /// Reads the status of the accelerator's clocks ([`crate::isa::clocks`]) without an access to a
    /// register. Returns `None` if this way to the device shows none.
    ///
    /// # Errors
    /// See [`Transport`].
    fn clocks(&mut self) -> Result<Option<u32>> {
        Ok(None)
    }

    /// Waits until the accelerator has its clocks. Must come before the first access to a register,
    /// which without a clock may never end.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] if a clock is missing or wrong, or another design is loaded;
    /// see [`Transport`].
    fn expect_clocks(&mut self) -> Result<()> {
        let (mut waited, mut before) = (Duration::ZERO, None);
        loop {
            let Some(word) = self.clocks()? else {
                return Ok(());
            };
            let status = ClockStatus::of(word);
            let problem = match status.map(|status| status.problem(before)) {
                Some(None) => return Ok(()),
                Some(Some(problem)) => problem,
                None => format!(
                    "the clocks' status at EMIO 0 to 31 is {word:#010x}, which no bitstream of this \
                     version shows: load the configuration's bitstream, or build it again if it is \
                     an older one"
                ),
            };
            // Only clocks can change by themselves.
            if status.is_none() || waited >= LOCK_LIMIT {
                return Err(Error::DeviceUnavailable {
                    device: self.name(),
                    problem,
                });
            }
            before = status;
            self.sleep(LOCK_PAUSE);
            waited += LOCK_PAUSE;
        }
    }

    /// Reads a register.
    ///
    /// # Errors
    /// See [`Transport`].
    fn read(&mut self, register: u32) -> Result<u32>;

    /// Writes a register.
    ///
    /// # Errors
    /// See [`Transport`].
    fn write(&mut self, register: u32, value: u32) -> Result<()>;

    /// Allocates DMA memory, aligned to [`CACHE_LINE`].
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if there is not enough memory.
    fn allocate(&mut self, bytes: usize) -> Result<Buffer>;

    /// Copies `data` to the host's view of a buffer.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if the range leaves the buffer.
    fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()>;

    /// Copies the host's view of a buffer to `out`.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if the range leaves the buffer.
    fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()>;

    /// Makes the host's writes to a range visible to the device.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if the range leaves the buffer; see [`Transport`].
    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()>;

    /// Makes the device's writes to a range visible to the host.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] if the range leaves the buffer; see [`Transport`].
    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()>;

    /// Waits for an interrupt of fetch or store. Returns false at the timeout. An interrupt is only
    /// a hint: it may be spurious or lost.
    ///
    /// # Errors
    /// See [`Transport`].
    fn wait(&mut self, timeout: Duration) -> Result<bool>;

    /// Returns the time for deadlines. Tests may override the clock.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Pauses the thread.
    fn sleep(&mut self, time: Duration) {
        thread::sleep(time);
    }

    /// Resets all kernels and clears their registers, once the accelerator has its clocks; memory
    /// is unchanged. During the reset the kernels do not respond on the bus, so no other register
    /// may be accessed.
    ///
    /// # Errors
    /// Those of [`Self::expect_clocks`]; see [`Transport`].
    fn reset(&mut self) -> Result<()> {
        self.expect_clocks()?;
        self.pulse_reset()
    }

    /// Resets all kernels before their memory is freed: even if the clocks' status cannot be read,
    /// which does not say that a clock is missing.
    ///
    /// # Errors
    /// See [`Self::reset`].
    fn stop(&mut self) -> Result<()> {
        match self.clocks() {
            Ok(_) => self.reset(),
            Err(_) => self.pulse_reset(),
        }
    }

    /// Pulses the kernels' reset. The accelerator must have its clocks.
    ///
    /// # Errors
    /// See [`Transport`].
    fn pulse_reset(&mut self) -> Result<()> {
        self.write(register::RESET, 1)?;
        self.sleep(RESET_PULSE);
        self.write(register::RESET, 0)?;
        self.sleep(RESET_RECOVERY);
        Ok(())
    }

    /// Describes the device's last fault beyond its registers; empty if there is nothing more to
    /// report.
    fn diagnosis(&mut self) -> String {
        String::new()
    }

    /// Injects one fault into a simulated device: into the frame after the next `after` frames, or,
    /// for an [`AccessFault`](super::faulty::AccessFault), into the access after the next `after`
    /// accesses of its kind.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for an unknown fault.
    fn inject(&mut self, fault: &str, after: u64) -> Result<()> {
        Err(Error::InvalidValue(format!(
            "{}: fault {fault:?} after {after} frames; only a simulated device injects faults",
            self.name()
        )))
    }
}

/// Bytes of the longest cache line of all supported processors.
pub const CACHE_LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_stays_in_its_buffer() {
        let buffer = Buffer {
            index: 0,
            physical: 0,
            bytes: 128,
        };
        assert_eq!(buffer.range(64, 64).unwrap(), 64..128);
        assert!(buffer.range(65, 64).is_err());
        assert!(buffer.range(usize::MAX, 2).is_err());
    }

    #[test]
    fn registers_are_found_by_their_whole_names() {
        assert_eq!(register::FETCH_CTRL, 0);
        assert_eq!(register::RESET, 0x3_0000);
        assert_eq!(register::LOAD_ARENA[3], 0x2_0034);
    }
}
