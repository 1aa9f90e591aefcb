//! An accelerator for the driver's tests: registers, `AP_CTRL`, two copies of memory, and a list of
//! faults.
//!
//! It does not multiply: a frame's logits are checksums of its input and of the arena in the
//! device's copy of memory. It records every violation of the protocol by the driver.

mod fault;
mod program;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quasar_core::error::{Error, Result};

use crate::arena_layout::words;
use crate::host::transport::{register, Buffer, Transport, CACHE_LINE};
use crate::identity::configuration_hash;
use crate::isa::{
    check, command_check, Command, Load, LoadEnd, ABI, AP_DONE, AP_IDLE, AP_START, BLOCK_BYTES,
    CHECK_WORD, COMMAND_BYTES, COMMAND_WORDS, COUNTERS_IDENTITY, COUNTERS_RUN, FIELD_WORDS, MAGIC,
    PORT_BYTES,
};
use crate::program::{Program, Segment};

pub(crate) use self::fault::Fault;
pub(crate) use self::program::{expected, program};
use self::program::{frames_of, key_of, logits, CLASSES};

/// Forwards methods of [`Transport`] to the field `mock`, for transports that override the others.
macro_rules! forward_to_mock {
    ($($method:ident)*) => { $(crate::host::mock::forward_to_mock!(@$method);)* };
    (@name) => {
        fn name(&self) -> String {
            self.mock.name()
        }
    };
    (@read) => {
        fn read(&mut self, register: u32) -> Result<u32> {
            self.mock.read(register)
        }
    };
    (@write) => {
        fn write(&mut self, register: u32, value: u32) -> Result<()> {
            self.mock.write(register, value)
        }
    };
    (@allocate) => {
        fn allocate(&mut self, bytes: usize) -> Result<Buffer> {
            self.mock.allocate(bytes)
        }
    };
    (@copy_in) => {
        fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
            self.mock.copy_in(buffer, offset, data)
        }
    };
    (@copy_out) => {
        fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
            self.mock.copy_out(buffer, offset, out)
        }
    };
    (@flush) => {
        fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
            self.mock.flush(buffer, offset, bytes)
        }
    };
    (@invalidate) => {
        fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
            self.mock.invalidate(buffer, offset, bytes)
        }
    };
    (@now) => {
        fn now(&self) -> Instant {
            self.mock.now()
        }
    };
    (@sleep) => {
        fn sleep(&mut self, time: Duration) {
            self.mock.sleep(time);
        }
    };
}
pub(crate) use forward_to_mock;

/// The record of a mock, checked by a test afterwards.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// The driver's violations of the protocol.
    pub(crate) violations: Vec<String>,
    /// Faults that took effect.
    pub(crate) fired: Vec<Fault>,
    /// Segments that ran, in order.
    pub(crate) segments: Vec<Segment>,
    /// Inputs of the frames that were started, in order, since each reset.
    pub(crate) started: Vec<Vec<Vec<u8>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Kernel {
    running: bool,
    done: bool,
    /// Polls until it is done; `None`: unknown, or never.
    polls: Option<u32>,
    /// The time at which it is done, if it is late.
    late: Option<Instant>,
}

/// The arena's transfers since a slot's last `LoadEnd`.
#[derive(Clone, Debug)]
struct Transfers {
    count: u32,
    /// Each had its own key.
    sound: bool,
    data: Vec<u8>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            count: 0,
            sound: true,
            data: Vec::new(),
        }
    }
}

/// The logits of a frame before store takes them.
#[derive(Clone, Debug)]
struct Logits {
    words: Vec<u32>,
    sound: bool,
    nonce: u32,
    fault: Option<Fault>,
}

/// The output of a frame before store writes it.
#[derive(Clone, Debug)]
struct Output {
    physical: u64,
    words: Vec<u32>,
}

/// Returns the fault of a segment; called once for each.
type Plan = Box<dyn FnMut(u64) -> Option<Fault> + Send>;

