//! Tests a new board below the level of frames: identity, registers, memory, transfers.
//!
//! Each trial relies on the earlier trials. A trial returns its findings; an error is a failed
//! access. No trial runs a computing unit: fetch reads commands, load reads patches, and store
//! writes a trailer without logits.
//!
//! Depends on [`super::transport`], [`super::watch`], [`crate::isa`], [`crate::identity`] and
//! [`crate::shape`].

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quasar_core::cpu::NEVER;
use quasar_core::error::{Error, Result};
use quasar_hardware::Hardware;

use crate::arena_layout;
use crate::host::transport::{register, Buffer, Transport, CACHE_LINE};
use crate::host::watch::{lock, Watch, Watched, Worker, CLOSE_LIMIT};
use crate::identity::configuration_hash;
use crate::isa::{
    change_key, check, sealed, trailer, Command, Load, LoadEnd, Target, ABI, AP_IDLE, AP_START,
    CHECK_WORD, COMMAND_WORDS, MAGIC, PORT_BYTES, REGISTERS,
};
use crate::shape::Shape;

/// Bytes of each buffer in the memory trial.
const MEMORY_BYTES: usize = 1 << 18;
/// Number of transfers, each from a different offset in memory.
const TRANSFERS: usize = 16;
/// Seed of the keys of the arena's checks.
const ARENA_SEED: u32 = 0x5eed_a12e;
/// Most differences that a trial lists.
const MOST_LISTED: usize = 8;
/// Time within which a command takes effect if fetch sends it by mistake.
const REFUSAL_PAUSE: Duration = Duration::from_millis(50);
/// The problem of an output that does not report a wrong transfer.
const UNREPORTED: &str = "the status is 0 instead of 1";
/// Longest wait for an interrupt before the register is polled.
const INTERRUPT_SLICE: Duration = Duration::from_millis(10);

/// A value of the identity, found and expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityPart {
    /// Name of the value.
    pub what: &'static str,
    /// Value that the device reports.
    pub found: u64,
    /// Value of the configuration.
    pub expected: u64,
}

/// A register or memory word that did not keep the written value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Register, or buffer and offset.
    pub place: String,
    /// Value that was written.
    pub written: u32,
    /// Value that was read.
    pub read: u32,
}

/// Findings of the transfer trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Number of transfers.
    pub runs: usize,
    /// Number of store's interrupts.
    pub interrupts: usize,
    /// The suspected kernel and the problem of each failed transfer.
    pub problems: Vec<(&'static str, String)>,
}

/// Expected values of an output's trailer.
#[derive(Clone, Copy, Debug)]
struct Trailer {
    nonce: u32,
    status: u32,
}

/// Memory of the trials.
#[derive(Clone, Debug)]
struct Memory {
    commands: Buffer,
    output: Buffer,
    /// One for each AXI port.
    stripes: Vec<Buffer>,
}

/// Runs the trials on a device.
pub struct Trials {
    transport: Box<dyn Transport>,
    hardware: Hardware,
    /// Limit of each wait.
    limit: Duration,
    memory: Option<Memory>,
}

impl Trials {
    /// Prepares the trials of a device with this expected configuration.
    pub fn new(transport: Box<dyn Transport>, hardware: Hardware, limit: Duration) -> Self {
        Self {
            transport,
            hardware,
            limit,
            memory: None,
        }
    }

    /// Injects one fault into a simulated device: see [`Transport::inject`].
    ///
    /// # Errors
    /// [`Error::InvalidValue`] for a device that is not simulated.
    pub fn inject(&mut self, fault: &str, after: u64) -> Result<()> {
        self.transport.inject(fault, after)
    }

    /// Waits until the accelerator has its clocks, without an access to a register. Returns false
    /// if nothing shows its clocks.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] if a clock is missing or wrong; [`Error::DeviceFault`].
    pub fn clocks(&mut self) -> Result<bool> {
        self.transport.expect_clocks()?;
        Ok(self.transport.clocks()?.is_some())
    }

