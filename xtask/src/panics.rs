//! The proof that no panic can be reached from `Model::new` and `Session::run`.
//!
//! The core-only example has a panic handler that calls a function which nothing defines. Built for
//! release, with all of it in one unit, it links exactly when the compiler has removed every path to
//! that handler. Its model passes through `black_box`, so that the compiler knows nothing of it.

use anyhow::{Result, bail};

use crate::Context;
use crate::firmware::{CORTEX_M4, bare};
use crate::steps::Outcome;

/// The function that the example's panic handler calls.
const UNDEFINED: &str = "panic_is_reachable";

/// Targets to link for: with the optimised kernels, and with none but the portable ones.
const TARGETS: [&str; 2] = [CORTEX_M4, "thumbv6m-none-eabi"];

/// Links the example, and sees that it does not link with a panic put into it.
pub(crate) fn check(context: &Context) -> Result<Outcome> {
    for triple in TARGETS {
        links(context, triple)?;
    }
    match bare(context, CORTEX_M4, &["deliberate-panic"]) {
        Ok(_) => bail!("the check is blind: it does not see a deliberate panic"),
        Err(error) if format!("{error:#}").contains(UNDEFINED) => Ok(Outcome::Passed),
        Err(error) => Err(error.context("building with a deliberate panic")),
    }
}

/// Links the example without a panic in it.
fn links(context: &Context, triple: &str) -> Result<()> {
    if let Err(error) = bare(context, triple, &[]) {
        let text = format!("{error:#}");
        if text.contains(UNDEFINED) {
            bail!(
                "{triple}: a panic is reachable from Model::new or Session::run: an index, a division, an \
                 arithmetic overflow check or an unwrap that the compiler cannot prove away. To find \
                 it, let the panic handler of firmware/examples/bare loop, and look who calls \
                 core::panicking in the disassembly"
            );
        }
        bail!("{text}");
    }
    Ok(())
}
