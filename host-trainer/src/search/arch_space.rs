//! What the genome of an architecture means: a stem, three stages of blocks, a global mean and a classifier.

use anyhow::{Result, ensure};

use super::genome::{Gene, Genome, Space};
use crate::net::spec::{DataFeatures, Features, Kind, Layer, NetSpec, Padding, Pair, Task};

/// Stages of blocks, and most blocks of one.
pub(super) const STAGES: usize = 3;
pub(super) const BLOCKS: usize = 3;
/// Channels of the stem.
const WIDTHS: [usize; 6] = [4, 8, 12, 16, 24, 32];
pub(super) const WIDEST: u16 = WIDTHS.len() as u16 - 1;
/// Strides of the stem. At 4 it divides the input into patches (after Dosovitskiy et al., ICLR 2021), with
/// kernels that overlap.
pub(super) const STEM_STRIDES: [usize; 3] = [1, 2, 4];
/// Channels of a stage as multiples of those of the one before it, or of the stem; the default comes first.
const FACTORS: [[f64; 4]; STAGES] =
    [[1.0, 0.5, 2.0, 3.0], [2.0, 1.0, 1.5, 3.0], [2.0, 1.0, 1.5, 3.0]];
/// Strides of the first block of a stage; the default comes first.
const FIRST_STRIDES: [[usize; 2]; STAGES] = [[1, 2], [2, 1], [2, 1]];
const KERNELS: [usize; 2] = [3, 5];

/// What a block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    /// Depthwise and pointwise convolution.
    Separable,
    /// The same with the input added, where shapes allow it.
    Residual,
    /// A convolution.
    Conv,
    /// A pointwise convolution to so many times the channels, a depthwise one, and a pointwise one without an
    /// activation, with the input added where shapes allow it (Sandler et al., "MobileNetV2", CVPR 2018).
    Inverted(usize),
}

const OPERATORS: [Operator; 6] = [
    Operator::Separable,
    Operator::Residual,
    Operator::Conv,
    Operator::Inverted(2),
    Operator::Inverted(3),
    Operator::Inverted(4),
];

/// Places of the genes.
pub(super) mod place {
    use super::{BLOCKS, STAGES};

    pub(in crate::search) const WIDTH: usize = 0;
    pub(in crate::search) const STRIDE: usize = 1;
    pub(in crate::search) const DEPTH: usize = 2;
    /// Genes from the stride of the stem to before this one are the coarse shape.
    pub(in crate::search) const COARSE: usize = DEPTH + STAGES;
    pub(in crate::search) const STEM_KERNEL: usize = COARSE;
    pub(in crate::search) const FACTOR: usize = STEM_KERNEL + 1;
    pub(in crate::search) const FIRST_STRIDE: usize = FACTOR + STAGES;
    pub(in crate::search) const BLOCK: usize = FIRST_STRIDE + STAGES;
    /// How many weights are kept: 0 is dense.
    pub(in crate::search) const DENSITY: usize = BLOCK + 2 * STAGES * BLOCKS;
}

fn blocks(genome: &[u16], stage: usize) -> usize {
    usize::from(genome[place::DEPTH + stage]) + 1
}

/// Channels of the stem and of every stage.
fn widths(genome: &[u16]) -> [usize; STAGES + 1] {
    let mut widths = [WIDTHS[usize::from(genome[place::WIDTH])]; STAGES + 1];
    for stage in 0..STAGES {
        let factor = FACTORS[stage][usize::from(genome[place::FACTOR + stage])];
        widths[stage + 1] = ((widths[stage] as f64 * factor / 4.0).round() as usize).max(1) * 4;
    }
    widths
}

/// Strides of the stem and of the first block of every stage.
fn strides(genome: &[u16]) -> [usize; STAGES + 1] {
    let mut strides = [STEM_STRIDES[usize::from(genome[place::STRIDE])]; STAGES + 1];
    for stage in 0..STAGES {
        strides[stage + 1] = FIRST_STRIDES[stage][usize::from(genome[place::FIRST_STRIDE + stage])];
    }
    strides
}

fn block(stage: usize, block: usize) -> usize {
    place::BLOCK + 2 * (stage * BLOCKS + block)
}

