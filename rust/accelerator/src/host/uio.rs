//! Accesses an accelerator on Linux without PYNQ: registers through a UIO device or `/dev/mem`,
//! memory through u-dma-buf or a reserved region, the bitstream through the FPGA manager.
//!
//! Every path has a root (`/dev`, `/sys`), so that tests can replace device nodes by ordinary
//! files. All `unsafe` blocks access mapped memory. Depends on [`super::transport`], `memory`,
//! [`crate::identity`] and [`crate::isa`].
#![allow(unsafe_code)]

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::thread;
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};
use quasar_core::error::{Error, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;

use self::gpio::StatusLines;
use crate::host::memory::{Caching, HostMemory};
use crate::host::ownership::{file_without_nodes, Ownership};
use crate::host::transport::{register, Buffer, Transport, CACHE_LINE};
use crate::identity::NODE;
use crate::isa::REGISTER_BYTES;

pub mod gpio;

/// The interval of polls for completion without an interrupt.
const POLL_INTERVAL: Duration = Duration::from_micros(100);

/// Name of the FPGA manager.
const FPGA_MANAGER: &str = "fpga0";

/// Root folders of Linux's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// `/dev`
    pub dev: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
    /// `/lib/firmware`
    pub firmware: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            dev: "/dev".into(),
            sys: "/sys".into(),
            firmware: "/lib/firmware".into(),
        }
    }
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first address.
    pub base: u64,
    /// Its size.
    pub bytes: usize,
}

/// The access path to the registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registers {
    /// `/dev/uioN`, which also has the interrupt.
    Uio(String),
    /// `/dev/mem` at this address; completion is polled.
    DevMem(u64),
}

/// The source of DMA memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// `/dev/NAME` of u-dma-buf, and the folder with its attributes.
    UDmaBuf(String, PathBuf),
    /// A region that Linux does not use, through `/dev/mem`, uncached.
    Reserved(Region),
}

/// Returns a function that turns a problem into [`Error::DeviceUnavailable`].
fn unavailable(device: &str) -> impl Fn(String) -> Error + '_ {
    |problem| Error::DeviceUnavailable {
        device: device.into(),
        problem,
    }
}

/// Returns a function that describes a failed access to a file.
fn io(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    |source| format!("{}: {source}", path.display())
}

/// Reads an attribute.
fn attribute(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(io(path))?;
    Ok(text.trim().to_owned())
}

fn number(path: &Path) -> Result<u64, String> {
    let text = attribute(path)?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{}: {text:?} is no number", path.display()))
}

/// Lists a folder's names, sorted; none if there is no such folder.
fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

impl Registers {
    /// Finds the UIO device whose device-tree node is [`NODE`].
    pub fn find(roots: &Roots) -> Option<Self> {
        let class = roots.sys.join("class/uio");
        entries(&class)
            .into_iter()
            .find(|uio| attribute(&class.join(uio).join("name")).is_ok_and(|name| name == NODE))
            .map(Self::Uio)
    }
}

impl Memory {
    /// Finds the u-dma-buf that has [`NODE`] in its name, or else the first one.
    pub fn find(roots: &Roots) -> Option<Self> {
        ["class/u-dma-buf", "class/udmabuf"]
            .iter()
            .find_map(|class| {
                let class = roots.sys.join(class);
                let names = entries(&class);
                let name = names
                    .iter()
                    .find(|name| name.contains(NODE))
                    .or(names.first())?;
                Some(Self::UDmaBuf(name.clone(), class.join(name)))
            })
    }
}

/// Node of the device tree that sets the fabric's clock (`fpga/boards/quasar-clock-*.dtso`).
const CLOCK_NODE: &str = "quasar-clock";

/// Value of the attribute `state` if the FPGA is configured.
const OPERATING: &str = "operating";

/// The attributes of the FPGA manager that load a bitstream: flags and file name.
const LOADING: [&str; 2] = ["flags", "firmware"];

