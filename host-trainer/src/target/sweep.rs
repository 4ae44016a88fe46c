//! Measures each format of weights over density and layer shape on an emulated board: at what density a
//! sparse kernel begins to beat the dense one.

use anyhow::{Context, Result, ensure};
use niwaki_core::Model;
use niwaki_core::kernels::KernelId;
use niwaki_core::model::{Clamp, Window};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::Serialize;

use super::calibrate::measured_with;
use super::{Board, Device, Firmware, Timing, trace};
use crate::export::{
    AlignedVec, Graph, KernelChoice, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted,
    write_with,
};

/// Densities measured, in percent.
pub const DENSITIES: [u32; 9] = [1, 2, 5, 10, 20, 30, 50, 75, 100];

/// How a layer's weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Format {
    /// Every weight.
    #[serde(rename = "dense")]
    Dense,
    /// Each nonzero weight for itself.
    #[serde(rename = "unstructured")]
    Unstructured,
    /// Blocks of two neighbouring input channels.
    #[serde(rename = "block 1x2")]
    Block2,
    /// Blocks of four neighbouring input channels.
    #[serde(rename = "block 1x4")]
    Block4,
}

impl Format {
    /// Every format, the dense one first.
    pub const ALL: [Self; 4] = [Self::Dense, Self::Unstructured, Self::Block2, Self::Block4];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Unstructured => "unstructured",
            Self::Block2 => "block 1x2",
            Self::Block4 => "block 1x4",
        }
    }

    fn kernel(self, shape: &Shape) -> KernelId {
        match (self, shape.kernel) {
            (Self::Dense, Some(_)) => KernelId::ConvPacked,
            (Self::Dense, None) => KernelId::LinearPacked,
            (Self::Unstructured, Some(_)) => KernelId::ConvSparse,
            (Self::Unstructured, None) => KernelId::LinearSparse,
            (Self::Block2, Some(_)) => KernelId::ConvBlock2,
            (Self::Block2, None) => KernelId::LinearBlock2,
            (Self::Block4, Some(_)) => KernelId::ConvBlock4,
            (Self::Block4, None) => KernelId::LinearBlock4,
        }
    }

    fn block(self) -> usize {
        match self {
            Self::Dense | Self::Unstructured => 1,
            Self::Block2 => 2,
            Self::Block4 => 4,
        }
    }
}

/// A layer of a sweep: a convolution with stride 1 whose output is as large as its input, or a fully
/// connected layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Height and width of the window; none for a fully connected layer.
    pub kernel: Option<usize>,
    /// Height and width; 1 for a fully connected layer.
    pub size: [usize; 2],
    /// Input and output channels.
    pub channels: [usize; 2],
}

/// The layers that a sweep measures where the board's memory allows it.
pub const SHAPES: [Shape; 5] = [
    Shape { kernel: Some(3), size: [8, 8], channels: [64, 64] },
    Shape { kernel: Some(3), size: [32, 32], channels: [16, 16] },
    Shape { kernel: Some(1), size: [25, 5], channels: [64, 64] },
    Shape { kernel: Some(1), size: [6, 6], channels: [128, 128] },
    Shape { kernel: None, size: [1, 1], channels: [640, 128] },
];

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ([height, width], [input, output]) = (self.size, self.channels);
        match self.kernel {
            Some(kernel) => write!(f, "{kernel}x{kernel} {height}x{width}x{input}->{output}"),
            None => write!(f, "fully connected {input}->{output}"),
        }
    }
}

impl Shape {
    /// Multiply-accumulates when every weight counts.
    pub fn macs(&self) -> u64 {
        (self.weights() * self.size[0] * self.size[1]) as u64
    }

    fn weights(&self) -> usize {
        self.kernel.map_or(1, |kernel| kernel * kernel) * self.channels[0] * self.channels[1]
    }

    /// The next smaller layer of the kind: a smaller image, and where it is small already fewer channels.
    fn smaller(&self) -> Option<Self> {
        const LEAST_PIXELS: usize = 36;
        const LEAST_CHANNELS: usize = 8;
        let mut smaller = *self;
        let [height, width] = self.size;
        if height * width > LEAST_PIXELS {
            smaller.size[usize::from(width > height)] /= 2;
        } else {
            let larger = usize::from(self.channels[1] > self.channels[0]);
            smaller.channels[larger] /= 2;
        }
        smaller.channels.iter().all(|&channels| channels >= LEAST_CHANNELS).then_some(smaller)
    }
}

