//! Evaluates blobs on the host, with the very code that runs on devices.

use anyhow::{Context, Result, ensure};
use niwaki_core::{Model, Session};
use rayon::prelude::*;

use crate::data::Dataset;

/// Bytes at the alignment of blobs and arenas.
#[derive(Clone, Debug)]
pub struct AlignedVec {
    words: Vec<u64>,
    len: usize,
}

impl AlignedVec {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        Self { words: words.collect(), len: bytes.len() }
    }

    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(8)], len }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &zerocopy::IntoBytes::as_bytes(&self.words[..])[..self.len]
    }

    /// The bytes, to be written.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        &mut zerocopy::IntoBytes::as_mut_bytes(&mut self.words[..])[..self.len]
    }

    /// The bytes as an arena.
    pub fn as_arena(&mut self) -> &mut [i8] {
        let bytes = zerocopy::IntoBytes::as_mut_bytes(&mut self.words[..]);
        let arena: &mut [i8] = zerocopy::transmute_mut!(bytes);
        &mut arena[..self.len]
    }
}

/// The outputs of a model for `inputs`, one after the other, computed on all cores.
///
/// # Errors
///
/// When `blob` is no model or `inputs` are no whole number of inputs.
pub fn run_all(blob: &[u8], inputs: &[i8]) -> Result<Vec<i8>> {
    let blob = AlignedVec::new(blob);
    let model = Model::new(blob.as_bytes()).context("not a usable model")?;
    let (input_len, output_len) = (model.input().len(), model.output().len());
    ensure!(
        inputs.len().is_multiple_of(input_len),
        "expected inputs of {input_len} bytes each, found {} bytes in all",
        inputs.len()
    );
    let mut outputs = vec![0; inputs.len() / input_len * output_len];
    outputs.par_chunks_mut(output_len).zip(inputs.par_chunks(input_len)).try_for_each_init(
        || AlignedVec::zeroed(model.arena_len()),
        |arena, (output, input)| -> Result<()> {
            let mut session: Session<'_, '_> = Session::new(model, arena.as_arena())?;
            output.copy_from_slice(session.run(input)?);
            Ok(())
        },
    )?;
    Ok(outputs)
}

/// The int8 inputs of a model for samples of a data set, one after the other.
///
/// # Errors
///
/// When the data's shape is not the model's.
pub fn quantised_inputs(model: &Model<'_>, data: &Dataset, samples: &[usize]) -> Result<Vec<i8>> {
    let input = model.input();
    let expected = [input.height, input.width, input.channels];
    ensure!(
        expected == data.shape,
        "the model takes inputs of {}, the data `{}` has {}",
        shape_text(expected),
        data.name,
        shape_text(data.shape)
    );
    ensure!(
        !model.normalisation().is_empty(),
        "the model does not say how raw features become inputs (an imported model?): \
         give quantised inputs with --inputs"
    );
    let of_data = data.sound.as_ref().map(|sound| &sound.front_end);
    if let Some(expected) = model.front_end() {
        let found = of_data.with_context(|| {
            format!(
                "the model takes features of sound ({expected}), the data `{}` are not sound",
                data.name
            )
        })?;
        ensure!(
            expected == found,
            "the model takes features of sound that differ from those of the data `{}`: \
             expected {expected}, found {found}",
            data.name
        );
    }
    let mut inputs = vec![0; samples.len() * input.len()];
    inputs
        .par_chunks_mut(input.len())
        .zip(samples)
        .for_each(|(input, &sample)| model.quantise_input(&data.raw(sample), input));
    Ok(inputs)
}

/// How good a model is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Merit {
    /// Share of correct classifications.
    Accuracy(f64),
    /// For models that reconstruct their input: mean squared error in normalised units.
    MeanSquaredError(f64),
}

impl Merit {
    /// The figure itself.
    pub fn value(self) -> f64 {
        match self {
            Self::Accuracy(value) | Self::MeanSquaredError(value) => value,
        }
    }
}

/// How good a model is on samples of a data set. One without labels is taken to reconstruct its
/// input.
///
/// # Errors
///
/// When the data's shape is not the model's, or its output is neither scores nor a reconstruction.
pub fn evaluate(
    model: &Model<'_>,
    blob: &AlignedVec,
    data: &Dataset,
    samples: &[usize],
) -> Result<Merit> {
    let inputs = quantised_inputs(model, data, samples)?;
    let outputs = run_all(blob.as_bytes(), &inputs)?;
    if model.label_count() > 0 {
        let rows = outputs.chunks(model.output().len()).zip(samples);
        let right = rows.filter(|(scores, sample)| top1(scores) == data.labels[**sample] as usize);
        return Ok(Merit::Accuracy(right.count() as f64 / samples.len().max(1) as f64));
    }
    ensure!(
        model.output().len() == model.input().len(),
        "the model has no labels and does not reconstruct its input: nothing to compare with"
    );
    Ok(Merit::MeanSquaredError(mean_squared_error(model, &inputs, &outputs)))
}

/// How well `outputs` reconstruct `inputs`: the mean squared error in real units.
pub fn mean_squared_error(model: &Model<'_>, inputs: &[i8], outputs: &[i8]) -> f64 {
    let real = |tensor: niwaki_core::model::Tensor, stored: i8| {
        f64::from(tensor.scale) * f64::from(i32::from(stored) - i32::from(tensor.zero_point))
    };
    let squares = inputs.iter().zip(outputs).map(|(&input, &output)| {
        (real(model.output(), output) - real(model.input(), input)).powi(2)
    });
    squares.sum::<f64>() / inputs.len().max(1) as f64
}

/// Index of the largest score, the first where several are equal.
pub fn top1(scores: &[i8]) -> usize {
    let largest = scores.iter().max();
    scores.iter().position(|score| Some(score) == largest).unwrap_or(0)
}

fn shape_text([height, width, channels]: [usize; 3]) -> String {
    format!("{height}x{width}x{channels}")
}