/// Returns the file whose lock owns the FPGA: the manager's state, which every user may open, or
/// otherwise the first node with access to registers. UIO, `/dev/mem` and PYNQ lock the same file.
pub fn lock_file(roots: &Roots) -> PathBuf {
    let nodes = Registers::find(roots).map(|registers| match registers {
        Registers::Uio(name) => roots.dev.join(name),
        Registers::DevMem(_) => roots.dev.join("mem"),
    });
    [manager(roots).join("state")]
        .into_iter()
        .chain(nodes)
        .chain([roots.dev.join("mem")])
        .find(|path| path.exists())
        .unwrap_or_else(file_without_nodes)
}

fn manager(roots: &Roots) -> PathBuf {
    roots.sys.join("class/fpga_manager").join(FPGA_MANAGER)
}

/// Checks that Linux reports a configured FPGA, before the first access to a register: in an
/// unconfigured FPGA the access ends in SIGBUS, a kernel panic or a hang. Without an FPGA manager
/// the check passes.
fn expect_operating(roots: &Roots) -> Result<(), String> {
    let state = manager(roots).join("state");
    match attribute(&state) {
        Ok(found) if found != OPERATING => Err(format!(
            "{} is {found:?}, so perhaps no register answers: no bitstream is loaded, or one was \
             loaded past Linux (JTAG); load it by QUASAR_BITSTREAM=NAME.bin or by the boot loader",
            state.display()
        )),
        _ => Ok(()),
    }
}

/// Sets the fabric's clock, if the device tree has the node [`CLOCK_NODE`]. An MMCM may lose its
/// lock if its input changes, so this comes before the bitstream. Linux may round a rate down, and
/// takes the reference for up to 0.01 % more than Vivado, so it is asked for 0.1 % more.
fn set_clock(roots: &Roots, hertz: f64) -> Result<(), String> {
    let path = roots
        .sys
        .join("devices/platform")
        .join(CLOCK_NODE)
        .join("set_rate");
    if !path.exists() {
        return Ok(()); // the boot loader sets it
    }
    fs::write(&path, format!("{}\n", (1.001 * hertz).round())).map_err(io(&path))?;
    let set = number(&path)? as f64;
    if set > 1.01 * hertz {
        return Err(format!(
            "{} is {set:.0} Hz, too fast for the bitstream, which has {hertz:.0}",
            path.display()
        ));
    }
    Ok(())
}

/// Sets the fabric's clock, then loads a bitstream through the FPGA manager. Copies it to the
/// firmware folder first, unless it is there. This needs attributes of AMD's kernels, which
/// mainline Linux does not have.
///
/// # Errors
/// [`Error::DeviceUnavailable`] if Linux does not load bitstreams, a file cannot be read or
/// written, or the FPGA does not reach the state `operating`; [`Error::DeviceBusy`] if another
/// engine or process uses the FPGA.
pub fn load_bitstream(roots: &Roots, bitstream: &Path, hertz: f64) -> Result<()> {
    let _ownership = Ownership::take(FPGA_MANAGER, &lock_file(roots))?;
    load(roots, bitstream, hertz).map_err(unavailable(FPGA_MANAGER))
}

/// Remedies if Linux cannot load bitstreams.
const OTHER_WAYS: &str =
    "let the boot loader load the bitstream and apply the device-tree overlay \
    (FSBL: BOOT.BIN; U-Boot: `fpga load`, `fdt apply`) and set QUASAR_BITSTREAM to NAME.json, or \
    boot AMD's kernel, which fpgautil and xmutil need, too";

/// Checks that programs can load bitstreams through Linux.
fn expect_loads(roots: &Roots) -> Result<(), String> {
    let manager = manager(roots);
    if !manager.is_dir() {
        return Err(format!(
            "there is no {}: the kernel has no FPGA manager for this FPGA; {OTHER_WAYS}",
            manager.display()
        ));
    }
    if !manager.join(LOADING[1]).exists() {
        return Err(format!(
            "{} has no attribute `firmware`: mainline Linux loads no bitstream for a program, AMD's \
             kernel does; {OTHER_WAYS}",
            manager.display()
        ));
    }
    Ok(())
}

