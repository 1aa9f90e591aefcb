//! Ordinary files stand in for the device nodes; a thread plays the device on the same files.

// Mappings begin with a page, registers are at multiples of 4.
#![allow(clippy::cast_ptr_alignment)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use super::*;
use crate::driver::{Deadlines, Driver, Executable, FrameQueue};
use crate::isa::{check, ABI, AP_IDLE, AP_START, COMMAND_BYTES, MAGIC, PORT_BYTES};
use crate::mock::{MockProgram, CLASSES};
use crate::transport::register;

const MEMORY: usize = 1 << 16;
const PHYSICAL: u64 = 0x7_0000_0000;

fn files(folder: &Path) -> Roots {
    let roots = Roots {
        dev: folder.join("dev"),
        sys: folder.join("sys"),
        firmware: folder.join("firmware"),
    };
    let attributes = roots.sys.join("class/u-dma-buf/udmabuf-quasar");
    for folder in [
        &roots.dev,
        &roots.firmware,
        &roots.sys.join("class/uio/uio0"),
        &roots.sys.join("class/uio/uio3"),
        &roots.sys.join("class/fpga_manager/fpga0"),
        &attributes,
    ] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(roots.sys.join("class/uio/uio0/name"), "axi-pmon\n").unwrap();
    fs::write(roots.sys.join("class/uio/uio3/name"), "quasar\n").unwrap();
    fs::write(attributes.join("size"), format!("{MEMORY}\n")).unwrap();
    fs::write(attributes.join("phys_addr"), format!("{PHYSICAL:#x}\n")).unwrap();
    fs::write(roots.dev.join("uio3"), vec![0; REGISTER_BYTES as usize]).unwrap();
    fs::write(roots.dev.join("udmabuf-quasar"), vec![0; MEMORY]).unwrap();
    fs::write(
        roots.sys.join("class/fpga_manager/fpga0/state"),
        "operating\n",
    )
    .unwrap();
    roots
}

/// The device's side of the files. Its registers are the same file; so a control register is polled for a start, and answered there.
struct Player {
    registers: MmapRaw,
    memory: MmapRaw,
    interrupt: UnixStream,
    program: MockProgram,
    arena: Vec<u64>,
    slots: [Option<Vec<u8>>; 2],
    logits: Vec<Vec<i32>>,
}

impl Player {
    fn get(&self, register: u32) -> u32 {
        // SAFETY: within the file's mapping.
        unsafe {
            self.registers
                .as_ptr()
                .add(register as usize)
                .cast::<u32>()
                .read_volatile()
        }
    }

    fn set(&self, register: u32, value: u32) {
        // SAFETY: within the file's mapping.
        unsafe {
            self.registers
                .as_mut_ptr()
                .add(register as usize)
                .cast::<u32>()
                .write_volatile(value);
        }
    }

    fn address(&self, low: u32) -> u64 {
        u64::from(self.get(low)) | u64::from(self.get(low + 4)) << 32
    }

    fn load(&self, physical: u64, bytes: usize) -> Vec<u8> {
        let offset = (physical - PHYSICAL) as usize;
        assert!(offset + bytes <= MEMORY);
        let mut out = vec![0; bytes];
        // SAFETY: within the file's mapping.
        unsafe {
            self.memory
                .as_ptr()
                .add(offset)
                .copy_to_nonoverlapping(out.as_mut_ptr(), bytes);
        }
        out
    }

    fn beats(&self, first: u64, count: usize) -> Vec<u8> {
        (0..count as u64)
            .flat_map(|beat| {
                let at = PORT_BYTES as u64 * (first + beat);
                self.arena
                    .iter()
                    .flat_map(move |base| self.load(base + at, PORT_BYTES))
            })
            .collect()
    }

    fn step(&mut self) {
        if self.get(register::LOAD_CTRL) & AP_START != 0 {
            self.set(register::LOAD_CTRL, 0);
            let ports = &register::LOAD_ARENA[..self.program.ports];
            self.arena = ports.iter().map(|&port| self.address(port)).collect();
        }
        if self.get(register::FETCH_CTRL) & AP_START != 0 {
            self.fetch();
            self.set(register::FETCH_CTRL, AP_IDLE);
        }
        if self.get(register::STORE_CTRL) & AP_START != 0 && !self.logits.is_empty() {
            self.store();
            self.set(register::STORE_ISR, 1);
            self.set(register::STORE_CTRL, AP_IDLE);
            self.interrupt.write_all(&1_u32.to_ne_bytes()).unwrap();
        }
    }

