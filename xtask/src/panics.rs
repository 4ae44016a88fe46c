//! The proof that no panic can be reached from `Model::new` and `Session::run`.
//!
//! `firmware/size` holds inference and nothing else. With its feature `no-panic` its panic handler calls a
//! function which nothing defines. Built for release, with all of it in one unit, it links exactly when the
//! compiler has removed every path to that handler.

use anyhow::{Result, bail};

use crate::Context;
use crate::firmware::{CORTEX_M4, engine};
use crate::steps::Outcome;

/// The function that the panic handler calls.
const UNDEFINED: &str = "panic_is_reachable";

/// Targets to link for: with the optimised kernels, and with none but the portable ones.
const TARGETS: [&str; 2] = [CORTEX_M4, "thumbv6m-none-eabi"];

/// Links inference with every kernel, and sees that it does not link with a panic put into it.
pub(crate) fn check(context: &Context) -> Result<Outcome> {
    for triple in TARGETS {
        links(context, triple)?;
    }
    match engine(context, CORTEX_M4, &["deliberate-panic"]) {
        Ok(_) => bail!("the check is blind: it does not see a deliberate panic"),
        Err(error) if format!("{error:#}").contains(UNDEFINED) => Ok(Outcome::Passed),
        Err(error) => Err(error.context("building with a deliberate panic")),
    }
}

/// Links inference without a panic in it.
fn links(context: &Context, triple: &str) -> Result<()> {
    if let Err(error) = engine(context, triple, &["no-panic"]) {
        let text = format!("{error:#}");
        if text.contains(UNDEFINED) {
            bail!(
                "{triple}: a panic is reachable from Model::new or Session::run: an index, a division, an \
                 arithmetic overflow check or an unwrap that the compiler cannot prove away. To find \
                 it, build firmware/size without the feature, and look who calls \
                 core::panicking in the disassembly"
            );
        }
        bail!("{text}");
    }
    Ok(())
}