    /// Resets the device and reads its identity.
    ///
    /// # Errors
    /// [`Error::DeviceTimeout`] if fetch does not report the identity; [`Error::DeviceFault`].
    pub fn identity(&mut self) -> Result<Vec<IdentityPart>> {
        self.transport.reset()?;
        for (kernel, control) in [
            ("fetch", register::FETCH_CTRL),
            ("store", register::STORE_CTRL),
            ("load", register::LOAD_CTRL),
        ] {
            let value = self.transport.read(control)?;
            if value & (AP_START | AP_IDLE) != AP_IDLE || value == u32::MAX {
                return Err(self.fault(format!(
                    "AP_CTRL of {kernel} is {value:#x} after a reset; an idle kernel has {AP_IDLE}"
                )));
            }
        }
        self.transport.write(register::FETCH_COUNT, 0)?;
        self.transport.write(register::FETCH_CTRL, AP_START)?;
        if !self.wait_until_idle(register::FETCH_CTRL)? {
            return Err(self.timeout("the accelerator's identity"));
        }
        let mut read = |register| self.transport.read(register).map(u64::from);
        let hash = read(register::FETCH_HASH_HIGH)? << 32 | read(register::FETCH_HASH_LOW)?;
        let part = |what, found, expected| IdentityPart {
            what,
            found,
            expected,
        };
        Ok(vec![
            part("magic number", read(register::FETCH_MAGIC)?, MAGIC.into()),
            part("interface version", read(register::FETCH_ABI)?, ABI.into()),
            part(
                "configuration hash",
                hash,
                configuration_hash(&self.hardware),
            ),
        ])
    }

    /// Writes patterns to all registers without side effects, reads them back and resets the
    /// device. Starts no kernel.
    ///
    /// # Errors
    /// [`Error::DeviceFault`].
    pub fn registers(&mut self) -> Result<Vec<Difference>> {
        self.transport.reset()?;
        let places = self.value_registers();
        let mut differences = Vec::new();
        // Writes all registers before the first read, to detect two registers at the same address.
        for pattern in 0..2 {
            let value = |number: usize| scramble(number as u32) ^ [0, u32::MAX][pattern];
            for (number, &(_, offset)) in places.iter().enumerate() {
                self.transport.write(offset, value(number))?;
            }
            for (number, (name, offset)) in places.iter().enumerate() {
                let read = self.transport.read(*offset)?;
                note(&mut differences, name, value(number), read);
            }
        }
        for (name, offset) in &places {
            for bit in 0..u32::BITS {
                self.transport.write(*offset, 1 << bit)?;
                let read = self.transport.read(*offset)?;
                note(&mut differences, name, 1 << bit, read);
            }
        }
        self.transport.reset()?;
        for (name, offset) in &places {
            // A reset must clear the patterns.
            let read = self.transport.read(*offset)?;
            note(&mut differences, &format!("{name} after a reset"), 0, read);
        }
        Ok(differences)
    }

    /// Returns name and offset of the registers that hold an address, a count or a seed.
    fn value_registers(&self) -> Vec<(String, u32)> {
        let ports = self.hardware.configuration().axi_ports as usize;
        let unused = &register::LOAD_ARENA[ports..];
        let controls = ["_CTRL", "_GIE", "_IER", "_ISR", "_CONTROL"];
        let mut places = Vec::new();
        for declared in REGISTERS {
            let (name, offset) = (declared.name, declared.offset);
            let control = controls.iter().any(|control| name.ends_with(control));
            if !declared.writable
                || control
                || offset == register::RESET
                || unused.contains(&offset)
            {
                continue;
            }
            places.push((name.to_owned(), offset));
            if declared.about.contains("address of") || register::LOAD_ARENA.contains(&offset) {
                places.push((format!("{name} (high word)"), offset + 4));
            }
        }
        places
    }

    /// Writes patterns to DMA memory, makes them visible to the device and reads them back.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] for too little memory; [`Error::DeviceFault`].
    pub fn memory(&mut self) -> Result<Vec<Difference>> {
        let memory = self.allocated()?;
        let mut differences = Vec::new();
        for (port, buffer) in memory.stripes.iter().enumerate() {
            for pattern in [0, u32::MAX] {
                let value = |word: usize| scramble((buffer.physical as usize + word) as u32);
                let words = (0..buffer.bytes / 4).map(|word| value(word) ^ pattern);
                let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
                self.transport.copy_in(buffer, 0, &bytes)?;
                self.transport.flush(buffer, 0, buffer.bytes)?;
                self.transport.invalidate(buffer, 0, buffer.bytes)?;
                let mut read = vec![0; buffer.bytes];
                self.transport.copy_out(buffer, 0, &mut read)?;
                let pairs = arena_layout::words(&bytes).zip(arena_layout::words(&read));
                for (word, (written, read)) in pairs.enumerate() {
                    if written != read {
                        let place = format!("buffer {port}, byte {}", 4 * word);
                        note(&mut differences, &place, written, read);
                    }
                }
            }
        }
        Ok(differences)
    }

