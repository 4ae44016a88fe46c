//! Fits a [`CostModel`] to measurements on an emulated board.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use niwaki_core::Model;
use niwaki_core::kernels::KernelId;
use niwaki_core::model::{Clamp, Window};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::cost::{Coefficients, CostModel, terms};
use super::{Board, Device, Firmware};
use crate::export::{
    AlignedVec, Graph, KernelChoice, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted,
    write_with,
};

/// A measured operator.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// Kernel that was executed.
    pub kernel: KernelId,
    /// Terms of its cost and how often each counts.
    pub terms: Vec<(&'static str, f64)>,
    /// Instructions that it took.
    pub instructions: f64,
}

/// Shapes measured per kernel.
const SHAPES_PER_KERNEL: usize = 48;

/// Number of measurements that [`measure`] makes.
pub fn measurement_count() -> usize {
    measured_kernels().count() * SHAPES_PER_KERNEL
}

/// The kernels of trained models. Those that only imported models need (copies, means, products)
/// are not measured.
fn measured_kernels() -> impl Iterator<Item = KernelId> {
    use KernelId::{AddBroadcast, Copy, Mean, Mul};
    let others = [AddBroadcast, Copy, Mean, Mul];
    KernelId::ALL.iter().copied().filter(move |kernel| !others.contains(kernel))
}

