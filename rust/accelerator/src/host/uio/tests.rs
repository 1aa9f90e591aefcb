//! Tests with ordinary files in place of device nodes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use quasar_core::cpu::NEVER;

use super::*;
use crate::host::driver::{Deadlines, Driver, FrameQueue};
use crate::host::mock::{program, Mock};
use crate::host::watch::Watched;
use crate::isa::clocks::ClockStatus;

thread_local! {
    /// System calls of this thread, counted by [`count_call`].
    pub(super) static CALLS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Returns the system calls of this thread that read or write a file, as Linux counts them.
fn counted_by_linux() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").unwrap();
    let calls = text.lines().filter(|line| line.starts_with("sysc"));
    calls.map(|line| line[7..].parse::<u64>().unwrap()).sum()
}

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
        &manager(&roots),
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
    fs::write(manager(&roots).join("state"), "operating\n").unwrap();
    let chip = roots.sys.join("class/gpio/gpiochip300");
    fs::create_dir_all(&chip).unwrap();
    fs::write(chip.join("label"), "zynqmp_gpio\n").unwrap();
    fs::write(chip.join("base"), "300\n").unwrap();
    fs::write(roots.sys.join("class/gpio/export"), "").unwrap();
    show_clocks(&roots, ClockStatus::running(2).word());
    for attribute in ["flags", "firmware"] {
        fs::write(manager(&roots).join(attribute), "").unwrap();
    }
    for attribute in [
        "sync_for_device",
        "sync_for_cpu",
        "sync_offset",
        "sync_size",
        "sync_direction",
    ] {
        fs::write(attributes.join(attribute), "").unwrap();
    }
    roots
}

/// Lets the GPIO lines show a word.
fn show_clocks(roots: &Roots, word: u32) {
    for bit in 0..32 {
        let line = roots.sys.join(format!("class/gpio/gpio{}", 378 + bit));
        fs::create_dir_all(&line).unwrap();
        fs::write(line.join("value"), format!("{}\n", word >> bit & 1)).unwrap();
    }
}

/// Opens a UIO device with a socket for its interrupt; also returns the socket's other end.
fn with_interrupt(roots: &Roots) -> (Uio, UnixStream) {
    let (host, device) = UnixStream::pair().unwrap();
    let uio = Uio {
        interrupt: Some(host.into()),
        ..uio(roots)
    };
    (uio, device)
}

#[test]
fn the_accelerator_s_nodes_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    assert_eq!(Registers::find(&roots), Some(Registers::Uio("uio3".into())));
    let attributes = roots.sys.join("class/u-dma-buf/udmabuf-quasar");
    let memory = Memory::UDmaBuf("udmabuf-quasar".into(), attributes);
    assert_eq!(Memory::find(&roots), Some(memory));
}

#[test]
fn one_engine_has_the_accelerator_whatever_the_way_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let bitstream = folder.path().join("other.bin");
    fs::write(&bitstream, "bits").unwrap();
    for manager_is_there in [true, false] {
        if !manager_is_there {
            fs::remove_dir_all(manager(&roots)).unwrap();
        }
        let first = uio(&roots);
        let memory = Memory::find(&roots).unwrap();
        for registers in [Registers::find(&roots).unwrap(), Registers::DevMem(0)] {
            let second = Uio::open(&roots, &registers, &memory).unwrap_err();
            assert_eq!(second.kind(), "DeviceBusy", "{second}");
        }
        // No bitstream can be loaded while a driver uses the FPGA.
        let loaded = load_bitstream(&roots, &bitstream, 150e6).unwrap_err();
        assert_eq!(loaded.kind(), "DeviceBusy", "{loaded}");
        drop(first);
        drop(uio(&roots));
    }
}

