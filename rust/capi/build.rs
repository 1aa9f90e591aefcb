//! Gives the shared library its SONAME, `QUASAR_SONAME` for tests and `tools/c_library.py`.
//!
//! Until version 1 a minor version may change the interface, so the SONAME has both numbers.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let [major, minor] = ["MAJOR", "MINOR"]
        .map(|part| var(format!("CARGO_PKG_VERSION_{part}")).expect("cargo sets it"));
    let version = if major == "0" {
        format!("0.{minor}")
    } else {
        major
    };
    let soname = format!("libquasar_rt.so.{version}");
    println!("cargo::rustc-env=QUASAR_SONAME={soname}");
    if var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{soname}");
    }
}
