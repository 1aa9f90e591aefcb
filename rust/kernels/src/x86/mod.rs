//! The x86-64 tiers.

// Intrinsics are named as the vendor names them, dozens in a file.
#[allow(clippy::wildcard_imports)]
mod avx2;
#[allow(clippy::wildcard_imports)]
mod avx512vnni;
#[allow(clippy::wildcard_imports)]
pub(crate) mod image;
#[allow(clippy::wildcard_imports)]
pub(crate) mod quantize;

pub(crate) use avx2::Avx2;
pub(crate) use avx512vnni::Avx512Vnni;
