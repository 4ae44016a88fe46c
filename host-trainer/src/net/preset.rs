//! Well-known networks, each with one width to turn.

use super::spec::{
    DataFeatures, EPSILON, Features, Kind, Layer, NetError, NetSpec, Padding, Pair, Task,
};

/// A network known by name.
pub struct Preset {
    /// Name to ask for it.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What `width` means.
    pub width_means: &'static str,
    /// Width when none is given.
    pub width: f64,
    build: fn(f64) -> NetSpec,
}

/// All presets.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "mlp",
        about: "two hidden layers, for small images and tables",
        width_means: "hidden features",
        width: 64.0,
        build: mlp,
    },
    Preset {
        name: "lenet",
        about: "LeNet-5 with batch norm and modern widths: 2 x (conv 5x5, pool), 2 linear",
        width_means: "factor on 8/32 channels and 192 features",
        width: 1.0,
        build: lenet,
    },
    Preset {
        name: "resnet8",
        about: "MLPerf Tiny image classification",
        width_means: "channels of the first stage",
        width: 16.0,
        build: resnet8,
    },
    Preset {
        name: "ds-cnn",
        about: "MLPerf Tiny keyword spotting: depthwise separable convolutions",
        width_means: "channels",
        width: 64.0,
        build: ds_cnn,
    },
    Preset {
        name: "mobilenet-v1",
        about: "MLPerf Tiny visual wake words",
        width_means: "factor on all channels",
        width: 0.25,
        build: mobilenet_v1,
    },
    Preset {
        name: "autoencoder",
        about: "MLPerf Tiny anomaly detection; learns to reproduce its input",
        width_means: "hidden features",
        width: 128.0,
        build: autoencoder,
    },
];

/// Builds a preset from `name` or `name:width=W`.
///
/// # Errors
/// When the name or the option does not exist, or the width is not a positive number.
pub fn preset(text: &str) -> Result<NetSpec, NetError> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    let preset = PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        NetError::Preset(format!(
            "no network is called `{name}`; expected {} or a path to a .toml file",
            names.join(", ")
        ))
    })?;
    let mut width = preset.width;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        width = option
            .strip_prefix("width=")
            .and_then(|value| value.parse().ok())
            .filter(|&width: &f64| width > 0.0 && width <= 4096.0)
            .ok_or_else(|| {
                NetError::Preset(format!(
                    "`{name}` has no option `{option}`; expected width=NUMBER ({}, default {})",
                    preset.width_means, preset.width
                ))
            })?;
    }
    Ok(NetSpec { name: name.to_owned(), ..(preset.build)(width) })
}

/// Builds a description layer by layer; every layer reads the one above unless told otherwise.
#[derive(Default)]
struct Builder(Vec<Layer>);

impl Builder {
    fn layer(&mut self, name: impl Into<String>, kind: Kind) -> &mut Self {
        self.reading(name, kind, &[])
    }

    fn reading(&mut self, name: impl Into<String>, kind: Kind, inputs: &[&str]) -> &mut Self {
        let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
        self.0.push(Layer { name: name.into(), inputs, kind });
        self
    }

    /// Batch norm and ReLU, called `bn<suffix>` and `relu<suffix>`.
    fn norm_relu(&mut self, suffix: &str) -> &mut Self {
        self.layer(format!("bn{suffix}"), Kind::BatchNorm { epsilon: EPSILON })
            .layer(format!("relu{suffix}"), Kind::Relu {})
    }

    fn head(&mut self) -> &mut Self {
        self.layer("fc", linear(Features::FromData(DataFeatures::Classes)))
            .layer("softmax", Kind::Softmax {})
    }

    fn finish(&mut self, task: Task) -> NetSpec {
        NetSpec { name: String::new(), input: None, task, layers: std::mem::take(&mut self.0) }
    }
}

fn linear(out: Features) -> Kind {
    Kind::Linear { out, bias: true }
}

