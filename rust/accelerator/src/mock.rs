//! An accelerator for the driver's tests: registers, `AP_CTRL`, two copies of memory, and every fault that we could think of.
//!
//! It multiplies nothing: a frame's logits are checksums of its input and of the arena, each from the device's copy of memory. It takes
//! note of whatever the driver does against the protocol.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quasar_core::error::{Error, Result};

use crate::driver::Executable;
use crate::isa::{
    check, sealed, ABI, AP_DONE, AP_IDLE, AP_START, BLOCK_BYTES, CHECK_WORD, COMMAND_BYTES,
    COMMAND_WORDS, MAGIC, PORT_BYTES,
};
use crate::program::Segment;
use crate::transport::{register, Buffer, Transport, CACHE_LINE};

/// What a mock can do wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Done, without a word.
    LostInterrupt,
    /// Interrupts without a reason.
    SpuriousInterrupts,
    /// All kernels stop.
    Hang,
    /// Store stops.
    StoreHangs,
    /// Done after the deadline; the output then still comes, though the kernels were reset meanwhile.
    Late,
    /// Registers read as all ones until the reset.
    BusError,
    /// The way to the registers fails once.
    BrokenTransport,
    /// A transfer was cut, and the store says so.
    ShortDma,
    /// A bit of the logits is wrong.
    CorruptLogits,
    /// A bit of the trailer is wrong.
    CorruptTrailer,
    /// Another bitstream, until the reset.
    WrongIdentity,
    /// Done, but nothing was written.
    NoOutput,
    /// The host's cache keeps what it has.
    StaleCache,
    /// A command is not recognised.
    NoUnit,
    /// A bit of a segment's commands in memory is wrong, and stays so.
    FlippedCommand,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::LostInterrupt,
        Self::SpuriousInterrupts,
        Self::Hang,
        Self::StoreHangs,
        Self::Late,
        Self::BusError,
        Self::BrokenTransport,
        Self::ShortDma,
        Self::CorruptLogits,
        Self::CorruptTrailer,
        Self::WrongIdentity,
        Self::NoOutput,
        Self::StaleCache,
        Self::NoUnit,
        Self::FlippedCommand,
    ];

    /// The kind of error that it costs a frame; `None`: the driver copes.
    pub(crate) const fn error(self) -> Option<&'static str> {
        match self {
            Self::LostInterrupt | Self::SpuriousInterrupts => None,
            Self::Hang | Self::StoreHangs | Self::Late => Some("DeviceTimeout"),
            Self::BusError | Self::BrokenTransport | Self::NoUnit | Self::FlippedCommand => {
                Some("DeviceFault")
            }
            Self::ShortDma
            | Self::CorruptLogits
            | Self::CorruptTrailer
            | Self::NoOutput
            | Self::StaleCache => Some("CorruptOutput"),
            Self::WrongIdentity => Some("WrongBitstream"),
        }
    }
}

pub(crate) const CLASSES: usize = 3;

/// A program without a network.
#[derive(Clone, Debug)]
pub(crate) struct MockProgram {
    pub(crate) frames: usize,
    pub(crate) ports: usize,
    pub(crate) hash: u64,
    pub(crate) arena: Vec<u8>,
    pub(crate) input_beats: usize,
}