/// Measures random layers of every kernel on an emulated board. `done` is called after each.
///
/// # Errors
///
/// When the board cannot be started or refuses a layer.
pub fn measure(board: &Board, firmware: &Firmware, done: &dyn Fn()) -> Result<Vec<Measurement>> {
    let mut random = Pcg64::seed_from_u64(1);
    let mut measurements = Vec::with_capacity(measurement_count());
    for kernel in measured_kernels() {
        for _ in 0..SHAPES_PER_KERNEL {
            let blob = random_layer(kernel, firmware, &mut random)?;
            let model = Model::new(blob.as_bytes())?;
            let op = model.op(model.op_count() - 1).context("the model has an operator")?;
            let input: Vec<i8> = (0..model.input().len()).map(|_| random.random()).collect();
            let mut device = Device::start(board, firmware, &model)?;
            let counts = device.profile(&input)?;
            let instructions = *counts.last().context("the profile is empty")? as f64;
            measurements.push(Measurement { kernel, terms: terms(&op), instructions });
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
            measurements.iter().filter(|measurement| measurement.kernel == kernel).collect();
        // Operators of one kernel may have different terms: a fast path and a slow one.
        let names: std::collections::BTreeSet<&str> =
            own.iter().flat_map(|m| m.terms.iter().map(|(name, _)| *name)).collect();
        // Each row is divided by its measurement: the fit then minimises relative errors.
        let row = |m: &&Measurement| {
            let count = |name: &&str| {
                let term = m.terms.iter().find(|(other, _)| other == name);
                term.map_or(0.0, |(_, count)| count / m.instructions)
            };
            names.iter().map(count).collect()
        };
        let rows: Vec<Vec<f64>> = own.iter().map(row).collect();
        if rows.is_empty() {
            continue;
        }
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

/// A model that ends in a random layer which `kernel` executes and which has room on the board of
/// `firmware`.
///
/// # Errors
///
/// When the exporter refuses a layer, or none of many has room.
pub fn random_layer(
    kernel: KernelId,
    firmware: &Firmware,
    random: &mut Pcg64,
) -> Result<AlignedVec> {
    const ATTEMPTS: usize = 10_000;
    for _ in 0..ATTEMPTS {
        let graph = random_graph(kernel, random);
        let exported = write_with(&graph, KernelChoice::Only(kernel))
            .with_context(|| format!("a random layer of kernel `{}`", kernel.name()))?;
        let blob = AlignedVec::new(&exported.bytes);
        if firmware.has_room(&Model::new(blob.as_bytes())?) {
            return Ok(blob);
        }
    }
    bail!("no random layer of kernel `{}` fits the board's memory", kernel.name())
}

/// A network that ends in a random layer which `kernel` can execute.
fn random_graph(kernel: KernelId, random: &mut Pcg64) -> Graph {
    use KernelId::{
        Add, AddBroadcast, AvgPool, ConvBlock2, ConvBlock4, ConvDense, ConvPacked, ConvSparse,
        Copy, Depthwise, LinearBlock2, LinearBlock4, LinearDense, LinearPacked, LinearSparse,
        Lookup, MaxPool, Mean, Mul, Softmax,
    };
    let pick =
        |choices: &[usize], random: &mut Pcg64| choices[random.random_range(0..choices.len())];
    let quantisation = Quantisation { scale: 0.05, zero_point: random.random_range(-20..20) };
    let quantisation_between = Quantisation { scale: 0.031, zero_point: -7 };
    let quantisation_output = Quantisation { scale: 0.083, zero_point: -128 };
    let clamp = Clamp { min: -128, max: 127 };
    let size = [random.random_range(3..=20usize), random.random_range(3..=20usize)];
    let window_size = match kernel {
        MaxPool | AvgPool => pick(&[2, 2, 3, 4], random),
        _ => pick(&[1, 3, 3, 3, 5], random),
    };
    let stride = pick(&[1, 1, 2], random);
    let pad = if random.random_bool(0.8) { window_size / 2 } else { 0 };
    let window_size = window_size.min(size[0].min(size[1]));
    // A global pool now and then.
    let global = kernel == AvgPool && random.random_bool(0.3);
    let window = match global {
        true => Window { kernel: size, stride: [1, 1], pad: [0, 0] },
        false => Window { kernel: [window_size; 2], stride: [stride; 2], pad: [pad; 2] },
    };
    let after = |axis: usize| {
        (size[axis] + 2 * window.pad[axis] - window.kernel[axis]) / window.stride[axis] + 1
    };
    let output_size = [after(0), after(1)];
    let depth = match kernel {
        ConvPacked | ConvDense => pick(&[1, 3, 4, 8, 16, 24, 32, 64], random),
        Depthwise | MaxPool | AvgPool => pick(&[4, 8, 16, 16, 32, 64, 7], random),
        ConvSparse | ConvBlock2 | ConvBlock4 => pick(&[1, 3, 4, 8, 16, 24, 32, 64], random),
        _ => pick(&[4, 8, 16, 24, 32, 64], random),
    };
    let outputs = match kernel {
        Softmax => pick(&[2, 8, 10, 12, 16, 64], random),
        _ => pick(&[8, 10, 16, 24, 32, 64, 128], random),
    };
    let image = [size[0], size[1], depth];
    let (input, output) = match kernel {
        ConvDense | ConvPacked | ConvSparse | ConvBlock2 | ConvBlock4 => {
            (image, [output_size[0], output_size[1], outputs])
        }
        LinearDense | LinearPacked | LinearSparse | LinearBlock2 | LinearBlock4 => {
            ([1, 1, depth * pick(&[4, 8, 16], random)], [1, 1, outputs * pick(&[1, 2, 4], random)])
        }
        Depthwise | MaxPool | AvgPool => (image, [output_size[0], output_size[1], depth]),
        Softmax => ([1, 1, outputs], [1, 1, outputs]),
        Add | Lookup | Copy | Mean | Mul | AddBroadcast => (image, image),
    };
    let density = match kernel {
        ConvDense | ConvPacked | LinearDense | LinearPacked | Depthwise => 1.0,
        // Evenly over the orders of magnitude.
        _ => random.random_range(0.003f64.ln()..0.4f64.ln()).exp(),
    };
    let block = match kernel {
        ConvBlock2 | LinearBlock2 => 2,
        ConvBlock4 | LinearBlock4 => 4,
        _ => 1,
    };
    let weighted = |per_channel: usize, random: &mut Pcg64| {
        let mut weights = vec![0i8; per_channel * output[2]];
        for kept in weights.chunks_mut(block) {
            if random.random_bool(density) {
                kept.fill(random.random_range(1..=127));
            }
        }
        Weighted {
            weights,
            bias: vec![100; output[2]],
            rescale: vec![(1 << 30, -9); output[2]],
            clamp,
        }
    };
    let area = window_size * window_size;
    let operator = match kernel {
        ConvDense | ConvPacked | ConvSparse | ConvBlock2 | ConvBlock4 => {
            Operator::Conv { weighted: weighted(area * depth, random), window, groups: 1 }
        }
        LinearDense | LinearPacked | LinearSparse | LinearBlock2 | LinearBlock4 => {
            Operator::Linear { weighted: weighted(input[2], random) }
        }
        Depthwise => Operator::Depthwise { weighted: weighted(area, random), window },
        MaxPool => Operator::MaxPool { window, clamp },
        AvgPool => Operator::AvgPool { window, clamp },
        Softmax => Operator::softmax(0.1, 1.0).expect("the scale is positive"),
        Lookup => Operator::lookup(quantisation, quantisation, f64::tanh),
        // Operators that only imported models have are not measured.
        Add | Copy | Mean | Mul | AddBroadcast => {
            let scales = [quantisation_between, quantisation];
            Operator::add(scales, quantisation_output, clamp).expect("the scales are positive")
        }
    };
    let tensor = |name: &str, shape: [usize; 3]| TensorInfo {
        name: name.to_owned(),
        shape,
        quantisation,
        view_of: None,
    };
    let node = |name: &str, inputs: Vec<TensorId>, output: TensorId, operator: Operator| Node {
        name: name.to_owned(),
        inputs,
        output,
        operator,
    };
    let (input_id, output_id, between) = (TensorId(0), TensorId(1), TensorId(2));
    let nodes = match &operator {
        // Half of the sums work in place: those whose first input nothing else reads.
        Operator::Add { .. } => {
            let table = Operator::lookup(quantisation, quantisation, f64::tanh);
            let first = if random.random_bool(0.5) { between } else { input_id };
            vec![
                node("before", vec![input_id], between, table),
                node("layer", vec![first, input_id], output_id, operator),
            ]
        }
        _ => vec![node("layer", vec![input_id], output_id, operator)],
    };
    Graph {
        name: kernel.name().to_owned(),
        tensors: vec![tensor("input", input), tensor("output", output), tensor("between", input)],
        nodes,
        input: input_id,
        output: output_id,
        labels: Vec::new(),
        normalisation: Vec::new(),
        front_end: None,
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