    /// Has the device read patches with known checks from several offsets and report the check's
    /// key in an output without logits. Then sends commands and transfers that it must refuse.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] for too little memory; [`Error::DeviceFault`].
    pub fn transfers(&mut self) -> Result<Transfers> {
        let memory = self.allocated()?;
        let mut found = Transfers::default();
        self.reset_and_start_load(&memory)?;
        for run in 0..TRANSFERS {
            found.runs += 1;
            let nonce = scramble(0x1000 + run as u32) | 1;
            let (first, beats) = self.write_patches(&memory, run, nonce)?;
            // Every second address counts from the frame's input.
            let base = if run % 2 == 0 { 0 } else { first / 3 };
            let patches = Load {
                target: Target::Patches,
                input: run % 2 != 0,
                begins: true,
                frame: (run % self.hardware.configuration().frames as usize) as u32,
                beats,
                address: first - base,
                key: ARENA_SEED,
                ..Load::default()
            };
            let end = LoadEnd {
                frame: patches.frame,
                transfers: 0,
            };
            let commands = [patches.into(), end.into()];
            let expected = Trailer { nonce, status: 0 };
            let (problem, interrupted) = self.transfer(&memory, &commands, base, expected)?;
            found.interrupts += usize::from(interrupted);
            if let Some((kernel, problem)) = problem {
                // Fetch adds the frame's first beat, and transfers without that addition were
                // right.
                let added = kernel == "load" && patches.input && found.problems.is_empty();
                let kernel = if added { "fetch" } else { kernel };
                let place = format!("transfer {run}, from beat {first}: {problem}");
                found.problems.push((kernel, place));
                self.reset_and_start_load(&memory)?;
            }
            if found.problems.len() == MOST_LISTED {
                return Ok(found);
            }
        }
        self.arena_transfers(&memory, &mut found.problems)?;
        self.reset_and_start_load(&memory)?;
        // A wrong number of transfers must be reported.
        let end = LoadEnd {
            frame: 0,
            transfers: 1,
        };
        let (problem, _) = self.transfer(
            &memory,
            &[end.into()],
            0,
            Trailer {
                nonce: 0,
                status: 1,
            },
        )?;
        if let Some((kernel, problem)) = problem {
            let place = format!("a wrong count: {problem}");
            found.problems.push((kernel, place));
        }
        // Load detects wrong keys and wrong counts independently; store reports both. So if both
        // are missing, store is suspected.
        let unreported = |(_, problem): &&mut (&str, String)| problem.ends_with(UNREPORTED);
        if found.problems.iter_mut().filter(unreported).count() > 1 {
            for (kernel, _) in found.problems.iter_mut().filter(unreported) {
                *kernel = "store";
            }
        }
        self.refusals(&memory, &mut found.problems)?;
        self.transport.reset()?;
        Ok(found)
    }

    /// Starts fetch without commands while only its interrupt is enabled. Returns the number of
    /// runs and the number of interrupts.
    ///
    /// # Errors
    /// [`Error::DeviceTimeout`] if fetch does not end; [`Error::DeviceFault`].
    pub fn fetch_interrupts(&mut self) -> Result<(usize, usize)> {
        self.transport.reset()?;
        self.transport.write(register::FETCH_GIE, 1)?;
        self.transport.write(register::FETCH_IER, 1)?;
        self.transport.write(register::FETCH_COUNT, 0)?;
        let mut came = 0;
        for _ in 0..TRANSFERS {
            self.clear_interrupt(register::FETCH_ISR)?;
            self.transport.write(register::FETCH_CTRL, AP_START)?;
            let (ended, interrupted) = self.wait_for_end(register::FETCH_CTRL)?;
            if !ended {
                return Err(self.timeout("fetch's end"));
            }
            came += usize::from(interrupted || self.transport.wait(INTERRUPT_SLICE)?);
        }
        self.transport.reset()?;
        Ok((TRANSFERS, came))
    }

