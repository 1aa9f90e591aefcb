//! The instruction-set tiers, and which of them this CPU runs.

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
use crate::detect::amx_is_usable;
#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
use crate::detect::neon_is_usable;

/// The table of the SIMD tiers, slowest first. Calls the macro `$then` with `$with` and the rows:
/// docs, variant, name, family, and for each kind of CPU the kernels' type and the CPU's test.
macro_rules! simd_tiers {
    ($then:ident ! $($with:tt)*) => {
        $then! {
            $($with)*
            /// x86-64 with AVX2 (`vpmaddwd` on 16-bit codes).
            Avx2 "avx2" X86 {
                [target_arch = "x86_64"] crate::x86::Avx2, is_x86_feature_detected!("avx2");
            }
            /// x86-64 with AVX-512 F, BW, VL, DQ and VNNI (`vpdpbusd`).
            Avx512Vnni "avx512vnni" X86 {
                [target_arch = "x86_64"] crate::x86::Vnni, is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni");
            }
            /// x86-64 with VNNI and AMX's tiles of 8-bit numbers (`tdpbssd`).
            Amx "amx" X86 {
                [target_arch = "x86_64"] crate::x86::Amx,
                    Tier::Avx512Vnni.is_supported() && amx_is_usable();
            }
            /// 64-bit Arm, baseline Armv8.0 (`smlal`), and 32-bit Arm with NEON (`vmlal`).
            Neon "neon" Arm {
                [target_arch = "aarch64"] crate::neon::Base,
                    std::arch::is_aarch64_feature_detected!("neon");
                [all(target_arch = "arm", target_abi = "eabihf")] crate::neon32::Neon32,
                    neon_is_usable();
            }
            /// 64-bit Arm with the dot product of Armv8.2 (`sdot`).
            NeonDot "neondot" Arm {
                [target_arch = "aarch64"] crate::neon::Dot,
                    std::arch::is_aarch64_feature_detected!("dotprod");
            }
            /// 64-bit Arm with the 8-bit matrix product of Armv8.6 (`smmla`).
            NeonI8mm "neoni8mm" Arm {
                [target_arch = "aarch64"] crate::neon::Matrix,
                    std::arch::is_aarch64_feature_detected!("i8mm");
            }
        }
    };
}
pub(crate) use simd_tiers;

/// The helper kernels (images, quantizing) that a tier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Portable Rust.
    Scalar,
    /// AVX2, which every x86 tier has.
    X86,
    /// NEON, which every Arm tier has.
    Arm,
}

macro_rules! declare {
    ($(
        $(#[$doc:meta])* $tier:ident $name:literal $family:ident
        { $([$cpu:meta] $isa:ty, $detected:expr;)* }
    )*) => {
        /// An instruction-set tier. Every tier gives the same bits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Tier {
            /// Portable Rust, which every other tier is compared with.
            Scalar,
            $( $(#[$doc])* $tier, )*
        }

        impl Tier {
            /// Every tier, slowest first.
            pub const ALL: [Tier; 1 + [$($name),*].len()] = [Tier::Scalar, $(Tier::$tier),*];

            /// Returns the name for options and tables.
            pub fn name(self) -> &'static str {
                match self {
                    Tier::Scalar => "scalar",
                    $( Tier::$tier => $name, )*
                }
            }

            pub(crate) fn family(self) -> Family {
                match self {
                    Tier::Scalar => Family::Scalar,
                    $( Tier::$tier => Family::$family, )*
                }
            }

            /// Returns whether this build and this CPU can run the tier, detected at run time.
            pub fn is_supported(self) -> bool {
                match self {
                    Tier::Scalar => true,
                    $(
                        $( #[cfg($cpu)] Tier::$tier => $detected, )*
                        #[cfg(not(any($($cpu),*)))]
                        Tier::$tier => false,
                    )*
                }
            }
        }
    };
}
simd_tiers!(declare!);

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