    fn fetch(&mut self) {
        for (register, value) in [
            (register::FETCH_MAGIC, MAGIC),
            (register::FETCH_ABI, ABI),
            (register::FETCH_HASH_LOW, self.program.hash as u32),
            (register::FETCH_HASH_HIGH, (self.program.hash >> 32) as u32),
        ] {
            self.set(register, value);
        }
        if self.get(register::FETCH_COUNT) == 0 {
            return;
        }
        let code = self.load(self.address(register::FETCH_COMMANDS), COMMAND_BYTES)[0];
        let (finishes, starts) = match code {
            0 | 1 => (None, Some(code)),
            2 | 3 => (Some(code - 2), Some(3 - code)),
            _ => (Some(code - 4), None),
        };
        if let Some(slot) = starts {
            let first = u64::from(self.get(register::FETCH_INPUT));
            self.slots[slot as usize] = Some(self.beats(first, self.program.input_beats));
        }
        if let Some(slot) = finishes {
            let input = self.slots[slot as usize].take().unwrap();
            self.logits.push(self.program.expected(&input));
        }
    }

    fn store(&mut self) {
        let logits = self.logits.remove(0);
        let mut words: Vec<u32> = logits.iter().map(|&l| l as u32).collect();
        let sum = check(words.iter().copied());
        words.resize(4, 0);
        words.extend([self.get(register::STORE_TAG), CLASSES as u32, sum, 0]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let offset = (self.address(register::STORE_OUTPUT) - PHYSICAL) as usize;
        assert!(offset + bytes.len() <= MEMORY);
        // SAFETY: within the file's mapping.
        unsafe {
            self.memory
                .as_mut_ptr()
                .add(offset)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }
}

#[test]
fn frames_run_over_files_that_stand_for_the_devices() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let registers = Registers::find(&roots).unwrap();
    assert_eq!(registers, Registers::Uio("uio3".into()));
    let memory = Memory::find(&roots).unwrap();
    let (host, device) = UnixStream::pair().unwrap();
    let mut enables = device.try_clone().unwrap();
    let program = MockProgram::new(2, 2);

    let open_file = |name: &str, bytes| {
        let path = roots.dev.join(name);
        map(&open(&path, false).unwrap(), &path, 0, bytes).unwrap()
    };
    let mut player = Player {
        registers: open_file("uio3", REGISTER_BYTES as usize),
        memory: open_file("udmabuf-quasar", MEMORY),
        interrupt: device,
        program: program.clone(),
        arena: Vec::new(),
        slots: [None, None],
        logits: Vec::new(),
    };
    player.set(register::FETCH_CTRL, AP_IDLE);
    player.set(register::STORE_CTRL, AP_IDLE);

    let stop = Arc::new(AtomicBool::new(false));
    let enabled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&enabled);
    let counting = thread::spawn(move || {
        let mut word = [0; 4];
        while enables.read_exact(&mut word).is_ok() {
            assert_eq!(u32::from_ne_bytes(word), 1);
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let stopped = Arc::clone(&stop);
    let playing = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            player.step();
            thread::sleep(Duration::from_micros(20));
        }
    });

    let uio = Uio::open(&roots, &registers, &memory)
        .unwrap()
        .with_interrupt(host.into());
    let second = Uio::open(&roots, &registers, &memory).unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
    let deadlines = Deadlines {
        segment: Duration::from_secs(5),
        identity: Duration::from_secs(5),
    };
    let driver = Driver::open(uio, Arc::new(program.clone()), deadlines).unwrap();
    let queue = FrameQueue::start(driver).unwrap();
    let inputs: Vec<Vec<u8>> = (0..12_u8)
        .map(|frame| vec![frame.wrapping_mul(31); program.input_bytes()])
        .collect();
    let tickets: Vec<_> = inputs.iter().map(|i| queue.submit(i.clone())).collect();
    let never = AtomicBool::new(false);
    for (input, ticket) in inputs.iter().zip(tickets) {
        assert_eq!(ticket.wait(&never).unwrap(), program.expected(input));
    }
    drop(queue);
    stop.store(true, Ordering::Relaxed);
    playing.join().unwrap();
    counting.join().unwrap();
    assert!(enabled.load(Ordering::Relaxed) >= 12);
    // The last synchronisation took the output's cache line back to the host.
    let last = |attribute: &str| attribute_of(&roots, attribute);
    assert_eq!(
        (last("sync_direction"), last("sync_for_cpu")),
        ("2".into(), "1".into())
    );
    assert_eq!(last("sync_for_device"), "1");
    assert_eq!(last("sync_size"), CACHE_LINE.to_string());
}

