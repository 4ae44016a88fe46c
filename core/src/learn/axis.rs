//! One axis of a window: which output positions an input position meets under which tap.

use core::ops::Range;

use crate::model::Window;

/// A window along the rows or along the columns. Named instead of indexed, so that no index can fail.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    kernel: usize,
    stride: usize,
    pad: usize,
}

impl Axis {
    pub(super) fn rows(window: &Window) -> Self {
        let Window { kernel: [kernel, _], stride: [stride, _], pad: [pad, _] } = *window;
        Self { kernel, stride: stride.max(1), pad }
    }

    pub(super) fn columns(window: &Window) -> Self {
        let Window { kernel: [_, kernel], stride: [_, stride], pad: [_, pad] } = *window;
        Self { kernel, stride: stride.max(1), pad }
    }

    /// The step from one output position's window to the next.
    pub(super) fn stride(self) -> usize {
        self.stride
    }

    /// Output positions at which kernel index `tap` lies over the input.
    pub(super) fn outputs(self, tap: usize, inputs: usize, outputs: usize) -> Range<usize> {
        let first = self.pad.saturating_sub(tap).div_ceil(self.stride.max(1));
        let end = inputs.wrapping_add(self.pad).saturating_sub(tap).div_ceil(self.stride.max(1));
        first..end.min(outputs).max(first)
    }

    /// Input position under kernel index `tap` at output position `at`.
    pub(super) fn input(self, at: usize, tap: usize) -> usize {
        at.wrapping_mul(self.stride).wrapping_add(tap).wrapping_sub(self.pad)
    }

    /// Output positions whose window covers input position `at`.
    pub(super) fn windows(self, at: usize, outputs: usize) -> Range<usize> {
        let padded = at.wrapping_add(self.pad);
        let first = padded.wrapping_add(1).saturating_sub(self.kernel).div_ceil(self.stride.max(1));
        first..(padded / self.stride.max(1)).wrapping_add(1).min(outputs).max(first)
    }

    /// Input positions under the window at output position `at`.
    pub(super) fn inputs(self, at: usize, inputs: usize) -> Range<usize> {
        let start = at.wrapping_mul(self.stride);
        let end = start.wrapping_add(self.kernel).saturating_sub(self.pad).min(inputs);
        let start = start.saturating_sub(self.pad);
        start..end.max(start)
    }
}
