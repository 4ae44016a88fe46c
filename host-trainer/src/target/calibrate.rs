//! Fits a [`CostModel`] to measurements on an emulated board.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use niwaki_core::Model;
use niwaki_core::kernels::KernelId;
use niwaki_core::model::{Clamp, Place, Window};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::cost::{Coefficients, CostModel, Workload};
use super::{Board, Device, Firmware};
use crate::export::{
    AlignedVec, Function, Graph, KernelChoice, Node, Operator, Quantisation, TensorId, TensorInfo,
    Weighted, write_with,
};

/// A measured operator.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What was executed.
    pub work: Workload,
    /// Instructions that it took.
    pub instructions: f64,
}

/// Shapes measured per kernel.
const SHAPES_PER_KERNEL: usize = 24;

/// Number of measurements that [`measure`] makes.
pub fn measurement_count() -> usize {
    KernelId::ALL.len() * SHAPES_PER_KERNEL
}

/// Measures random layers of every kernel on an emulated board. `done` is called after each.
///
/// # Errors
///
/// When the board cannot be started or refuses a layer.
pub fn measure(board: &Board, firmware: &Firmware, done: &dyn Fn()) -> Result<Vec<Measurement>> {
    let mut random = Pcg64::seed_from_u64(1);
    let mut measurements = Vec::with_capacity(measurement_count());
    for &kernel in KernelId::ALL {
        for _ in 0..SHAPES_PER_KERNEL {
            let graph = random_layer(kernel, &mut random);
            let exported = write_with(&graph, KernelChoice::Only(kernel))
                .with_context(|| format!("a random layer of kernel `{}`", kernel.name()))?;
            let blob = AlignedVec::new(&exported.bytes);
            let model = Model::new(blob.as_bytes())?;
            let op = model.op(0).context("the model has one operator")?;
            let input: Vec<i8> = (0..model.input().len()).map(|_| random.random()).collect();
            let mut device = Device::start(board, firmware, &model)?;
            let counts = device.profile(&input)?;
            let instructions = *counts.first().context("the profile is empty")? as f64;
            measurements.push(Measurement { work: Workload::of(&op, kernel), instructions });
            done();
        }
    }
    Ok(measurements)
}

/// Coefficients that minimise the squared relative error, none of them negative, and the largest
/// relative error by kernel.
pub fn fit(
    measurements: &[Measurement],
) -> (BTreeMap<String, Coefficients>, BTreeMap<String, f64>) {
    let mut kernels = BTreeMap::new();
    let mut worst = BTreeMap::new();
    for &kernel in KernelId::ALL {
        let own: Vec<&Measurement> =
            measurements.iter().filter(|measurement| measurement.work.kernel == kernel).collect();
        let Some(first) = own.first() else { continue };
        let names: Vec<&str> = first.work.terms().iter().map(|(name, _)| *name).collect();
        // Each row is divided by its measurement: the fit then minimises relative errors.
        let rows: Vec<Vec<f64>> = own
            .iter()
            .map(|m| m.work.terms().iter().map(|(_, count)| count / m.instructions).collect())
            .collect();
        let solution = non_negative_least_squares(&rows);
        let predicted = |row: &Vec<f64>| row.iter().zip(&solution).map(|(a, x)| a * x).sum::<f64>();
        let error = rows.iter().map(|row| (predicted(row) - 1.0).abs()).fold(0.0, f64::max);
        worst.insert(kernel.name().to_owned(), round(error));
        let named = names.iter().zip(&solution).map(|(name, x)| ((*name).to_owned(), round(*x)));
        kernels.insert(kernel.name().to_owned(), named.collect());
    }
    (kernels, worst)
}

