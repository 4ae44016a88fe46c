//! Fits a [`CostModel`] to traces of random layers on an emulated board.

mod random_layer;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use niwaki_core::Model;
use niwaki_core::kernels::KernelId;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rayon::prelude::*;

use super::cost::{CostModel, Fit, Terms};
use super::{Board, Firmware, LayerMix, Timing, trace};
use crate::export::{AlignedVec, KernelChoice, write_with};

pub use random_layer::random_layer;

/// A measured operator.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Kernel that was executed.
    pub kernel: KernelId,
    /// Terms of its cost and how often each counts.
    pub terms: Terms,
    /// Instructions that it executed.
    pub mix: LayerMix,
}

/// Layers measured per kernel.
const LAYERS_PER_KERNEL: u64 = 80;
/// Layers of which the first that fits the board is taken.
const ATTEMPTS: u64 = 200;

/// Number of measurements that [`measure`] makes.
pub fn measurement_count() -> usize {
    KernelId::ALL.len() * LAYERS_PER_KERNEL as usize
}

/// Traces random layers of every kernel on an emulated board, several at once. `done` is called after
/// each. The layers are the same every time.
///
/// # Errors
///
/// When the board cannot be started or refuses a layer.
pub fn measure(
    board: &Board,
    firmware: &Firmware,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Measurement>> {
    let layers: Vec<(KernelId, u64)> = KernelId::ALL
        .iter()
        .flat_map(|&kernel| (0..LAYERS_PER_KERNEL).map(move |layer| (kernel, layer)))
        .collect();
    let measure = |&(kernel, layer): &(KernelId, u64)| {
        let measurement = measure_layer(board, firmware, kernel, layer)
            .with_context(|| format!("layer {layer} of kernel `{}`", kernel.name()));
        done();
        measurement
    };
    layers.par_iter().map(measure).collect()
}

fn measure_layer(
    board: &Board,
    firmware: &Firmware,
    kernel: KernelId,
    layer: u64,
) -> Result<Measurement> {
    let dsp = Timing::of(&board.about.core).is_some_and(Timing::has_dsp);
    let stream = kernel as u64 * LAYERS_PER_KERNEL + layer;
    for attempt in 0..ATTEMPTS {
        let mut random = Pcg64::seed_from_u64(stream * ATTEMPTS + attempt);
        let graph = random_layer(kernel, &mut random);
        let exported = write_with(&graph, KernelChoice::Only(kernel))?;
        let blob = AlignedVec::new(&exported.bytes);
        let model = Model::new(blob.as_bytes())?;
        let index = model.op_count() - 1;
        let fits = model.arena_len() as u64 <= firmware.arena.end - firmware.arena.start
            && model.as_bytes().len() as u64
                <= firmware.model_region.end - firmware.model_region.start;
        if !fits || model.kernel(index) != Some(kernel) {
            continue;
        }
        let terms = Terms::of_model(&model, index, dsp).context("the model has an operator")?;
        let input: Vec<i8> = (0..model.input().len()).map(|_| random.random()).collect();
        let mixes = trace(board, firmware, &model, &input)?;
        let mix = *mixes.last().context("the trace is empty")?;
        return Ok(Measurement { kernel, terms, mix });
    }
    anyhow::bail!("none of {ATTEMPTS} random layers fits {}", board.name)
}

/// The fitted model of a core with what it was measured with.
pub fn model(
    measurements: &[Measurement],
    core: &str,
    command: String,
    measured_with: String,
) -> CostModel {
    let instructions = fit(measurements, |mix| mix.instructions as f64);
    let timing = Timing::of(core);
    let cycles = timing.map(|timing| fit(measurements, |mix| timing.cycles(mix)));
    CostModel { command, measured_with, instructions, cycles: cycles.unwrap_or_default() }
}

/// Coefficients, none of them negative, that make the relative errors small, above all the largest.
pub fn fit(measurements: &[Measurement], count: impl Fn(&LayerMix) -> f64) -> Fit {
    let mut fitted = Fit::default();
    for &kernel in KernelId::ALL {
        let own: Vec<&Measurement> =
            measurements.iter().filter(|measurement| measurement.kernel == kernel).collect();
        // Operators of one kernel may have different terms: a fast path and a slow one.
        let names: BTreeSet<&str> =
            own.iter().flat_map(|m| m.terms.iter().map(|(name, _)| name)).collect();
        // Each row is divided by its measurement: the fit then minimises relative errors.
        let row = |m: &&Measurement| {
            let all = count(&m.mix);
            names.iter().map(|name| m.terms.get(name) / all).collect()
        };
        let rows: Vec<Vec<f64>> = own.iter().map(row).collect();
        if rows.is_empty() {
            continue;
        }
        let (solution, error) = smallest_errors(&rows);
        fitted.worst_error.insert(kernel.name().to_owned(), round(error));
        let named = names.iter().zip(&solution).map(|(name, x)| ((*name).to_owned(), round(*x)));
        let named: BTreeMap<String, f64> = named.filter(|(_, x)| *x > 0.0).collect();
        fitted.kernels.insert(kernel.name().to_owned(), named);
    }
    fitted
}

/// Four significant digits: what the measurements can bear.
fn round(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// `x >= 0` with small `row . x - 1`, and the largest of them. Beginning with least squares, rows of large
/// errors get more and more weight (Lawson's iteration towards the smallest maximum).
fn smallest_errors(rows: &[Vec<f64>]) -> (Vec<f64>, f64) {
    const ITERATIONS: usize = 30;
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
            *weight *= 0.5 + error / largest;
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
///
/// # Errors
///
/// When the emulator cannot be asked for its version or there is no compiler.
pub fn measured_with(board: &Board) -> Result<String> {
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