#[test]
fn the_interrupt_is_unmasked_before_the_wait_that_follows_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut uio, mut device) = with_interrupt(&files(folder.path()));
    device.set_nonblocking(true).unwrap();
    let unmasked = |device: &mut UnixStream| {
        let mut word = [0; 4];
        let result = device.read_exact(&mut word);
        result.is_ok_and(|()| u32::from_ne_bytes(word) == 1)
    };
    for count in 1..=3_u32 {
        assert!(!uio.wait(Duration::ZERO).unwrap());
        assert!(unmasked(&mut device), "before wait {count}");
        assert!(!uio.wait(Duration::ZERO).unwrap());
        device.write_all(&count.to_ne_bytes()).unwrap();
        assert!(uio.wait(Duration::from_secs(10)).unwrap());
        assert!(!unmasked(&mut device), "it was not masked");
    }
}

/// Returns the last value written to an attribute: the file's first line.
fn attribute_of(roots: &Roots, name: &str) -> String {
    let path = roots.sys.join("class/u-dma-buf/udmabuf-quasar").join(name);
    let text = attribute(&path).unwrap();
    text.lines().next().unwrap_or_default().to_owned()
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
    let for_device = "0x000000c000000085";
    assert_eq!(attribute_of(&roots, "sync_for_device"), for_device);
    let memory = fs::read(roots.dev.join("udmabuf-quasar")).unwrap();
    assert_eq!(memory[192..256], [7; 64]);
    assert_eq!(memory[256], 0);
    uio.invalidate(&buffer, 0, 64).unwrap();
    assert_eq!(attribute_of(&roots, "sync_for_cpu"), "0x0000008000000049");
    assert_eq!(attribute_of(&roots, "sync_offset"), "");
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
fn a_u_dma_buf_without_commands_gets_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let mut uio = uio(&roots);
    let buffer = uio.allocate(1024).unwrap();
    uio.pool.caches.as_mut().unwrap().commands = false;
    let sync = [
        "sync_offset",
        "sync_size",
        "sync_direction",
        "sync_for_device",
        "sync_for_cpu",
    ];
    let calls = || {
        let before = CALLS.get();
        move || CALLS.get() - before
    };
    let first = calls();
    uio.flush(&buffer, 64, 128).unwrap();
    assert_eq!(first(), 4);
    let written = sync.map(|name| attribute_of(&roots, name));
    assert_eq!(written, ["64", "128", "1", "1", ""]);
    let again = calls();
    uio.flush(&buffer, 64, 128).unwrap();
    assert_eq!(again(), 1);
    let back = calls();
    uio.invalidate(&buffer, 64, 128).unwrap();
    assert_eq!(back(), 2);
    let written = sync.map(|name| attribute_of(&roots, name));
    assert_eq!(written, ["64", "128", "2", "1", "1"]);
}

#[test]
fn a_synchronised_range_is_one_system_call() {
    let folder = tempfile::tempdir().unwrap();
    let (mut uio, mut device) = with_interrupt(&files(folder.path()));
    let buffer = uio.allocate(1024).unwrap();
    let reading = {
        let before = counted_by_linux();
        counted_by_linux() - before
    };
    let (calls, before) = (CALLS.get(), counted_by_linux());
    for _ in 0..10 {
        uio.flush(&buffer, 0, 128).unwrap();
        uio.invalidate(&buffer, 64, 128).unwrap();
    }
    assert_eq!(counted_by_linux() - before - reading, 20);
    assert_eq!(CALLS.get() - calls, 20);
    // A poll is not counted as a read or write. A wait that times out is only a poll, unless the
    // interrupt was masked.
    device.write_all(&1_u32.to_ne_bytes()).unwrap();
    let (calls, before) = (CALLS.get(), counted_by_linux());
    assert!(uio.wait(Duration::ZERO).unwrap());
    assert_eq!(counted_by_linux() - before - reading, 2);
    assert_eq!(CALLS.get() - calls, 3);
    let calls = CALLS.get();
    for _ in 0..5 {
        assert!(!uio.wait(Duration::ZERO).unwrap());
    }
    assert_eq!(CALLS.get() - calls, 6);
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
    assert_eq!(uio.pool.caching, Caching::Uncached);
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
    load_bitstream(&roots, &bitstream, 150e6).unwrap();
    let manager = manager(&roots);
    assert_eq!(attribute(&manager.join("flags")).unwrap(), "0");
    assert_eq!(attribute(&manager.join("firmware")).unwrap(), "zcu102.bin");
    assert_eq!(
        fs::read(roots.firmware.join("zcu102.bin")).unwrap(),
        b"bits"
    );
    fs::write(manager.join("state"), "write init error\n").unwrap();
    let error = load_bitstream(&roots, &bitstream, 150e6).unwrap_err();
    assert!(error.to_string().contains("write init error"), "{error}");
}

