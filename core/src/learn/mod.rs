//! Fine-tuning of a model's last layers on the device.
//!
//! The exporter marks the last *k* weighted operators as tunable. For each sample, the normal integer
//! kernels compute the class scores; then gradients are computed back through the tunable layers, for
//! the weights that are not zero in the blob. The sparsity pattern never changes. Design, arithmetic and
//! memory: `docs/learning.md`.
//!
//! * **Parameters** are the differences from the blob's integers, in 1/256 of an integer step
//!   ([`Parameters`]): 16 bits per nonzero weight, 32 per output channel. Scales never change, so that
//!   devices share one grid.
//! * **Forward** is the int8 inference itself: what is trained is what runs.
//! * **Samples are streamed**, one at a time; gradients of a batch accumulate in the momentum's memory.
//! * **Floats** are f32 in the backward pass, f16 for velocities; there is no fused multiplication, order
//!   is fixed, exponentials and roots are `libm`'s. Hosts and devices therefore compute the same bits,
//!   with or without a floating-point unit.
//!
//! ```no_run
//! use niwaki_core::learn::{LearnMemory, Learner, Plan, Settings};
//! use niwaki_core::{Arena, Model, Session};
//!
//! # fn sample() -> ([i8; 64], usize) { ([0; 64], 0) }
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! # let blob: &[u8] = &[];
//! let model = Model::new(blob)?;
//! let plan = Plan::new(&model)?;
//! let mut arena = Arena::<4096>::new();
//! let mut session: Session = Session::new(model, arena.as_mut_slice())?;
//! let mut memory = LearnMemory::<8192>::new(); // at least `plan.learner_len()`
//! let mut learner = Learner::new(&plan, memory.as_mut_slice(), Settings::default())?;
//! for _ in 0..100 {
//!     let (input, class) = sample();
//!     learner.learn(&mut session, &input, class, None)?;
//! }
//! learner.finish_batch();
//! let scores: &[i8] = learner.tail().run(&mut session, &sample().0)?;
//! # let _ = scores;
//! # Ok(())
//! # }
//! ```

mod axis;
mod backward;
mod layer;
mod loss;
mod plan;
mod tail;

use core::fmt;

use half::f16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::model::Op;
use crate::session::{RunError, Session};
use backward::{LayerPass, Pull, set_bit};
use layer::Layer;
pub use loss::{Contrast, Prototypes, Proximal, Terms};
pub use plan::Plan;
use plan::range;
pub use tail::Tail;

/// Most layers that can be tuned.
pub const MAX_LAYERS: usize = 8;
/// Most operators without weights between two tunable layers.
pub const MAX_BETWEEN: usize = 4;

/// Memory for learning, at the alignment that it needs.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct LearnMemory<const N: usize>([u8; N]);

impl<const N: usize> LearnMemory<N> {
    /// `N` zero bytes.
    pub const fn new() -> Self {
        Self([0; N])
    }

