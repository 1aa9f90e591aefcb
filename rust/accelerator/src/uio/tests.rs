//! Ordinary files stand in for the device nodes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

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
    for attribute in ["flags", "firmware"] {
        fs::write(manager(&roots).join(attribute), "").unwrap();
    }
    roots
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
fn one_process_has_the_accelerator() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let _first = uio(&roots);
    let memory = Memory::find(&roots).unwrap();
    let second = Uio::open(&roots, &Registers::find(&roots).unwrap(), &memory).unwrap_err();
    assert!(second.to_string().contains("another process"), "{second}");
}

#[test]
fn each_wait_unmasks_the_interrupt() {
    let folder = tempfile::tempdir().unwrap();
    let (mut uio, mut device) = with_interrupt(&files(folder.path()));
    for count in 1..=3_u32 {
        assert!(!uio.wait(Duration::ZERO).unwrap());
        device.write_all(&count.to_ne_bytes()).unwrap();
        assert!(uio.wait(Duration::from_secs(10)).unwrap());
        for _ in 0..2 {
            let mut word = [0; 4];
            device.read_exact(&mut word).unwrap();
            assert_eq!(u32::from_ne_bytes(word), 1);
        }
    }
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
    uio.invalidate(&buffer, 0, 64).unwrap();
    let sync = ["sync_offset", "sync_size", "sync_direction", "sync_for_cpu"];
    assert_eq!(
        sync.map(|name| attribute_of(&roots, name)),
        ["128", "64", "2", "1"]
    );
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
    load_bitstream(&roots, &bitstream).unwrap();
    let manager = manager(&roots);
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

#[test]
fn a_kernel_that_loads_no_bitstreams_is_named_with_the_other_ways() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    let bitstream = folder.path().join("zcu102.bin");
    fs::write(&bitstream, b"bits").unwrap();
    for attribute in ["flags", "firmware"] {
        fs::remove_file(manager(&roots).join(attribute)).unwrap();
    }
    let error = load_bitstream(&roots, &bitstream).unwrap_err();
    assert_eq!(error.kind(), "DeviceUnavailable");
    for part in ["mainline Linux", "AMD's kernel", "boot loader", "NAME.json"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(entries(&roots.firmware), [""; 0]);
    fs::remove_dir_all(manager(&roots)).unwrap();
    let error = load_bitstream(&roots, &bitstream).unwrap_err();
    assert!(error.to_string().contains("no FPGA manager"), "{error}");
    // A boot loader may have loaded it.
    uio(&roots);
}

#[test]
fn an_fpga_without_a_bitstream_is_not_accessed() {
    let folder = tempfile::tempdir().unwrap();
    let roots = files(folder.path());
    // To map and read an empty file's page is a SIGBUS, as on a bus without an answer.
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
