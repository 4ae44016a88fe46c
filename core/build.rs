//! Tells the kernels whether the target has the DSP instructions of Armv7E-M and Armv8-M.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(niwaki_dsp)");
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    if target.starts_with("thumbv7em") || target.starts_with("thumbv8m.main") {
        println!("cargo::rustc-cfg=niwaki_dsp");
    }
}