fn load(roots: &Roots, bitstream: &Path, hertz: f64) -> Result<(), String> {
    let name = bitstream
        .file_name()
        .ok_or_else(|| format!("{} is no bitstream", bitstream.display()))?;
    expect_loads(roots)?;
    let manager = manager(roots);
    let firmware = roots.firmware.join(name);
    let data = fs::read(bitstream).map_err(io(bitstream))?;
    if !fs::read(&firmware).is_ok_and(|present| present == data) {
        fs::write(&firmware, &data).map_err(io(&firmware))?;
    }
    let set = |attribute: &str, value: &str| {
        let path = manager.join(attribute);
        fs::write(&path, value).map_err(io(&path))
    };
    // Only now, since the clock is also that of the design that is loaded.
    set_clock(roots, hertz)?;
    let [flags, image] = LOADING;
    // 0: a full bitstream, not a partial one.
    set(flags, "0")?;
    set(image, &name.to_string_lossy())?;
    match attribute(&manager.join("state"))?.as_str() {
        OPERATING => Ok(()),
        state => Err(format!(
            "the FPGA is in state {state:?} after {} was loaded; is it a .bin of this FPGA?",
            bitstream.display()
        )),
    }
}

/// Describes an accelerator by the files that Linux shows, without opening its devices or accessing
/// its registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Name of the accelerator's UIO device in `/dev`.
    pub uio: Option<String>,
    /// Bytes of registers of the UIO device; `None` if unknown.
    pub uio_bytes: Option<u64>,
    /// Name in `/dev` of the u-dma-buf that the driver uses.
    pub memory: Option<String>,
    /// Bytes of the u-dma-buf; `None` if unknown.
    pub memory_bytes: Option<u64>,
    /// The reason why nothing shows whether the accelerator has its clocks.
    pub no_clocks: Option<String>,
    /// Files that the driver opens for reading and writing.
    pub nodes: Vec<PathBuf>,
    /// Files that the driver writes.
    pub attributes: Vec<PathBuf>,
    /// State of the FPGA manager; `None` without one.
    pub state: Option<String>,
    /// The reason why no register may be accessed.
    pub not_operating: Option<String>,
    /// The reason why Linux loads no bitstream.
    pub not_loading: Option<String>,
    /// Files and the folder that loading a bitstream writes to.
    pub loading: Vec<PathBuf>,
}

impl Survey {
    /// Finds everything that [`Uio::open`] and [`load_bitstream`] need.
    pub fn new(roots: &Roots) -> Self {
        let mut survey = Self {
            state: attribute(&manager(roots).join("state")).ok(),
            not_operating: expect_operating(roots).err(),
            not_loading: expect_loads(roots).err(),
            ..Self::default()
        };
        if let Some(Registers::Uio(name)) = Registers::find(roots) {
            let map = roots.sys.join("class/uio").join(&name).join("maps/map0");
            survey.uio_bytes = number(&map.join("size")).ok();
            survey.nodes.push(roots.dev.join(&name));
            survey.uio = Some(name);
        }
        if let Some(Memory::UDmaBuf(name, attributes)) = Memory::find(roots) {
            survey.memory_bytes = number(&attributes.join("size")).ok();
            survey.nodes.push(roots.dev.join(&name));
            if !coherent(&attributes) {
                let names = [FOR_DEVICE, FOR_CPU].into_iter().chain(RANGE);
                survey.attributes = names.map(|name| attributes.join(name)).collect();
            }
            survey.memory = Some(name);
        }
        let (no_clocks, export) = gpio::survey(&roots.sys);
        survey.no_clocks = no_clocks;
        survey.attributes.extend(export);
        if survey.not_loading.is_none() {
            let files = LOADING.map(|name| manager(roots).join(name));
            survey.loading = files.into_iter().chain([roots.firmware.clone()]).collect();
        }
        survey
    }
}

