//! Injects faults into single accesses of another transport.
//!
//! Depends on [`crate::host::transport`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quasar_core::error::Result;

use crate::host::transport::{register, Buffer, Transport, CACHE_LINE};
use crate::isa::{sealed, Command, RowsCommand, AP_IDLE, AP_START, COMMAND_BYTES};

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Write,
    Start,
    Flush,
    Invalidate,
    Wait,
}

/// Declares the faults: affected access, name and meaning.
macro_rules! faults {
    ($( #[doc = $about:literal] $fault:ident $access:ident $name:literal )*) => {
        /// A fault of one access.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum AccessFault { $( #[doc = $about] $fault, )* }

        impl AccessFault {
            /// All faults.
            pub const ALL: &[Self] = &[$( Self::$fault, )*];

            /// Returns the fault's name for [`Transport::inject`].
            pub const fn name(self) -> &'static str {
                match self { $( Self::$fault => $name, )* }
            }

            const fn access(self) -> Access {
                match self { $( Self::$fault => Access::$access, )* }
            }
        }
    };
}

faults! {
    /// A register keeps its value.
    LostWrite Write "lost_write"
    /// A register is written twice in a row.
    DoubledWrite Write "doubled_write"
    /// A register is written again, some accesses later.
    RepeatedWrite Write "repeated_write"
    /// A write follows the next write, if no read is between the two.
    ReorderedWrite Write "reordered_write"
    /// A write changes only the high half of a register.
    TornWrite Write "torn_write"
    /// After a write, another register gets a wrong value.
    StrayWrite Write "stray_write"
    /// A kernel is not started.
    LostStart Start "lost_start"
    /// A kernel starts again as soon as it is idle.
    DoubledStart Start "doubled_start"
    /// Before a start, another driver writes fetch's registers.
    ForeignCommands Start "foreign_commands"
    /// The host's writes stay in its cache.
    LostFlush Flush "lost_flush"
    /// Some cache lines of a range stay in the host's cache.
    PartialFlush Flush "partial_flush"
    /// A range is flushed some accesses later.
    LateFlush Flush "late_flush"
    /// The host keeps its old lines.
    LostInvalidate Invalidate "lost_invalidate"
    /// The host keeps some of its old lines.
    PartialInvalidate Invalidate "partial_invalidate"
    /// A range is invalidated some accesses later.
    LateInvalidate Invalidate "late_invalidate"
    /// An interrupt precedes every completion.
    EarlyInterrupt Wait "early_interrupt"
    /// An interrupt is delayed to the next wait.
    LateInterrupt Wait "late_interrupt"
    /// An interrupt is repeated at once.
    DoubledInterrupt Wait "doubled_interrupt"
    /// An interrupt is repeated some accesses later.
    StaleInterrupt Wait "stale_interrupt"
}

/// Longest delay of a late access, in accesses.
const LATEST: u64 = 40;

/// A delayed access.
#[derive(Clone, Debug)]
enum Late {
    Write(u32, u32),
    Flush(Buffer, usize, usize),
    Invalidate(Buffer, usize, usize),
    Interrupt,
}

/// A transport that can inject faults into single accesses of `T`.
///
/// [`Transport::inject`] takes the name of an [`AccessFault`] and the number of accesses of its
/// kind before the fault. It forwards other names to the inner transport.
pub struct Faulty<T> {
    inner: T,
    /// Pending faults, and the number of accesses of their kind before each.
    planned: Vec<(AccessFault, u64)>,
    /// Delayed accesses, and the number of accesses before each.
    late: Vec<(Late, u64)>,
    /// The write that follows the next write.
    overtaken: Option<(u32, u32)>,
    /// `AP_CTRL` of the kernel to start again.
    restarted: Option<u32>,
    /// Last value of each register.
    written: BTreeMap<u32, u32>,
    /// The first buffer, which holds the driver's commands, and its contents.
    commands: Option<(Buffer, Vec<u8>)>,
    /// Memory of another driver's commands.
    foreign: Option<Buffer>,
    /// True if the next wait ends with an interrupt.
    interrupt: bool,
    /// Accesses so far.
    accesses: u64,
    /// Number of injected faults that took effect.
    fired: Arc<AtomicU64>,
}

impl<T: Transport> Faulty<T> {
    /// Wraps a transport; it behaves as `inner` until faults are injected.
    pub fn new(inner: T) -> Self {
        Self {
            inner,
            planned: Vec::new(),
            late: Vec::new(),
            overtaken: None,
            restarted: None,
            written: BTreeMap::new(),
            commands: None,
            foreign: None,
            interrupt: false,
            accesses: 0,
            fired: Arc::default(),
        }
    }