/// One measurement of a [`Sweep`].
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// How the weights are stored.
    pub format: Format,
    /// Share of the weights that are not zero, in percent.
    pub density_percent: u32,
    /// Weights that are not zero.
    pub nonzeros: usize,
    /// Executed instructions.
    pub instructions: u64,
    /// Executed instructions for each multiply-accumulate of the dense layer.
    pub instructions_per_mac: f64,
    /// Estimated clock cycles, where the core has an estimate.
    pub cycles_estimated: Option<f64>,
    /// Bytes of weights and constants in flash.
    pub flash_bytes: usize,
    /// Bytes of the arena, the layer's input and output included.
    pub arena_bytes: usize,
}

/// A layer of a [`Sweep`] with its measurements.
#[derive(Debug, Clone, Serialize)]
pub struct Curves {
    /// The layer that was measured.
    pub layer: String,
    /// The layer that it stands for, where that does not fit the board's memory.
    pub instead_of: Option<String>,
    /// Multiply-accumulates of the dense layer.
    pub macs: u64,
    /// The measurements, format by format, by density.
    pub points: Vec<Point>,
    /// Density below which a format takes fewer instructions than the dense one.
    pub break_even: Vec<BreakEven>,
}

/// Where the curve of a format crosses that of the dense one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BreakEven {
    /// The format.
    pub format: Format,
    /// Density in percent, interpolated between the measured ones: 100 when it is better at every density,
    /// absent when at none.
    pub instructions: Option<f64>,
    /// The same by estimated cycles; absent without an estimate, too.
    pub cycles: Option<f64>,
}

/// What [`sweep`] found.
#[derive(Debug, Clone, Serialize)]
pub struct Sweep {
    /// Name of the target.
    pub target: String,
    /// Its processor core.
    pub core: String,
    /// Emulator and compiler.
    pub measured_with: String,
    /// The layers.
    pub layers: Vec<Curves>,
}

impl Curves {
    /// The measurements of one format, by density.
    pub fn of(&self, format: Format) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(move |point| point.format == format)
    }
}

/// Number of measurements that [`sweep`] makes.
pub fn point_count() -> usize {
    SHAPES.len() * (1 + (Format::ALL.len() - 1) * DENSITIES.len())
}

/// Measures random layers of every shape, format and density on an emulated board. `done` is called after
/// each.
///
/// # Errors
///
/// When the board cannot be started or refuses a layer, or no layer is small enough for its memory.
pub fn sweep(board: &Board, firmware: &Firmware, done: &dyn Fn()) -> Result<Sweep> {
    let layers = SHAPES.iter().map(|wanted| {
        let layer = Fitting::find(*wanted, firmware)
            .with_context(|| format!("{wanted} on {}", board.name))?;
        let measure = |blob: &Blob| {
            let point = blob.measure(&layer.shape, board, firmware);
            done();
            point.with_context(|| {
                format!("{}, {}, {} %", layer.shape, blob.format.name(), blob.density)
            })
        };
        let points = layer.blobs.iter().map(measure).collect::<Result<Vec<Point>>>()?;
        Ok(Curves {
            layer: layer.shape.to_string(),
            instead_of: (layer.shape != *wanted).then(|| wanted.to_string()),
            macs: layer.shape.macs(),
            break_even: break_even(&points),
            points,
        })
    });
    Ok(Sweep {
        target: board.about.target.clone(),
        core: board.about.core.clone(),
        measured_with: measured_with(board)?,
        layers: layers.collect::<Result<_>>()?,
    })
}

/// A layer that fits a board's memory in every format at every density.
struct Fitting {
    shape: Shape,
    blobs: Vec<Blob>,
}

impl Fitting {
    fn find(wanted: Shape, firmware: &Firmware) -> Result<Self> {
        let size = |range: &std::ops::Range<u64>| range.end.saturating_sub(range.start) as usize;
        let (region, arena) = (size(&firmware.model_region), size(&firmware.arena));
        let mut shape = wanted;
        loop {
            let blobs = blobs(&shape)?;
            let mut needs = blobs.iter().map(Blob::needs);
            if needs.all(|(model_len, arena_len)| model_len <= region && arena_len <= arena) {
                return Ok(Self { shape, blobs });
            }
            shape = shape.smaller().with_context(|| {
                format!("no layer fits {region} bytes for the model and {arena} for the arena")
            })?;
        }
    }
}

