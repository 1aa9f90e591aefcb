//! The instruction-set tiers, and which of them this CPU runs.

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
use crate::detect::amx_is_usable;
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
use crate::detect::neon_is_usable;

/// An instruction-set tier. Every tier gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Portable Rust, which every other tier is compared with.
    Scalar,
    /// x86-64 with AVX2 (`vpmaddwd` on 16-bit codes).
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI (`vpdpbusd`).
    Avx512Vnni,
    /// x86-64 with VNNI and AMX's tiles of 8-bit numbers (`tdpbssd`).
    Amx,
    /// 64-bit Arm, baseline Armv8.0 (`smlal`), and 32-bit Arm with NEON (`vmlal`).
    Neon,
    /// 64-bit Arm with the dot product of Armv8.2 (`sdot`).
    NeonDot,
    /// 64-bit Arm with the 8-bit matrix product of Armv8.6 (`smmla`).
    NeonI8mm,
}

/// A tier name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTier(String);

impl fmt::Display for UnknownTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Tier::ALL.map(Tier::name).join(", ");
        write!(f, "unknown tier {:?}: use one of {names}", self.0)
    }
}

impl std::error::Error for UnknownTier {}

impl Tier {
    /// Every tier, slowest first.
    pub const ALL: [Tier; 7] = [
        Tier::Scalar,
        Tier::Avx2,
        Tier::Avx512Vnni,
        Tier::Amx,
        Tier::Neon,
        Tier::NeonDot,
        Tier::NeonI8mm,
    ];

    /// Returns the name for options and tables: `scalar`, `avx2`, `avx512vnni`, `amx`, `neon`,
    /// `neondot` or `neoni8mm`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Scalar => "scalar",
            Tier::Avx2 => "avx2",
            Tier::Avx512Vnni => "avx512vnni",
            Tier::Amx => "amx",
            Tier::Neon => "neon",
            Tier::NeonDot => "neondot",
            Tier::NeonI8mm => "neoni8mm",
        }
    }

    /// Returns whether this build and this CPU can run the tier, detected at run time.
    pub fn is_supported(self) -> bool {
        match self {
            Tier::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Tier::Amx => Tier::Avx512Vnni.is_supported() && amx_is_usable(),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
            Tier::Neon => neon_is_usable(),
            #[cfg(target_arch = "aarch64")]
            Tier::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Tier::NeonI8mm => std::arch::is_aarch64_feature_detected!("i8mm"),
            _ => false,
        }
    }

    /// Returns the fastest tier that this CPU runs.
    pub fn best() -> Tier {
        Tier::ALL
            .into_iter()
            .rev()
            .find(|tier| tier.is_supported())
            .unwrap_or(Tier::Scalar)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Tier::ALL
            .into_iter()
            .find(|tier| tier.name() == s)
            .ok_or_else(|| UnknownTier(s.to_owned()))
    }
}
