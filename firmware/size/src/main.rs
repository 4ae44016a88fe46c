//! What inference with a set of kernels links, and nothing else. It is built to be measured: there is no
//! start-up code, no vector table and no model in it, and it does not run.
//!
//! `NIWAKI_KERNELS` holds the set of kernels as a decimal number, or `all`.
#![no_std]
#![no_main]

use niwaki_core::{ALL_KERNELS, Model, Session};

const KERNELS: u32 = match env!("NIWAKI_KERNELS").as_bytes() {
    b"all" => ALL_KERNELS,
    _ => match u32::from_str_radix(env!("NIWAKI_KERNELS"), 10) {
        Ok(kernels) if kernels & !ALL_KERNELS == 0 => kernels,
        _ => panic!("NIWAKI_KERNELS holds no set of kernels"),
    },
};

/// Where the linker begins to look for what is needed.
#[unsafe(no_mangle)]
pub fn _start(blob: &[u8], arena: &mut [i8], input: &[i8]) -> Option<i8> {
    let model = Model::<KERNELS>::with_kernels(blob).ok()?;
    let mut session = Session::new(model, arena).ok()?;
    niwaki_infer(&mut session, input)
}

/// A function of its own, so that what an inference takes of the stack can be read from its code.
#[unsafe(no_mangle)]
#[inline(never)]
fn niwaki_infer(session: &mut Session<'_, '_, KERNELS>, input: &[i8]) -> Option<i8> {
    let scores = session.run(input).ok()?;
    #[cfg(feature = "deliberate-panic")]
    assert!(scores[0] < 100, "shows that a reachable panic is found");
    scores.first().copied()
}

/// With the feature `no-panic`, a panic that can be reached leaves a call to `panic_is_reachable`, which
/// nothing defines: then this does not link. It does, and so no input and no model can make inference
/// panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    #[cfg(feature = "no-panic")]
    {
        unsafe extern "C" {
            safe fn panic_is_reachable() -> !;
        }
        panic_is_reachable()
    }
    #[cfg(not(feature = "no-panic"))]
    loop {}
}
