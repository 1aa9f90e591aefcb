//! Integer kernels.