/// Mapped DMA memory.
#[derive(Debug)]
struct Pool {
    map: MmapRaw,
    caching: Caching,
    physical: u64,
    /// `None` if the memory needs no synchronisation.
    caches: Option<Caches>,
    used: usize,
}

/// The side to which a synchronisation makes a range visible.
#[derive(Clone, Copy, Debug)]
enum Side {
    Device,
    Cpu,
}

/// An open attribute, so that a write is one system call.
#[derive(Debug)]
struct Attribute {
    name: &'static str,
    file: File,
    /// Its last value; `None` if unknown.
    value: Option<u64>,
}

impl Attribute {
    fn open(folder: &Path, name: &'static str) -> Result<Self, String> {
        let path = folder.join(name);
        let file = OpenOptions::new().write(true).open(&path);
        Ok(Self {
            name,
            file: file.map_err(io(&path))?,
            value: None,
        })
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        count_call();
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

/// The attributes of a u-dma-buf that write back and invalidate a range of the processor's caches.
#[derive(Debug)]
struct Caches {
    for_device: Attribute,
    for_cpu: Attribute,
    /// The attributes of [`RANGE`].
    range: [Attribute; 3],
    /// True until u-dma-buf refuses a command, a single write that includes the range.
    commands: bool,
}

/// The attributes of [`Caches`].
const FOR_DEVICE: &str = "sync_for_device";
const FOR_CPU: &str = "sync_for_cpu";
const RANGE: [&str; 3] = ["sync_offset", "sync_size", "sync_direction"];

/// Returns true if a u-dma-buf needs no synchronisation.
fn coherent(attributes: &Path) -> bool {
    number(&attributes.join("dma_coherent")).is_ok_and(|coherent| coherent == 1)
}

impl Caches {
    fn open(folder: &Path) -> Result<Self, String> {
        let open = |name| Attribute::open(folder, name);
        let [offset, size, direction] = RANGE;
        Ok(Self {
            for_device: open(FOR_DEVICE)?,
            for_cpu: open(FOR_CPU)?,
            range: [open(offset)?, open(size)?, open(direction)?],
            commands: true,
        })
    }

    /// Makes a range visible to a side.
    fn sync(&mut self, side: Side, offset: u64, bytes: u64) -> Result<(), String> {
        let (owner, direction) = match side {
            Side::Device => (&self.for_device, 1),
            Side::Cpu => (&self.for_cpu, 2),
        };
        let failed = |name: &str, error| format!("{name}: {error}");
        // A command: offset in the upper half, then size, direction and a start bit.
        let fits = offset.max(bytes) <= u32::MAX.into() && bytes.is_multiple_of(16);
        if self.commands && fits {
            let command = offset << 32 | bytes | direction << 2 | 1;
            match owner.write(&format!("{command:#018x}\n")) {
                // Versions before u-dma-buf 2 accept only 0 and 1.
                Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => self.commands = false,
                result => return result.map_err(|e| failed(owner.name, e)),
            }
        }
        for (attribute, value) in self.range.iter_mut().zip([offset, bytes, direction]) {
            if attribute.value == Some(value) {
                continue;
            }
            let written = attribute.write(&format!("{value}\n"));
            attribute.value = written.is_ok().then_some(value);
            written.map_err(|e| failed(attribute.name, e))?;
        }
        owner.write("1\n").map_err(|e| failed(owner.name, e))
    }
}

/// Counts a system call of this thread, for tests.
fn count_call() {
    #[cfg(test)]
    tests::CALLS.set(tests::CALLS.get() + 1);
}

/// An accelerator on this machine's FPGA.
#[derive(Debug)]
pub struct Uio {
    name: String,
    clocks: StatusLines,
    registers: MmapRaw,
    interrupt: Option<OwnedFd>,
    /// True if Linux may have masked the interrupt, as it does at each interrupt.
    masked: bool,
    pool: Pool,
    /// Views of the buffers in `pool`.
    memory: HostMemory,
    _ownership: Ownership,
}

fn open(path: &Path, caching: Caching) -> Result<File, String> {
    let flags = match caching {
        Caching::Cached => OFlags::empty(),
        Caching::Uncached => OFlags::SYNC,
    };
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(io(path))
}

fn map(file: &File, path: &Path, offset: u64, bytes: usize) -> Result<MmapRaw, String> {
    MmapOptions::new()
        .offset(offset)
        .len(bytes)
        .map_raw(file)
        .map_err(io(path))
}

impl Uio {
    /// Opens an accelerator for exclusive use by one engine of this process.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] if something is missing, the FPGA is not configured or the
    /// accelerator has no clock; [`Error::DeviceBusy`] if another engine or process has the
    /// accelerator.
    pub fn open(roots: &Roots, registers: &Registers, memory: &Memory) -> Result<Self> {
        let name = match registers {
            Registers::Uio(name) => format!("uio:{name}"),
            Registers::DevMem(base) => format!("devmem:{base:#x}"),
        };
        let ownership = Ownership::take(&name, &lock_file(roots))?;
        let mut uio =
            Self::named(&name, roots, registers, memory, ownership).map_err(unavailable(&name))?;
        uio.expect_clocks()?;
        // The first access is a read of a register that responds even during a reset. A failed read
        // ends this process; a failed write is reported late and stops an arm64 kernel.
        uio.read(register::RESET)?;
        Ok(uio)
    }

    fn named(
        name: &str,
        roots: &Roots,
        registers: &Registers,
        memory: &Memory,
        ownership: Ownership,
    ) -> Result<Self, String> {
        let (path, offset) = match registers {
            Registers::Uio(node) => (roots.dev.join(node), 0),
            Registers::DevMem(base) => (roots.dev.join("mem"), *base),
        };
        expect_operating(roots)?;
        let file = open(&path, Caching::Uncached)?;
        let interrupt = match registers {
            Registers::Uio(_) => Some(file.try_clone().map_err(io(&path))?.into()),
            Registers::DevMem(_) => None,
        };
        Ok(Self {
            name: name.to_owned(),
            clocks: StatusLines::open(&roots.sys)?,
            registers: map(&file, &path, offset, REGISTER_BYTES as usize)?,
            interrupt,
            masked: true,
            pool: Pool::open(roots, memory)?,
            memory: HostMemory::default(),
            _ownership: ownership,
        })
    }

    fn fault(&self, problem: impl Display) -> Error {
        Error::DeviceFault {
            device: self.name.clone(),
            problem: problem.to_string(),
        }
    }

    fn register(&self, offset: u32) -> Result<*mut u32> {
        if offset >= REGISTER_BYTES || !offset.is_multiple_of(4) {
            return Err(Error::InvalidValue(format!("no register {offset:#x}")));
        }
        // SAFETY: the offset lies within the mapping, which has `REGISTER_BYTES`.
        Ok(unsafe { self.registers.as_mut_ptr().add(offset as usize) }.cast())
    }

    fn sync(&mut self, buffer: &Buffer, offset: usize, bytes: usize, side: Side) -> Result<()> {
        let range = buffer.range(offset, bytes)?;
        barrier();
        let start = buffer.physical - self.pool.physical + range.start as u64;
        let synced = match &mut self.pool.caches {
            Some(caches) => caches.sync(side, start, bytes as u64),
            None => Ok(()),
        };
        synced.map_err(|problem| self.fault(problem))
    }
}

impl Pool {
    fn open(roots: &Roots, memory: &Memory) -> Result<Self, String> {
        match memory {
            Memory::UDmaBuf(name, attributes) => {
                let path = roots.dev.join(name);
                let bytes = number(&attributes.join("size"))? as usize;
                // With sync_mode 5 or more, u-dma-buf maps uncached even without O_SYNC.
                let caching = match number(&attributes.join("sync_mode")) {
                    Ok(5..) => Caching::Uncached,
                    _ => Caching::Cached,
                };
                Ok(Self {
                    map: map(&open(&path, Caching::Cached)?, &path, 0, bytes)?,
                    caching,
                    physical: number(&attributes.join("phys_addr"))?,
                    caches: if coherent(attributes) {
                        None
                    } else {
                        Some(Caches::open(attributes)?)
                    },
                    used: 0,
                })
            }
            Memory::Reserved(Region { base, bytes }) => {
                let path = roots.dev.join("mem");
                Ok(Self {
                    map: map(&open(&path, Caching::Uncached)?, &path, *base, *bytes)?,
                    caching: Caching::Uncached,
                    physical: *base,
                    caches: None,
                    used: 0,
                })
            }
        }
    }
}

/// Completes all earlier memory accesses before later ones begin, also for the device.
fn barrier() {
    #[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
    // SAFETY: a barrier changes neither registers nor memory.
    unsafe {
        std::arch::asm!("dsb sy", options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "aarch64", target_arch = "arm")))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

impl Transport for Uio {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn clocks(&mut self) -> Result<Option<u32>> {
        let word = self.clocks.read();
        word.map(Some).map_err(|problem| self.fault(problem))
    }

    fn read(&mut self, register: u32) -> Result<u32> {
        let register = self.register(register)?;
        // SAFETY: an aligned register within the mapping.
        let value = unsafe { register.read_volatile() };
        barrier();
        Ok(value)
    }

    fn write(&mut self, register: u32, value: u32) -> Result<()> {
        let register = self.register(register)?;
        barrier();
        // SAFETY: an aligned register within the mapping.
        unsafe { register.write_volatile(value) }
        Ok(())
    }

    fn allocate(&mut self, bytes: usize) -> Result<Buffer> {
        let (start, all) = (self.pool.used, self.pool.map.len());
        let end = start + bytes.next_multiple_of(CACHE_LINE);
        if end > all {
            return Err(Error::DoesNotFit {
                what: format!("the DMA memory of {}", self.name),
                needed: end as u64,
                available: all as u64,
                unit: "bytes",
            });
        }
        self.pool.used = end;
        let index = self.memory.next_index();
        // SAFETY: the range lies within the mapping, which lives as long as `self`.
        unsafe {
            let first = NonNull::new_unchecked(self.pool.map.as_mut_ptr().add(start));
            self.memory.add(first, bytes, self.pool.caching);
        }
        Ok(Buffer {
            index,
            physical: self.pool.physical + start as u64,
            bytes,
        })
    }

    fn copy_in(&mut self, buffer: &Buffer, offset: usize, data: &[u8]) -> Result<()> {
        self.memory.copy_in(buffer, offset, data)
    }

    fn copy_out(&mut self, buffer: &Buffer, offset: usize, out: &mut [u8]) -> Result<()> {
        self.memory.copy_out(buffer, offset, out)
    }

    fn flush(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.sync(buffer, offset, bytes, Side::Device)
    }

    fn invalidate(&mut self, buffer: &Buffer, offset: usize, bytes: usize) -> Result<()> {
        self.sync(buffer, offset, bytes, Side::Cpu)
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let Some(interrupt) = &self.interrupt else {
            thread::sleep(timeout.min(POLL_INTERVAL));
            return Ok(false);
        };
        if self.masked {
            count_call();
            // Writing 1 unmasks the interrupt.
            rustix::io::write(interrupt, &1_u32.to_ne_bytes()).map_err(|e| self.fault(e))?;
            self.masked = false;
        }
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut polled = [PollFd::new(interrupt, PollFlags::IN)];
        count_call();
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
            Ok(_) => {
                self.masked = true;
                let mut count = [0; 4];
                count_call();
                rustix::io::read(interrupt, &mut count).map_err(|e| self.fault(e))?;
                Ok(true)
            }
            Err(error) => Err(self.fault(error)),
        }
    }
}

#[cfg(test)]
mod tests;
