//! Gradients of the tail, with respect to stored integers.
//!
//! A layer computes `y = zero + M_c * (bias_c + Σ w * (x - zero))` in integers, rounded and clamped;
//! `M_c` is the channel's rescale. Rounding counts as the identity (the straight-through estimator of
//! Bengio et al., 2013) and a clamped output passes nothing. Then, with `d = M_c * ∂L/∂y`,
//! `∂L/∂bias_c = Σ d`, `∂L/∂w = Σ d * (x - zero)` and `∂L/∂x = Σ d * w`: no scale is needed but at the
//! loss.

use half::f16;

use super::axis::Axis;
use super::layer::Layer;
use super::plan::LayerPlan;
use crate::kernels::Rescale;
use crate::model::layout::ChannelRecord;
use crate::model::{Add, Lookup, Mean, Op, Pool};

/// Entries on either side over which a table's slope is taken.
const SLOPE: usize = 4;

/// The gradient's way back through an operator without weights, for one element of its input.
pub(super) enum Pull<'a> {
    Avg(Pool),
    Max { pool: Pool, gates: &'a [u8] },
    Mean { op: Mean, factor: f32 },
    Lookup { op: Lookup<'a>, input: &'a [i8] },
    Add { factor: f32, gates: &'a [u8] },
}

impl<'a> Pull<'a> {
    /// `None` for an operator that gradients do not pass. `input` says which of its inputs it is.
    pub(super) fn new(op: &Op<'a>, input: usize, saved: &'a [i8], gates: &'a [u8]) -> Option<Self> {
        Some(match *op {
            Op::AvgPool(pool) => Self::Avg(pool),
            Op::MaxPool(pool) => Self::Max { pool, gates },
            Op::Mean(op) => Self::Mean { op, factor: op.rescale.real() },
            Op::Lookup(op) => Self::Lookup { op, input: saved },
            Op::Add(Add { input_rescale, output_rescale, .. }) => {
                // The common scale of the summands has 20 spare bits.
                let input = input_rescale.get(input)?.real();
                Self::Add { factor: input * output_rescale.real() * 1_048_576.0, gates }
            }
            _ => return None,
        })
    }
}

/// The gradient of element `index` of a tensor that is read by the first of `pulls`; `gradient` is that
/// of the last one's output.
pub(super) fn pull(pulls: &[Option<Pull<'_>>], gradient: &[f32], index: usize) -> f32 {
    let Some((Some(first), rest)) = pulls.split_first() else {
        return gradient.get(index).copied().unwrap_or(0.0);
    };
    let place = |width: usize, channels: usize| {
        let pixel = index.checked_div(channels).unwrap_or(0);
        let channel = index.checked_rem(channels).unwrap_or(0);
        let row = pixel.checked_div(width).unwrap_or(0);
        ([row, pixel.checked_rem(width).unwrap_or(0)], channel)
    };
    let flat = |[row, column]: [usize; 2], channel: usize, width: usize, channels: usize| {
        row.wrapping_mul(width).wrapping_add(column).wrapping_mul(channels).wrapping_add(channel)
    };
    match first {
        Pull::Avg(pool) => {
            let (at, channel) = place(pool.input.width, pool.input.channels);
            let (down, across) = (Axis::rows(&pool.window), Axis::columns(&pool.window));
            let mut sum = 0.0;
            for oy in down.windows(at[0], pool.output.height) {
                let rows = down.inputs(oy, pool.input.height).len();
                for ox in across.windows(at[1], pool.output.width) {
                    let columns = across.inputs(ox, pool.input.width).len();
                    let count = rows.wrapping_mul(columns).max(1);
                    let output = flat([oy, ox], channel, pool.output.width, pool.output.channels);
                    sum += pull(rest, gradient, output) / count as f32;
                }
            }
            sum
        }
        Pull::Max { pool, gates } => {
            if !bit(gates, index) {
                return 0.0;
            }
            let (at, channel) = place(pool.input.width, pool.input.channels);
            let rows = Axis::rows(&pool.window).windows(at[0], pool.output.height);
            let columns = Axis::columns(&pool.window).windows(at[1], pool.output.width);
            if rows.is_empty() || columns.is_empty() {
                return 0.0;
            }
            // Windows do not overlap: there is one.
            let output =
                flat([rows.start, columns.start], channel, pool.output.width, pool.output.channels);
            pull(rest, gradient, output)
        }
        Pull::Mean { op, factor } => {
            let (at, channel) = place(op.input.width, op.input.channels);
            let kept = |output: usize, at: usize| if output == 1 { 0 } else { at };
            let at = [kept(op.output.height, at[0]), kept(op.output.width, at[1])];
            let channel = kept(op.output.channels, channel);
            let output = flat(at, channel, op.output.width, op.output.channels);
            pull(rest, gradient, output) * factor
        }
        Pull::Lookup { op, input } => {
            let x = usize::from(input.get(index).map_or(0, |&x| x as u8) ^ 0x80);
            // Neighbours would differ by whole steps only.
            let (low, high) = (x.saturating_sub(SLOPE), x.saturating_add(SLOPE).min(255));
            let entry = |at: usize| op.table.get(at).map_or(0, |&y| i32::from(y));
            let rise = entry(high).wrapping_sub(entry(low)) as f32;
            pull(rest, gradient, index) * (rise / high.wrapping_sub(low).max(1) as f32)
        }
        Pull::Add { factor, gates } => {
            if bit(gates, index) {
                pull(rest, gradient, index) * factor
            } else {
                0.0
            }
        }
    }
}

/// Bit `index`.
pub(super) fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 != 0)
}