fn attribute_of(roots: &Roots, name: &str) -> String {
    attribute(&roots.sys.join("class/u-dma-buf/udmabuf-quasar").join(name)).unwrap()
}

fn uio(roots: &Roots) -> Uio {
    let memory = Memory::find(roots).unwrap();
    Uio::open(roots, &Registers::find(roots).unwrap(), &memory).unwrap()
}

#[test]
fn a_part_of_memory_is_synchronised_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let mut uio = uio(&roots);
    uio.allocate(100).unwrap();
    let buffer = uio.allocate(1024).unwrap();
    assert_eq!(buffer.physical, PHYSICAL + 128);
    uio.copy_in(&buffer, 64, &[7; 64]).unwrap();
    uio.flush(&buffer, 64, 128).unwrap();
    let sync = [
        "sync_offset",
        "sync_size",
        "sync_direction",
        "sync_for_device",
    ];
    assert_eq!(
        sync.map(|name| attribute_of(&roots, name)),
        ["192", "128", "1", "1"]
    );
    let memory = fs::read(roots.dev.join("udmabuf-quasar")).unwrap();
    assert_eq!(memory[192..256], [7; 64]);
    assert_eq!(memory[256], 0);
    let mut out = [0; 64];
    uio.copy_out(&buffer, 64, &mut out).unwrap();
    assert_eq!(out, [7; 64]);
    assert!(uio.copy_in(&buffer, 1000, &[0; 64]).is_err());
    let error = uio.allocate(MEMORY).unwrap_err();
    assert_eq!(error.kind(), "DoesNotFit");
    assert!(uio.read(REGISTER_BYTES).is_err());
    assert!(uio.write(2, 0).is_err());
}

#[test]
fn a_reserved_region_needs_no_synchronisation() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    fs::write(roots.dev.join("mem"), vec![0; 1 << 20]).unwrap();
    let region = Region {
        base: 0x8_0000,
        bytes: 4096,
    };
    let mut uio = Uio::open(
        &roots,
        &Registers::DevMem(0x1_0000),
        &Memory::Reserved(region),
    )
    .unwrap();
    let buffer = uio.allocate(64).unwrap();
    assert_eq!(buffer.physical, 0x8_0000);
    uio.copy_in(&buffer, 0, b"quasar").unwrap();
    uio.flush(&buffer, 0, 64).unwrap();
    uio.write(0x24, 0x0102_0304).unwrap();
    assert_eq!(uio.read(0x24).unwrap(), 0x0102_0304);
    assert!(!uio.wait(Duration::from_secs(10)).unwrap());
    let memory = fs::read(roots.dev.join("mem")).unwrap();
    assert_eq!(memory[0x8_0000..0x8_0006], *b"quasar");
    assert_eq!(memory[0x1_0024..0x1_0028], [4, 3, 2, 1]);
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    fs::remove_file(roots.dev.join("udmabuf-quasar")).unwrap();
    let memory = Memory::find(&roots).unwrap();
    let error = Uio::open(&roots, &Registers::find(&roots).unwrap(), &memory).unwrap_err();
    assert_eq!(error.kind(), "DeviceUnavailable");
    assert!(error.to_string().contains("udmabuf-quasar"), "{error}");
    fs::remove_dir_all(roots.sys.join("class")).unwrap();
    assert_eq!(Registers::find(&roots), None);
    assert_eq!(Memory::find(&roots), None);
}

#[test]
fn a_bitstream_is_loaded_by_the_fpga_manager() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let bitstream = folder.path().join("zcu102.bin");
    fs::write(&bitstream, b"bits").unwrap();
    load_bitstream(&roots, &bitstream).unwrap();
    let manager = roots.sys.join("class/fpga_manager/fpga0");
    assert_eq!(attribute(&manager.join("flags")).unwrap(), "0");
    assert_eq!(attribute(&manager.join("firmware")).unwrap(), "zcu102.bin");
    assert_eq!(
        fs::read(roots.firmware.join("zcu102.bin")).unwrap(),
        b"bits"
    );
    fs::write(manager.join("state"), "write init error\n").unwrap();
    let error = load_bitstream(&roots, &bitstream).unwrap_err();
    assert!(error.to_string().contains("write init error"), "{error}");
}
