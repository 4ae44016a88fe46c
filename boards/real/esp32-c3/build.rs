//! Points the linker to esp-hal's scripts and the board's `memory.x`.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    // By its path and not by its name: esp-hal's script of this name must still be found.
    for flag in ["-Tlinkall.x", "-Tdefmt.x", &format!("-T{folder}/memory.x")] {
        println!("cargo::rustc-link-arg={flag}");
    }
    println!("cargo::rerun-if-changed=memory.x");
}
