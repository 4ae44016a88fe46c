//! Models of other tools, read into a [`Graph`].
//!
//! [`tflite()`] reads full-integer int8 TensorFlow Lite models. The result computes what the reference
//! kernels of TensorFlow Lite Micro compute, byte for byte: constants are prepared with the same
//! mixture of single and double precision, and functions of one value become tables filled with the
//! same integer arithmetic.
//!
//! A model that cannot be imported is refused with everything that stands in the way, not with the
//! first obstacle alone.

mod convert;
mod file;
mod simplify;
mod tables;
#[rustfmt::skip]
#[allow(clippy::all, missing_docs, unreachable_pub, unused, mismatched_lifetime_syntaxes, unsafe_op_in_unsafe_fn)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::uninlined_format_args, clippy::semicolon_if_nothing_returned)]
mod tflite_generated;

use std::fmt;

use crate::export::{AlignedVec, Graph};

/// Reads a TensorFlow Lite model. `name` becomes the model's name.
///
/// # Errors
///
/// When the bytes are no TensorFlow Lite model, or with a list of everything in it that cannot be
/// imported.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// let graph = niwaki::import::tflite(&std::fs::read("kws.tflite")?, "kws")?;
/// let exported = niwaki::export::write(&graph)?;
/// std::fs::write("kws.niwaki", &exported.bytes)?;
/// # Ok(())
/// # }
/// ```
pub fn tflite(bytes: &[u8], name: &str) -> Result<Graph, ImportError> {
    // The reader wants numbers at their alignment.
    let bytes = AlignedVec::new(bytes);
    let file = file::File::read(bytes.as_bytes()).map_err(ImportError::Damaged)?;
    convert::convert(&file, name).map_err(ImportError::Unsupported)
}

/// Why a model cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are no complete model.
    #[error("not a readable TensorFlow Lite model: {0}")]
    Damaged(String),
    /// The model holds something that cannot be imported.
    #[error("{}", list(.0))]
    Unsupported(Vec<Problem>),
}

/// An obstacle in a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Operator or tensor.
    pub place: String,
    /// What is there and cannot be imported.
    pub what: String,
    /// What to do about it.
    pub remedy: Remedy,
}

/// What a user can do about a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Convert the model with full-integer quantisation.
    FullInteger,
    /// Convert the model for one sample of a fixed shape.
    FixedShape,
    /// Leave the operator out of the model or replace it.
    ReplaceOperator,
    /// Use one input and one output.
    OneInputOneOutput,
    /// Convert the model again with a current converter.
    ConvertAgain,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FullInteger => {
                "convert the model with full-integer quantisation: in TensorFlow, \
                 converter.optimizations = [tf.lite.Optimize.DEFAULT], a representative_dataset, \
                 converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8] and \
                 converter.inference_input_type = converter.inference_output_type = tf.int8"
            }
            Self::FixedShape => {
                "convert the model for one sample of a fixed shape, for example with \
                 tf.keras.Input(shape, batch_size=1)"
            }
            Self::ReplaceOperator => {
                "replace the operator in the model, or move it in front of or behind the model"
            }
            Self::OneInputOneOutput => {
                "export a model with one input and one output: concatenate several in the model, \
                 or make a model for each"
            }
            Self::ConvertAgain => "convert the model again with a current TensorFlow",
        })
    }
}

fn list(problems: &[Problem]) -> String {
    let count = problems.len();
    let mut text = match count {
        1 => "the model cannot be imported:".to_owned(),
        _ => format!("the model cannot be imported, for {count} reasons:"),
    };
    let mut remedies: Vec<Remedy> = Vec::new();
    for problem in problems {
        text += &format!("\n  {}: {}", problem.place, problem.what);
        if !remedies.contains(&problem.remedy) {
            remedies.push(problem.remedy);
        }
    }
    text += "\nWhat to do:";
    for remedy in remedies {
        text += &format!("\n  {remedy}");
    }
    text
}
