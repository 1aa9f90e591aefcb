//! Accesses registers and memory for the driver: resets, reads the identity, starts kernels and
//! reads their state.

use std::time::{Duration, Instant};

use quasar_core::error::{Error, Result};

use super::{Driver, InFlight, Reading, StoredSegment};
use crate::host::transport::{register, Transport};
use crate::isa::{ABI, AP_IDLE, AP_START, MAGIC, PORT_BYTES};
use crate::program::Segment;

/// A value that no control register of the accelerator has. A register of another design may have
/// it, and some buses return it at an address without a slave. The buses of Zynq do not: there the
/// access ends in SIGBUS, a kernel panic or a hang (`docs/devices.md`).
const NO_ANSWER: u32 = u32::MAX;

/// The end of a timeout's message.
const RESET_NEXT: &str = "; the accelerator is reset for the next frame";

/// Pause between two polls for the identity, before interrupts are enabled.
const IDENTITY_PAUSE: Duration = Duration::from_micros(20);

impl<T: Transport> Driver<T> {
    /// Resets the accelerator, checks its identity and writes everything in memory anew.
    pub(super) fn reset_and_load(&mut self) -> Result<()> {
        self.counters.count(|counters| &mut counters.resets);
        self.transport.reset()?;
        self.read_identity()?;
        for (enable, which, status) in [
            (
                register::STORE_GIE,
                register::STORE_IER,
                register::STORE_ISR,
            ),
            (
                register::FETCH_GIE,
                register::FETCH_IER,
                register::FETCH_ISR,
            ),
        ] {
            self.transport.write(enable, 1)?;
            self.transport.write(which, 1)?;
            self.clear_interrupt(status)?;
        }
        // Discards an interrupt from before the reset.
        self.transport.wait(Duration::ZERO)?;
        self.interrupted = false;
        self.check_identity()?;
        // Only a reset stops load, so a running load shows that the reset failed.
        self.expect_idle("load", register::LOAD_CTRL)?;
        for port in 0..self.stripes.len() {
            let address = self.stripes[port].physical;
            self.write_address(register::LOAD_ARENA[port], address)?;
        }
        self.transport.write(register::LOAD_SEED, self.arena_seed)?;
        self.transport.write(register::LOAD_CTRL, AP_START)?;
        for stored in &self.stored {
            let StoredSegment { segment, seed, .. } = *stored;
            let commands = self.program.command_bytes(segment, seed, self.arena_seed);
            self.transport
                .copy_in(&self.commands, stored.offset, &commands)?;
        }
        self.transport
            .flush(&self.commands, 0, self.commands.bytes)?;
        let arena = self.program.keyed_arena(self.arena_seed);
        self.write_stripes(&arena, 0, self.arena_bytes)?;
        let mut staged = std::mem::take(&mut self.staged);
        let written = staged
            .iter_mut()
            .try_for_each(|frame| self.write_input(frame));
        self.staged = staged;
        written?;
        self.ready = true;
        Ok(())
    }

    /// Starts fetch without commands, since each run of fetch writes the identity's registers.
    fn read_identity(&mut self) -> Result<()> {
        self.expect_idle("fetch", register::FETCH_CTRL)?;
        self.transport.write(register::FETCH_COUNT, 0)?;
        self.transport.write(register::FETCH_CTRL, AP_START)?;
        let started = self.transport.now();
        loop {
            // The time before the register access: a thread that slept past the deadline still
            // accepts a completion in time.
            let late = self.transport.now() >= started + self.deadlines.identity;
            if self.is_idle(register::FETCH_CTRL)? {
                return Ok(());
            }
            if late {
                return Err(self.timeout("the accelerator's identity", started));
            }
            self.check_open()?;
            self.transport.sleep(IDENTITY_PAUSE);
        }
    }