    /// The bytes.
    pub const fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl<const N: usize> Default for LearnMemory<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a model cannot be tuned or a sample cannot be learned.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum LearnError {
    /// The model's exporter marked no layer as tunable.
    NotTunable,
    /// More than [`MAX_LAYERS`] layers are marked.
    TooManyLayers {
        /// Layers marked.
        found: usize,
    },
    /// At this operator the tunable part is no chain.
    Branch {
        /// Number of the operator.
        op: usize,
    },
    /// Gradients cannot be computed through this operator.
    Unsupported {
        /// Number of the operator.
        op: usize,
    },
    /// A tensor of this operator has no positive scale.
    Scale {
        /// Number of the operator.
        op: usize,
    },
    /// The memory needed exceeds the address space.
    TooLarge,
    /// The memory given is too small.
    Memory {
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The memory given does not begin at a multiple of four bytes: use [`LearnMemory`].
    MemoryMisaligned,
    /// The session runs another model.
    OtherModel,
    /// The class does not exist.
    Label {
        /// The class given.
        label: usize,
        /// Number of classes.
        classes: usize,
    },
    /// Prototypes are not classes times features, or their counts not as many as classes.
    Prototypes {
        /// Values needed.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// Parameters are not as many as the model has.
    Parameters {
        /// Weights and biases needed.
        expected: [usize; 2],
        /// Weights and biases given.
        found: [usize; 2],
    },
    /// A setting is no number or out of range: names it.
    Setting(&'static str),
    /// An inference failed.
    Run(RunError),
}

impl fmt::Display for LearnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotTunable => f.write_str(
                "the model has no tunable layers: export it again with some marked as tunable",
            ),
            Self::TooManyLayers { found } => {
                write!(f, "at most {MAX_LAYERS} layers can be tuned, found {found} or more")
            }
            Self::Branch { op } => write!(
                f,
                "the tunable layers are no chain at operator {op}: mark fewer layers as tunable"
            ),
            Self::Unsupported { op } => write!(
                f,
                "gradients cannot pass operator {op}: mark only layers behind it as tunable"
            ),
            Self::Scale { op } => write!(f, "a tensor of operator {op} has no positive scale"),
            Self::TooLarge => f.write_str("learning needs more memory than can be addressed"),
            Self::Memory { expected, found } => {
                write!(f, "learning needs {expected} bytes of memory, found {found}")
            }
            Self::MemoryMisaligned => {
                f.write_str("memory for learning must begin at a multiple of 4: use LearnMemory")
            }
            Self::OtherModel => f.write_str("the session runs another model than the one tuned"),
            Self::Label { label, classes } => {
                write!(f, "class {label} does not exist: the model has {classes} classes")
            }
            Self::Prototypes { expected, found } => write!(
                f,
                "expected {expected} values of prototypes and a count for each class, found {found} values"
            ),
            Self::Parameters { expected: [weights, biases], found } => write!(
                f,
                "expected parameters of {weights} weights and {biases} biases, found {} and {}",
                found[0], found[1]
            ),
            Self::Setting(name) => write!(f, "the {name} is out of range"),
            Self::Run(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for LearnError {}

impl From<RunError> for LearnError {
    fn from(error: RunError) -> Self {
        Self::Run(error)
    }
}

/// What was learned: differences from the blob in 1/256 of an integer step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters<'a> {
    /// One for each nonzero weight of the tunable layers: layer by layer, output channel by output
    /// channel, in the order of the stream.
    pub weights: &'a [i16],
    /// One for each output channel of the tunable layers. A step is the input's scale times the weight's.
    pub biases: &'a [i32],
}

impl Parameters<'_> {
    fn check(&self, plan: &Plan<'_>) -> Result<(), LearnError> {
        let expected = [plan.weight_count(), plan.channel_count()];
        let found = [self.weights.len(), self.biases.len()];
        if expected == found { Ok(()) } else { Err(LearnError::Parameters { expected, found }) }
    }
}

/// How to learn: stochastic gradient descent with momentum.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Settings {
    /// Step per unit of gradient, for real-valued parameters. From 0 to 1,000.
    pub learning_rate: f32,
    /// Part of the last batch's velocity that stays. From 0 to below 1.
    pub momentum: f32,
    /// Samples whose gradients are averaged for a step. At least 1.
    pub batch: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { learning_rate: 0.01, momentum: 0.9, batch: 8 }
    }
}

impl Settings {
    /// Whether every value is within its range.
    ///
    /// # Errors
    ///
    /// Names the one that is not.
    pub fn check(&self) -> Result<(), LearnError> {
        if !(self.learning_rate >= 0.0 && self.learning_rate <= 1e3) {
            return Err(LearnError::Setting("learning rate"));
        }
        if !(self.momentum >= 0.0 && self.momentum < 1.0) {
            return Err(LearnError::Setting("momentum"));
        }
        if self.batch == 0 { Err(LearnError::Setting("batch")) } else { Ok(()) }
    }
}

/// Tunes the tunable layers of a model, sample by sample.
#[derive(Debug)]
pub struct Learner<'m, 'b> {
    tail: Tail<'m, 'b>,
    settings: Settings,
    /// Samples of the batch so far.
    pending: u16,
    biases: &'b mut [i32],
    bias_velocity: &'b mut [f32],
    /// Gradients on the way back: of what a layer's output becomes, and of its input.
    from: &'b mut [f32],
    to: &'b mut [f32],
    line: &'b mut [f32],
    similarities: &'b mut [f32],
    weights: &'b mut [i16],
    velocity: &'b mut [f16],
    saved: &'b mut [i8],
    gates: &'b mut [u8],
}

impl<'m, 'b> Learner<'m, 'b> {
    /// A learner that begins with the blob's weights, in `memory` of at least [`Plan::learner_len`]
    /// bytes.
    ///
    /// # Errors
    ///
    /// When the memory is too small or misaligned, or a setting is out of range.
    pub fn new(
        plan: &Plan<'m>,
        memory: &'b mut [u8],
        settings: Settings,
    ) -> Result<Self, LearnError> {
        settings.check()?;
        let mut rest = self::memory(memory, plan.learner_len())?;
        rest.fill(0);
        let sizes = *plan.sizes();
        let tail = split::<u8>(&mut rest, sizes.tail)?;
        Ok(Self {
            tail: Tail::new(plan, tail)?,
            settings,
            pending: 0,
            biases: split(&mut rest, sizes.channels)?,
            bias_velocity: split(&mut rest, sizes.channels)?,
            from: split(&mut rest, sizes.gradient)?,
            to: split(&mut rest, sizes.gradient)?,
            line: split(&mut rest, sizes.line)?,
            similarities: split(&mut rest, sizes.classes)?,
            weights: split(&mut rest, sizes.weights)?,
            velocity: split(&mut rest, sizes.weights)?,
            saved: split(&mut rest, sizes.saved)?,
            gates: split(&mut rest, sizes.gates)?,
        })
    }

