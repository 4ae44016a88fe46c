//! The build script of every Cortex-M board: points the linker to the board's `memory.x`.

use std::path::Path;

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let memory = std::fs::read_to_string(Path::new(&folder).join("memory.x")).unwrap_or_default();
    println!("cargo::rustc-link-search={folder}");
    for flag in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo::rustc-link-arg={flag}");
    }
    // The boot ROM of an RP2040 starts a loader in the first 256 bytes of the flash.
    if memory.contains("BOOT2") {
        println!("cargo::rustc-link-arg=-Tlink-rp.x");
    }
    println!("cargo::rerun-if-changed=memory.x");
}
