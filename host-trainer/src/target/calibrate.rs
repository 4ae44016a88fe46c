//! Fits a [`CostModel`] to traces of random layers on an emulated board.

mod random_layer;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use niwaki_core::Model;
use niwaki_core::kernels::KernelId;
use niwaki_core::model::{Op, Softmax};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cost::{CostModel, Fit, Terms};
use super::{Board, Firmware, LayerMix, Timing, trace};
use crate::export::{AlignedVec, Graph, KernelChoice, write_with};

pub use random_layer::random_layer;

/// A traced layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Which of the random layers it is.
    pub layer: u64,
    /// Instructions that it executed.
    pub mix: LayerMix,
}

/// Layers measured per kernel.
const LAYERS_PER_KERNEL: u64 = 120;
/// Layers of one model: starting an emulator takes longer than executing a small layer.
const LAYERS_PER_MODEL: usize = 20;
/// Layers of which the first that fits the board is taken.
const ATTEMPTS: u64 = 200;

/// Number of measurements that [`measure`] makes.
pub fn measurement_count() -> usize {
    KernelId::ALL.len() * LAYERS_PER_KERNEL as usize
}

/// Traces random layers of every kernel on an emulated board, several models at once. `done` is called
/// after each with its number of layers. The layers are the same every time.
///
/// # Errors
///
/// When the board cannot be started or refuses a model.
pub fn measure(
    board: &Board,
    firmware: &Firmware,
    done: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Measurement>> {
    let batches = batches(firmware)?;
    let measure = |batch: &Batch| -> Result<Vec<Measurement>> {
        let model = Model::new(batch.blob.as_bytes())?;
        let mixes = trace(board, firmware, &model, &batch.input(&model))
            .with_context(|| format!("random layers of kernel `{}`", batch.kernel.name()))?;
        done(batch.layers.len());
        let layers = batch.layers.iter();
        Ok(layers.map(|&(layer, op)| Measurement { layer, mix: mixes[op] }).collect())
    };
    let measured = batches.par_iter().map(measure).collect::<Result<Vec<_>>>()?;
    Ok(measured.into_iter().flatten().collect())
}

/// A model of several layers of one kernel, each of which works on the beginning of the input.
struct Batch {
    kernel: KernelId,
    blob: AlignedVec,
    /// Number of each layer and of its operator.
    layers: Vec<(u64, usize)>,
}

impl Batch {
    /// `None` where the model does not fit the board.
    fn new(firmware: &Firmware, kernel: KernelId, layers: &[(u64, Graph)]) -> Result<Option<Self>> {
        let (graph, operators) = random_layer::together(layers.iter().map(|(_, graph)| graph));
        let exported = write_with(&graph, KernelChoice::Only(kernel))?;
        let blob = AlignedVec::new(&exported.bytes);
        let model = Model::new(blob.as_bytes())?;
        let fits = firmware.has_room(&model)
            && operators.iter().all(|&operator| model.kernel(operator) == Some(kernel));
        let numbers = layers.iter().map(|(number, _)| *number);
        let layers = numbers.zip(operators).collect();
        Ok(fits.then_some(Self { kernel, blob, layers }))
    }

    /// The input that it is measured on.
    fn input(&self, model: &Model<'_>) -> Vec<i8> {
        let mut random = Pcg64::seed_from_u64(self.layers.first().map_or(0, |(number, _)| *number));
        (0..model.input().len()).map(|_| random.random()).collect()
    }

    /// As few as the board has room for.
    fn of(firmware: &Firmware, kernel: KernelId, layers: &[(u64, Graph)]) -> Result<Vec<Self>> {
        if let Some(batch) = Self::new(firmware, kernel, layers)? {
            return Ok(vec![batch]);
        }
        let (first, second) = layers.split_at(layers.len() / 2);
        ensure!(!first.is_empty(), "a layer of kernel `{}` does not fit the board", kernel.name());
        let mut batches = Self::of(firmware, kernel, first)?;
        batches.extend(Self::of(firmware, kernel, second)?);
        Ok(batches)
    }
}

/// The random layers of all kernels.
fn batches(firmware: &Firmware) -> Result<Vec<Batch>> {
    let of_kernel = |(&kernel, first): (&KernelId, u64)| -> Result<Vec<Batch>> {
        let layers = (first..first + LAYERS_PER_KERNEL).map(|layer| -> Result<(u64, Graph)> {
            for attempt in 0..ATTEMPTS {
                let mut random = Pcg64::seed_from_u64(layer * ATTEMPTS + attempt);
                let alone = [(layer, random_layer(kernel, &mut random))];
                if Batch::new(firmware, kernel, &alone)?.is_some() {
                    let [layer] = alone;
                    return Ok(layer);
                }
            }
            bail!("none of {ATTEMPTS} random layers of kernel `{}` fits", kernel.name())
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let batches = layers.chunks(LAYERS_PER_MODEL).map(|l| Batch::of(firmware, kernel, l));
        Ok(batches.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    };
    let kernels = KernelId::ALL.iter().zip((0..).step_by(LAYERS_PER_KERNEL as usize));
    let kernels: Vec<_> = kernels.collect();
    let batches = kernels.into_par_iter().map(of_kernel).collect::<Result<Vec<_>>>()?;
    Ok(batches.into_iter().flatten().collect())
}

/// The model of a board's core, fitted to measurements on the board, with what it was measured with.
///
/// # Errors
///
/// When the measurements are not those of [`measure`], or the emulator's version cannot be found out.
pub fn model(
    board: &Board,
    firmware: &Firmware,
    measurements: &[Measurement],
    command: String,
) -> Result<CostModel> {
    let timing = Timing::of(&board.about.core);
    let dsp = timing.is_some_and(Timing::has_dsp);
    let mixes: BTreeMap<u64, LayerMix> =
        measurements.iter().map(|measurement| (measurement.layer, measurement.mix)).collect();
    let mut counted = Vec::new();
    for batch in batches(firmware)? {
        let model = Model::new(batch.blob.as_bytes())?;
        for &(layer, operator) in &batch.layers {
            let mut terms = Terms::of_model(&model, operator, dsp).context("no such operator")?;
            if let Some(Op::Softmax(softmax)) = model.op(operator) {
                terms = terms.with_exponentials(exponentials(&softmax, &batch.input(&model)));
            }
            let mix = *mixes.get(&layer).with_context(|| format!("no measurement {layer}"))?;
            counted.push(Counted { kernel: batch.kernel, terms, mix });
        }
    }
    let cycles = timing.map(|timing| fit(&counted, |mix| timing.cycles(mix)));
    Ok(CostModel {
        command,
        measured_with: measured_with(board)?,
        instructions: fit(&counted, |mix| mix.instructions as f64),
        cycles: cycles.unwrap_or_default(),
    })
}

/// Exponentials beside those of the largest scores that a softmax of one row computes for the beginning of
/// `input`, and of how many powers they are products: bits of a difference in quarters.
fn exponentials(softmax: &Softmax, input: &[i8]) -> [usize; 2] {
    const QUARTER: i32 = 1 << 24;
    let row = &input[..softmax.input.channels.min(input.len())];
    let largest = row.iter().copied().max().map_or(0, i32::from);
    let differences = row.iter().map(|&x| i32::from(x) - largest);
    let computed = differences.filter(|&difference| difference >= softmax.diff_min);
    let exponents = computed.map(|difference| softmax.rescale.apply(difference));
    exponents.filter(|&exponent| exponent != 0).fold([0, 0], |[count, powers], exponent| {
        let part = (exponent & (QUARTER - 1)) - QUARTER;
        [count + 1, powers + ((part - exponent) / QUARTER).count_ones() as usize]
    })
}

/// A measurement with the terms of its layer.
struct Counted {
    kernel: KernelId,
    terms: Terms,
    mix: LayerMix,
}

/// Coefficients, none of them negative, that make the relative errors small, above all the largest.
fn fit(counted: &[Counted], count: impl Fn(&LayerMix) -> f64) -> Fit {
    let mut fitted = Fit::default();
    for &kernel in KernelId::ALL {
        let own: Vec<&Counted> = counted.iter().filter(|one| one.kernel == kernel).collect();
        let mut coefficients = BTreeMap::new();
        let mut worst: f64 = 0.0;
        // A kernel may have several ways, each with terms of its own: they are fitted apart.
        for names in ways(&own) {
            let of_way =
                own.iter().filter(|one| names.iter().any(|name| one.terms.get(name) > 0.0));
            // Each row is divided by its measurement: the fit then minimises relative errors.
            let row = |one: &&Counted| {
                let all = count(&one.mix);
                names.iter().map(|name| one.terms.get(name) / all).collect()
            };
            let rows: Vec<Vec<f64>> = of_way.map(row).collect();
            let (solution, error) = smallest_errors(&rows);
            worst = worst.max(error);
            let named = names.iter().zip(&solution).filter(|(_, x)| **x > 0.0);
            coefficients.extend(named.map(|(name, x)| ((*name).to_owned(), round(*x))));
        }
        if !own.is_empty() {
            fitted.worst_error.insert(kernel.name().to_owned(), round(worst));
            fitted.kernels.insert(kernel.name().to_owned(), coefficients);
        }
    }
    fitted
}

/// Terms of each way of a kernel: those that count together in some layer, directly or by way of others.
fn ways(counted: &[&Counted]) -> Vec<BTreeSet<&'static str>> {
    let mut ways: Vec<BTreeSet<&str>> = Vec::new();
    for one in counted {
        let counting = one.terms.iter().filter(|(_, count)| *count > 0.0);
        let mut way: BTreeSet<&str> = counting.map(|(name, _)| name).collect();
        ways.retain(|other| {
            let apart = other.is_disjoint(&way);
            if !apart {
                way.extend(other);
            }
            apart
        });
        ways.push(way);
    }
    ways
}

/// Four significant digits: what the measurements can bear.
fn round(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// `x >= 0` with small `row . x - 1`, and the largest of them. Beginning with least squares, rows of large
/// errors get more and more weight, as in Lawson's iteration towards the smallest maximum. The others keep
/// theirs: rows that share no term with the worst are not given up for them.
fn smallest_errors(rows: &[Vec<f64>]) -> (Vec<f64>, f64) {
    const ITERATIONS: usize = 12;
    let mut weights = vec![1.0; rows.len()];
    let mut best = (Vec::new(), f64::INFINITY);
    for _ in 0..ITERATIONS {
        let x = non_negative_least_squares(rows, &weights);
        let error =
            |row: &Vec<f64>| (row.iter().zip(&x).map(|(a, x)| a * x).sum::<f64>() - 1.0).abs();
        let errors: Vec<f64> = rows.iter().map(error).collect();
        let largest = errors.iter().copied().fold(0.0, f64::max);
        if largest < best.1 {
            best = (x, largest);
        }
        if largest == 0.0 {
            break;
        }
        for (weight, error) in weights.iter_mut().zip(&errors) {
            *weight *= 1.0 + (error / largest).powi(2);
        }
    }
    best
}

/// `x >= 0` that minimises the weighted sum over rows of `(row . x - 1)^2`, by coordinate descent on the
/// normal equations: the problem is convex and small.
fn non_negative_least_squares(rows: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    const SWEEPS: usize = 20_000;
    let columns = rows.first().map_or(0, Vec::len);
    let product = |a: usize, b: usize| -> f64 {
        rows.iter().zip(weights).map(|(row, weight)| weight * row[a] * row[b]).sum()
    };
    let squares: Vec<Vec<f64>> =
        (0..columns).map(|a| (0..columns).map(|b| product(a, b)).collect()).collect();
    let target: Vec<f64> = (0..columns)
        .map(|column| rows.iter().zip(weights).map(|(row, weight)| weight * row[column]).sum())
        .collect();
    let mut x = vec![0.0; columns];
    for _ in 0..SWEEPS {
        let mut change: f64 = 0.0;
        for column in 0..columns {
            let square = squares[column][column];
            if square == 0.0 {
                continue;
            }
            let sum: f64 = squares[column].iter().zip(&x).map(|(a, x)| a * x).sum();
            let step = ((target[column] - sum) / square).max(-x[column]);
            x[column] += step;
            change = change.max(step.abs() * square.sqrt());
        }
        if change < 1e-12 {
            break;
        }
    }
    x
}

/// The emulator and the compiler that measurements on a board come from.
pub(super) fn measured_with(board: &Board) -> Result<String> {
    let emulator = board.about.emulator.as_ref().and_then(|command| command.first());
    let emulator = emulator.with_context(|| format!("{} is no emulated board", board.name))?;
    let version = std::process::Command::new(emulator)
        .arg("--version")
        .output()
        .with_context(|| format!("asking {emulator} for its version"))?;
    let version = String::from_utf8_lossy(&version.stdout);
    let toolchain = niwaki_toolchain::Toolchain::find(&board.about.triple)?;
    let first_line = version.lines().next().unwrap_or_default();
    Ok(format!("{first_line}; compiler from {}", toolchain.way.name()))
}