#[test]
fn the_fabric_s_clock_is_set_before_the_bitstream_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let bitstream = folder.path().join("zcu102.bin");
    fs::write(&bitstream, b"bits").unwrap();
    let clock = roots.sys.join("devices/platform/quasar-clock");
    fs::create_dir_all(&clock).unwrap();
    fs::write(clock.join("set_rate"), "100000000\n").unwrap();
    load_bitstream(&roots, &bitstream, 149_985_016.0).unwrap();
    // Linux may take a PLL for 1,499,999,985 Hz where Vivado has 1,499,850,160.
    let asked = number(&clock.join("set_rate")).unwrap();
    assert_eq!(1_499_999_985_u64.div_ceil(asked), 10);
    assert_eq!(
        attribute(&manager(&roots).join("firmware")).unwrap(),
        "zcu102.bin"
    );
    // No bitstream is loaded where the clock cannot be set.
    fs::write(manager(&roots).join("firmware"), "").unwrap();
    fs::remove_file(clock.join("set_rate")).unwrap();
    fs::create_dir(clock.join("set_rate")).unwrap();
    let error = load_bitstream(&roots, &bitstream, 150e6).unwrap_err();
    assert!(error.to_string().contains("set_rate"), "{error}");
    assert_eq!(attribute(&manager(&roots).join("firmware")).unwrap(), "");
}

#[test]
fn no_register_is_accessed_without_a_clock() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    // An access to a register of an empty file ends this process, as one that hangs ends a board.
    fs::write(roots.dev.join("uio3"), "").unwrap();
    let running = ClockStatus::running(2);
    let unlocked = ClockStatus {
        locked: false,
        ..running
    };
    let slow = ClockStatus {
        array: 4,
        ..running
    };
    for (word, problem) in [
        (unlocked.word(), "not locked"),
        (
            slow.word(),
            "1 times the rate of the kernels' clock instead of 2",
        ),
        (ClockStatus::running(1).word(), "the fabric's clock stands"),
        (0, "which no bitstream of this version shows"),
    ] {
        show_clocks(&roots, word);
        let registers = Registers::find(&roots).unwrap();
        let memory = Memory::find(&roots).unwrap();
        let error = Uio::open(&roots, &registers, &memory).unwrap_err();
        assert_eq!(error.kind(), "DeviceUnavailable");
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[test]
fn a_clock_that_is_lost_is_noticed_before_the_next_reset() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let mut uio = uio(&roots);
    show_clocks(
        &roots,
        ClockStatus {
            locked: false,
            ..ClockStatus::running(2)
        }
        .word(),
    );
    fs::write(roots.dev.join("uio3"), "").unwrap();
    assert_eq!(uio.reset().unwrap_err().kind(), "DeviceUnavailable");
}