pub(crate) struct Mock {
    pub(crate) program: Arc<Program>,
    /// The configuration hash that it reports.
    pub(crate) hash: u64,
    plan: Plan,
    pub(crate) report: Arc<Mutex<Report>>,
    deadline: Duration,
    /// The mock's clock. It advances only while the driver waits, so that tests do not depend on
    /// the machine's load.
    now: Instant,
    /// The arena in the stripes before the driver writes them.
    pub(crate) earlier_arena: Vec<u8>,
    host: Vec<Vec<u8>>,
    device: Vec<Vec<u8>>,
    physical: Vec<u64>,
    registers: BTreeMap<u32, u32>,
    fetch: Kernel,
    /// Polls until a segment is read.
    pub(crate) fetch_polls: u32,
    store: Kernel,
    /// Polls until an output is written.
    pub(crate) store_polls: u32,
    slots: [Option<(Vec<u8>, bool)>; 2],
    transfers: [Transfers; 2],
    logits: VecDeque<Logits>,
    output: Option<Output>,
    /// Addresses of the arena's stripes, since load was started.
    arena: Option<Vec<u64>>,
    /// The output of a late frame, which is written after the reset.
    overdue: Option<Output>,
    segment: u64,
    seeds: BTreeMap<u32, Segment>,
    interrupt: bool,
    spurious: u32,
    error: u32,
    /// Counts that a frame adds to the counters, by register.
    pub(crate) counts: BTreeMap<u32, u32>,
    /// Outputs since the counters were cleared.
    counted: u32,
    /// Faults that have begun and neither ended nor been reset.
    active: BTreeSet<Fault>,
}

impl Mock {
    pub(crate) fn new(
        program: Arc<Program>,
        deadline: Duration,
        plan: impl FnMut(u64) -> Option<Fault> + Send + 'static,
    ) -> Self {
        Self {
            hash: configuration_hash(program.hardware()),
            program,
            plan: Box::new(plan),
            report: Arc::default(),
            deadline,
            now: Instant::now(),
            earlier_arena: Vec::new(),
            host: Vec::new(),
            device: Vec::new(),
            physical: Vec::new(),
            registers: BTreeMap::new(),
            fetch: Kernel::default(),
            fetch_polls: 2,
            store: Kernel::default(),
            store_polls: 3,
            slots: [None, None],
            transfers: Default::default(),
            logits: VecDeque::new(),
            output: None,
            arena: None,
            overdue: None,
            segment: 0,
            seeds: BTreeMap::new(),
            interrupt: false,
            spurious: 0,
            error: 0,
            counts: BTreeMap::new(),
            counted: 0,
            active: BTreeSet::new(),
        }
    }

    /// Returns a register of the counters.
    fn counter(&self, register: u32) -> u32 {
        match register {
            register::COUNTERS_IDENTITY => COUNTERS_IDENTITY,
            register::COUNTERS_CONTROL => self.register(register),
            _ => {
                if self.register(register::COUNTERS_CONTROL) & COUNTERS_RUN != 0 {
                    self.violation(format!("counter {register:#x} is read while it runs"));
                }
                let count = self.counts.get(&register).copied().unwrap_or_default();
                count.saturating_mul(self.counted)
            }
        }
    }

    fn violation(&self, what: impl Into<String>) {
        self.report.lock().unwrap().violations.push(what.into());
    }

    fn register(&self, register: u32) -> u32 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    fn address(&self, low: u32) -> u64 {
        u64::from(self.register(low + 4)) << 32 | u64::from(self.register(low))
    }

    /// Returns a range of the device's copy of memory.
    fn memory(&mut self, physical: u64, bytes: usize) -> Option<&mut [u8]> {
        let index = self.physical.iter().rposition(|&base| base <= physical)?;
        let offset = (physical - self.physical[index]) as usize;
        self.device[index].get_mut(offset..offset + bytes)
    }

