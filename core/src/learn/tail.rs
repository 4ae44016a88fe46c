//! The tuned part of a model, as it runs.

use super::layer::Layer;
use super::plan::{LayerPlan, Plan, range};
use super::{LearnError, Parameters};
use crate::model::layout::ChannelRecord;
use crate::session::Session;
use zerocopy::{FromBytes, IntoBytes};

/// Fractional bits of a parameter: it counts 1/256 of an integer step.
pub(super) const FRACTION: u32 = 8;
/// Largest tuned weight: -128 is left out, as in TFLite, where the blob does not have it.
const MAX_WEIGHT: i32 = 127;
/// Tuned biases stay below this, as the sparse kernels need it.
const MAX_BIAS: i64 = (crate::kernels::sparse::MAX_BIAS - 1) as i64;

/// A model whose tunable layers run from memory with weights of their own, by the kernels that it has
/// chosen for them.
#[derive(Debug)]
pub struct Tail<'m, 'b> {
    pub(super) plan: Plan<'m>,
    /// Channel records and streams of the tunable layers.
    bytes: &'b mut [u8],
}

impl<'m, 'b> Tail<'m, 'b> {
    /// The model as the blob has it, in `memory` of at least [`Plan::tail_len`] bytes at a multiple of
    /// four, such as an [`Arena`](crate::Arena)'s.
    ///
    /// # Errors
    ///
    /// When the memory is too small or misaligned.
    pub fn new(plan: &Plan<'m>, memory: &'b mut [u8]) -> Result<Self, LearnError> {
        let bytes = super::memory(memory, plan.tail_len())?;
        let mut tail = Self { plan: *plan, bytes };
        tail.copy_blob();
        Ok(tail)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<'m> {
        &self.plan
    }

    /// Makes the model run with these parameters.
    ///
    /// # Errors
    ///
    /// When they are not as many as the plan says.
    pub fn set(&mut self, parameters: &Parameters<'_>) -> Result<(), LearnError> {
        parameters.check(&self.plan)?;
        for entry in self.plan.layers() {
            let Some(op) = self.plan.model.op(entry.op) else { continue };
            let Some(layer) = Layer::new(&op) else { continue };
            requantise(&layer, entry, parameters, self.bytes);
        }
        Ok(())
    }

    /// One inference, as [`Session::run`].
    ///
    /// # Errors
    ///
    /// When the session is another model's or the input has a wrong length.
    pub fn run<'s, const KERNELS: u32>(
        &self,
        session: &'s mut Session<'_, '_, KERNELS>,
        input: &[i8],
    ) -> Result<&'s [i8], LearnError> {
        self.start(session, input)?;
        self.run_loaded(session)
    }

    /// One inference of the input that [`Session::input_mut`] was filled with.
    ///
    /// # Errors
    ///
    /// When the session is another model's.
    pub fn run_loaded<'s, const KERNELS: u32>(
        &self,
        session: &'s mut Session<'_, '_, KERNELS>,
    ) -> Result<&'s [i8], LearnError> {
        self.check(session)?;
        for index in 0..self.plan.model.op_count() {
            self.execute(session, index)?;
        }
        Ok(session.output())
    }

    /// Whether the session is this model's.
    pub(super) fn check<const KERNELS: u32>(
        &self,
        session: &Session<'_, '_, KERNELS>,
    ) -> Result<(), LearnError> {
        let same = session.model().id() == self.plan.model.id();
        if same { Ok(()) } else { Err(LearnError::OtherModel) }
    }

    /// Checks that the session is this model's and sets its input.
    pub(super) fn start<const KERNELS: u32>(
        &self,
        session: &mut Session<'_, '_, KERNELS>,
        input: &[i8],
    ) -> Result<(), LearnError> {
        self.check(session)?;
        Ok(session.set_input(input)?)
    }

    /// Executes operator `index`.
    pub(super) fn execute<const KERNELS: u32>(
        &self,
        session: &mut Session<'_, '_, KERNELS>,
        index: usize,
    ) -> Result<(), LearnError> {
        let model = &self.plan.model;
        let op = match self.plan.layers().iter().find(|entry| entry.op == index) {
            // Offsets are below the blob's length, which is a u32.
            Some(entry) => {
                model.decode_with(index, self.bytes, entry.records.0 as u32, entry.stream.0 as u32)
            }
            None => model.decode(index),
        };
        Ok(session.execute(index, &op.map_err(crate::RunError::from)?)?)
    }

    /// The bytes of a layer's stream.
    pub(super) fn stream(&self, entry: &LayerPlan) -> &[u8] {
        self.bytes.get(range(entry.stream)).unwrap_or_default()
    }

    fn copy_blob(&mut self) {
        for entry in self.plan.layers() {
            let parts = self.plan.model.constants_and_weights(entry.op);
            for (part, place) in parts.into_iter().zip([entry.records, entry.stream]) {
                if let Some(bytes) = self.bytes.get_mut(range(place)) {
                    bytes.as_mut_bytes().iter_mut().zip(part).for_each(|(to, &from)| *to = from);
                }
            }
        }
    }
}