/// A model of one layer.
struct Blob {
    format: Format,
    density: u32,
    nonzeros: usize,
    bytes: AlignedVec,
    arena_len: usize,
    input: Vec<i8>,
}

fn blobs(shape: &Shape) -> Result<Vec<Blob>> {
    let mut random = Pcg64::seed_from_u64(1);
    let densities = |format| match format {
        Format::Dense => &DENSITIES[DENSITIES.len() - 1..],
        _ => &DENSITIES[..],
    };
    let mut blobs = Vec::new();
    for format in Format::ALL {
        for &density in densities(format) {
            let kernel = format.kernel(shape);
            let weights = weights(shape, format.block(), density, &mut random);
            let nonzeros = weights.iter().filter(|&&weight| weight != 0).count();
            let exported = write_with(&graph(shape, weights), KernelChoice::Fastest(kernel))?;
            let bytes = AlignedVec::new(&exported.bytes);
            let model = Model::new(bytes.as_bytes())?;
            let found = model.kernel(0);
            ensure!(
                found == Some(kernel) && model.op_count() == 1,
                "{shape} at {density} %: expected the kernel `{}`, the exporter chose {found:?}",
                kernel.name()
            );
            let input = (0..model.input().len()).map(|_| random.random()).collect();
            let arena_len = model.arena_len();
            blobs.push(Blob { format, density, nonzeros, bytes, arena_len, input });
        }
    }
    Ok(blobs)
}

impl Blob {
    /// Bytes of the model and of the arena.
    fn needs(&self) -> (usize, usize) {
        (self.bytes.as_bytes().len(), self.arena_len)
    }

    fn measure(&self, shape: &Shape, board: &Board, firmware: &Firmware) -> Result<Point> {
        let model = Model::new(self.bytes.as_bytes())?;
        let core = &board.about.core;
        let (instructions, cycles_estimated) = if Timing::of(core).is_some() {
            let mixes = trace(board, firmware, &model, &self.input)?;
            let mix = mixes.first().context("the trace is empty")?;
            (mix.instructions, mix.cycles(core))
        } else {
            let counts = Device::start(board, firmware, &model)?.profile(&self.input)?;
            (*counts.first().context("the profile is empty")?, None)
        };
        Ok(Point {
            format: self.format,
            density_percent: self.density,
            nonzeros: self.nonzeros,
            instructions,
            instructions_per_mac: instructions as f64 / shape.macs() as f64,
            cycles_estimated,
            flash_bytes: model.constant_bytes(0),
            arena_bytes: self.arena_len,
        })
    }
}

/// Random weights of which `density` percent are not zero, in blocks of neighbouring input channels.
fn weights(shape: &Shape, block: usize, density: u32, random: &mut Pcg64) -> Vec<i8> {
    let mut weights = vec![0i8; shape.weights()];
    let mut blocks: Vec<&mut [i8]> = weights.chunks_mut(block).collect();
    blocks.shuffle(random);
    let kept = (blocks.len() as f64 * f64::from(density) / 100.0).round() as usize;
    for weight in blocks.into_iter().take(kept).flatten() {
        // Not so small that the exporter could find that a channel's output is constant.
        let magnitude = random.random_range(32..=127);
        *weight = if random.random_bool(0.5) { magnitude } else { -magnitude };
    }
    weights
}

/// A network that consists of the layer.
fn graph(shape: &Shape, weights: Vec<i8>) -> Graph {
    let [inputs, outputs] = shape.channels;
    let [height, width] = shape.size;
    let tensor = |name: &str, channels: usize, zero_point: i8| TensorInfo {
        name: name.to_owned(),
        shape: [height, width, channels],
        quantisation: Quantisation { scale: 0.05, zero_point },
        view_of: None,
    };
    let weighted = Weighted {
        weights,
        bias: vec![100; outputs],
        rescale: vec![(1 << 30, -9); outputs],
        clamp: Clamp { min: -128, max: 127 },
    };
    let operator = match shape.kernel {
        Some(kernel) => {
            let window =
                Window { kernel: [kernel; 2], stride: [1, 1], pad: [kernel / 2, kernel / 2] };
            Operator::Conv { weighted, window, groups: 1 }
        }
        None => Operator::Linear { weighted },
    };
    let (input, output) = (TensorId(0), TensorId(1));
    Graph {
        name: shape.to_string(),
        // Behind a ReLU, as most layers have one, the least value stands for zero.
        tensors: vec![tensor("input", inputs, -3), tensor("output", outputs, -128)],
        nodes: vec![Node { name: "layer".to_owned(), inputs: vec![input], output, operator }],
        input,
        output,
        labels: Vec::new(),
        normalisation: Vec::new(),
        front_end: None,
    }
}