#[test]
fn a_kernel_without_the_gpio_controller_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    assert_eq!(Survey::new(&roots).no_clocks, None);
    // A line that is not there yet is asked for.
    let class = roots.sys.join("class/gpio");
    fs::remove_dir_all(class.join("gpio380")).unwrap();
    assert!(Survey::new(&roots)
        .attributes
        .contains(&class.join("export")));
    let problem = StatusLines::open(&roots.sys).unwrap_err();
    assert!(problem.contains("gpio380/value"), "{problem}");
    assert_eq!(attribute(&class.join("export")).unwrap(), "380");
    fs::write(class.join("gpiochip300/label"), "pca9555\n").unwrap();
    let found = Survey::new(&roots).no_clocks.unwrap();
    assert!(found.contains("CONFIG_GPIO_SYSFS"), "{found}");
}

#[test]
fn a_kernel_that_loads_no_bitstreams_is_named_with_the_other_ways() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let bitstream = folder.path().join("zcu102.bin");
    fs::write(&bitstream, b"bits").unwrap();
    for attribute in ["flags", "firmware"] {
        fs::remove_file(manager(&roots).join(attribute)).unwrap();
    }
    let error = load_bitstream(&roots, &bitstream, 150e6).unwrap_err();
    assert_eq!(error.kind(), "DeviceUnavailable");
    for part in ["mainline Linux", "AMD's kernel", "boot loader", "NAME.json"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(entries(&roots.firmware), [""; 0]);
    fs::remove_dir_all(manager(&roots)).unwrap();
    let error = load_bitstream(&roots, &bitstream, 150e6).unwrap_err();
    assert!(error.to_string().contains("no FPGA manager"), "{error}");
    // Opening works without a manager: a boot loader may have loaded the bitstream.
    uio(&roots);
}

#[test]
fn an_fpga_without_a_bitstream_is_not_accessed() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    // Reading a mapped page of an empty file raises SIGBUS, like an access without a response on
    // the bus.
    fs::write(roots.dev.join("uio3"), "").unwrap();
    for state in ["unknown", "write init error"] {
        fs::write(manager(&roots).join("state"), state).unwrap();
        let memory = Memory::find(&roots).unwrap();
        let registers = Registers::find(&roots).unwrap();
        let error = Uio::open(&roots, &registers, &memory).unwrap_err();
        assert_eq!(error.kind(), "DeviceUnavailable");
        assert!(error.to_string().contains(state), "{error}");
    }
}

#[test]
fn memory_is_copied_as_it_is_mapped() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let sync_mode = roots.sys.join("class/u-dma-buf/udmabuf-quasar/sync_mode");
    for (mode, caching) in [("1", Caching::Cached), ("5", Caching::Uncached)] {
        fs::write(&sync_mode, mode).unwrap();
        let mut uio = uio(&roots);
        assert_eq!(uio.pool.caching, caching);
        let buffer = uio.allocate(64).unwrap();
        uio.copy_in(&buffer, 3, b"nine bytes").unwrap();
        let mut out = [0; 10];
        uio.copy_out(&buffer, 3, &mut out).unwrap();
        assert_eq!(out, *b"nine bytes");
    }
}

/// System calls of the driver's thread, by purpose.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    syncs: u64,
    waits: u64,
}

/// A mock that also performs its cache maintenance and waits through Linux.
struct Mirror {
    mock: Mock,
    uio: Uio,
    device: UnixStream,
    buffers: Vec<Buffer>,
    calls: Arc<Mutex<Calls>>,
}

impl Mirror {
    fn count(&mut self, of: fn(&mut Calls) -> &mut u64, before: u64) {
        *of(&mut self.calls.lock().unwrap()) += CALLS.get() - before;
    }
}

