//! The build script of every board: points the linker to the board's `memory.x`. The flags stand here and
//! not in `.cargo/config.toml`, where a `RUSTFLAGS` of the environment would replace them.

fn main() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    println!("cargo::rustc-link-search={folder}");
    for flag in ["--nmagic", "-Tlink.x", "-Tdefmt.x"] {
        println!("cargo::rustc-link-arg={flag}");
    }
    println!("cargo::rerun-if-changed=memory.x");
}
