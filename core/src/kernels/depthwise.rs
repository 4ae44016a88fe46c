//! Depthwise convolution.
//!
//! With windows of up to five by five and a horizontal step of 1 or 2, the DSP kernel brings four
//! channels at a time into planes of halves, in which neighbouring pixels share a word: then a
//! dual multiply serves two taps. Planes are whole where they are small, otherwise rings of rows. A
//! pass over them adds up three by three taps, so that larger windows take two or four passes. Weights
//! have one layout for all kernels.

use super::conv::rescale;
use super::{Taps, at, part, put};
use crate::model::{Depthwise, Tensor, Window};

/// Channels that are computed together, so that neighbouring elements are read in one sweep.
const TILE: usize = 16;

/// Depthwise convolution of `x` into `y`, both in the order height, width, channel. Where `x` is
/// `None`, the input stands in `y` and the output replaces it: see [`in_place_scratch_len`].
///
/// Input elements in the padding count as the input's zero point, which the biases allow for.
///
/// `PASSES` is 1, or 4 where operators may be [`large`](Depthwise::large).
#[inline(never)]
pub fn depthwise<const PASSES: usize>(
    op: &Depthwise<'_>,
    x: Option<&[i8]>,
    y: &mut [i8],
    scratch: &mut [i8],
) {
    // In place, a checked model has all that the planar kernel needs.
    #[cfg(niwaki_dsp)]
    if super::depthwise_dsp::planar::<PASSES>(op, x, y, scratch).is_none()
        && let Some(x) = x
    {
        portable(op, x, y);
    }
    #[cfg(not(niwaki_dsp))]
    match x {
        Some(x) => portable(op, x, y),
        None => portable_in_place(op, y, scratch),
    }
}

/// Bytes of working memory with which [`depthwise`] can replace its input by its output; `None` where
/// it cannot. `large` is the operator's [`large`](Depthwise::large), here and below.
pub fn in_place_scratch_len(
    input: &Tensor,
    output: &Tensor,
    window: &Window,
    large: bool,
) -> Option<usize> {
    let same = (input.height, input.width) == (output.height, output.width);
    Planes::new(input, output, window, large).filter(|_| same)?.whole(output.height)
}

/// Whether only a [`large`](Depthwise::large) operator brings windows of this shape into planes.
pub fn wants_large(input: &Tensor, output: &Tensor, window: &Window) -> bool {
    let planes = |large| Planes::new(input, output, window, large).is_some();
    planes(true) && !planes(false)
}

/// The portable kernel where the input stands in `y`: channel by channel, from a copy.
#[cfg(any(not(niwaki_dsp), test))]
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
/// Rows and columns of taps that one pass adds up.
pub(super) const REACH: usize = 3;
/// Bytes of working memory up to which whole planes are kept rather than rings of rows.
const PLANE_LIMIT: usize = 2560;

/// The first tap along an axis of a pass, and how many it adds up. Along rows of pixels passes begin
/// where words do, at even taps.
#[cfg(any(niwaki_dsp, test))]
pub(super) fn taps_of(axis: usize, kernel: usize, pass: usize) -> [usize; 2] {
    let first = match (axis, pass) {
        (_, 0) => 0,
        (0, _) => REACH,
        _ => 2,
    };
    let last = if pass == 0 && kernel > REACH && axis == 1 { 2 } else { REACH };
    [first, kernel.saturating_sub(first).min(last)]
}

/// How planes are laid out: for each row the four channels' words one after the other, and behind all
/// of them the sums of one channel's outputs, of one row where there is a ring.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    /// Words of one row of one channel.
    pub(super) words: usize,
    /// Rows of a whole plane, and of a ring.
    pub(super) rows: [usize; 2],
    /// Outputs of one row, and that rounded up to pairs.
    pub(super) outputs: [usize; 2],
    /// Passes along rows and columns.
    pub(super) passes: [usize; 2],
}