/// Where each sparse format's curve crosses the dense line.
fn break_even(points: &[Point]) -> Vec<BreakEven> {
    let crossing = |format: Format, cost: &dyn Fn(&Point) -> Option<f64>| {
        let of = |format| points.iter().filter(move |point| point.format == format);
        let dense = cost(of(Format::Dense).next()?)?;
        let curve: Option<Vec<(f64, f64)>> =
            of(format).map(|point| Some((point.density_percent.into(), cost(point)?))).collect();
        crossing(&curve?, dense)
    };
    let sparse = Format::ALL.into_iter().filter(|format| *format != Format::Dense);
    sparse
        .map(|format| BreakEven {
            format,
            instructions: crossing(format, &|point| Some(point.instructions as f64)),
            cycles: crossing(format, &|point| point.cycles_estimated),
        })
        .collect()
}

/// First density at which a rising curve of `(density, cost)` reaches `dense`: the last density when it
/// never does, none when it begins above.
fn crossing(curve: &[(f64, f64)], dense: f64) -> Option<f64> {
    let (first, last) = (curve.first()?, curve.last()?);
    if first.1 >= dense {
        return None;
    }
    let reached = curve.windows(2).find(|pair| pair[1].1 >= dense);
    Some(reached.map_or(last.0, |pair| {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        x0 + (x1 - x0) * (dense - y0) / (y1 - y0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_cross_where_they_should() {
        let curve = [(1.0, 0.1), (10.0, 0.4), (50.0, 1.2), (100.0, 2.2)];
        assert_eq!(crossing(&curve, 0.8), Some(30.0));
        assert_eq!(crossing(&curve, 1.2), Some(50.0));
        assert_eq!(crossing(&curve, 0.1), None);
        assert_eq!(crossing(&curve, 3.0), Some(100.0));
    }

    #[test]
    fn layers_shrink_to_a_small_boards_memory() {
        let firmware = |region: u64, arena: u64| Firmware {
            elf: "unused".into(),
            code_bytes: 0,
            model_region: 0..region,
            arena: 0..arena,
            kernels: None,
            power: None,
        };
        for wanted in SHAPES {
            let small = Fitting::find(wanted, &firmware(128 << 10, 11 << 10)).unwrap();
            let (model, arena) = small
                .blobs
                .iter()
                .map(Blob::needs)
                .fold((0, 0), |most, needs| (most.0.max(needs.0), most.1.max(needs.1)));
            assert!(model <= 128 << 10 && arena <= 11 << 10, "{wanted}: {model}, {arena}");
            assert!(small.shape != wanted, "{wanted} was not measured smaller");
            assert!(Fitting::find(wanted, &firmware(512, 64)).is_err());
        }
        let roomy = Fitting::find(SHAPES[2], &firmware(16 << 20, 4 << 20)).unwrap();
        assert_eq!(roomy.shape, SHAPES[2]);
    }

    #[test]
    fn weights_have_the_density_asked_for_in_whole_blocks() {
        let mut random = Pcg64::seed_from_u64(2);
        let shape = SHAPES[0];
        for (block, density) in [(1, 10), (2, 30), (4, 5), (4, 100)] {
            let weights = weights(&shape, block, density, &mut random);
            let kept = weights.chunks(block).filter(|block| block.iter().all(|&w| w != 0)).count();
            let nonzeros = weights.iter().filter(|&&weight| weight != 0).count();
            assert_eq!(kept * block, nonzeros);
            let share = nonzeros as f64 / weights.len() as f64;
            assert!((share - f64::from(density) / 100.0).abs() < 1e-3, "{block} {density} {share}");
        }
    }
}