    /// The model as it runs with what was learned up to the last finished batch.
    pub fn tail(&self) -> &Tail<'m, 'b> {
        &self.tail
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<'m> {
        self.tail.plan()
    }

    /// What was learned.
    pub fn parameters(&self) -> Parameters<'_> {
        Parameters { weights: self.weights, biases: self.biases }
    }

    /// Goes on from other parameters, such as stored ones. Velocities and an unfinished batch are
    /// forgotten.
    ///
    /// # Errors
    ///
    /// When the parameters are not as many as the plan says.
    pub fn set_parameters(&mut self, parameters: &Parameters<'_>) -> Result<(), LearnError> {
        parameters.check(self.plan())?;
        self.weights.iter_mut().zip(parameters.weights).for_each(|(to, &from)| *to = from);
        self.biases.iter_mut().zip(parameters.biases).for_each(|(to, &from)| *to = from);
        self.refresh()
    }

    /// Changes parameters in place: `change` is given all weights and all biases. Velocities and an
    /// unfinished batch are forgotten.
    ///
    /// # Errors
    ///
    /// None for parameters of the plan.
    pub fn change_parameters(
        &mut self,
        change: impl FnOnce(&mut [i16], &mut [i32]),
    ) -> Result<(), LearnError> {
        change(self.weights, self.biases);
        self.refresh()
    }

    fn refresh(&mut self) -> Result<(), LearnError> {
        self.velocity.fill(f16::ZERO);
        self.bias_velocity.fill(0.0);
        self.pending = 0;
        self.tail.set(&Parameters { weights: self.weights, biases: self.biases })
    }

    /// Goes on with other settings. An unfinished batch is finished first.
    ///
    /// # Errors
    ///
    /// When a setting is out of range; nothing changes then.
    pub fn set_settings(&mut self, settings: Settings) -> Result<(), LearnError> {
        settings.check()?;
        self.finish_batch();
        self.settings = settings;
        Ok(())
    }