/// The network of a genome, and what was chosen for each of its parts.
fn layout(genome: &[u16]) -> (NetSpec, Vec<(String, String)>) {
    let mut layers: Vec<Layer> = Vec::new();
    let mut about = Vec::new();
    let mut add = |name: String, kind: Kind, inputs: &[&str]| {
        let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
        layers.push(Layer { name, inputs, kind });
    };
    let conv = |out: usize, kernel: usize, stride: usize| Kind::Conv {
        out,
        kernel: Pair::square(kernel),
        stride: Pair::square(stride),
        padding: Padding::SAME,
        groups: 1,
        bias: false,
    };
    let norm = || Kind::BatchNorm { epsilon: crate::net::spec::EPSILON };
    let (widths, strides) = (widths(genome), strides(genome));
    let (width, stride) = (widths[0], strides[0]);
    // A kernel that is narrower than the stride would leave pixels out.
    let kernel = KERNELS[usize::from(genome[place::STEM_KERNEL])] + if stride == 4 { 2 } else { 0 };
    add("stem".to_owned(), conv(width, kernel, stride), &[]);
    add("stem-bn".to_owned(), norm(), &[]);
    add("stem-relu".to_owned(), Kind::Relu {}, &[]);
    about.push(("stem".to_owned(), format!("conv {kernel}x{kernel} stride {stride}, {width}")));
    let (mut below, mut channels) = ("stem-relu".to_owned(), width);
    for stage in 0..STAGES {
        let out = widths[stage + 1];
        for index in 0..blocks(genome, stage) {
            let at = block(stage, index);
            let operator = OPERATORS[usize::from(genome[at])];
            let kernel = KERNELS[usize::from(genome[at + 1])];
            let stride = if index == 0 { strides[stage + 1] } else { 1 };
            let name = |part: &str| format!("s{}b{}-{part}", stage + 1, index + 1);
            let mut unit = |kind: Kind, part: &str, from: &[&str], relu: bool| {
                add(name(part), kind, from);
                add(name(&format!("{part}-bn")), norm(), &[]);
                if relu {
                    add(name(&format!("{part}-relu")), Kind::Relu {}, &[]);
                }
            };
            let depthwise = Kind::Depthwise {
                kernel: Pair::square(kernel),
                stride: Pair::square(stride),
                padding: Padding::SAME,
                multiplier: 1,
                bias: false,
            };
            let to = |out: usize| Kind::Pointwise { out, stride: Pair::square(1), bias: false };
            let (last, what) = match operator {
                Operator::Conv => {
                    unit(conv(out, kernel, stride), "conv", &[&below], true);
                    ("conv-relu", "conv".to_owned())
                }
                Operator::Separable => {
                    unit(depthwise, "dw", &[&below], true);
                    unit(to(out), "pw", &[], true);
                    ("pw-relu", "separable".to_owned())
                }
                Operator::Residual => {
                    unit(depthwise, "dw", &[&below], true);
                    unit(to(out), "pw", &[], false);
                    add(name("add"), Kind::Add {}, &[&name("pw-bn"), &below]);
                    add(name("relu"), Kind::Relu {}, &[]);
                    ("relu", "residual".to_owned())
                }
                Operator::Inverted(times) => {
                    unit(to(times * channels), "expand", &[&below], true);
                    unit(depthwise, "dw", &[], true);
                    unit(to(out), "pw", &[], false);
                    let same = stride == 1 && out == channels;
                    if same {
                        add(name("add"), Kind::Add {}, &[&name("pw-bn"), &below]);
                    }
                    (if same { "add" } else { "pw-bn" }, format!("inverted residual x{times}"))
                }
            };
            about.push((
                format!("stage {} block {}", stage + 1, index + 1),
                format!("{what} {kernel}x{kernel} stride {stride}, {out}"),
            ));
            (below, channels) = (name(last), out);
        }
    }
    add("pool".to_owned(), Kind::GlobalAvgPool {}, &[]);
    let classes_of = Features::FromData(DataFeatures::Classes);
    add("fc".to_owned(), Kind::Linear { out: classes_of, bias: true }, &[]);
    add("softmax".to_owned(), Kind::Softmax {}, &[]);
    let spec = NetSpec { name: "arch".to_owned(), input: None, task: Task::Classify, layers };
    (spec, about)
}

/// The same for data of this shape with so many classes.
pub(super) fn network(
    genome: &[u16],
    input: [usize; 3],
    classes: usize,
) -> Result<(NetSpec, Vec<(String, String)>)> {
    let (spec, about) = layout(genome);
    Ok((spec.for_data(input, classes)?, about))
}

/// The description of a candidate's network, for any data.
///
/// # Errors
/// When the genome is not one of a search for architectures.
pub(super) fn describe(genome: &[u16]) -> Result<NetSpec> {
    let any = space(usize::from(u16::MAX) - 1);
    ensure!(any.contains(genome), "expected the genome of an architecture, found {genome:?}");
    Ok(layout(genome).0)
}

/// The genome whose genes without effect are zero: those of blocks that are not there, and additions that shapes
/// forbid.
pub(super) fn expressed(mut genome: Genome) -> Genome {
    for stage in 0..STAGES {
        let depth = blocks(&genome, stage);
        for index in 0..BLOCKS {
            let at = block(stage, index);
            if index >= depth {
                genome[at..at + 2].fill(0);
            }
            // The first block of a stage changes the shape, or may do so.
            if index == 0 && OPERATORS[usize::from(genome[at])] == Operator::Residual {
                genome[at] = 0;
            }
        }
    }
    genome
}