    /// Returns the shared counter of faults that took effect.
    #[cfg(test)]
    pub(crate) fn fired(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.fired)
    }

    /// Returns the fault due at an access, and decrements the counts of the others. If several
    /// faults are due, one takes effect; the others wait for the next access of their kind.
    fn fault(&mut self, access: Access) -> Option<AccessFault> {
        let mut now = None;
        self.planned.retain_mut(|(fault, before)| {
            if fault.access() != access || now.is_some() {
                return true;
            }
            if *before == 0 {
                now = Some(*fault);
                return false;
            }
            *before -= 1;
            true
        });
        self.fired
            .fetch_add(u64::from(now.is_some()), Ordering::Relaxed);
        now
    }

    /// Makes the delayed accesses that are due.
    fn catch_up(&mut self) -> Result<()> {
        self.accesses += 1;
        let mut due = Vec::new();
        self.late.retain_mut(|(late, before)| {
            if *before == 0 {
                due.push(late.clone());
                return false;
            }
            *before -= 1;
            true
        });
        for late in due {
            match late {
                Late::Write(register, value) => self.inner.write(register, value)?,
                Late::Flush(buffer, offset, bytes) => self.inner.flush(&buffer, offset, bytes)?,
                Late::Invalidate(buffer, offset, bytes) => {
                    self.inner.invalidate(&buffer, offset, bytes)?;
                }
                Late::Interrupt => self.interrupt = true,
            }
        }
        Ok(())
    }

    /// Returns a number below a bound that varies from access to access.
    fn vary(&self, below: u64) -> u64 {
        (self.accesses.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % below
    }

    /// Returns one of the registers written so far, and a value that it is unlikely to have.
    fn stray_write(&self) -> (u32, u32) {
        let place = self.vary(self.written.len() as u64) as usize;
        let (&register, &last) = self.written.iter().nth(place).unwrap_or((&0, &0));
        // A different factor than in `vary`, so that registers and values are combined freely.
        let random = (self.accesses.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32;
        let values = [
            0,
            1,
            u32::MAX,
            random,
            last.wrapping_add(4),
            last.wrapping_sub(4),
        ];
        (register, values[random as usize % values.len()])
    }

    /// Writes fetch's registers like a driver of another subnet: with its commands, memory, seed
    /// and key. The other subnet has the same shape with other zero points, or another shape,
    /// represented by the commands of other segments.
    fn write_foreign_commands(&mut self) -> Result<()> {
        let register = |register| self.written.get(&register).copied().unwrap_or_default();
        let Some((buffer, bytes)) = &self.commands else {
            return Ok(());
        };
        let same_shape = self.vary(2) == 0;
        let count = register(register::FETCH_COUNT) as usize;
        let address = u64::from(register(register::FETCH_COMMANDS + 4)) << 32
            | u64::from(register(register::FETCH_COMMANDS));
        let first = address.wrapping_sub(buffer.physical) as usize;
        let own = if same_shape { first } else { 0 };
        let Some(list) = bytes.get(own..own.saturating_add(count * COMMAND_BYTES)) else {
            return Ok(());
        };
        let words: Vec<u32> = list
            .as_chunks()
            .0
            .iter()
            .map(|&word| u32::from_le_bytes(word))
            .collect();
        let seed = 0x0dd_5eed ^ self.accesses as u32;
        let theirs = |words: &[u32; COMMAND_BYTES / 4]| {
            let mut words = *words;
            words[COMMAND_BYTES / 4 - 1] = 0;
            let changed = match Command::decode(&words).ok()?.with_key(seed) {
                Command::Rows(rows) => Command::Rows(RowsCommand {
                    zero_point: rows.zero_point ^ 1,
                    ..rows
                }),
                other => other,
            };
            changed.encode().ok()
        };
        let commands: Vec<_> = words.as_chunks().0.iter().filter_map(theirs).collect();
        let bytes: Vec<u8> = sealed(&commands, seed)
            .iter()
            .flatten()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let memory = match self.foreign.take() {
            Some(memory) => memory,
            None => self.inner.allocate(buffer.bytes)?,
        };
        self.inner.copy_in(&memory, 0, &bytes)?;
        self.inner.flush(&memory, 0, memory.bytes)?;
        for (register, value) in [
            (register::FETCH_COMMANDS, memory.physical as u32),
            (register::FETCH_COMMANDS + 4, (memory.physical >> 32) as u32),
            (register::FETCH_COUNT, commands.len() as u32),
            (register::FETCH_SEED, seed),
        ] {
            self.inner.write(register, value)?;
        }
        self.foreign = Some(memory);
        Ok(())
    }

    fn postpone(&mut self, late: Late) {
        let before = 1 + self.vary(LATEST);
        self.late.push((late, before));
    }

    /// Returns the cache lines of a partial maintenance: those before or after a chosen line.
    fn part(&self, offset: usize, bytes: usize) -> (usize, usize) {
        let lines = (bytes / CACHE_LINE) as u64;
        let split = CACHE_LINE * self.vary(lines + 1) as usize;
        if self.vary(2) == 0 {
            (offset, split)
        } else {
            (offset + split, bytes - split)
        }
    }
}

impl<T: Transport> Transport for Faulty<T> {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn clocks(&mut self) -> Result<Option<u32>> {
        self.inner.clocks()
    }

    fn read(&mut self, register: u32) -> Result<u32> {
        self.catch_up()?;
        if let Some((register, value)) = self.overtaken.take() {
            self.inner.write(register, value)?;
        }
        let value = self.inner.read(register)?;
        if self.restarted == Some(register) && value & (AP_START | AP_IDLE) == AP_IDLE {
            self.restarted = None;
            self.inner.write(register, AP_START)?;
        }
        Ok(value)
    }

    fn write(&mut self, register: u32, value: u32) -> Result<()> {
        self.catch_up()?;
        let starts = matches!(register, register::FETCH_CTRL | register::STORE_CTRL);
        let fault = match self.fault(Access::Write) {
            None if starts => self.fault(Access::Start),
            fault => fault,
        };
        let before = self.written.insert(register, value).unwrap_or_default();
        let overtaken = self.overtaken.take();
        if fault == Some(AccessFault::ForeignCommands) && register == register::FETCH_CTRL {
            self.write_foreign_commands()?;
        }
        match fault {
            Some(AccessFault::LostWrite | AccessFault::LostStart) => {}
            Some(AccessFault::ReorderedWrite) => self.overtaken = Some((register, value)),
            Some(AccessFault::TornWrite) => {
                let torn = value & 0xffff_0000 | before & 0xffff;
                self.inner.write(register, torn)?;
            }
            _ => self.inner.write(register, value)?,
        }
        match fault {
            Some(AccessFault::DoubledWrite) => self.inner.write(register, value)?,
            Some(AccessFault::RepeatedWrite) => self.postpone(Late::Write(register, value)),
            Some(AccessFault::StrayWrite) => {
                let (register, value) = self.stray_write();
                self.inner.write(register, value)?;
            }
            Some(AccessFault::DoubledStart) => self.restarted = Some(register),
            _ => {}
        }
        match overtaken {
            Some((register, value)) => self.inner.write(register, value),
            None => Ok(()),
        }
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer> {
        let buffer = self.inner.allocate(bytes)?;
        let commands = || (buffer.clone(), vec![0; bytes]);
        self.commands.get_or_insert_with(commands);
        Ok(buffer)
    }

    fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
        match &mut self.commands {
            Some((commands, bytes)) if commands.index == buffer.index => {
                bytes[offset..offset + data.len()].copy_from_slice(data);
            }
            _ => {}
        }
        self.inner.copy_in(buffer, offset, data)
    }

    fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
        self.inner.copy_out(buffer, offset, out)
    }

    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.catch_up()?;
        match self.fault(Access::Flush) {
            Some(AccessFault::LostFlush) => Ok(()),
            Some(AccessFault::PartialFlush) => {
                let (offset, bytes) = self.part(offset, bytes);
                self.inner.flush(buffer, offset, bytes)
            }
            Some(AccessFault::LateFlush) => {
                self.postpone(Late::Flush(buffer.clone(), offset, bytes));
                Ok(())
            }
            _ => self.inner.flush(buffer, offset, bytes),
        }
    }

    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.catch_up()?;
        match self.fault(Access::Invalidate) {
            Some(AccessFault::LostInvalidate) => Ok(()),
            Some(AccessFault::PartialInvalidate) => {
                let (offset, bytes) = self.part(offset, bytes);
                self.inner.invalidate(buffer, offset, bytes)
            }
            Some(AccessFault::LateInvalidate) => {
                self.postpone(Late::Invalidate(buffer.clone(), offset, bytes));
                Ok(())
            }
            _ => self.inner.invalidate(buffer, offset, bytes),
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        self.catch_up()?;
        if std::mem::take(&mut self.interrupt) {
            return Ok(true);
        }
        // Only an interrupt that occurs can be late.
        let came = match self
            .planned
            .iter()
            .find(|(f, n)| f.access() == Access::Wait && *n == 0)
        {
            Some((AccessFault::EarlyInterrupt, _)) => true,
            _ => self.inner.wait(timeout)?,
        };
        if !came {
            return Ok(false);
        }
        match self.fault(Access::Wait) {
            Some(AccessFault::LateInterrupt) => {
                self.interrupt = true;
                return Ok(false);
            }
            Some(AccessFault::DoubledInterrupt) => self.interrupt = true,
            Some(AccessFault::StaleInterrupt) => self.postpone(Late::Interrupt),
            _ => {}
        }
        Ok(true)
    }

    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn sleep(&mut self, time: Duration) {
        self.inner.sleep(time);
    }

    fn diagnosis(&mut self) -> String {
        self.inner.diagnosis()
    }

    fn inject(&mut self, fault: &str, after: u64) -> Result<()> {
        match AccessFault::ALL.iter().find(|known| known.name() == fault) {
            Some(&known) => {
                self.planned.push((known, after));
                Ok(())
            }
            None => self.inner.inject(fault, after),
        }
    }
}