    /// Learns one sample and returns its loss before that: the cross-entropy of class `label`, and the
    /// contrastive loss of `contrast`, which needs at least two tunable layers to change anything. With
    /// the last sample of a batch the weights take a step.
    ///
    /// # Errors
    ///
    /// When the session is another model's, or the input, the label or the prototypes do not fit.
    pub fn learn<const KERNELS: u32>(
        &mut self,
        session: &mut Session<'_, '_, KERNELS>,
        input: &[i8],
        label: usize,
        contrast: Option<&Contrast<'_>>,
    ) -> Result<f32, LearnError> {
        self.tail.start(session, input)?;
        self.learn_loaded(session, label, &Terms { contrast: contrast.copied(), proximal: None })
    }

    /// As [`learn`](Self::learn), of the input that [`Session::input_mut`] was filled with, and with more
    /// terms of the loss. Returns the loss without the proximal term.
    ///
    /// # Errors
    ///
    /// As [`learn`](Self::learn).
    pub fn learn_loaded<const KERNELS: u32>(
        &mut self,
        session: &mut Session<'_, '_, KERNELS>,
        label: usize,
        terms: &Terms<'_>,
    ) -> Result<f32, LearnError> {
        let plan = self.plan();
        let (classes, features) = (plan.class_count(), plan.feature_count());
        let tensor = plan.scores;
        if label >= classes {
            return Err(LearnError::Label { label, classes });
        }
        if let Some(contrast) = &terms.contrast {
            contrast.check(classes, features)?;
        }
        if let Some(proximal) = &terms.proximal {
            proximal.check(plan)?;
        }
        self.forward_loaded(session)?;
        if self.pending == 0 {
            for velocity in self.velocity.iter_mut() {
                *velocity = f16::from_f32(velocity.to_f32() * self.settings.momentum);
            }
            for velocity in self.bias_velocity.iter_mut() {
                *velocity *= self.settings.momentum;
            }
            if let Some(proximal) = &terms.proximal {
                self.pull_back(proximal);
            }
        }
        let scores = session.arena().get(tensor.range()).unwrap_or_default();
        let loss = loss::cross_entropy(scores, &tensor, label, self.from);
        let loss = loss + self.backward(label, terms.contrast.as_ref());
        self.pending = self.pending.wrapping_add(1);
        if self.pending >= self.settings.batch {
            self.finish_batch();
        }
        Ok(loss)
    }

    /// Adds the gradient of the proximal term, once per batch.
    fn pull_back(&mut self, proximal: &Proximal<'_>) {
        let scale = proximal.weight / (1 << tail::FRACTION) as f32;
        let anchors = self.weights.iter().zip(proximal.anchor.weights);
        for (velocity, (&now, &anchor)) in self.velocity.iter_mut().zip(anchors) {
            let distance = i32::from(now).wrapping_sub(anchor.into()) as f32;
            *velocity = backward::stored(velocity.to_f32() + scale * distance);
        }
        let anchors = self.biases.iter().zip(proximal.anchor.biases);
        for (velocity, (&now, &anchor)) in self.bias_velocity.iter_mut().zip(anchors) {
            *velocity += scale * now.saturating_sub(anchor) as f32;
        }
    }