/// Sets bit `index`.
pub(super) fn set_bit(bits: &mut [u8], index: usize) {
    if let Some(byte) = bits.get_mut(index / 8) {
        *byte |= 1 << (index % 8);
    }
}

/// What a layer's part of the backward pass reads and writes.
pub(super) struct LayerPass<'a> {
    pub(super) layer: &'a Layer<'a>,
    pub(super) entry: &'a LayerPlan,
    /// Operators between this layer and the next.
    pub(super) pulls: &'a [Option<Pull<'a>>],
    /// Gradient of the last one's output.
    pub(super) from: &'a [f32],
    /// Gradient of the layer's input, where an earlier layer needs it.
    pub(super) to: Option<&'a mut [f32]>,
    /// One element per output pixel.
    pub(super) line: &'a mut [f32],
    /// The layer's saved input.
    pub(super) input: &'a [i8],
    /// Which outputs pass gradients; empty when all do.
    pub(super) gates: &'a [u8],
    /// The stream as it ran.
    pub(super) stream: &'a [u8],
    /// Velocities of the layer's weights and biases.
    pub(super) velocity: &'a mut [f16],
    pub(super) bias_velocity: &'a mut [f32],
    /// What gradients are multiplied by: one over the batch.
    pub(super) share: f32,
}

