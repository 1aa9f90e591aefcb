//! How the driver reaches an accelerator: registers, DMA memory, the interrupt.
//!
//! Depends on [`crate::isa`] and [`quasar_core::error`].

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use quasar_core::error::{Error, Result};

use crate::isa::REGISTERS;

/// Offset of a register, at compile time; a name that is not declared does not compile.
const fn offset(name: &str) -> u32 {
    let name = name.as_bytes();
    let mut register = 0;
    while register < REGISTERS.len() {
        let candidate = REGISTERS[register].name.as_bytes();
        let mut at = 0;
        while at < name.len() && at < candidate.len() && name[at] == candidate[at] {
            at += 1;
        }
        if at == name.len() && at == candidate.len() {
            return REGISTERS[register].offset;
        }
        register += 1;
    }
    panic!("no such register")
}

/// Offsets of the registers that the driver uses.
pub mod register {
    use super::offset;
    use crate::isa::MAX_PORTS;

    /// `AP_CTRL` of fetch.
    pub const FETCH_CTRL: u32 = offset("fetch_CTRL");
    /// Address of a segment's commands.
    pub const FETCH_COMMANDS: u32 = offset("fetch_COMMANDS");
    /// Number of commands.
    pub const FETCH_COUNT: u32 = offset("fetch_COUNT");
    /// First beat of the patches.
    pub const FETCH_INPUT: u32 = offset("fetch_INPUT");
    /// What the commands' checks go on from.
    pub const FETCH_SEED: u32 = offset("fetch_SEED");
    /// What an identity begins with.
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
    /// What the trailer repeats.
    pub const STORE_TAG: u32 = offset("store_TAG");
    /// `AP_CTRL` of load.
    pub const LOAD_CTRL: u32 = offset("load_CTRL");
    /// Address of each stripe of the arena.
    pub const LOAD_ARENA: [u32; MAX_PORTS] = [
        offset("load_ARENA0"),
        offset("load_ARENA1"),
        offset("load_ARENA2"),
        offset("load_ARENA3"),
    ];
    /// Holds all kernels in reset.
    pub const RESET: u32 = offset("reset");
}

/// How long the kernels are held in reset: the AXI ports are drained first, which takes a millisecond at most.
const RESET_PULSE: Duration = Duration::from_millis(2);
/// How long they are left alone afterwards.
const RESET_RECOVERY: Duration = Duration::from_micros(100);

/// DMA memory: contiguous for the device, and not moved. It lives as long as the transport that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Which of the transport's buffers it is.
    pub index: usize,
    /// Its address as the device sees it.
    pub physical: u64,
    /// Its size.
    pub bytes: usize,
}

impl Buffer {
    /// The range `offset..offset + bytes` of this buffer.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] where it leaves the buffer.
    pub fn range(&self, offset: usize, bytes: usize) -> Result<Range<usize>> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(offset..end),
            _ => Err(Error::InvalidValue(format!(
                "bytes {offset} to {offset} + {bytes} of a buffer of {}",
                self.bytes
            ))),
        }
    }
}

/// A way to an accelerator. The host sees DMA memory through its cache: what it wrote reaches the device by [`Self::flush`], what
/// the device wrote reaches the host by [`Self::invalidate`]. Whoever calls aligns both to [`CACHE_LINE`].
///
/// Every method fails with [`Error::DeviceFault`] where the way itself is broken.
pub trait Transport: Send {
    /// The device in words, for messages.
    fn name(&self) -> String;

    /// A register's value.
    ///
    /// # Errors
    /// See [`Transport`].
    fn read(&mut self, register: u32) -> Result<u32>;

    /// Sets a register.
    ///
    /// # Errors
    /// See [`Transport`].
    fn write(&mut self, register: u32, value: u32) -> Result<()>;

    /// DMA memory, aligned to [`CACHE_LINE`].
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] where there is not as much.
    fn allocate(&mut self, bytes: usize) -> Result<Buffer>;

    /// Copies `data` to the host's view of a buffer.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] where it leaves the buffer.
    fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()>;

    /// Copies the host's view of a buffer to `out`.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] where it leaves the buffer.
    fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()>;

    /// Makes what the host wrote to a range visible to the device.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] where it leaves the buffer; see [`Transport`].
    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()>;

    /// Makes what the device wrote to a range visible to the host.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] where it leaves the buffer; see [`Transport`].
    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()>;

    /// Waits for the interrupt. `false`: there was none in that time. An interrupt is a hint: it may come without a reason, or be lost.
    ///
    /// # Errors
    /// See [`Transport`].
    fn wait(&mut self, timeout: Duration) -> Result<bool>;

    /// The time that deadlines are kept in. A test may have its own.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Lets time pass.
    fn sleep(&mut self, time: Duration) {
        thread::sleep(time);
    }

    /// Resets all kernels and clears their registers; memory stays as it is. While they are held in reset nobody answers on the bus, so
    /// no other register may be touched.
    ///
    /// # Errors
    /// See [`Transport`].
    fn reset(&mut self) -> Result<()> {
        self.write(register::RESET, 1)?;
        self.sleep(RESET_PULSE);
        self.write(register::RESET, 0)?;
        self.sleep(RESET_RECOVERY);
        Ok(())
    }

    /// What the device says of its last fault, where it can say more than registers do; or nothing.
    fn diagnosis(&mut self) -> String {
        String::new()
    }

    /// Lets the simulated device misbehave once, in the frame after `after_frames` others.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a fault that it does not know.
    fn inject(&mut self, fault: &str, after_frames: u64) -> Result<()> {
        Err(Error::InvalidValue(format!(
            "{}: fault {fault:?} after {after_frames} frames; only a simulated device injects faults",
            self.name()
        )))
    }
}

/// Bytes of the longest cache line of the processors in question.
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
