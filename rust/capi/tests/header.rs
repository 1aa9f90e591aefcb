//! `include/quasar_rt.h` is what cbindgen makes of the sources. `QUASAR_WRITE_HEADER=1` writes it.

use std::fs;
use std::path::Path;

#[test]
fn the_header_is_generated_from_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_root_or_default(root);
    config.sys_includes = ["stddef.h", "stdint.h"].map(String::from).into();
    config.no_includes = true;
    let mut header = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/lib.rs"))
        .generate()
        .expect("the sources parse")
        .write(&mut header);
    let header = String::from_utf8(header).expect("UTF-8");
    let path = root.join("include/quasar_rt.h");
    if std::env::var_os("QUASAR_WRITE_HEADER").is_some() {
        fs::write(&path, &header).expect("the folder is there");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == header,
        "rust/capi/include/quasar_rt.h is old: make c-header"
    );
}
