//! Points the linker to `memory.x`.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-search={folder}");
    for flag in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo::rustc-link-arg={flag}");
    }
    println!("cargo::rerun-if-changed=memory.x");
}
