//! Detects what the standard library does not yet: AMX, and NEON of 32-bit Arm. Depends on nothing.

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::OnceLock;

    /// Returns whether the CPU has AMX for 8-bit numbers and the system lets this process use it.
    /// (The registers are large, so a process has to request them from Linux, once.)
    pub(crate) fn amx_is_usable() -> bool {
        static USABLE: OnceLock<bool> = OnceLock::new();
        *USABLE.get_or_init(|| {
            const TILES_AND_INT8: u32 = 1 << 24 | 1 << 25;
            let has =
                __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & TILES_AND_INT8 == TILES_AND_INT8;
            has && request()
        })
    }

    /// Requests the tile registers for this process, its threads and its children.
    #[cfg(target_os = "linux")]
    fn request() -> bool {
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
        const XFEATURE_XTILEDATA: usize = 18;
        let mut result = ARCH_PRCTL;
        // SAFETY: a system call that touches no memory of this process; it clobbers rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack)
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn request() -> bool {
        false
    }
}
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::amx_is_usable;

/// Returns whether this CPU has NEON.
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
pub(crate) fn neon_is_usable() -> bool {
    #[cfg(all(target_os = "linux", target_endian = "little"))]
    {
        use std::ffi::c_ulong;
        extern "C" {
            fn getauxval(kind: c_ulong) -> c_ulong;
        }
        const AT_HWCAP: c_ulong = 16;
        const HWCAP_NEON: c_ulong = 1 << 12;
        // SAFETY: the function of the C library has this signature; it reads what the kernel gave
        // the process.
        unsafe { getauxval(AT_HWCAP) & HWCAP_NEON != 0 }
    }
    #[cfg(not(all(target_os = "linux", target_endian = "little")))]
    false
}