impl Planes {
    /// `None` when the planar kernel does not serve the shape.
    pub(super) fn new(
        input: &Tensor,
        output: &Tensor,
        window: &Window,
        large: bool,
    ) -> Option<Self> {
        // The second pass begins at the third tap of a row, at the fourth of a column.
        let most = if large { REACH.wrapping_add(2) } else { REACH };
        let served = input.channels == output.channels
            && input.channels.is_multiple_of(GROUP)
            && window.kernel[0] <= most
            && window.kernel[1] <= most
            && window.stride[1] <= 2;
        let passes = window.kernel.map(|taps| if large && taps > REACH { 2usize } else { 1 });
        // No overflow: tensors have less than 2^16 rows and columns, and strides are below 2^8.
        let width = output.width;
        let sums = width.wrapping_add(width & 1);
        let steps = if window.stride[1] == 1 { sums / 2 } else { sums };
        let last = output.height.wrapping_sub(1).wrapping_mul(window.stride[0]);
        let ring = passes[0].wrapping_mul(REACH);
        served.then_some(Self {
            words: steps.wrapping_add(passes[1]),
            rows: [last.wrapping_add(ring), ring],
            outputs: [width, sums],
            passes,
        })
    }

    /// Words of the sums of `band` rows of outputs, and of working memory with them and `rows` rows.
    pub(super) const fn len(&self, rows: usize, band: usize) -> [usize; 2] {
        let sums = self.outputs[0].saturating_mul(band).saturating_add(1);
        [sums, self.words.saturating_mul(GROUP).saturating_mul(rows).saturating_add(sums)]
    }

    /// Bytes of working memory with whole planes. `None` where a later pass would add the half of a
    /// pair that does not belong to a row to the next one.
    pub(super) fn whole(&self, height: usize) -> Option<usize> {
        let [rows, _] = self.rows;
        let apart = self.passes == [1, 1] || self.outputs[0] == self.outputs[1];
        apart.then(|| self.len(rows, height)[1].saturating_mul(4))
    }

    /// Number of passes.
    #[cfg(any(niwaki_dsp, test))]
    pub(super) fn passes(&self) -> usize {
        self.passes[0].wrapping_mul(self.passes[1])
    }

    /// Which one along rows and columns of the window a pass is.
    #[cfg(any(niwaki_dsp, test))]
    pub(super) fn pass(&self, pass: usize) -> [usize; 2] {
        if self.passes[1] > 1 { [pass / 2, pass % 2] } else { [pass, 0] }
    }

    /// Words from the first row to this one.
    #[cfg(any(niwaki_dsp, test))]
    #[inline(always)]
    pub(super) fn row_at(&self, row: usize, whole: bool) -> usize {
        let slot = if whole { row } else { row.checked_rem(self.rows[1]).unwrap_or(0) };
        slot.wrapping_mul(self.words).wrapping_mul(GROUP)
    }

    /// The same of the rows of a pass from this one on.
    #[cfg(any(niwaki_dsp, test))]
    #[inline(always)]
    pub(super) fn rows_from(&self, row: usize, whole: bool) -> [usize; REACH] {
        [0, 1, 2].map(|ky| self.row_at(row.wrapping_add(ky), whole))
    }

    /// Bytes of working memory with rings.
    pub(super) const fn ring(&self) -> usize {
        self.len(self.rows[1], 1)[1].saturating_mul(4)
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
    /// Passes along rows and columns of the window.
    pub passes: [usize; 2],
}

/// The planar kernel's layout. `None` where it does not serve the shape or the working memory is too
/// small, so that [`depthwise`] takes the portable kernel.
pub fn layout(op: &Depthwise<'_>) -> Option<Layout> {
    let planes = Planes::new(&op.input, &op.output, &op.window, op.large)?;
    let whole = planes.whole(op.output.height).filter(|&whole| op.scratch.len >= whole);
    let len = whole.unwrap_or(planes.ring());
    (op.scratch.len >= len).then_some(Layout {
        whole: whole.is_some(),
        rows: planes.rows[0],
        words: planes.words,
        scratch_words: len / 4,
        passes: planes.passes,
    })
}

/// Bytes of working memory with which [`depthwise`] is fastest; with less, it may take the portable
/// kernel.
pub fn scratch_len(input: &Tensor, output: &Tensor, window: &Window, large: bool) -> usize {
    Planes::new(input, output, window, large).map_or(0, |planes| {
        let whole = planes.whole(output.height).filter(|&whole| whole <= PLANE_LIMIT);
        whole.unwrap_or(planes.ring())
    })
}