    /// Takes the step of an unfinished batch, such as the last of an epoch.
    pub fn finish_batch(&mut self) {
        if self.pending == 0 {
            return;
        }
        self.pending = 0;
        let rate = self.settings.learning_rate * (1 << tail::FRACTION) as f32;
        // `as` saturates.
        let step = |velocity: f32| libm::roundf(-rate * velocity) as i32;
        let plan = &self.tail.plan;
        for entry in plan.layers() {
            let Some(op) = plan.model.op(entry.op) else { continue };
            let Some(layer) = Layer::new(&op) else { continue };
            let weights = self.weights.get_mut(range(entry.weights)).unwrap_or_default();
            let velocity = self.velocity.get(range(entry.weights)).unwrap_or_default();
            let mut slots = weights.iter_mut().zip(velocity);
            let mut walk = layer.weights();
            for _ in 0..layer.channels.len() {
                walk.channel(|weight| {
                    if let Some((parameter, velocity)) = slots.next() {
                        let step = step(velocity.to_f32());
                        *parameter = tail::changed(weight.value, *parameter, step);
                    }
                });
            }
        }
        for (parameter, &velocity) in self.biases.iter_mut().zip(self.bias_velocity.iter()) {
            *parameter = parameter.saturating_add(step(velocity));
        }
        let parameters = Parameters { weights: self.weights, biases: self.biases };
        // No error: the parameters are the plan's.
        let _ = self.tail.set(&parameters);
    }

    /// Features of the last sample: the last layer's inputs.
    pub fn features(&self) -> &[i8] {
        let last = self.plan().layers().last();
        last.and_then(|entry| self.saved.get(range(entry.saved))).unwrap_or_default()
    }

    /// Runs the model up to the scores and keeps what the backward pass needs. Also serves to read the
    /// [`features`](Self::features) of a sample without learning it.
    ///
    /// # Errors
    ///
    /// When the session is another model's or the input has a wrong length.
    pub fn forward<const KERNELS: u32>(
        &mut self,
        session: &mut Session<'_, '_, KERNELS>,
        input: &[i8],
    ) -> Result<(), LearnError> {
        self.tail.start(session, input)?;
        self.forward_loaded(session)
    }

    fn forward_loaded<const KERNELS: u32>(
        &mut self,
        session: &mut Session<'_, '_, KERNELS>,
    ) -> Result<(), LearnError> {
        let plan = &self.tail.plan;
        self.tail.check(session)?;
        let mut layers = plan.layers();
        let mut between = [].as_slice();
        for index in 0..plan.executed {
            if let Some((entry, rest)) = layers.split_first().filter(|(e, _)| e.op == index) {
                layers = rest;
                between = entry.between.get(..entry.between_count).unwrap_or_default();
                let op = plan.model.op(index);
                let layer = op.as_ref().and_then(Layer::new);
                let Some(layer) = layer else { return Err(RunError::ModelChanged.into()) };
                let x = session.arena().get(layer.input.range()).unwrap_or_default();
                keep(self.saved.get_mut(range(entry.saved)), x);
                self.tail.execute(session, index)?;
                let gates = self.gates.get_mut(range(entry.gates)).unwrap_or_default();
                let y = session.arena().get(layer.output.range()).unwrap_or_default();
                if let Some(clamp) = op.as_ref().and_then(clamp) {
                    open_gates(gates, y, clamp);
                }
            } else if let Some((entry, rest)) = between.split_first().filter(|(e, _)| e.op == index)
            {
                between = rest;
                let Some(op) = plan.model.op(index) else {
                    return Err(RunError::ModelChanged.into());
                };
                if let Some(tensor) = op.inputs().get(entry.input).copied().flatten() {
                    let x = session.arena().get(tensor.range()).unwrap_or_default();
                    keep(self.saved.get_mut(range(entry.saved)), x);
                    let gates = self.gates.get_mut(range(entry.gates)).unwrap_or_default();
                    if let Op::MaxPool(pool) = &op {
                        backward::open_first_maxima(pool, x, gates);
                    }
                }
                self.tail.execute(session, index)?;
                let gates = self.gates.get_mut(range(entry.gates)).unwrap_or_default();
                let y = session.arena().get(op.output().range()).unwrap_or_default();
                if let Op::Add(add) = &op {
                    open_gates(gates, y, add.clamp);
                }
            } else {
                self.tail.execute(session, index)?;
            }
        }
        Ok(())
    }

