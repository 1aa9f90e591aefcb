//! A transport that fails on purpose: it spoils single accesses of another one.
//!
//! Depends on [`crate::transport`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quasar_core::error::Result;

use crate::isa::{sealed, Command, RowsCommand, AP_IDLE, AP_START, COMMAND_BYTES};
use crate::transport::{register, Buffer, Transport, CACHE_LINE};

/// A kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Write,
    Start,
    Flush,
    Invalidate,
    Wait,
}

/// Declares the faults: the access that each spoils, its name and its meaning.
macro_rules! faults {
    ($( #[doc = $about:literal] $fault:ident $access:ident $name:literal )*) => {
        /// A fault of one access.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum AccessFault { $( #[doc = $about] $fault, )* }

        impl AccessFault {
            /// All faults.
            pub const ALL: &[Self] = &[$( Self::$fault, )*];

            /// Returns the name by which [`Transport::inject`] knows the fault.
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
    /// A register is written after the next one, if no register is read between the two.
    ReorderedWrite Write "reordered_write"
    /// The low half of a register keeps its value.
    TornWrite Write "torn_write"
    /// Another value is written to some register behind a write.
    StrayWrite Write "stray_write"
    /// A kernel is not started.
    LostStart Start "lost_start"
    /// A kernel is started again as soon as it is idle.
    DoubledStart Start "doubled_start"
    /// Another driver has written its registers of fetch in front of a start.
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
    /// An interrupt comes before anything is done.
    EarlyInterrupt Wait "early_interrupt"
    /// An interrupt comes with the next wait.
    LateInterrupt Wait "late_interrupt"
    /// An interrupt comes twice.
    DoubledInterrupt Wait "doubled_interrupt"
    /// An interrupt comes again, some accesses later.
    StaleInterrupt Wait "stale_interrupt"
}

/// Most accesses by which a late one is late.
const LATEST: u64 = 40;

/// An access that is still to come.
#[derive(Clone, Debug)]
enum Late {
    Write(u32, u32),
    Flush(Buffer, usize, usize),
    Invalidate(Buffer, usize, usize),
    Interrupt,
}

/// A transport of which single accesses can be spoiled.
///
/// [`Transport::inject`] takes the name of an [`AccessFault`] and the number of accesses of its
/// kind that are still to succeed; other names go to the transport within.
pub struct Faulty<T> {
    inner: T,
    /// Faults, and the accesses of their kind before them.
    planned: Vec<(AccessFault, u64)>,
    /// Accesses to come, and the accesses before them.
    late: Vec<(Late, u64)>,
    /// The write that comes after the next one.
    overtaken: Option<(u32, u32)>,
    /// `AP_CTRL` of the kernel that will be started again.
    restarted: Option<u32>,
    /// Last value of each register.
    written: BTreeMap<u32, u32>,
    /// The first buffer, which holds the driver's commands, with its contents.
    commands: Option<(Buffer, Vec<u8>)>,
    /// The memory of another driver's commands.
    foreign: Option<Buffer>,
    /// The next wait ends by an interrupt.
    interrupt: bool,
    /// Accesses so far.
    accesses: u64,
    /// Planned faults that took effect.
    fired: Arc<AtomicU64>,
}

impl<T: Transport> Faulty<T> {
    /// Returns a transport that behaves as `inner` until faults are injected.
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

    /// Returns the count of the planned faults that took effect, which goes on counting.
    #[cfg(test)]
    pub(crate) fn fired(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.fired)
    }

    /// Returns the fault that is due at an access, and takes the access off the counts of others.
    /// Of several that are due, the last ones wait for the next access of their kind.
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

    /// Makes the late accesses whose time has come.
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

    /// Returns a number below a bound that differs from access to access.
    fn vary(&self, below: u64) -> u64 {
        (self.accesses.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % below
    }

    /// Returns one of the registers that were written so far, and a value that it hardly has.
    fn stray_write(&self) -> (u32, u32) {
        let place = self.vary(self.written.len() as u64) as usize;
        let (&register, &last) = self.written.iter().nth(place).unwrap_or((&0, &0));
        // Another factor, so that each register gets each kind of value.
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

    /// Writes the registers that fetch is about to be started with as a driver of another subnet
    /// would: its commands in its memory, with its seed and key. The other subnet has the same
    /// shape and other zero points, or another shape, for which other segments' commands stand.
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

    /// Returns the cache lines that a partial maintenance covers: those before or behind one.
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
        // An interrupt that does not come cannot be late.
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