/// Linear without bias, for use before a batch norm.
fn plain_linear(out: usize) -> Kind {
    Kind::Linear { out: Features::Fixed(out), bias: false }
}

/// Convolution without bias, for use before a batch norm.
fn plain_conv(out: usize, kernel: [usize; 2], stride: usize, padding: Padding) -> Kind {
    Kind::Conv {
        out,
        kernel: Pair(kernel),
        stride: Pair::square(stride),
        padding,
        groups: 1,
        bias: false,
    }
}

fn plain_depthwise(stride: usize) -> Kind {
    Kind::Depthwise {
        kernel: Pair::square(3),
        stride: Pair::square(stride),
        padding: Padding::SAME,
        multiplier: 1,
        bias: false,
    }
}

fn plain_pointwise(out: usize) -> Kind {
    Kind::Pointwise { out, stride: Pair::square(1), bias: false }
}

/// `base` channels times `factor`, at least one.
fn scaled(base: usize, factor: f64) -> usize {
    ((base as f64 * factor).round() as usize).max(1)
}

fn mlp(width: f64) -> NetSpec {
    let width = scaled(1, width);
    let mut net = Builder::default();
    net.layer("flatten", Kind::Flatten {});
    for suffix in ["1", "2"] {
        net.layer(format!("fc{suffix}"), plain_linear(width)).norm_relu(suffix);
    }
    net.head().finish(Task::Classify)
}

fn lenet(width: f64) -> NetSpec {
    let pool = || Kind::MaxPool { kernel: Pair::square(2), stride: None, padding: Padding::VALID };
    // Inputs as small as 8x8 still have two rows left for the second pooling.
    let conv = |base| plain_conv(scaled(base, width), [5, 5], 1, Padding::SAME);
    Builder::default()
        .layer("conv1", conv(8))
        .norm_relu("1")
        .layer("pool1", pool())
        .layer("conv2", conv(32))
        .norm_relu("2")
        .layer("pool2", pool())
        .layer("flatten", Kind::Flatten {})
        .layer("fc1", plain_linear(scaled(192, width)))
        .norm_relu("3")
        .head()
        .finish(Task::Classify)
}

fn resnet8(width: f64) -> NetSpec {
    let width = scaled(1, width);
    let conv = |out, kernel, stride| plain_conv(out, [kernel; 2], stride, Padding::SAME);
    let mut net = Builder::default();
    net.layer("conv0", conv(width, 3, 1)).norm_relu("0");
    let mut below = "relu0".to_owned();
    for (stage, stride) in [(1, 1), (2, 2), (3, 2)] {
        let out = width << (stage - 1);
        let name = |part: &str| format!("{part}{stage}");
        net.reading(name("conv1-"), conv(out, 3, stride), &[&below])
            .norm_relu(&format!("1-{stage}"))
            .layer(name("conv2-"), conv(out, 3, 1))
            .layer(name("bn2-"), Kind::BatchNorm { epsilon: EPSILON });
        // As in the reference model, the shortcut of a stage that changes the shape is a bare
        // 1x1 convolution.
        let shortcut = if stride == 1 {
            below
        } else {
            let pointwise = Kind::Pointwise { out, stride: Pair::square(stride), bias: true };
            net.reading(name("shortcut"), pointwise, &[&below]);
            name("shortcut")
        };
        net.reading(name("add"), Kind::Add {}, &[&name("bn2-"), &shortcut])
            .layer(name("relu2-"), Kind::Relu {});
        below = name("relu2-");
    }
    net.layer("pool", Kind::GlobalAvgPool {}).head().finish(Task::Classify)
}

fn ds_cnn(width: f64) -> NetSpec {
    let width = scaled(1, width);
    let mut net = Builder::default();
    net.layer("conv0", plain_conv(width, [10, 4], 2, Padding::SAME)).norm_relu("0");
    for block in 1..=4 {
        net.layer(format!("dw{block}"), plain_depthwise(1))
            .norm_relu(&format!("-dw{block}"))
            .layer(format!("pw{block}"), plain_pointwise(width))
            .norm_relu(&format!("-pw{block}"));
    }
    net.layer("pool", Kind::GlobalAvgPool {}).head().finish(Task::Classify)
}