/// The weight that runs for a weight of the blob and its parameter.
pub(super) fn tuned(blob: i8, parameter: i16) -> i8 {
    let weight = i32::from(blob).wrapping_add(rounded(parameter.into()));
    weight.max(smallest(blob)).min(MAX_WEIGHT) as i8
}

/// Parameter `parameter` changed by `change`, so that the weight stays representable.
pub(super) fn changed(blob: i8, parameter: i16, change: i32) -> i16 {
    let base = i32::from(blob) << FRACTION;
    let (low, high) = ((smallest(blob) << FRACTION) - base, (MAX_WEIGHT << FRACTION) - base);
    let parameter = i32::from(parameter).saturating_add(change);
    parameter.max(low).min(high).max(i16::MIN.into()).min(i16::MAX.into()) as i16
}

/// The smallest value of a weight that is `blob` in the blob: what has learned nothing stays as it is.
fn smallest(blob: i8) -> i32 {
    (-MAX_WEIGHT).min(blob.into())
}

fn rounded(parameter: i32) -> i32 {
    parameter.saturating_add(1 << (FRACTION - 1)) >> FRACTION
}

/// Writes a layer's records and stream for its parameters.
fn requantise(layer: &Layer<'_>, entry: &LayerPlan, parameters: &Parameters<'_>, tail: &mut [u8]) {
    let mut weights = parameters.weights.get(range(entry.weights)).unwrap_or_default().iter();
    let biases = parameters.biases.get(range(entry.channels)).unwrap_or_default();
    let zero = i64::from(layer.input.zero_point);
    let mut walk = layer.weights();
    for (channel, (record, &bias)) in layer.channels.iter().zip(biases).enumerate() {
        let mut rise = 0i64;
        let stream = tail.get_mut(range(entry.stream)).unwrap_or_default();
        walk.channel(|weight| {
            let value = tuned(weight.value, weights.next().copied().unwrap_or(0));
            weight.place.write(stream, value);
            rise = rise.wrapping_add(i64::from(value).wrapping_sub(weight.value.into()));
        });
        // The record's bias includes minus the zero point times the sum of the weights.
        let blob = i64::from(record.bias.get());
        let bias = blob.wrapping_sub(zero.wrapping_mul(rise)).wrapping_add(rounded(bias).into());
        let limit = MAX_BIAS.max(blob.wrapping_abs()).min(i32::MAX.into());
        let bias = bias.max(-limit).min(limit) as i32;
        let records = tail.get_mut(range(entry.records)).unwrap_or_default();
        let records = <[ChannelRecord]>::mut_from_bytes(records).unwrap_or_default();
        if let Some(slot) = records.get_mut(channel) {
            slot.bias = bias.into();
        }
    }
}