impl Transport for Mirror {
    crate::host::mock::forward_to_mock! { name read write copy_in copy_out now sleep }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer> {
        self.buffers.push(self.uio.allocate(bytes)?);
        self.mock.allocate(bytes)
    }

    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        let before = CALLS.get();
        self.uio.flush(&self.buffers[buffer.index], offset, bytes)?;
        self.count(|calls| &mut calls.syncs, before);
        self.mock.flush(buffer, offset, bytes)
    }

    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        let before = CALLS.get();
        self.uio
            .invalidate(&self.buffers[buffer.index], offset, bytes)?;
        self.count(|calls| &mut calls.syncs, before);
        self.mock.invalidate(buffer, offset, bytes)
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let came = self.mock.wait(timeout)?;
        if came {
            self.device.write_all(&1_u32.to_ne_bytes()).unwrap();
        }
        let before = CALLS.get();
        assert_eq!(self.uio.wait(Duration::ZERO)?, came);
        self.count(|calls| &mut calls.waits, before);
        // Empties the socket of the writes that unmask the interrupt.
        while self.device.read(&mut [0; 4]).is_ok_and(|bytes| bytes > 0) {}
        Ok(came)
    }
}

#[test]
fn a_frame_takes_few_system_calls() {
    let deadlines = Deadlines {
        segment: Duration::from_secs(1),
        identity: Duration::from_secs(1),
    };
    for (slots, ports) in [(1, 1), (2, 2), (2, 4)] {
        let folder = tempfile::tempdir().unwrap();
        let (uio, device) = with_interrupt(&files(folder.path()));
        device.set_nonblocking(true).unwrap();
        let calls = Arc::<Mutex<Calls>>::default();
        let program = program(slots, ports);
        let mirror = Mirror {
            mock: Mock::new(Arc::clone(&program), deadlines.segment, |_| None),
            uio,
            device,
            buffers: Vec::new(),
            calls: Arc::clone(&calls),
        };
        let driver = Driver::open(Watched::of(mirror), Arc::clone(&program), deadlines).unwrap();
        *calls.lock().unwrap() = Calls::default();
        let queue = FrameQueue::of(driver);
        let mut input = vec![0; program.input_bytes()];
        program.pack_input(&vec![1; program.patch_codes()], &mut input);
        let frames = 200;
        let tickets: Vec<_> = (0..frames).map(|_| queue.submit(input.clone())).collect();
        for ticket in tickets {
            ticket.wait(&NEVER).unwrap();
        }
        drop(queue);
        let Calls { syncs, waits } = *calls.lock().unwrap();
        println!("{slots} slots, {ports} ports: {syncs} syncs, {waits} waits of {frames} frames");
        // Each stripe of the input, and the output before and after the frame.
        assert_eq!(syncs, frames * (ports + 2));
        // An interrupt takes three calls, a timeout one. A frame has one interrupt for its output
        // and one for each of its segments.
        let segments = 2 / slots;
        assert!(
            waits <= frames * (4 * (segments + 1) + 2),
            "{waits} of {frames} frames"
        );
    }
}

#[test]
fn a_survey_finds_what_opening_needs() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let survey = Survey::new(&roots);
    assert_eq!(survey.uio.as_deref(), Some("uio3"));
    assert_eq!(survey.memory.as_deref(), Some("udmabuf-quasar"));
    assert_eq!(survey.memory_bytes, Some(MEMORY as u64));
    assert_eq!((survey.not_operating, survey.not_loading), (None, None));
    let mut opened = survey.nodes;
    opened.extend(survey.attributes);
    assert_eq!(opened.len(), 2 + 5);
    // Opening needs each of these files.
    for path in opened.into_iter().chain(survey.loading) {
        assert!(path.exists(), "{}", path.display());
    }
    fs::write(manager(&roots).join("state"), "unknown\n").unwrap();
    fs::remove_file(manager(&roots).join("firmware")).unwrap();
    let survey = Survey::new(&roots);
    assert!(survey.not_operating.unwrap().contains("unknown"));
    assert!(survey.not_loading.unwrap().contains("mainline"));
    assert_eq!(survey.loading, Vec::<PathBuf>::new());
    let empty = Survey::new(&Roots {
        dev: folder.path().join("none"),
        sys: folder.path().join("none"),
        firmware: folder.path().join("none"),
    });
    assert_eq!((empty.uio, empty.memory, empty.state), (None, None, None));
    assert!(empty.not_loading.unwrap().contains("no FPGA manager"));
}