    /// Compares the accelerator's identity with that of the program.
    pub(super) fn check_identity(&mut self) -> Result<()> {
        let mut read = |register| self.transport.read(register).map(u64::from);
        let hash = read(register::FETCH_HASH_HIGH)? << 32 | read(register::FETCH_HASH_LOW)?;
        let found = [
            (
                "magic number",
                read(register::FETCH_MAGIC)?,
                u64::from(MAGIC),
            ),
            ("interface version", read(register::FETCH_ABI)?, ABI.into()),
            ("configuration hash", hash, self.configuration_hash),
        ];
        for (what, found, expected) in found {
            if found != expected {
                return Err(Error::WrongBitstream {
                    device: self.transport.name(),
                    what,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Writes a frame's input to memory, with a new nonce.
    pub(super) fn write_input(&mut self, frame: &mut InFlight) -> Result<()> {
        self.nonce = self.nonce.wrapping_add(1).max(1);
        let old = std::mem::replace(&mut frame.nonce, self.nonce);
        self.program
            .change_input_key(&mut frame.job.input, old ^ self.nonce);
        let offset = self.arena_bytes + frame.input * self.input_bytes;
        self.write_stripes(&frame.job.input, offset, self.input_bytes)
    }

    /// Splits whole logical beats into the stripes and flushes `bytes` bytes of each.
    fn write_stripes(&mut self, beats: &[u8], offset: usize, bytes: usize) -> Result<()> {
        let beat = PORT_BYTES * self.stripes.len();
        let mut stripe = Vec::with_capacity(beats.len() / self.stripes.len());
        for (port, buffer) in self.stripes.iter().enumerate() {
            stripe.clear();
            for beat in beats.chunks_exact(beat) {
                stripe.extend_from_slice(&beat[PORT_BYTES * port..][..PORT_BYTES]);
            }
            self.transport.copy_in(buffer, offset, &stripe)?;
            self.transport.flush(buffer, offset, bytes)?;
        }
        Ok(())
    }

    /// Starts store for the oldest frame.
    pub(super) fn start_store(&mut self) -> Result<()> {
        self.expect_idle("store", register::STORE_CTRL)?;
        self.clear_interrupt(register::STORE_ISR)?;
        self.transport
            .copy_in(&self.output, 0, &vec![0; self.output.bytes])?;
        self.transport.flush(&self.output, 0, self.output.bytes)?;
        self.write_address(register::STORE_OUTPUT, self.output.physical)?;
        self.transport
            .write(register::STORE_COUNT, self.program.logits() as u32)?;
        self.store_started = self.transport.now();
        self.transport.write(register::STORE_CTRL, AP_START)
    }

    /// Starts fetch for a segment. `finishes` is true if the segment finishes a frame.
    pub(super) fn start_fetch(&mut self, segment: Segment, finishes: bool) -> Result<()> {
        self.expect_idle("fetch", register::FETCH_CTRL)?;
        let Some(&StoredSegment {
            offset,
            count,
            seed,
            took,
            ..
        }) = self.stored.iter().find(|stored| stored.segment == segment)
        else {
            unreachable!("each segment is stored")
        };
        self.write_address(
            register::FETCH_COMMANDS,
            self.commands.physical + offset as u64,
        )?;
        self.transport.write(register::FETCH_COUNT, count)?;
        self.transport.write(register::FETCH_SEED, seed)?;
        if let Some(frame) = &self.half {
            let first = self.arena_bytes + frame.input * self.input_bytes;
            self.transport
                .write(register::FETCH_INPUT, (first / PORT_BYTES) as u32)?;
        }
        let started = self.transport.now();
        self.reading = Some(Reading {
            segment,
            finishes,
            started,
            busy_until: started + took * 3 / 4,
        });
        self.transport.write(register::FETCH_CTRL, AP_START)
    }

    fn write_address(&mut self, low: u32, address: u64) -> Result<()> {
        self.transport.write(low, address as u32)?;
        self.transport.write(low + 4, (address >> 32) as u32)
    }

    /// Returns true if a kernel is idle. Uses `AP_IDLE`, because a read clears `AP_DONE`.
    pub(super) fn is_idle(&mut self, control: u32) -> Result<bool> {
        match self.transport.read(control)? {
            NO_ANSWER => Err(self.fault(
                "a control register reads as all ones: what answers there is not the accelerator"
                    .into(),
            )),
            value => Ok(value & (AP_START | AP_IDLE) == AP_IDLE),
        }
    }

    fn expect_idle(&mut self, kernel: &str, control: u32) -> Result<()> {
        if self.is_idle(control)? {
            Ok(())
        } else {
            Err(self.fault(format!("{kernel} is busy before it is started")))
        }
    }

    /// Clears a kernel's interrupt. `status` is the offset of its ISR.
    pub(super) fn clear_interrupt(&mut self, status: u32) -> Result<()> {
        match self.transport.read(status)? {
            0 => Ok(()),
            set => self.transport.write(status, set),
        }
    }

    /// Returns a device fault with the transport's diagnosis.
    pub(super) fn fault(&mut self, problem: String) -> Error {
        let details = self.transport.diagnosis();
        Error::DeviceFault {
            device: self.transport.name(),
            problem: if details.is_empty() {
                problem
            } else {
                format!("{problem}; {details}")
            },
        }
    }

    /// Returns a timeout with the transport's diagnosis. `started` is the begin of the wait.
    pub(super) fn timeout(&mut self, what: &'static str, started: Instant) -> Error {
        let details = self.transport.diagnosis();
        Error::DeviceTimeout {
            device: self.transport.name(),
            what,
            waited: self.transport.now() - started,
            details: if details.is_empty() {
                RESET_NEXT.into()
            } else {
                format!("; {details}{RESET_NEXT}")
            },
        }
    }
}
