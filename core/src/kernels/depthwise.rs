//! Depthwise convolution.
//!
//! With windows of up to three by three and a horizontal step of 1 or 2, the DSP kernel brings four
//! channels at a time into planes of halves, in which neighbouring pixels share a word: then a
//! dual multiply serves two taps. Planes are whole where they are small, otherwise rings of three
//! rows. Weights have one layout for all kernels.

use super::conv::rescale;
use super::{Taps, at, part, put};
use crate::model::{Depthwise, Tensor, Window};

/// Channels that are computed together, so that neighbouring elements are read in one sweep.
const TILE: usize = 16;

/// Depthwise convolution of `x` into `y`, both in the order height, width, channel. Where `x` is
/// `None`, the input stands in `y` and the output replaces it: see [`in_place_scratch_len`].
///
/// Input elements in the padding count as the input's zero point, which the biases allow for.
pub fn depthwise(op: &Depthwise<'_>, x: Option<&[i8]>, y: &mut [i8], scratch: &mut [i8]) {
    #[cfg(niwaki_dsp)]
    if super::depthwise_dsp::planar(op, x, y, scratch).is_some() {
        return;
    }
    match x {
        Some(x) => portable(op, x, y),
        None => portable_in_place(op, y, scratch),
    }
}

/// Bytes of working memory with which [`depthwise`] can replace its input by its output; `None` where
/// it cannot.
pub fn in_place_scratch_len(input: &Tensor, output: &Tensor, window: &Window) -> Option<usize> {
    let same = (input.height, input.width) == (output.height, output.width);
    let planes = Planes::new(input, output, window).filter(|_| same)?;
    Some(planes.bytes(output.height)[0])
}

/// The portable kernel where the input stands in `y`: channel by channel, from a copy.
pub(super) fn portable_in_place(op: &Depthwise<'_>, y: &mut [i8], scratch: &mut [i8]) {
    let depth = op.output.channels;
    let pixels = op.output.height.wrapping_mul(op.output.width);
    let Some(plane) = scratch.get_mut(..pixels) else { return };
    for (channel, record) in op.channels.iter().enumerate() {
        for (pixel, slot) in plane.iter_mut().enumerate() {
            *slot = at(y, pixel.wrapping_mul(depth).wrapping_add(channel));
        }
        let mut pixel = 0usize;
        for oy in 0..op.output.height {
            let rows = taps(op, 0, oy);
            for ox in 0..op.output.width {
                let columns = taps(op, 1, ox);
                let mut sum = record.bias.get();
                let mut tap = channel;
                for ky in 0..op.window.kernel[0] {
                    for kx in 0..op.window.kernel[1] {
                        let x = rows
                            .input(ky)
                            .zip(columns.input(kx))
                            .map_or(op.input.zero_point, |(iy, ix)| {
                                at(plane, iy.wrapping_mul(op.input.width).wrapping_add(ix))
                            });
                        let product = i32::from(x).wrapping_mul(at(op.weights, tap).into());
                        sum = sum.wrapping_add(product);
                        tap = tap.wrapping_add(depth);
                    }
                }
                let value = rescale(record).requantise(sum, op.output.zero_point, op.clamp);
                put(y, pixel.wrapping_mul(depth).wrapping_add(channel), value);
                pixel = pixel.wrapping_add(1);
            }
        }
    }
}

/// The part of the window's rows (axis 0) or columns (1) over the input at an output position.
fn taps(op: &Depthwise<'_>, axis: usize, out: usize) -> Taps {
    let size = if axis == 0 { op.input.height } else { op.input.width };
    let Window { kernel, stride, pad } = op.window;
    Taps::new(out, stride[axis], pad[axis], kernel[axis], size)
}