/// Four significant digits: what the measurements can bear.
fn round(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// `x >= 0` that minimises the sum over rows of `(row . x - 1)^2`, by coordinate descent: the
/// problem is convex and small.
fn non_negative_least_squares(rows: &[Vec<f64>]) -> Vec<f64> {
    const SWEEPS: usize = 20_000;
    let columns = rows.first().map_or(0, Vec::len);
    let mut x = vec![0.0; columns];
    let mut residual = vec![-1.0; rows.len()];
    for _ in 0..SWEEPS {
        for column in 0..columns {
            let square: f64 = rows.iter().map(|row| row[column] * row[column]).sum();
            if square == 0.0 {
                continue;
            }
            let slope: f64 = rows.iter().zip(&residual).map(|(row, r)| row[column] * r).sum();
            let step = (-slope / square).max(-x[column]);
            x[column] += step;
            for (row, r) in rows.iter().zip(&mut residual) {
                *r += step * row[column];
            }
        }
    }
    x
}

/// A network of one random layer that `kernel` can execute.
pub fn random_layer(kernel: KernelId, random: &mut Pcg64) -> Graph {
    let quantisation = Quantisation { scale: 0.05, zero_point: random.random_range(-20..20) };
    let clamp = Clamp { min: -128, max: 127 };
    let linear = matches!(kernel, KernelId::LinearDense | KernelId::LinearSparse);
    let kernel_size = *[1usize, 3, 3, 5].get(random.random_range(0..4usize)).unwrap_or(&3);
    let stride = random.random_range(1..=2usize);
    let size = random.random_range(kernel_size.max(4)..=20usize);
    let depth = *[1usize, 3, 8, 16, 24, 32, 64].get(random.random_range(0..7usize)).unwrap_or(&8);
    let channels = 4 * random.random_range(1..=16usize);
    let pad = kernel_size / 2;
    let window = Window { kernel: [kernel_size; 2], stride: [stride; 2], pad: [pad; 2] };
    let output_size = (size + 2 * pad - kernel_size) / stride + 1;
    let (input, output) = if linear {
        ([1, 1, depth * 8], [1, 1, channels * 2])
    } else {
        match kernel {
            KernelId::ConvDense | KernelId::ConvSparse => {
                ([size, size, depth], [output_size, output_size, channels])
            }
            KernelId::Depthwise | KernelId::MaxPool | KernelId::AvgPool => {
                ([size, size, depth], [output_size, output_size, depth])
            }
            KernelId::Softmax => ([1, 1, channels], [1, 1, channels]),
            KernelId::Mean => ([size, size, depth], [1, 1, depth]),
            _ => ([size, size, depth], [size, size, depth]),
        }
    };
    let density = random.random_range(0.02..0.4f64);
    let weights = |count: usize, density: f64, random: &mut Pcg64| -> Vec<i8> {
        let draw = |_| if random.random_bool(density) { random.random_range(1..=127) } else { 0 };
        (0..count).map(draw).collect()
    };
    let weighted = |per_channel: usize, density: f64, random: &mut Pcg64| Weighted {
        weights: weights(per_channel * output[2], density, random),
        bias: vec![100; output[2]],
        rescale: vec![(1 << 30, -9); output[2]],
        clamp,
    };
    let area = kernel_size * kernel_size;
    let operator = match kernel {
        KernelId::ConvDense => {
            Operator::Conv { weighted: weighted(area * depth, 1.0, random), window, groups: 1 }
        }
        KernelId::ConvSparse => {
            Operator::Conv { weighted: weighted(area * depth, density, random), window, groups: 1 }
        }
        KernelId::LinearDense => Operator::Linear { weighted: weighted(input[2], 1.0, random) },
        KernelId::LinearSparse => {
            Operator::Linear { weighted: weighted(input[2], density, random) }
        }
        KernelId::Depthwise => {
            Operator::Depthwise { weighted: weighted(area, 1.0, random), window }
        }
        KernelId::MaxPool => Operator::MaxPool { window, clamp },
        KernelId::AvgPool => Operator::AvgPool { window, clamp },
        KernelId::Add => {
            Operator::add([quantisation; 2], quantisation, clamp).expect("the scales are positive")
        }
        KernelId::Softmax => Operator::softmax(0.1, 1.0).expect("the scale is positive"),
        KernelId::Lookup => Operator::lookup(quantisation, quantisation, f64::tanh),
        KernelId::Copy => {
            let place = Place { first: 0, strides: [size * depth, depth, 1] };
            let counts = [size, size, depth];
            Operator::Copy { counts, source: place, destination: place, fill: None }
        }
        KernelId::Mean => Operator::Mean { rescale: (1 << 30, -9), clamp },
        KernelId::Mul => {
            let function = Function::Mul { rescale: (1 << 30, -9) };
            Operator::Elementwise { function, constant: None, clamp }
        }
        KernelId::AddBroadcast => {
            let scale = (1 << 30, 0);
            let function = Function::Add { inputs: [scale; 2], output: (1 << 30, -18) };
            Operator::Elementwise { function, constant: None, clamp }
        }
    };
    let tensor = |name: &str, shape: [usize; 3]| TensorInfo {
        name: name.to_owned(),
        shape,
        quantisation,
        view_of: None,
    };
    let inputs = match kernel {
        KernelId::Add | KernelId::Mul | KernelId::AddBroadcast => vec![TensorId(0); 2],
        _ => vec![TensorId(0)],
    };
    Graph {
        name: kernel.name().to_owned(),
        tensors: vec![tensor("input", input), tensor("output", output)],
        nodes: vec![Node { name: "layer".to_owned(), inputs, output: TensorId(1), operator }],
        input: TensorId(0),
        output: TensorId(1),
        labels: Vec::new(),
        normalisation: Vec::new(),
    }
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

/// The fitted model of a core with what it was measured with.
pub fn model(measurements: &[Measurement], command: String, measured_with: String) -> CostModel {
    let (kernels, worst_error) = fit(measurements);
    CostModel { command, measured_with, worst_error, kernels }
}
