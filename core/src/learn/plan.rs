//! Which operators learn, which pass gradients on, and how much memory that takes.

use core::ops::Range;

use super::layer::Layer;
use super::{LearnError, MAX_BETWEEN, MAX_LAYERS};
use crate::model::{Model, Op, Tensor, Window};

/// The part of a model that can be tuned, and the memory that this takes.
///
/// The tuned part is a chain: every tunable layer's output is read by one operator only, whose output
/// is read by one operator only, and so on up to the class scores. Other operators may stand beside it,
/// such as a shortcut from the frozen part.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'m> {
    pub(super) model: Model<'m>,
    layers: [LayerPlan; MAX_LAYERS],
    layer_count: usize,
    /// Operators that are executed for the scores: all but a final softmax.
    pub(super) executed: usize,
    /// The tensor of class scores.
    pub(super) scores: Tensor,
    /// Input of the last layer.
    pub(super) features: Tensor,
    sizes: Sizes,
}

/// A tunable layer's place in the state and in the memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LayerPlan {
    /// Number of the operator.
    pub(super) op: usize,
    /// Its nonzero weights among those of all layers.
    pub(super) weights: (usize, usize),
    /// Its output channels among those of all layers.
    pub(super) channels: (usize, usize),
    /// Bytes of its channel records in the tail.
    pub(super) records: (usize, usize),
    /// Bytes of its stream in the tail.
    pub(super) stream: (usize, usize),
    /// Its saved input.
    pub(super) saved: (usize, usize),
    /// Bits that say which of its outputs pass gradients; none for the last layer.
    pub(super) gates: (usize, usize),
    /// Operators between this layer and the next.
    pub(super) between: [Between; MAX_BETWEEN],
    pub(super) between_count: usize,
}

/// An operator without weights that gradients pass.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Between {
    pub(super) op: usize,
    /// Which of its inputs lies on the chain.
    pub(super) input: usize,
    /// Its saved input, for a function of one value.
    pub(super) saved: (usize, usize),
    /// Bits that say which elements pass gradients.
    pub(super) gates: (usize, usize),
}

/// Elements of each kind of memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub(super) tail: usize,
    pub(super) weights: usize,
    pub(super) channels: usize,
    pub(super) saved: usize,
    pub(super) gates: usize,
    pub(super) gradient: usize,
    pub(super) line: usize,
    pub(super) classes: usize,
}

/// A start and a length as a range.
pub(super) fn range((start, len): (usize, usize)) -> Range<usize> {
    start..start.wrapping_add(len)
}

/// Takes the next `len` elements.
fn take(total: &mut usize, len: usize) -> Result<(usize, usize), LearnError> {
    let start = *total;
    *total = start.checked_add(len).ok_or(LearnError::TooLarge)?;
    Ok((start, len))
}

impl<'m> Plan<'m> {
    /// The plan for a model that its exporter has marked as tunable.
    ///
    /// # Errors
    ///
    /// When nothing is marked, or the marked layers are not a chain of operators through which
    /// gradients can be computed: names the operator.
    pub fn new(model: &Model<'m>) -> Result<Self, LearnError> {
        let count = model.tunable();
        if count == 0 {
            return Err(LearnError::NotTunable);
        }
        if count > MAX_LAYERS {
            return Err(LearnError::TooManyLayers { found: count });
        }
        let weighted = (0..model.op_count()).filter(|&op| model.is_weighted(op)).count();
        let skipped = weighted.saturating_sub(count);
        let first = (0..model.op_count()).filter(|&op| model.is_weighted(op)).nth(skipped);
        let first = first.ok_or(LearnError::NotTunable)?;
        let last_op = model.op_count().wrapping_sub(1);
        let executed = match model.op(last_op) {
            Some(Op::Softmax(_)) => last_op,
            _ => model.op_count(),
        };
        let mut plan = Self {
            model: *model,
            layers: [LayerPlan::default(); MAX_LAYERS],
            layer_count: 0,
            executed,
            scores: model.output(),
            features: model.output(),
            sizes: Sizes::default(),
        };
        let mut chain = Chain::EMPTY;
        for index in first..executed {
            let op = model.op(index).ok_or(LearnError::Unsupported { op: index })?;
            let on_chain = chain.follow(index, &op, index == first)?;
            match (on_chain, Layer::new(&op)) {
                (Some(_), Some(layer)) => plan.add_layer(index, &layer)?,
                (None, Some(_)) => return Err(LearnError::Branch { op: index }),
                (Some(input), None) => plan.add_between(index, input, &op)?,
                (None, None) => {}
            }
        }
        plan.finish(&chain)?;
        Ok(plan)
    }