    /// Has load read weight transfers of the arena in several frames. Their beats stay in the
    /// queue, because the array has no command.
    fn arena_transfers(
        &mut self,
        memory: &Memory,
        problems: &mut Vec<(&'static str, String)>,
    ) -> Result<()> {
        for (frame, [first, second], seed, status) in [
            ("a frame of two transfers", [0, 1], ARENA_SEED, 0),
            ("a frame with another transfer's key", [0, 2], ARENA_SEED, 1),
            ("a frame after a wrong one", [0, 1], ARENA_SEED, 0),
            ("a frame of another driver", [0, 1], !ARENA_SEED, 1),
            ("a frame after another driver's", [0, 1], ARENA_SEED, 1),
        ] {
            let mut commands = Vec::new();
            for (place, number) in [first, second].into_iter().enumerate() {
                let key = ARENA_SEED ^ number;
                let address = 2 * place;
                self.write_transfer(memory, address, 1, place as u32, key)?;
                let weights = Load {
                    target: Target::Weights,
                    beats: 1,
                    address: address as u32,
                    key: seed,
                    ..Load::default()
                };
                commands.push(weights.into());
            }
            let end = LoadEnd {
                frame: 0,
                transfers: 2,
            };
            commands.push(end.into());
            let (problem, _) = self.transfer(memory, &commands, 0, Trailer { nonce: 0, status })?;
            if let Some((kernel, problem)) = problem {
                problems.push((kernel, format!("{frame}: {problem}")));
                self.reset_and_start_load(memory)?;
            }
        }
        Ok(())
    }

    /// Sends fetch commands that it must refuse.
    fn refusals(
        &mut self,
        memory: &Memory,
        problems: &mut Vec<(&'static str, String)>,
    ) -> Result<()> {
        let end = Command::from(LoadEnd::default()).encode()?;
        let mut unknown = end;
        unknown[0] |= 7; // no unit has this number
        let seed = scramble(9);
        let mut cases = vec![("a command without a unit", sealed(&[end, unknown], seed), 2)];
        for word in 0..COMMAND_WORDS {
            let mut commands = sealed(&[end, end], seed);
            commands[1][word] ^= 1 << (3 * word + 6);
            let what = if word == CHECK_WORD {
                "a command with a wrong check"
            } else {
                "a command with a wrong word"
            };
            cases.push((what, commands, 2));
        }
        cases.push(("a segment of another seed", sealed(&[end], !seed), 1));
        for (what, commands, expected) in cases {
            self.reset_and_start_load(memory)?;
            self.write_commands(memory, &commands)?;
            self.start_fetch(memory, commands.len(), 0, seed)?;
            if !self.wait_until_idle(register::FETCH_CTRL)? {
                problems.push(("fetch", format!("{what}: fetch does not end")));
                continue;
            }
            let error = self.transport.read(register::FETCH_ERROR)?;
            if error != expected {
                problems.push((
                    "fetch",
                    format!("{what}: fetch_ERROR is {error} instead of {expected}"),
                ));
            }
        }
        // Fetch must not send commands after a wrong one: then load reports no frame, and store
        // waits.
        self.reset_and_start_load(memory)?;
        let mut commands = sealed(&[end, end], seed);
        commands[0][1] ^= 1;
        self.write_commands(memory, &commands)?;
        self.write_address(register::STORE_OUTPUT, memory.output.physical)?;
        self.transport.write(register::STORE_COUNT, 0)?;
        self.transport.write(register::STORE_CTRL, AP_START)?;
        self.start_fetch(memory, commands.len(), 0, seed)?;
        let ended = self.wait_until_idle(register::FETCH_CTRL)?;
        self.transport.sleep(REFUSAL_PAUSE);
        if !ended || self.is_idle(register::STORE_CTRL)? {
            let problem = "a command behind a wrong one reaches its unit";
            problems.push(("fetch", problem.into()));
        }
        Ok(())
    }

    /// Runs commands that end with the end of a frame. `base` is the first beat of the frame's
    /// input. Returns the suspected kernel with its problem, and true if there was an interrupt.
    fn transfer(
        &mut self,
        memory: &Memory,
        commands: &[Command],
        base: u32,
        expected: Trailer,
    ) -> Result<(Option<(&'static str, String)>, bool)> {
        let Trailer { nonce, status } = expected;
        let seed = scramble(nonce);
        let words = commands
            .iter()
            .map(|command| command.encode())
            .collect::<Result<Vec<_>>>()?;
        self.write_commands(memory, &sealed(&words, seed))?;
        let output = &memory.output;
        self.transport
            .copy_in(output, 0, &vec![0xa5; output.bytes])?;
        self.transport.flush(output, 0, output.bytes)?;
        self.clear_interrupt(register::STORE_ISR)?;
        self.write_address(register::STORE_OUTPUT, output.physical)?;
        self.transport.write(register::STORE_COUNT, 0)?;
        self.transport.write(register::STORE_CTRL, AP_START)?;
        self.start_fetch(memory, commands.len(), base, seed)?;
        let fault = |kernel, problem: String| Ok((Some((kernel, problem)), false));
        if !self.wait_until_idle(register::FETCH_CTRL)? {
            return fault("fetch", "fetch does not end".into());
        }
        match self.transport.read(register::FETCH_ERROR)? {
            0 => {}
            error => {
                let problem = format!("fetch refuses command {} as wrong", error.wrapping_sub(1));
                return fault("fetch", problem);
            }
        }
        let (ended, mut interrupted) = self.wait_for_end(register::STORE_CTRL)?;
        if !ended {
            let details = self.transport.diagnosis();
            let problem = "store waits for load's report of the transfer";
            return fault("load", format!("{problem} {details}").trim_end().to_owned());
        }
        interrupted |= self.transport.wait(Duration::ZERO)?;
        let mut bytes = [0; PORT_BYTES];
        self.transport.invalidate(output, 0, output.bytes)?;
        self.transport.copy_out(output, 0, &mut bytes)?;
        let words: Vec<u32> = arena_layout::words(&bytes).collect();
        let computed = check(&bytes[..4 * trailer::CHECK]);
        let problem = if words.iter().all(|&word| word == 0xa5a5_a5a5) {
            Some((
                "store",
                "store ended, but its output is not there".to_owned(),
            ))
        } else if words[trailer::CHECK] != computed || words[trailer::COUNT] != 0 {
            Some(("store", format!("the output's trailer is {words:x?}")))
        } else if words[trailer::NONCE] != nonce {
            let found = words[trailer::NONCE];
            Some((
                "load",
                format!(
                    "load computes {found:#x} from check and data instead of the nonce {nonce:#x}"
                ),
            ))
        } else if words[trailer::STATUS] != status {
            let found = words[trailer::STATUS];
            Some(("load", format!("the status is {found} instead of {status}")))
        } else {
            None
        };
        Ok((problem, interrupted))
    }

    /// Writes patches with a check keyed with `nonce` at the run's offset in memory. Returns the
    /// first beat and the number of beats without the check.
    fn write_patches(&mut self, memory: &Memory, run: usize, nonce: u32) -> Result<(u32, u32)> {
        let shape = Shape::of(&self.hardware);
        let word = arena_layout::word_beats(shape.tokens, shape.beat);
        let words = self.hardware.configuration().buffers.input as usize;
        let beats = word * (1 + run).min(words);
        let last = MEMORY_BYTES / PORT_BYTES - 1 - beats;
        // The first offset, the last one, and offsets in between that cross pages.
        let first = last * run / (TRANSFERS - 1);
        self.write_transfer(memory, first, beats, run as u32, nonce)?;
        Ok((first as u32, beats as u32))
    }

    /// Writes a transfer to memory: `beats` beats of a pattern, from beat `first` on, and their
    /// check with its key.
    fn write_transfer(
        &mut self,
        memory: &Memory,
        first: usize,
        beats: usize,
        pattern: u32,
        key: u32,
    ) -> Result<()> {
        let shape = Shape::of(&self.hardware);
        let mut data: Vec<u8> = (0..beats * shape.beat / 4)
            .flat_map(|i| scramble(pattern << 20 | i as u32).to_le_bytes())
            .collect();
        let mut last_beat = vec![0; shape.beat];
        last_beat[..4].copy_from_slice(&check(&data).to_le_bytes());
        change_key(&mut last_beat[..4], key);
        data.extend(last_beat);
        for (port, buffer) in memory.stripes.iter().enumerate() {
            let stripe: Vec<u8> = data
                .chunks_exact(shape.beat)
                .flat_map(|beat| &beat[PORT_BYTES * port..][..PORT_BYTES])
                .copied()
                .collect();
            self.transport
                .copy_in(buffer, first * PORT_BYTES, &stripe)?;
            self.transport.flush(buffer, 0, buffer.bytes)?;
        }
        Ok(())
    }

    fn write_commands(&mut self, memory: &Memory, commands: &[[u32; COMMAND_WORDS]]) -> Result<()> {
        let bytes: Vec<u8> = commands
            .iter()
            .flatten()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let buffer = &memory.commands;
        self.transport.copy_in(buffer, 0, &bytes)?;
        self.transport.flush(buffer, 0, buffer.bytes)
    }

    fn start_fetch(&mut self, memory: &Memory, count: usize, base: u32, seed: u32) -> Result<()> {
        self.write_address(register::FETCH_COMMANDS, memory.commands.physical)?;
        self.transport.write(register::FETCH_COUNT, count as u32)?;
        self.transport.write(register::FETCH_INPUT, base)?;
        self.transport.write(register::FETCH_SEED, seed)?;
        self.transport.write(register::FETCH_CTRL, AP_START)
    }

    fn reset_and_start_load(&mut self, memory: &Memory) -> Result<()> {
        self.transport.reset()?;
        self.transport.write(register::STORE_GIE, 1)?;
        self.transport.write(register::STORE_IER, 1)?;
        for (port, buffer) in memory.stripes.iter().enumerate() {
            self.write_address(register::LOAD_ARENA[port], buffer.physical)?;
        }
        self.transport.write(register::LOAD_SEED, ARENA_SEED)?;
        self.transport.write(register::LOAD_CTRL, AP_START)
    }

    fn write_address(&mut self, low: u32, address: u64) -> Result<()> {
        self.transport.write(low, address as u32)?;
        self.transport.write(low + 4, (address >> 32) as u32)
    }

    /// Returns the memory of the trials; the first call allocates it.
    fn allocated(&mut self) -> Result<Memory> {
        if let Some(memory) = &self.memory {
            return Ok(memory.clone());
        }
        let ports = self.hardware.configuration().axi_ports;
        let memory = Memory {
            commands: self.transport.allocate(4 * CACHE_LINE)?,
            output: self.transport.allocate(CACHE_LINE)?,
            stripes: (0..ports)
                .map(|_| self.transport.allocate(MEMORY_BYTES))
                .collect::<Result<_>>()?,
        };
        Ok(self.memory.insert(memory).clone())
    }

    /// Clears a kernel's pending interrupt. `status` is the offset of its ISR.
    fn clear_interrupt(&mut self, status: u32) -> Result<()> {
        match self.transport.read(status)? {
            0 => {}
            pending => self.transport.write(status, pending)?,
        }
        self.transport.wait(Duration::ZERO)?;
        Ok(())
    }

    /// Waits until a kernel is idle. Returns false at the limit.
    fn wait_until_idle(&mut self, control: u32) -> Result<bool> {
        let (idle, _) = self.wait_with(control, |transport| {
            transport.sleep(Duration::from_micros(50));
            Ok(false)
        })?;
        Ok(idle)
    }

    /// Waits until a kernel with an enabled interrupt is idle. Returns false at the limit, and true
    /// if there was an interrupt.
    fn wait_for_end(&mut self, control: u32) -> Result<(bool, bool)> {
        self.wait_with(control, |transport| transport.wait(INTERRUPT_SLICE))
    }

    fn wait_with(
        &mut self,
        control: u32,
        mut pause: impl FnMut(&mut dyn Transport) -> Result<bool>,
    ) -> Result<(bool, bool)> {
        let started: Instant = self.transport.now();
        let mut interrupted = false;
        loop {
            // The time before the register access: a thread that slept past the limit still accepts
            // a completion in time.
            let late = self.transport.now() >= started + self.limit;
            if self.is_idle(control)? {
                return Ok((true, interrupted));
            }
            if late {
                return Ok((false, interrupted));
            }
            interrupted |= pause(&mut *self.transport)?;
        }
    }

    fn is_idle(&mut self, control: u32) -> Result<bool> {
        Ok(self.transport.read(control)? & (AP_START | AP_IDLE) == AP_IDLE)
    }

    fn timeout(&self, what: &'static str) -> Error {
        Error::DeviceTimeout {
            device: self.transport.name(),
            what,
            waited: self.limit,
            details: String::new(),
        }
    }

    fn fault(&self, problem: String) -> Error {
        Error::DeviceFault {
            device: self.transport.name(),
            problem,
        }
    }
}

/// Runs trials in a separate thread, because a call of a transport may never return.
#[derive(Debug)]
pub struct TrialThread {
    /// `None` once closed.
    trials: Mutex<Option<Sender<Trial>>>,
    worker: Worker,
    watch: Arc<Watch>,
}

/// A trial. It sends its own result.
type Trial = Box<dyn FnOnce(&mut Trials) + Send>;

impl TrialThread {
    /// Connects to a device. `limit` limits each wait; a [`Watch`] with that limit limits each call
    /// of the transport.
    ///
    /// # Errors
    /// [`Error::Threads`], those of `connect`, [`Error::DeviceTimeout`] and [`Error::Interrupted`].
    pub fn open<T: Transport + 'static>(
        hardware: Hardware,
        limit: Duration,
        cancel: &AtomicBool,
        connect: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let watch = Watch::new(limit);
        let own = Arc::clone(&watch);
        let (opened, ready) = mpsc::channel();
        let (trials, source) = mpsc::channel::<Trial>();
        let worker = Worker::spawn(move || {
            let transport = match Watched::connect(&own, connect) {
                Ok(transport) => transport,
                Err(error) => return drop(opened.send(Err(error))),
            };
            let mut trials = Trials::new(Box::new(transport), hardware, limit);
            if opened.send(Ok(())).is_ok() {
                for trial in source {
                    trial(&mut trials);
                }
            }
        })?;
        watch.receive_or_give_up(&ready, cancel)?;
        Ok(Self {
            trials: Mutex::new(Some(trials)),
            worker,
            watch,
        })
    }

    /// Runs one trial.
    ///
    /// # Errors
    /// The trial's; [`Error::InvalidValue`] once closed; [`Error::DeviceTimeout`] if one call of
    /// the transport takes longer than its limit, and [`Error::DeviceUnavailable`] from then on;
    /// [`Error::Interrupted`].
    pub fn make<T: Send + 'static>(
        &self,
        cancel: &AtomicBool,
        trial: impl FnOnce(&mut Trials) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.watch.check()?;
        let (answer, result) = mpsc::channel();
        match lock(&self.trials).as_ref() {
            // If the thread has ended, this drops the answer's sender.
            Some(trials) => drop(trials.send(Box::new(move |trials| {
                let _ = answer.send(trial(trials));
            }))),
            None => return Err(Error::InvalidValue("the trials are closed".into())),
        }
        self.watch.receive_or_give_up(&result, cancel)
    }

    /// Closes the device. Returns false if a trial has not ended within [`CLOSE_LIMIT`] or if the
    /// device was given up; the thread is then abandoned.
    pub fn close(&self) -> bool {
        drop(lock(&self.trials).take());
        let now = Instant::now();
        let limit = if self.watch.is_given_up() {
            now
        } else {
            now + CLOSE_LIMIT
        };
        self.worker.end(limit, &NEVER)
    }
}

impl Drop for TrialThread {
    fn drop(&mut self) {
        if self.close() {
            self.worker.join();
        }
    }
}

/// Records a difference, up to [`MOST_LISTED`].
fn note(differences: &mut Vec<Difference>, place: &str, written: u32, read: u32) {
    if written != read && differences.len() < MOST_LISTED {
        differences.push(Difference {
            place: place.to_owned(),
            written,
            read,
        });
    }
}

/// Returns a pseudo-random pattern for a number.
fn scramble(number: u32) -> u32 {
    let mixed = (number ^ number >> 16).wrapping_mul(0x7feb_352d);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x846c_a68b);
    mixed ^ mixed >> 16
}