fn code(segment: Segment) -> u32 {
    match segment {
        Segment::Start(slot) => u32::from(slot),
        Segment::Step(slot) => 2 + u32::from(slot),
        Segment::End(slot) => 4 + u32::from(slot),
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

impl MockProgram {
    pub(crate) fn new(frames: usize, ports: usize) -> Self {
        Self {
            frames,
            ports,
            hash: 0x0123_4567_89ab_cdef,
            arena: (0..5 * ports * PORT_BYTES)
                .map(|i| (i * 37) as u8)
                .collect(),
            input_beats: 3,
        }
    }

    /// The logits of a packed input.
    pub(crate) fn expected(&self, input: &[u8]) -> Vec<i32> {
        let sum = check(words(input).chain(words(&self.arena)));
        (0..CLASSES as u32)
            .map(|class| sum.wrapping_mul(2 * class + 1) as i32)
            .collect()
    }
}

impl Executable for MockProgram {
    fn configuration_hash(&self) -> u64 {
        self.hash
    }

    fn frames(&self) -> usize {
        self.frames
    }

    fn ports(&self) -> usize {
        self.ports
    }

    /// A segment has three commands: one starts a frame, one finishes a frame, one says nothing. The first has the segment's code.
    fn commands(&self, segment: Segment, seed: u32) -> Vec<u8> {
        let mut commands = [[0x5555_5555; COMMAND_WORDS]; 3];
        commands[0][0] = code(segment);
        let words = sealed(commands, seed);
        words
            .iter()
            .flatten()
            .flat_map(|w| w.to_le_bytes())
            .collect()
    }

    fn arena(&self) -> &[u8] {
        &self.arena
    }

    fn input_bytes(&self) -> usize {
        self.input_beats * self.ports * PORT_BYTES
    }

    fn output_bytes(&self) -> usize {
        2 * PORT_BYTES
    }

    fn classes(&self) -> usize {
        CLASSES
    }

    fn read_output(&self, bytes: &[u8], tag: u32, logits: &mut [i32]) -> Result<()> {
        let words: Vec<u32> = words(bytes).collect();
        let sum = check(words[..CLASSES].iter().copied());
        if words[4..] != [tag, CLASSES as u32, sum, 0] {
            return Err(Error::CorruptOutput(format!("trailer {:x?}", &words[4..])));
        }
        for (logit, &word) in logits.iter_mut().zip(&words) {
            *logit = word as i32;
        }
        Ok(())
    }
}

/// What a test wants to know afterwards.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// What the driver did against the protocol.
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
    /// Looks until it is done; `None`: not known, or never.
    looks: Option<u32>,
    /// When it is done, where it is late.
    late: Option<Instant>,
}

/// The logits of a frame, on their way to the store.
#[derive(Clone, Debug)]
struct Logits {
    words: Vec<u32>,
    sound: bool,
    fault: Option<Fault>,
}

/// The output of a frame, as the store will write it.
#[derive(Clone, Debug)]
struct Output {
    physical: u64,
    words: Vec<u32>,
}

/// The plan of faults: asked once a segment.
type Plan = Box<dyn FnMut(u64) -> Option<Fault> + Send>;

pub(crate) struct Mock {
    program: MockProgram,
    plan: Plan,
    pub(crate) report: Arc<Mutex<Report>>,
    deadline: Duration,
    /// Time passes where the driver waits, and only there: tests do not depend on how busy the machine is.
    now: Instant,
    host: Vec<Vec<u8>>,
    device: Vec<Vec<u8>>,
    physical: Vec<u64>,
    registers: BTreeMap<u32, u32>,
    fetch: Kernel,
    /// Looks until a segment is read.
    pub(crate) fetch_looks: u32,
    store: Kernel,
    slots: [Option<(Vec<u8>, bool)>; 2],
    logits: VecDeque<Logits>,
    output: Option<Output>,
    /// The arena's stripes, as load took them when it was started.
    arena: Option<Vec<u64>>,
    overdue: Option<Output>,
    segment: u64,
    seeds: BTreeMap<u32, Segment>,
    interrupt: bool,
    spurious: u32,
    error: u32,
    /// Faults that go on until they are over, or until the reset.
    active: BTreeSet<Fault>,
}

impl Mock {
    pub(crate) fn new(
        program: MockProgram,
        deadline: Duration,
        plan: impl FnMut(u64) -> Option<Fault> + Send + 'static,
    ) -> Self {
        Self {
            program,
            plan: Box::new(plan),
            report: Arc::default(),
            deadline,
            now: Instant::now(),
            host: Vec::new(),
            device: Vec::new(),
            physical: Vec::new(),
            registers: BTreeMap::new(),
            fetch: Kernel::default(),
            fetch_looks: 2,
            store: Kernel::default(),
            slots: [None, None],
            logits: VecDeque::new(),
            output: None,
            arena: None,
            overdue: None,
            segment: 0,
            seeds: BTreeMap::new(),
            interrupt: false,
            spurious: 0,
            error: 0,
            active: BTreeSet::new(),
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

    /// The device's copy of memory.
    fn memory(&mut self, physical: u64, bytes: usize) -> Option<&mut [u8]> {
        let index = self.physical.iter().rposition(|&base| base <= physical)?;
        let offset = (physical - self.physical[index]) as usize;
        self.device[index].get_mut(offset..offset + bytes)
    }

    /// Logical beats from the stripes.
    fn beats(&mut self, first: u32, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(stripes) = self.arena.clone() else {
            self.violation("load is not started");
            return bytes;
        };
        for beat in 0..count as u64 {
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
        if self.error != 0 {
            self.violation("fetch is started after an error");
        }
        let count = self.register(register::FETCH_COUNT) as usize;
        self.fetch = Kernel {
            running: true,
            looks: Some(self.fetch_looks),
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
        let code_read = words(&commands).next().unwrap();
        let all = Segment::all(self.program.frames);
        let Some(&segment) = all.iter().find(|&&segment| code(segment) == code_read) else {
            return self.violation(format!("segment {code_read}"));
        };
        let seed = self.register(register::FETCH_SEED);
        if commands != self.program.commands(segment, seed) {
            self.violation("the device sees other commands");
        }
        if *self.seeds.entry(seed).or_insert(segment) != segment {
            self.violation(format!("segment {segment} has another's seed"));
        }
        self.report.lock().unwrap().segments.push(segment);
        let (finishes, starts) = match segment {
            Segment::Start(slot) => (None, Some(slot)),
            Segment::Step(slot) => (Some(slot), Some(1 - slot)),
            Segment::End(slot) => (Some(slot), None),
        };
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
        if let Some(slot) = starts.filter(|_| sound > 0) {
            if self.slots[slot as usize].is_some() {
                self.violation(format!("slot {slot} is taken"));
            }
            let first = self.register(register::FETCH_INPUT);
            let input = self.beats(first, self.program.input_beats);
            let sound = !self.active.remove(&Fault::ShortDma);
            let mut report = self.report.lock().unwrap();
            if let Some(epoch) = report.started.last_mut() {
                epoch.push(input.clone());
            }
            drop(report);
            self.slots[slot as usize] = Some((input, sound));
        }
        if let Some(slot) = finishes.filter(|_| sound > 1) {
            self.finish(slot, fault.filter(|_| shows));
        }
    }

    /// How many commands of a segment stand before the first that is not what was written.
    fn sound_commands(&mut self, at: u64, count: usize, seed: u32) -> usize {
        let words: Vec<u32> = match self.memory(at, count * COMMAND_BYTES) {
            Some(memory) => words(memory).collect(),
            None => Vec::new(),
        };
        let mut before = seed;
        let sound = |command: &&[u32]| {
            let expected = [&[before], &command[..CHECK_WORD]].concat();
            before = command[CHECK_WORD];
            check(expected) == before
        };
        words.chunks_exact(COMMAND_WORDS).take_while(sound).count()
    }

    fn finish(&mut self, slot: u8, fault: Option<Fault>) {
        let Some((input, sound)) = self.slots[slot as usize].take() else {
            return self.violation(format!("slot {slot} is empty"));
        };
        let beats = self.program.arena.len() / (PORT_BYTES * self.program.ports);
        let arena = self.beats(0, beats);
        let seen = MockProgram {
            arena,
            ..self.program.clone()
        };
        self.logits.push_back(Logits {
            words: seen.expected(&input).iter().map(|&l| l as u32).collect(),
            sound,
            fault,
        });
    }

    /// The store takes the next logits, where there are some.
    fn take_logits(&mut self) {
        if !self.store.running || self.output.is_some() {
            return;
        }
        let Some(Logits {
            mut words,
            sound,
            fault,
        }) = self.logits.pop_front()
        else {
            return;
        };
        if self.register(register::STORE_COUNT) as usize != CLASSES {
            self.violation("store writes another number of logits");
        }
        let sum = check(words.iter().copied());
        let tag = self.register(register::STORE_TAG);
        words.resize(4, 0);
        words.extend([tag, CLASSES as u32, sum, u32::from(!sound)]);
        self.store.looks = Some(3);
        match fault {
            Some(Fault::Hang | Fault::StoreHangs) => self.store.looks = None,
            Some(Fault::Late) => {
                self.store.looks = None;
                self.store.late = Some(self.now + 2 * self.deadline);
            }
            Some(Fault::SpuriousInterrupts) => {
                self.spurious = 2;
                self.store.looks = Some(40);
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

    /// Begins a fault of a segment, where it can show in it.
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
            Fault::Hang => self.fetch.looks = None,
            Fault::NoUnit => self.error = 2,
            _ => {}
        }
        self.active.insert(fault);
        true
    }

    /// Time goes by.
    fn step(&mut self) {
        let step = |kernel: &mut Kernel| match kernel.looks {
            Some(0) if kernel.running => {
                kernel.running = false;
                kernel.done = true;
                true
            }
            Some(looks) => {
                kernel.looks = Some(looks.saturating_sub(1));
                false
            }
            None => false,
        };
        step(&mut self.fetch);
        self.take_logits();
        if self.store.late.is_some_and(|at| self.now >= at) {
            self.store.late = None;
            self.store.looks = Some(0);
        }
        if self.output.is_some() && step(&mut self.store) {
            let output = self.output.take();
            if !self.active.remove(&Fault::NoOutput) {
                self.write_output(output);
            }
            // The line rises only where the last interrupt was cleared.
            let cleared = self.registers.insert(register::STORE_ISR, 1) != Some(1);
            let enabled = self.register(register::STORE_GIE) & self.register(register::STORE_IER);
            let lost = self.active.remove(&Fault::LostInterrupt);
            self.interrupt = enabled & 1 == 1 && cleared && !lost;
        }
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
        // A write that was on its way still comes.
        if self.store.late.is_some() {
            self.overdue = self.output.take();
        }
        self.output = None;
        self.logits.clear();
        self.arena = None;
        self.fetch = Kernel::default();
        self.store = Kernel::default();
        self.slots = [None, None];
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
            register::FETCH_MAGIC => MAGIC,
            register::FETCH_ABI => ABI,
            register::FETCH_HASH_LOW => {
                self.program.hash as u32 ^ u32::from(self.active.contains(&Fault::WrongIdentity))
            }
            register::FETCH_HASH_HIGH => (self.program.hash >> 32) as u32,
            register::FETCH_ERROR => self.error,
            register::STORE_ISR => self.register(register),
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
        if (block == 0 && self.fetch.running)
            || (block == 1 && self.store.running && register != register::STORE_ISR)
        {
            self.violation(format!(
                "register {register:#x} is written while its kernel runs"
            ));
        }
        match register {
            register::FETCH_CTRL => self.start_fetch(),
            register::LOAD_CTRL => {
                if self.arena.is_some() {
                    self.violation("load is started twice");
                }
                let ports = &register::LOAD_ARENA[..self.program.ports];
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
            register::STORE_ISR => {
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
        // Old contents, and addresses beyond 32 bits.
        self.host.push(vec![0xa5; bytes]);
        self.device.push(vec![0x5a; bytes]);
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
        if !self.interrupt && (self.store.looks.is_none() || !self.store.running) {
            self.now += timeout;
        }
        Ok(std::mem::take(&mut self.interrupt))
    }
}