    fn add_layer(&mut self, op: usize, layer: &Layer<'_>) -> Result<(), LearnError> {
        let positive = |scale: f32| scale.is_finite() && scale > 0.0;
        if !positive(layer.input.scale) || !positive(layer.output.scale) {
            return Err(LearnError::Scale { op });
        }
        let [constants, weights] = self.model.constants_and_weights(op);
        let align = |len: usize| len.checked_next_multiple_of(4).ok_or(LearnError::TooLarge);
        let sizes = &mut self.sizes;
        let entry = LayerPlan {
            op,
            weights: take(&mut sizes.weights, layer.weight_count())?,
            channels: take(&mut sizes.channels, layer.channels.len())?,
            records: (take(&mut sizes.tail, align(constants.len())?)?.0, constants.len()),
            stream: (take(&mut sizes.tail, align(weights.len())?)?.0, weights.len()),
            saved: take(&mut sizes.saved, layer.input.len())?,
            gates: take(&mut sizes.gates, layer.output.len().div_ceil(8))?,
            ..LayerPlan::default()
        };
        if self.layer_count > 0 {
            sizes.gradient = sizes.gradient.max(layer.input.len());
        }
        sizes.line = sizes.line.max(layer.pixels());
        self.features = layer.input;
        let slot = self.layers.get_mut(self.layer_count);
        *slot.ok_or(LearnError::TooManyLayers { found: self.layer_count })? = entry;
        self.layer_count = self.layer_count.wrapping_add(1);
        Ok(())
    }

    fn add_between(&mut self, index: usize, input: usize, op: &Op<'_>) -> Result<(), LearnError> {
        let unsupported = LearnError::Unsupported { op: index };
        let (mut saved, mut gated) = (0, 0);
        match op {
            Op::AvgPool(_) | Op::Mean(_) => {}
            Op::MaxPool(pool) => {
                let Window { kernel, stride, .. } = pool.window;
                if kernel[0] > stride[0] || kernel[1] > stride[1] {
                    return Err(unsupported);
                }
                gated = pool.input.len();
            }
            Op::Lookup(lookup) => saved = lookup.input.len(),
            Op::Add(add) => gated = add.output.len(),
            _ => return Err(unsupported),
        }
        let entry = Between {
            op: index,
            input,
            saved: take(&mut self.sizes.saved, saved)?,
            gates: take(&mut self.sizes.gates, gated.div_ceil(8))?,
        };
        let layer = self.layer_count.checked_sub(1).and_then(|last| self.layers.get_mut(last));
        let layer = layer.ok_or(LearnError::Branch { op: index })?;
        let slot = layer.between.get_mut(layer.between_count);
        *slot.ok_or(unsupported)? = entry;
        layer.between_count = layer.between_count.wrapping_add(1);
        Ok(())
    }

