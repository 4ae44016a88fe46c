//! Tells the kernels whether the target has the DSP instructions of Armv7E-M and Armv8-M.

use std::env;

/// Processors of Armv8-M Mainline that have the DSP instructions, as `-C target-cpu` calls them. They are
/// optional there, so that the target alone does not tell.
const PROCESSORS: [&str; 5] =
    ["cortex-m33", "cortex-m35p", "cortex-m52", "cortex-m55", "cortex-m85"];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(niwaki_dsp)");
    println!("cargo::rerun-if-changed=build.rs");
    let target = env::var("TARGET").unwrap_or_default();
    let optional = target.starts_with("thumbv8m.main");
    if target.starts_with("thumbv7em") || (optional && flags_name_dsp()) {
        println!("cargo::rustc-cfg=niwaki_dsp");
    }
}

/// Whether the compiler's flags name a processor with the DSP instructions or the instructions
/// themselves. Only an unstable compiler would say so in `CARGO_CFG_TARGET_FEATURE`.
fn flags_name_dsp() -> bool {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let value = |name: &str| {
        flags.split('\x1f').filter_map(|flag| Some(flag.split_once(name)?.1)).next_back()
    };
    let features: Vec<_> =
        value("target-feature=").into_iter().flat_map(|v| v.split(',')).collect();
    let processor = value("target-cpu=").is_some_and(|name| PROCESSORS.contains(&name));
    features.contains(&"+dsp") || (processor && !features.contains(&"-dsp"))
}