pub(super) fn space(densities: usize) -> Space {
    let mut genes = vec![Gene::Level(0); place::DENSITY + 1];
    genes[place::WIDTH] = Gene::Level(WIDTHS.len() as u16);
    genes[place::STRIDE] = Gene::Level(STEM_STRIDES.len() as u16);
    genes[place::DEPTH..place::COARSE].fill(Gene::Level(BLOCKS as u16));
    genes[place::STEM_KERNEL] = Gene::Level(KERNELS.len() as u16);
    genes[place::FACTOR..place::FIRST_STRIDE].fill(Gene::Choice(FACTORS[0].len() as u16));
    genes[place::FIRST_STRIDE..place::BLOCK].fill(Gene::Level(FIRST_STRIDES[0].len() as u16));
    for at in (place::BLOCK..place::DENSITY).step_by(2) {
        genes[at] = Gene::Choice(OPERATORS.len() as u16);
        genes[at + 1] = Gene::Level(KERNELS.len() as u16);
    }
    genes[place::DENSITY] = Gene::Choice(densities as u16 + 1);
    Space::new(genes).expect("every gene has a value")
}

/// The genome with nothing but its coarse shape: all blocks are inverted residuals, which learn quickly however many
/// there are, and all else is zero.
pub(super) fn coarse(mut genome: Genome) -> Genome {
    genome[place::COARSE..].fill(0);
    let inverted = OPERATORS.iter().position(|operator| *operator == Operator::Inverted(2));
    for at in (0..STAGES * BLOCKS).map(|at| place::BLOCK + 2 * at) {
        genome[at] = inverted.unwrap_or(0) as u16;
    }
    expressed(genome)
}

/// Every coarse shape.
pub(super) fn coarse_shapes() -> impl Iterator<Item = Genome> {
    let strides = (0..STEM_STRIDES.len()).map(|stride| vec![0, stride as u16]);
    let depths =
        |shape: Vec<u16>| (0..BLOCKS as u16).map(move |depth| [&shape[..], &[depth]].concat());
    strides.flat_map(depths).flat_map(depths).flat_map(depths).map(|mut genome| {
        genome.resize(place::DENSITY + 1, 0);
        coarse(genome)
    })
}

/// What a regression sees of an architecture beside its costs.
pub(super) fn features(genome: &[u16]) -> Vec<f64> {
    let widths = widths(genome).map(|width| (width as f64).ln());
    let resolutions = strides(genome).into_iter().scan(0.0, |total, stride| {
        *total += (stride as f64).ln();
        Some(*total)
    });
    let depths = (0..STAGES).map(|stage| blocks(genome, stage) as f64);
    let all: Vec<usize> = (0..STAGES)
        .flat_map(|stage| (0..blocks(genome, stage)).map(move |index| block(stage, index)))
        .collect();
    let operators = all.iter().map(|&at| OPERATORS[usize::from(genome[at])]);
    let count = |operator| operators.clone().filter(|other| *other == operator).count() as f64;
    let inverted = operators.clone().filter_map(|operator| match operator {
        Operator::Inverted(times) => Some((times as f64).ln()),
        _ => None,
    });
    let times = [inverted.clone().count() as f64, inverted.sum()];
    let operators = [count(Operator::Residual), count(Operator::Conv), times[0], times[1]];
    let kernels = [
        f64::from(genome[place::STEM_KERNEL]),
        all.iter().filter(|&&at| genome[at + 1] > 0).count() as f64,
    ];
    widths.into_iter().chain(resolutions).chain(depths).chain(operators).chain(kernels).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    use crate::net::Graph;
    use crate::sparse::inherit::similarity;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    proptest! {
        /// Every genome is a network, and genes without effect are zero.
        #[test]
        fn genomes_are_networks(seed: u64) {
            let genome = expressed(space(2).sample(&mut Pcg64::seed_from_u64(seed)));
            let (net, about) = network(&genome, [8, 8, 1], 10).unwrap();
            let graph = Graph::new(&net).unwrap();
            let blocks: usize = (0..STAGES).map(|stage| blocks(&genome, stage)).sum();
            prop_assert_eq!(about.len(), blocks + 1);
            // A description can be written and read again.
            let text = toml::to_string(&describe(&genome).unwrap()).unwrap();
            let again: NetSpec = toml::from_str(&text).unwrap();
            prop_assert_eq!(again.for_data([8, 8, 1], 10).unwrap(), net);
            prop_assert_eq!(similarity(&graph, &graph), 1.0);
            prop_assert_eq!(expressed(genome.clone()), genome);
        }
    }

    #[test]
    fn coarse_shapes_are_all_there_are() {
        let shapes: HashSet<Genome> = coarse_shapes().collect();
        let mut random = Pcg64::seed_from_u64(1);
        for _ in 0..1000 {
            let mut genome = space(2).sample(&mut random);
            genome[place::WIDTH] = 0;
            assert!(shapes.contains(&coarse(genome)));
        }
        assert_eq!(shapes.len(), STEM_STRIDES.len() * BLOCKS.pow(STAGES as u32));
    }
}