    /// Reads a logical beat of `size` bytes from the stripes.
    fn beats(&mut self, first: u32, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size);
        let Some(stripes) = self.arena.clone() else {
            self.violation("load is not started");
            return bytes;
        };
        for beat in 0..(size / self.program.beat_bytes()) as u64 {
            for base in &stripes {
                let at = base + PORT_BYTES as u64 * (u64::from(first) + beat);
                match self.memory(at, PORT_BYTES) {
                    Some(part) => bytes.extend_from_slice(part),
                    None => self.violation(format!("load reads {at:#x}")),
                }
            }
        }
        bytes
    }

    fn start_fetch(&mut self) {
        if self.fetch.running {
            self.violation("fetch is started while it runs");
        }
        if std::mem::take(&mut self.error) != 0 {
            self.violation("fetch is started after an error");
        }
        let count = self.register(register::FETCH_COUNT) as usize;
        self.fetch = Kernel {
            running: true,
            polls: Some(self.fetch_polls),
            ..Kernel::default()
        };
        if count == 0 {
            return;
        }
        let at = self.address(register::FETCH_COMMANDS);
        let bytes = count * COMMAND_BYTES;
        let Some(commands) = self.memory(at, bytes).map(|c| c.to_vec()) else {
            return self.violation(format!("fetch reads {at:#x}"));
        };
        let seed = self.register(register::FETCH_SEED);
        let program = Arc::clone(&self.program);
        let mut segments = program.segments().map(|(segment, _)| segment);
        let key = self.register(register::LOAD_SEED);
        let Some(segment) = segments.find(|&s| commands == program.command_bytes(s, seed, key))
        else {
            self.error = self.sound_commands(at, count, seed) as u32 + 1;
            return self.violation("the device sees other commands");
        };
        if *self.seeds.entry(seed).or_insert(segment) != segment {
            self.violation(format!("segment {segment} has another's seed"));
        }
        self.report.lock().unwrap().segments.push(segment);
        let (finishes, starts) = frames_of(segment);
        let fault = (self.plan)(self.segment);
        self.segment += 1;
        let shows =
            fault.is_some_and(|fault| self.misbehave(fault, starts.is_some(), finishes.is_some()));
        if shows {
            self.report.lock().unwrap().fired.extend(fault);
        }
        if shows && fault == Some(Fault::FlippedCommand) {
            let bit = (self.segment as usize).wrapping_mul(0x9e37_79b1) % (8 * bytes);
            if let Some(memory) = self.memory(at, bytes) {
                memory[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let sound = self.sound_commands(at, count, seed);
        if sound < count {
            self.error = sound as u32 + 1;
        }
        for command in &program.commands(segment)[..sound] {
            match *command {
                Command::Load(load) if load.begins => self.start(load),
                Command::Load(load) => self.load_weights(load),
                Command::LoadEnd(end) => self.finish(end, fault.filter(|_| shows)),
                _ => {}
            }
        }
    }

    /// Reads a frame's input.
    fn start(&mut self, load: Load) {
        let slot = load.frame as usize;
        if self.slots[slot].is_some() {
            self.violation(format!("slot {slot} is taken"));
        }
        let first = self.register(register::FETCH_INPUT);
        let input = self.beats(first + load.address, self.program.input_bytes());
        let sound = !self.active.remove(&Fault::ShortDma);
        if let Some(epoch) = self.report.lock().unwrap().started.last_mut() {
            epoch.push(input.clone());
        }
        self.slots[slot] = Some((input, sound));
    }

    /// Reads a transfer of the arena, and checks and counts it.
    fn load_weights(&mut self, load: Load) {
        let beat = self.program.beat_bytes();
        let transfer = self.beats(load.address, (load.beats as usize + 1) * beat);
        let (data, key) = key_of(&transfer, beat);
        let seed = self.register(register::LOAD_SEED);
        let arena = &mut self.transfers[load.frame as usize];
        arena.sound &= key == seed ^ arena.count;
        arena.count += 1;
        arena.data.extend_from_slice(data);
    }

    /// Returns the number of commands before the first one that fails its check.
    fn sound_commands(&mut self, at: u64, count: usize, seed: u32) -> usize {
        let words: Vec<u32> = match self.memory(at, count * COMMAND_BYTES) {
            Some(memory) => words(memory).collect(),
            None => Vec::new(),
        };
        let mut before = seed ^ count as u32;
        let sound = |command: &&[u32; COMMAND_WORDS]| {
            let expected = command_check(before, command);
            before = command[CHECK_WORD];
            expected == before && command[FIELD_WORDS..CHECK_WORD].iter().all(|&w| w == 0)
        };
        words.as_chunks().0.iter().take_while(sound).count()
    }

    /// Computes the logits of a frame at the end of its transfers.
    fn finish(&mut self, end: LoadEnd, fault: Option<Fault>) {
        let slot = end.frame as usize;
        let started = self.slots[slot].take();
        if started.is_none() {
            self.violation(format!("slot {slot} is empty"));
        }
        let arena = std::mem::take(&mut self.transfers[slot]);
        // Without an input, the kernels multiply the earlier contents.
        let (input, sound) = started.as_ref().map_or((&[][..], true), |(i, s)| (i, *s));
        let (data, nonce) = key_of(input, self.program.beat_bytes());
        let words = logits(&arena.data, data).into_iter().map(|l| l as u32);
        self.logits.push_back(Logits {
            words: words.collect(),
            sound: sound && arena.sound && arena.count == end.transfers,
            nonce,
            fault,
        });
    }

    /// Gives store the next logits, if there are any.
    fn take_logits(&mut self) {
        if !self.store.running || self.output.is_some() {
            return;
        }
        let Some(Logits {
            mut words,
            sound,
            nonce,
            fault,
        }) = self.logits.pop_front()
        else {
            return;
        };
        if self.register(register::STORE_COUNT) as usize != CLASSES {
            self.violation("store writes another number of logits");
        }
        words.resize(4, 0);
        words.extend([nonce, CLASSES as u32, u32::from(!sound)]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        words.push(check(&bytes));
        self.store.polls = Some(self.store_polls);
        match fault {
            Some(Fault::Hang | Fault::StoreHangs) => self.store.polls = None,
            Some(Fault::Late) => {
                self.store.polls = None;
                self.store.late = Some(self.now + 2 * self.deadline);
            }
            Some(Fault::SpuriousInterrupts) => {
                self.spurious = 2;
                self.store.polls = Some(40);
            }
            Some(Fault::CorruptLogits) => words[1] ^= 1 << 20,
            Some(Fault::CorruptTrailer) => words[6] ^= 1,
            Some(fault @ (Fault::LostInterrupt | Fault::NoOutput | Fault::StaleCache)) => {
                self.active.insert(fault);
            }
            _ => {}
        }
        let physical = self.address(register::STORE_OUTPUT);
        self.output = Some(Output { physical, words });
    }

    /// Begins a fault if it can affect a segment of this kind. Returns true if it began.
    fn misbehave(&mut self, fault: Fault, starts: bool, finishes: bool) -> bool {
        match fault {
            Fault::LostInterrupt
            | Fault::SpuriousInterrupts
            | Fault::StoreHangs
            | Fault::Late
            | Fault::CorruptLogits
            | Fault::CorruptTrailer
            | Fault::NoOutput
            | Fault::StaleCache => return finishes,
            Fault::ShortDma if !starts => return false,
            Fault::Hang => self.fetch.polls = None,
            Fault::NoUnit => self.error = self.register(register::FETCH_COUNT),
            _ => {}
        }
        self.active.insert(fault);
        true
    }

    /// Advances both kernels by one poll.
    fn step(&mut self) {
        let step = |kernel: &mut Kernel| match kernel.polls {
            Some(0) if kernel.running => {
                kernel.running = false;
                kernel.done = true;
                true
            }
            Some(polls) => {
                kernel.polls = Some(polls.saturating_sub(1));
                false
            }
            None => false,
        };
        if step(&mut self.fetch) {
            self.raise(register::FETCH_ISR);
        }
        self.take_logits();
        if self.store.late.is_some_and(|at| self.now >= at) {
            self.store.late = None;
            self.store.polls = Some(0);
        }
        if self.output.is_some() && step(&mut self.store) {
            let output = self.output.take();
            self.counted += 1;
            if !self.active.remove(&Fault::NoOutput) {
                self.write_output(output);
            }
            if self.active.remove(&Fault::LostInterrupt) {
                self.registers.insert(register::STORE_ISR, 1);
            } else {
                self.raise(register::STORE_ISR);
            }
        }
    }

    /// Raises the interrupt of a completed kernel if it is enabled. `status` is the offset of its
    /// ISR.
    fn raise(&mut self, status: u32) {
        // GIE and IER are the two registers before ISR.
        if self.register(status - 8) & self.register(status - 4) & 1 == 0 {
            return;
        }
        // There is an edge only if the last interrupt was cleared.
        self.interrupt |= self.registers.insert(status, 1) != Some(1);
    }

    fn write_output(&mut self, output: Option<Output>) {
        if let Some(Output { physical, words }) = output {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            match self.memory(physical, bytes.len()) {
                Some(memory) => memory.copy_from_slice(&bytes),
                None => self.violation(format!("store writes {physical:#x}")),
            }
        }
    }

    fn control(kernel: &mut Kernel) -> u32 {
        let done = std::mem::take(&mut kernel.done);
        let state = if kernel.running { AP_START } else { AP_IDLE };
        state | if done { AP_DONE } else { 0 }
    }

    fn hold_in_reset(&mut self) {
        // Completes a write that was in flight at the reset.
        if self.store.late.is_some() {
            self.overdue = self.output.take();
        }
        self.output = None;
        self.logits.clear();
        self.arena = None;
        self.fetch = Kernel::default();
        self.store = Kernel::default();
        self.slots = [None, None];
        self.transfers = Default::default();
        self.registers
            .retain(|&register, _| register == register::RESET);
        self.interrupt = false;
        self.spurious = 0;
        self.error = 0;
        self.active.clear();
        self.report.lock().unwrap().started.push(Vec::new());
    }

    fn check_lines(&self, buffer: &Buffer, offset: usize, bytes: usize) {
        if !offset.is_multiple_of(CACHE_LINE) || !bytes.is_multiple_of(CACHE_LINE) {
            self.violation(format!(
                "part of a cache line of buffer {}: {bytes} at {offset}",
                buffer.index
            ));
        }
    }
}

impl Transport for Mock {
    fn name(&self) -> String {
        "mock".into()
    }

    fn read(&mut self, register: u32) -> Result<u32> {
        self.step();
        if self.active.remove(&Fault::BrokenTransport) {
            return Err(Error::DeviceFault {
                device: self.name(),
                problem: "bus".into(),
            });
        }
        if self.active.contains(&Fault::BusError) {
            return Ok(u32::MAX);
        }
        Ok(match register {
            register::FETCH_CTRL => Self::control(&mut self.fetch),
            register::STORE_CTRL => Self::control(&mut self.store),
            register::LOAD_CTRL if self.arena.is_some() => AP_START,
            register::LOAD_CTRL => AP_IDLE,
            register::FETCH_MAGIC => MAGIC,
            register::FETCH_ABI => ABI,
            register::FETCH_HASH_LOW => {
                self.hash as u32 ^ u32::from(self.active.contains(&Fault::WrongIdentity))
            }
            register::FETCH_HASH_HIGH => (self.hash >> 32) as u32,
            register::FETCH_ERROR => self.error,
            register::STORE_ISR | register::FETCH_ISR => self.register(register),
            register::COUNTERS_IDENTITY.. => self.counter(register),
            _ => {
                self.violation(format!("register {register:#x} is read"));
                0
            }
        })
    }

    fn write(&mut self, register: u32, value: u32) -> Result<()> {
        match register {
            register::RESET if value & 1 == 1 => {
                self.registers.insert(register, value);
                self.hold_in_reset();
                return Ok(());
            }
            register::RESET => {
                self.registers.insert(register, value);
                return Ok(());
            }
            _ => {}
        }
        if self.register(register::RESET) & 1 == 1 {
            self.violation(format!("register {register:#x} is written in reset"));
        }
        let block = register / BLOCK_BYTES;
        if (block == 0 && self.fetch.running && register != register::FETCH_ISR)
            || (block == 1 && self.store.running && register != register::STORE_ISR)
        {
            self.violation(format!(
                "register {register:#x} is written while its kernel runs"
            ));
        }
        match register {
            // Only bit 0 starts a kernel.
            register::FETCH_CTRL | register::STORE_CTRL | register::LOAD_CTRL
                if value & AP_START == 0 => {}
            register::FETCH_CTRL => self.start_fetch(),
            register::LOAD_CTRL => {
                if self.arena.is_some() {
                    self.violation("load is started twice");
                }
                let ports = self.program.beat_bytes() / PORT_BYTES;
                let ports = &register::LOAD_ARENA[..ports];
                self.arena = Some(ports.iter().map(|&port| self.address(port)).collect());
            }
            register::STORE_CTRL => {
                self.store = Kernel {
                    running: true,
                    ..Kernel::default()
                };
                let overdue = self.overdue.take();
                self.write_output(overdue);
            }
            register::COUNTERS_CONTROL => {
                if value & COUNTERS_RUN != 0 {
                    self.counted = 0;
                }
                self.registers.insert(register, value);
            }
            register::STORE_ISR | register::FETCH_ISR => {
                let toggled = self.register(register) ^ value;
                self.registers.insert(register, toggled);
            }
            _ => {
                self.registers.insert(register, value);
            }
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn sleep(&mut self, time: Duration) {
        self.now += time;
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer> {
        let index = self.host.len();
        // Buffers begin with old contents, at addresses beyond 32 bits.
        self.host.push(vec![0xa5; bytes]);
        let mut device = vec![0x5a; bytes];
        let beats = self.earlier_arena.chunks_exact(self.program.beat_bytes());
        if let Some(port) = index.checked_sub(1) {
            let stripe = beats.filter_map(|beat| beat.chunks_exact(PORT_BYTES).nth(port));
            for (to, part) in device.chunks_exact_mut(PORT_BYTES).zip(stripe) {
                to.copy_from_slice(part);
            }
        }
        self.device.push(device);
        self.physical.push(0x1_0000_0000 + ((index as u64) << 24));
        Ok(Buffer {
            index,
            physical: self.physical[index],
            bytes,
        })
    }

    fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
        let range = buffer.range(offset, data.len())?;
        self.host[buffer.index][range].copy_from_slice(data);
        Ok(())
    }

    fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
        let range = buffer.range(offset, out.len())?;
        out.copy_from_slice(&self.host[buffer.index][range]);
        Ok(())
    }

    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.check_lines(buffer, offset, bytes);
        let range = buffer.range(offset, bytes)?;
        self.device[buffer.index][range.clone()].copy_from_slice(&self.host[buffer.index][range]);
        Ok(())
    }

    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.check_lines(buffer, offset, bytes);
        let range = buffer.range(offset, bytes)?;
        if !self.active.remove(&Fault::StaleCache) {
            self.host[buffer.index][range.clone()]
                .copy_from_slice(&self.device[buffer.index][range]);
        }
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        if self.spurious > 0 && !timeout.is_zero() {
            self.spurious -= 1;
            return Ok(true);
        }
        for _ in 0..8 {
            if !self.interrupt {
                self.step();
            }
        }
        if !self.interrupt && (self.store.polls.is_none() || !self.store.running) {
            self.now += timeout;
        }
        Ok(std::mem::take(&mut self.interrupt))
    }
}
