//! Output channels that never change become channels without weights.
//!
//! Trained networks hold channels whose every possible sum rescales to one integer: their weights are
//! tiny beside the output's scale. Such a channel's weights are dropped, which is exact, saves flash and
//! cycles in sparse kernels, and leaves it with a rescale that fast kernels take.

use niwaki_core::kernels::Rescale;

use super::graph::{Graph, Operator, Weighted};

/// Drops the weights of constant channels of convolutions, linear and depthwise operators.
pub(super) fn drop_constant_channels(graph: &mut Graph) {
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let zero_point = i64::from(graph.tensor(node.inputs[0]).quantisation.zero_point);
        let channels = graph.tensor(node.output).shape[2];
        let operator = &mut graph.nodes[index].operator;
        let interleaved = matches!(operator, Operator::Depthwise { .. });
        let (Operator::Conv { weighted, .. }
        | Operator::Linear { weighted }
        | Operator::Depthwise { weighted, .. }) = operator
        else {
            continue;
        };
        let per_channel = weighted.weights.len() / channels.max(1);
        for channel in 0..channels.min(weighted.bias.len()).min(weighted.rescale.len()) {
            let place = |position: usize| match interleaved {
                true => position * channels + channel,
                false => channel * per_channel + position,
            };
            let places: Vec<usize> = (0..per_channel).map(place).collect();
            if let Some(constant) = constant_output(weighted, channel, &places, zero_point) {
                places.iter().for_each(|&place| weighted.weights[place] = 0);
                // 4 c / 2^31 * 2^30 / 2 = c, without rounding.
                weighted.bias[channel] = 4 * constant;
                weighted.rescale[channel] = (1 << 30, -1);
            }
        }
    }
}

/// The rescaled sum of a channel, if it is the same for all inputs.
fn constant_output(
    weighted: &Weighted,
    channel: usize,
    places: &[usize],
    zero_point: i64,
) -> Option<i32> {
    /// Beyond this no int8 output depends on the value.
    const FAR: i32 = 1 << 20;
    let (multiplier, shift) = weighted.rescale[channel];
    let rescale = Rescale::new(multiplier, shift)?;
    let (mut least, mut most) =
        (i64::from(weighted.bias[channel]), i64::from(weighted.bias[channel]));
    for &place in places {
        let weight = i64::from(weighted.weights[place]);
        let (a, b) = (weight * (-128 - zero_point), weight * (127 - zero_point));
        least += a.min(b);
        most += a.max(b);
    }
    // Rescaling is monotonic as long as nothing overflows.
    let spare = i64::from(i32::MAX) >> shift.max(0);
    if least < -spare || most > spare {
        return None;
    }
    let (least, most) = (rescale.apply(least as i32), rescale.apply(most as i32));
    (least == most).then(|| least.clamp(-FAR, FAR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use niwaki_core::model::Clamp;

    #[test]
    fn only_channels_that_cannot_change_are_constant() {
        let weighted = |weights: Vec<i8>, shift: i32| Weighted {
            weights,
            bias: vec![70_000],
            rescale: vec![(1 << 30, shift)],
            clamp: Clamp { min: -128, max: 127 },
        };
        let constant = |weights: &[i8], shift| {
            let places: Vec<usize> = (0..weights.len()).collect();
            constant_output(&weighted(weights.to_vec(), shift), 0, &places, -5)
        };
        // 70,000 / 2 / 2^10 = 34.2, and 34 stands for the sums from 68,608 to 70,655.
        assert_eq!(constant(&[0, 0], -10), Some(34));
        assert_eq!(constant(&[2, -2], -10), Some(34));
        assert_eq!(constant(&[3, -3], -10), None);
        assert_eq!(constant(&[50, -3], -10), None);
        let unchanged = Rescale::new(1 << 30, -1).unwrap();
        assert!((-1000..1000).all(|c| unchanged.apply(4 * c) == c));
    }
}