impl LayerPass<'_> {
    /// Adds the gradients of one sample.
    pub(super) fn run(self) {
        let Self { layer, line, input, velocity, .. } = self;
        let mut to = self.to;
        if let Some(to) = to.as_deref_mut() {
            to.fill(0.0);
        }
        let line = line.get_mut(..layer.pixels()).unwrap_or_default();
        let zero = i32::from(layer.input.zero_point);
        let outputs = layer.channels.len();
        let mut walk = layer.weights();
        let mut slots = velocity.iter_mut();
        let biases = self.bias_velocity.iter_mut();
        for (channel, (record, bias)) in layer.channels.iter().zip(biases).enumerate() {
            let rescale = rescale(record);
            let (mut sum, mut silent) = (0.0f32, true);
            let mut index = channel;
            for slot in line.iter_mut() {
                *slot = if self.entry.gates.1 == 0 || bit(self.gates, index) {
                    pull(self.pulls, self.from, index) * rescale
                } else {
                    0.0
                };
                sum += *slot;
                silent &= *slot == 0.0;
                index = index.wrapping_add(outputs);
            }
            let steps = Steps::new(layer, record);
            *bias = finite(*bias + sum * self.share * steps.bias, MAX_BIAS_VELOCITY);
            let share = self.share * steps.weight;
            walk.channel(|weight| {
                let slot = slots.next();
                if silent {
                    return;
                }
                let mut gradient = 0.0f32;
                layer.positions(&weight, |pixel, element| {
                    let x = input.get(element).map_or(zero, |&x| x.into());
                    let d = line.get(pixel).copied().unwrap_or(0.0);
                    gradient += d * x.wrapping_sub(zero) as f32;
                });
                if let Some(slot) = slot {
                    let velocity = slot.to_f32() + gradient * share;
                    *slot = stored(velocity);
                }
                if let Some(to) = to.as_deref_mut() {
                    let w = f32::from(weight.place.read(self.stream));
                    layer.positions(&weight, |pixel, element| {
                        let d = line.get(pixel).copied().unwrap_or(0.0);
                        if let Some(slot) = to.get_mut(element) {
                            *slot += d * w;
                        }
                    });
                }
            });
        }
    }
}

/// What turns the gradient with respect to an integer into the change of that integer for a learning
/// rate of 1: one over the square of the integer's real step, as the real parameter moves by the
/// gradient with respect to it. (This is the quantisation-aware scaling of Lin et al., NeurIPS 2022.)
struct Steps {
    weight: f32,
    bias: f32,
}

impl Steps {
    fn new(layer: &Layer<'_>, record: &ChannelRecord) -> Self {
        let bias = rescale(record) * layer.output.scale;
        let weight = bias / layer.input.scale;
        // A channel whose step is zero or absurd is constant: it does not learn.
        let inverse = |step: f32| {
            let inverse = 1.0 / (step * step);
            if inverse.is_finite() { inverse } else { 0.0 }
        };
        Self { weight: inverse(weight), bias: inverse(bias) }
    }
}

/// The channel's rescale as a real number.
pub(super) fn rescale(record: &ChannelRecord) -> f32 {
    Rescale::new(record.multiplier.get(), record.shift()).unwrap_or(Rescale::ZERO).real()
}

/// A weight's velocity as it is kept.
pub(super) fn stored(velocity: f32) -> f16 {
    f16::from_f32(finite(velocity, MAX_WEIGHT_VELOCITY))
}

/// Largest number of f16.
const MAX_WEIGHT_VELOCITY: f32 = 65_504.0;
const MAX_BIAS_VELOCITY: f32 = 1e30;

/// The value within `-limit` to `limit`; 0 for what is no number.
fn finite(value: f32, limit: f32) -> f32 {
    if value.is_nan() { 0.0 } else { value.max(-limit).min(limit) }
}

/// Sets the bit of the first largest input under each window.
pub(super) fn open_first_maxima(pool: &Pool, x: &[i8], gates: &mut [u8]) {
    gates.fill(0);
    let (down, across) = (Axis::rows(&pool.window), Axis::columns(&pool.window));
    for oy in 0..pool.output.height {
        for ox in 0..pool.output.width {
            for channel in 0..pool.input.channels {
                let mut largest: Option<(i8, usize)> = None;
                for iy in down.inputs(oy, pool.input.height) {
                    for ix in across.inputs(ox, pool.input.width) {
                        let pixel = iy.wrapping_mul(pool.input.width).wrapping_add(ix);
                        let index = pixel.wrapping_mul(pool.input.channels).wrapping_add(channel);
                        let value = x.get(index).copied().unwrap_or(i8::MIN);
                        if largest.is_none_or(|(most, _)| value > most) {
                            largest = Some((value, index));
                        }
                    }
                }
                if let Some((_, index)) = largest {
                    set_bit(gates, index);
                }
            }
        }
    }
}