/// The kernel without the DSP instructions, for every shape.
pub(super) fn portable(op: &Depthwise<'_>, x: &[i8], y: &mut [i8]) {
    let [kernel_h, kernel_w] = op.window.kernel;
    let (depth, outputs) = (op.input.channels, op.output.channels);
    let multiplier = outputs.checked_div(depth).unwrap_or(0);
    let padding = [op.input.zero_point; TILE];

    let mut pixel = 0usize;
    for oy in 0..op.output.height {
        let rows = taps(op, 0, oy);
        for ox in 0..op.output.width {
            let columns = taps(op, 1, ox);
            let mut first = 0usize;
            while first < outputs {
                let channels = part(op.channels, first, outputs.wrapping_sub(first).min(TILE));
                let mut sums = [0i32; TILE];
                for (sum, channel) in sums.iter_mut().zip(channels) {
                    *sum = channel.bias.get();
                }
                let mut tap = first;
                for ky in 0..kernel_h {
                    for kx in 0..kernel_w {
                        let weights = part(op.weights, tap, channels.len());
                        tap = tap.wrapping_add(outputs);
                        let position = rows.input(ky).zip(columns.input(kx));
                        let gathered;
                        let inputs = match position {
                            None => &padding[..],
                            Some((iy, ix)) => {
                                let start = iy.wrapping_mul(op.input.width).wrapping_add(ix);
                                let start = start.wrapping_mul(depth);
                                if multiplier == 1 {
                                    part(x, start.wrapping_add(first), channels.len())
                                } else {
                                    gathered = core::array::from_fn::<i8, TILE, _>(|lane| {
                                        let channel = first.wrapping_add(lane);
                                        let channel = channel.checked_div(multiplier).unwrap_or(0);
                                        at(x, start.wrapping_add(channel))
                                    });
                                    &gathered[..]
                                }
                            }
                        };
                        for ((sum, &x), &w) in sums.iter_mut().zip(inputs).zip(weights) {
                            *sum = sum.wrapping_add(i32::from(x).wrapping_mul(i32::from(w)));
                        }
                    }
                }
                let mut index = pixel.wrapping_mul(outputs).wrapping_add(first);
                for (&sum, channel) in sums.iter().zip(channels) {
                    put(y, index, rescale(channel).requantise(sum, op.output.zero_point, op.clamp));
                    index = index.wrapping_add(1);
                }
                first = first.wrapping_add(TILE);
            }
            pixel = pixel.wrapping_add(1);
        }
    }
}

/// Channels whose planes are made together: the bytes of a word.
pub(super) const GROUP: usize = 4;
/// Rows of a window, and of a ring.
pub(super) const ROWS: usize = 3;
/// Bytes of working memory up to which whole planes are kept rather than rings of rows.
const PLANE_LIMIT: usize = 2560;

/// How planes are laid out: for each row the four channels' words one after the other, and behind all
/// of them the sums of one channel's outputs, of one row where there is a ring.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    /// Words of one row of one channel.
    pub(super) words: usize,
    /// Rows of a whole plane.
    pub(super) rows: usize,
    /// Outputs of one row, and that rounded up to pairs.
    pub(super) outputs: [usize; 2],
}

impl Planes {
    /// `None` when the planar kernel does not serve the shape.
    pub(super) fn new(input: &Tensor, output: &Tensor, window: &Window) -> Option<Self> {
        let served = input.channels == output.channels
            && input.channels.is_multiple_of(GROUP)
            && window.kernel[0] <= ROWS
            && window.kernel[1] <= 3
            && window.stride[1] <= 2;
        // No overflow: tensors have less than 2^16 rows and columns, and strides are below 2^8.
        let width = output.width;
        let sums = width.wrapping_add(width & 1);
        let words = if window.stride[1] == 1 { sums / 2 } else { sums };
        let last = output.height.wrapping_sub(1).wrapping_mul(window.stride[0]);
        served.then_some(Self {
            words: words.wrapping_add(1),
            rows: last.wrapping_add(ROWS),
            outputs: [width, sums],
        })
    }

    /// Words of the sums of `band` rows of outputs, and of working memory with them and `rows` rows.
    pub(super) const fn len(&self, rows: usize, band: usize) -> [usize; 2] {
        let sums = self.outputs[0].saturating_mul(band).saturating_add(1);
        [sums, self.words.saturating_mul(GROUP).saturating_mul(rows).saturating_add(sums)]
    }

    /// Bytes of working memory with whole planes and with rings.
    pub(super) const fn bytes(&self, height: usize) -> [usize; 2] {
        [self.len(self.rows, height)[1].saturating_mul(4), self.len(ROWS, 1)[1].saturating_mul(4)]
    }
}

/// How the planar kernel lays out an operator: for estimates of its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Whether planes are whole; otherwise they are rings of rows.
    pub whole: bool,
    /// Rows of the padded input.
    pub rows: usize,
    /// Words of a row of one channel.
    pub words: usize,
    /// Words of working memory, all of which are filled at first.
    pub scratch_words: usize,
}

/// The planar kernel's layout with `scratch` bytes of working memory. `None` where it does not serve
/// the shape or the memory is too small, so that [`depthwise`] takes the portable kernel.
pub fn layout(input: &Tensor, output: &Tensor, window: &Window, scratch: usize) -> Option<Layout> {
    let planes = Planes::new(input, output, window)?;
    let [whole, ring] = planes.bytes(output.height);
    (scratch >= whole.min(ring)).then_some(Layout {
        whole: scratch >= whole,
        rows: planes.rows,
        words: planes.words,
        scratch_words: if scratch >= whole { whole } else { ring } / 4,
    })
}

/// Bytes of working memory with which [`depthwise`] is fastest; with less, it may take the portable
/// kernel.
pub fn scratch_len(input: &Tensor, output: &Tensor, window: &Window) -> usize {
    Planes::new(input, output, window).map_or(0, |planes| {
        let [whole, ring] = planes.bytes(output.height);
        if whole <= PLANE_LIMIT { whole } else { ring }
    })
}