    /// Adds the sample's gradients to the velocities; the scores' gradient stands in `from`. Returns the
    /// contrastive loss.
    fn backward(&mut self, label: usize, contrast: Option<&Contrast<'_>>) -> f32 {
        let plan = &self.tail.plan;
        let mut loss = 0.0;
        for (number, entry) in plan.layers().iter().enumerate().rev() {
            let Some(op) = plan.model.op(entry.op) else { continue };
            let Some(layer) = Layer::new(&op) else { continue };
            let gates: &[u8] = self.gates;
            let saved: &[i8] = self.saved;
            let pulls = entry.between.map(|between| {
                let op = plan.model.op(between.op)?;
                let saved = saved.get(range(between.saved)).unwrap_or_default();
                let gates = gates.get(range(between.gates)).unwrap_or_default();
                Pull::new(&op, between.input, saved, gates)
            });
            let input = saved.get(range(entry.saved)).unwrap_or_default();
            let len = layer.input.len();
            LayerPass {
                layer: &layer,
                entry,
                pulls: pulls.get(..entry.between_count).unwrap_or_default(),
                from: self.from,
                to: if number > 0 { self.to.get_mut(..len) } else { None },
                line: self.line,
                input,
                gates: gates.get(range(entry.gates)).unwrap_or_default(),
                stream: self.tail.stream(entry),
                velocity: self.velocity.get_mut(range(entry.weights)).unwrap_or_default(),
                bias_velocity: self
                    .bias_velocity
                    .get_mut(range(entry.channels))
                    .unwrap_or_default(),
                share: 1.0 / f32::from(self.settings.batch),
            }
            .run();
            if let Some(contrast) =
                contrast.filter(|_| number.wrapping_add(1) == plan.layer_count())
            {
                let gradient =
                    if number > 0 { self.to.get_mut(..len) } else { None }.unwrap_or_default();
                let zero_point = plan.features.zero_point;
                loss = loss::contrastive(
                    input,
                    zero_point,
                    contrast,
                    label,
                    self.similarities,
                    gradient,
                );
            }
            core::mem::swap(&mut self.from, &mut self.to);
        }
        loss
    }
}

/// Range of a layer's outputs.
fn clamp(op: &Op<'_>) -> Option<crate::model::Clamp> {
    match op {
        Op::Conv(conv) | Op::Linear(conv) => Some(conv.clamp),
        Op::Depthwise(op) => Some(op.clamp),
        _ => None,
    }
}

/// Sets the bits of the outputs within the clamp's range, its ends excluded: there a value may have been
/// clamped. No bits where there are no gates.
fn open_gates(gates: &mut [u8], y: &[i8], clamp: crate::model::Clamp) {
    gates.fill(0);
    if !gates.is_empty() {
        for (index, &y) in y.iter().enumerate() {
            if clamp.min < y && y < clamp.max {
                set_bit(gates, index);
            }
        }
    }
}

fn keep(slot: Option<&mut [i8]>, x: &[i8]) {
    slot.unwrap_or_default().iter_mut().zip(x).for_each(|(to, &from)| *to = from);
}

/// The first `len` bytes of memory for learning.
pub(crate) fn memory(memory: &mut [u8], len: usize) -> Result<&mut [u8], LearnError> {
    if memory.as_ptr().align_offset(4) != 0 {
        return Err(LearnError::MemoryMisaligned);
    }
    let found = memory.len();
    memory.get_mut(..len).ok_or(LearnError::Memory { expected: len, found })
}

/// Takes `count` elements from the beginning of `rest`.
pub(crate) fn split<'b, T: FromBytes + IntoBytes + Immutable + KnownLayout>(
    rest: &mut &'b mut [u8],
    count: usize,
) -> Result<&'b mut [T], LearnError> {
    let bytes = core::mem::take(rest);
    let (part, behind) =
        <[T]>::mut_from_prefix_with_elems(bytes, count).map_err(|_| LearnError::TooLarge)?;
    *rest = behind;
    Ok(part)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
