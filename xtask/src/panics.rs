//! The proof that no panic can be reached from `Model::new` and `Session::run`.
//!
//! `firmware/size` holds inference and nothing else. With its feature `no-panic` its panic handler calls a
//! function which nothing defines. Built for release, with all of it in one unit, it links exactly when the
//! compiler has removed every path to that handler.

use anyhow::{Result, bail};

use crate::Context;
use crate::firmware::engine;
use crate::steps::Outcome;

/// The function that the panic handler calls.
const UNDEFINED: &str = "panic_is_reachable";

/// Links inference with every kernel, and sees that it does not link with a panic put into it.
pub(crate) fn check(context: &Context) -> Result<Outcome> {
    if let Err(error) = engine(context, &["no-panic"]) {
        let text = format!("{error:#}");
        if text.contains(UNDEFINED) {
            bail!(
                "a panic is reachable from Model::new or Session::run: an index, a division, an \
                 arithmetic overflow check or an unwrap that the compiler cannot prove away. To find \
                 it, build firmware/size without the feature, and look who calls \
                 core::panicking in the disassembly"
            );
        }
        bail!("{text}");
    }
    match engine(context, &["deliberate-panic"]) {
        Ok(_) => bail!("the check is blind: it does not see a deliberate panic"),
        Err(error) if format!("{error:#}").contains(UNDEFINED) => Ok(Outcome::Passed),
        Err(error) => Err(error.context("building with a deliberate panic")),
    }
}