fn mobilenet_v1(width: f64) -> NetSpec {
    let mut net = Builder::default();
    net.layer("conv0", plain_conv(scaled(32, width), [3, 3], 2, Padding::SAME)).norm_relu("0");
    let blocks = [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (512, 1),
        (1024, 2),
        (1024, 1),
    ];
    for (index, (out, stride)) in blocks.into_iter().enumerate() {
        let block = index + 1;
        net.layer(format!("dw{block}"), plain_depthwise(stride))
            .norm_relu(&format!("-dw{block}"))
            .layer(format!("pw{block}"), plain_pointwise(scaled(out, width)))
            .norm_relu(&format!("-pw{block}"));
    }
    net.layer("pool", Kind::GlobalAvgPool {}).head().finish(Task::Classify)
}

fn autoencoder(width: f64) -> NetSpec {
    let width = scaled(1, width);
    let bottleneck = (width / 16).max(1);
    let mut net = Builder::default();
    net.layer("flatten", Kind::Flatten {});
    for index in 1..=9 {
        let out = if index == 5 { bottleneck } else { width };
        net.layer(format!("fc{index}"), plain_linear(out)).norm_relu(&index.to_string());
    }
    net.layer("fc10", linear(Features::FromData(DataFeatures::Inputs))).finish(Task::Reconstruct)
}

#[cfg(test)]
mod tests {
    use super::super::{
        shape::Graph,
        units::{self, peak_activation_bytes},
    };
    use super::*;

    fn graph(text: &str, input: [usize; 3], classes: usize) -> Graph {
        Graph::new(&preset(text).unwrap().for_data(input, classes).unwrap()).unwrap()
    }

    /// Parameters after folding batch norm, and multiply-accumulates, of the reference models.
    #[test]
    fn mlperf_tiny_sizes() {
        let sizes = |graph: &Graph| {
            let weights: usize = graph
                .layers
                .iter()
                .filter_map(|node| Some((node.op.weight_shape()?, node.output[2])))
                .map(|(shape, bias)| shape.iter().product::<usize>() + bias)
                .sum();
            (weights, (0..graph.layers.len()).map(|layer| graph.macs(layer)).sum::<usize>())
        };
        assert_eq!(sizes(&graph("resnet8", [32, 32, 3], 10)), (77_706, 12_501_632));
        assert_eq!(sizes(&graph("mobilenet-v1", [96, 96, 3], 2)), (210_850, 7_489_664));
        assert_eq!(sizes(&graph("ds-cnn", [49, 10, 1], 12)), (22_604, 2_656_768));
        assert_eq!(sizes(&graph("autoencoder", [1, 1, 640], 2)).1, 264_192);
    }

    #[test]
    fn options_are_checked() {
        assert!(preset("lenet:width=2").is_ok());
        assert!(preset("lenet:depth=2").unwrap_err().to_string().contains("width"));
        assert!(preset("vgg").unwrap_err().to_string().contains("lenet"));
    }

    #[test]
    fn units_swallow_norm_and_activation() {
        let graph = graph("resnet8", [32, 32, 3], 10);
        let units = units::units(&graph);
        let names: Vec<_> =
            units.iter().map(|unit| graph.layers[unit.output()].name.as_str()).collect();
        assert_eq!(
            names,
            [
                "relu0",
                "relu1-1",
                "bn2-1",
                "relu2-1",
                "relu1-2",
                "bn2-2",
                "shortcut2",
                "relu2-2",
                "relu1-3",
                "bn2-3",
                "shortcut3",
                "relu2-3",
                "pool",
                "fc",
                "softmax"
            ]
        );
        // Both inputs and the output of the first residual addition.
        assert_eq!(peak_activation_bytes(&graph, &units), 3 * 32 * 32 * 16);
    }
}
