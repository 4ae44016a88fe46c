//! The int8 number formats of TFLite, as training simulates and export uses them.
//!
//! Activations are asymmetric per tensor: `real = scale * (q - zero_point)`, q in -128..=127.
//! Weights are symmetric per output channel: `real = scale * q`, q in -127..=127.
//! See Jacob et al., "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference", CVPR 2018, and the TFLite quantisation specification.

/// Scale and zero point of an int8 activation tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Size of one step.
    pub scale: f32,
    /// The integer that means 0.0, which is therefore always exact.
    pub zero_point: i32,
}

impl Affine {
    /// The format that covers the range from `min` to `max` and zero.
    pub fn covering([min, max]: [f32; 2]) -> Self {
        let (min, max) = (min.min(0.0), max.max(0.0));
        let scale = (max - min) / 255.0;
        // A tensor that was never anything but zero still needs a scale to compute with.
        let scale = if scale > f32::MIN_POSITIVE { scale } else { 1.0 / 255.0 };
        let zero_point = (-128.0 - min / scale).round().clamp(-128.0, 127.0) as i32;
        Self { scale, zero_point }
    }

    /// The smallest and the largest real number that the format holds.
    pub fn limits(&self) -> [f32; 2] {
        [-128, 127].map(|q| (q - self.zero_point) as f32 * self.scale)
    }
}

/// Scale of the int8 weights of one output channel, given their largest magnitude.
pub fn weight_scale(max_abs: f32) -> f32 {
    if max_abs > f32::MIN_POSITIVE { max_abs / 127.0 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_exact_and_the_range_is_covered() {
        for range in [[-1.0, 3.0], [0.5, 6.0], [-4.0, -1.0], [0.0, 0.0], [-1e-3, 7.7]] {
            let format = Affine::covering(range);
            assert!((-128..=127).contains(&format.zero_point));
            let [low, high] = format.limits();
            assert!(low <= 0.0 && 0.0 <= high);
            assert!(low <= range[0] + format.scale && range[1] - format.scale <= high, "{range:?}");
        }
        assert_eq!(Affine::covering([0.0, 25.5]), Affine { scale: 0.1, zero_point: -128 });
    }
}
