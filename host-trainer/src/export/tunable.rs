//! Marks layers of a model as tunable on the device.

use anyhow::{Context, Result, ensure};
use niwaki_core::Model;
use niwaki_core::learn::{MAX_LAYERS, Plan};
use niwaki_core::model::layout::Header;
use zerocopy::FromBytes;

use super::AlignedVec;
use super::blob::seal;

/// The model `blob` with its last `layers` weighted layers marked as tunable. It is another model by its id.
///
/// # Errors
///
/// When `blob` is no model, or gradients cannot be computed through these layers: names the layer.
pub fn mark_tunable(blob: &[u8], layers: usize) -> Result<Vec<u8>> {
    ensure!(
        (1..=MAX_LAYERS).contains(&layers),
        "expected 1 to {MAX_LAYERS} tunable layers, found {layers}"
    );
    let aligned = AlignedVec::new(blob);
    Model::new(aligned.as_bytes()).context("not a usable model")?;
    let mut bytes = blob.to_vec();
    let (mut header, _) =
        Header::read_from_prefix(&bytes).ok().context("not a usable model: no header")?;
    header.tunable = u16::try_from(layers)?.into();
    seal(&mut bytes, header);
    let aligned = AlignedVec::new(&bytes);
    let model = Model::new(aligned.as_bytes())?;
    let plan = Plan::new(&model).map_err(|error| match error {
        niwaki_core::learn::LearnError::Branch { op }
        | niwaki_core::learn::LearnError::Unsupported { op } => {
            anyhow::anyhow!("layer `{}`: {error}", model.op_name(op))
        }
        error => error.into(),
    });
    plan.with_context(|| format!("the last {layers} weighted layers cannot be tuned"))?;
    Ok(bytes)
}
