use super::rescale::limit;
use crate::model::Add;

/// Spare bits of the common scale, as in TFLite.
pub(super) const SPARE_BITS: u32 = 20;

/// Adds `b` to the first summand, which stands in `y`.
pub fn add(op: &Add, b: &[i8], y: &mut [i8]) {
    #[cfg(niwaki_dsp)]
    if super::add_dsp::add(op, b, y).is_some() {
        return;
    }
    portable(op, b, y);
}

/// The kernel without the DSP instructions, for every rescale.
#[cfg_attr(niwaki_dsp, cold)]
#[inline(never)]
pub(super) fn portable(op: &Add, b: &[i8], y: &mut [i8]) {
    let zero = op.inputs.map(|tensor| i32::from(tensor.zero_point));
    let output_zero = i32::from(op.output.zero_point);
    for (y, &b) in y.iter_mut().zip(b) {
        let a = (i32::from(*y) - zero[0]).wrapping_shl(SPARE_BITS);
        let b = (i32::from(b) - zero[1]).wrapping_shl(SPARE_BITS);
        let sum = op.input_rescale[0].apply(a).wrapping_add(op.input_rescale[1].apply(b));
        *y = limit(op.output_rescale.apply(sum).saturating_add(output_zero), op.clamp);
    }
}