    fn finish(&mut self, chain: &Chain) -> Result<(), LearnError> {
        let last_op = self.executed.saturating_sub(1);
        // The scores are the last layer's outputs, perhaps through operators without weights.
        let scores = match self.model.op(self.executed) {
            Some(Op::Softmax(softmax)) => softmax.input,
            _ => self.model.output(),
        };
        if chain.current() != Some(scores.range()) {
            return Err(LearnError::Branch { op: last_op });
        }
        if !(scores.scale.is_finite() && scores.scale > 0.0) {
            return Err(LearnError::Scale { op: last_op });
        }
        self.scores = scores;
        self.sizes.classes = scores.len();
        self.sizes.gradient = self.sizes.gradient.max(scores.len());
        // The scores' range does not stop gradients: see the module.
        if let Some(last) = self.layer_count.checked_sub(1).and_then(|l| self.layers.get_mut(l)) {
            last.gates.1 = 0;
        }
        self.memory_len().map(|_| ())
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// Tunable layers.
    pub(super) fn layers(&self) -> &[LayerPlan] {
        self.layers.get(..self.layer_count).unwrap_or_default()
    }

    /// Number of tunable layers.
    pub fn layer_count(&self) -> usize {
        self.layer_count
    }

    /// Operator of tunable layer `layer`, and which of all weights and channels are its.
    pub fn layer(&self, layer: usize) -> Option<(usize, Range<usize>, Range<usize>)> {
        let layer = self.layers().get(layer)?;
        Some((layer.op, range(layer.weights), range(layer.channels)))
    }

    /// Nonzero weights of all tunable layers: each has a parameter.
    pub fn weight_count(&self) -> usize {
        self.sizes.weights
    }

    /// Output channels of all tunable layers: each has a bias.
    pub fn channel_count(&self) -> usize {
        self.sizes.channels
    }

    /// Number of classes: elements of the output.
    pub fn class_count(&self) -> usize {
        self.sizes.classes
    }

    /// Elements of the features, which are the last layer's inputs.
    pub fn feature_count(&self) -> usize {
        self.features.len()
    }

    /// Bytes of memory that a [`Tail`](super::Tail) needs: enough to run what was learned.
    pub fn tail_len(&self) -> usize {
        self.sizes.tail
    }

    /// Bytes of memory that a [`Learner`](super::Learner) needs, its tail included. Exact.
    pub fn learner_len(&self) -> usize {
        self.memory_len().unwrap_or(usize::MAX)
    }

    /// Hands each bias's item to `f`, with the integer steps by which a step of the bias shifts its
    /// outputs.
    #[cfg(feature = "federated")]
    pub(crate) fn each_bias_step<T>(
        &self,
        mut items: impl Iterator<Item = T>,
        mut f: impl FnMut(T, f32),
    ) {
        for layer in 0..self.layer_count {
            self.each_bias_step_of(layer, items.by_ref(), &mut f);
        }
    }

    /// As [`each_bias_step`](Self::each_bias_step), for the items of one layer.
    #[cfg(feature = "federated")]
    pub(crate) fn each_bias_step_of<T>(
        &self,
        layer: usize,
        items: impl Iterator<Item = T>,
        mut f: impl FnMut(T, f32),
    ) {
        let op = self.layers().get(layer).and_then(|entry| self.model.op(entry.op));
        let Some(layer) = op.as_ref().and_then(Layer::new) else { return };
        // The records first: `zip` takes from its first side before it finds the second empty.
        for (record, item) in layer.channels.iter().zip(items) {
            f(item, super::backward::rescale(record));
        }
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// See `docs/learning.md` for the formula.
    fn memory_len(&self) -> Result<usize, LearnError> {
        let s = &self.sizes;
        let parts = [
            (s.tail, 1),
            (s.channels, 4 + 4),
            (s.gradient, 2 * 4),
            (s.line, 4),
            (s.classes, 4),
            (s.weights, 2 + 2),
            (s.saved, 1),
            (s.gates, 1),
        ];
        let total = parts.iter().try_fold(0usize, |total, &(count, bytes)| {
            total.checked_add(count.checked_mul(bytes)?)
        });
        total.and_then(|len| len.checked_next_multiple_of(4)).ok_or(LearnError::TooLarge)
    }
}

/// Follows tensors through the arena, where they share memory.
struct Chain {
    /// Memory of the chain's tensors so far, the last of which the next operator must read; an empty
    /// range when something else was written there.
    tensors: [(usize, usize); MAX_LAYERS * (1 + MAX_BETWEEN)],
    len: usize,
}

impl Chain {
    const EMPTY: Self = Self { tensors: [(0, 0); MAX_LAYERS * (1 + MAX_BETWEEN)], len: 0 };

    /// Memory of the last tensor.
    fn current(&self) -> Option<Range<usize>> {
        self.len.checked_sub(1).and_then(|last| self.tensors.get(last)).copied().map(range)
    }

    /// Whether the operator is the next of the chain, and by which of its inputs.
    fn follow(
        &mut self,
        index: usize,
        op: &Op<'_>,
        starts: bool,
    ) -> Result<Option<usize>, LearnError> {
        let branch = LearnError::Branch { op: index };
        let overlaps = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        let mut on_chain = starts.then_some(0);
        for (input, tensor) in op.inputs().into_iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            let last = self.len.wrapping_sub(1);
            for (number, &memory) in self.tensors.iter().take(self.len).enumerate() {
                let memory = range(memory);
                if !overlaps(&memory, &tensor.range()) {
                    continue;
                }
                // Only the chain's end may be read, whole and once.
                if number != last || memory != tensor.range() || on_chain.is_some() {
                    return Err(branch);
                }
                on_chain = Some(input);
            }
        }
        let output = op.output().range();
        for memory in &mut self.tensors {
            if overlaps(&range(*memory), &output) {
                *memory = (0, 0);
            }
        }
        if on_chain.is_some() {
            let slot = self.tensors.get_mut(self.len).ok_or(branch)?;
            *slot = (output.start, output.len());
            self.len = self.len.wrapping_add(1);
        }
        Ok(on_chain)
    }
}
