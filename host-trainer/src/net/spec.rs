//! The network description that TOML files and presets share.
//!
//! ```toml
//! name = "tiny"
//!
//! [[layers]]
//! name = "conv1"
//! kind = "conv"
//! out = 8
//! kernel = 3            # or [height, width]
//! stride = 1            # default
//! padding = "same"      # default; or "valid", or { top = 1, bottom = 1, left = 0, right = 0 }
//!
//! [[layers]]
//! name = "relu1"        # reads the layer before it unless `inputs` says otherwise
//! kind = "relu"
//!
//! [[layers]]
//! name = "pool"
//! kind = "global-avg-pool"
//!
//! [[layers]]
//! name = "fc"
//! kind = "linear"
//! out = "classes"       # taken from the data
//! ```
//!
//! A layer may read only layers above it, or `input`, the network's input; so a description has no
//! cycles by construction. The last layer is the result.

use serde::{Deserialize, Serialize};

/// Name by which a layer refers to the input of the network.
pub const INPUT: &str = "input";

/// A network: its layers in the order of execution, and what it is trained to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// Name shown in reports and carried into the exported model.
    pub name: String,
    /// Input height, width and channels; taken from the data when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<[usize; 3]>,
    /// What the output means.
    #[serde(default)]
    pub task: Task,
    /// The layers.
    pub layers: Vec<Layer>,
}

/// What a network is trained to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One logit per class, trained with cross entropy.
    #[default]
    Classify,
    /// The input itself, trained with the mean squared error; for anomaly detection.
    Reconstruct,
}

/// One layer: a name, what it reads, and what it computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Unique name.
    pub name: String,
    /// Names of the layers it reads; empty means the layer above (or the input).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// What it computes.
    // Fields that the layer does not know end up here, and `Kind` refuses what it does not know.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What a layer computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Kind {
    /// 2-D convolution.
    Conv {
        /// Output channels.
        out: usize,
        /// Kernel size.
        kernel: Pair,
        /// Stride.
        #[serde(default)]
        stride: Pair,
        /// Padding.
        #[serde(default)]
        padding: Padding,
        /// Groups of channels that are convolved separately.
        #[serde(default = "one")]
        groups: usize,
        /// Whether a bias is added; pointless before a batch norm.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Depthwise convolution: every channel has kernels of its own.
    Depthwise {
        /// Kernel size.
        kernel: Pair,
        /// Stride.
        #[serde(default)]
        stride: Pair,
        /// Padding.
        #[serde(default)]
        padding: Padding,
        /// Output channels per input channel.
        #[serde(default = "one")]
        multiplier: usize,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// 1x1 convolution.
    Pointwise {
        /// Output channels.
        out: usize,
        /// Stride.
        #[serde(default)]
        stride: Pair,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Fully connected layer on a flat input.
    Linear {
        /// Output features.
        out: Features,
        /// Whether a bias is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Batch normalisation over every dimension but the channels.
    BatchNorm {
        /// Added to the variance.
        #[serde(default = "epsilon")]
        epsilon: f32,
    },
    /// `max(x, 0)`.
    Relu {},
    /// `min(max(x, 0), 6)`.
    Relu6 {},
    /// Maximum over windows.
    MaxPool {
        /// Window size.
        kernel: Pair,
        /// Stride; the window size when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Padding, which never wins.
        #[serde(default = "valid")]
        padding: Padding,
    },
    /// Mean over windows; padding is not counted.
    AvgPool {
        /// Window size.
        kernel: Pair,
        /// Stride; the window size when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Padding, which is not counted.
        #[serde(default = "valid")]
        padding: Padding,
    },
    /// Mean over height and width.
    GlobalAvgPool {},
    /// Sum of two or more inputs of one shape.
    Add {},
    /// All values in one dimension.
    Flatten {},
    /// Probabilities; only as the last layer. Training works on the logits before it.
    Softmax {},
}

impl Kind {
    /// The name of this kind in a description.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conv { .. } => "conv",
            Self::Depthwise { .. } => "depthwise",
            Self::Pointwise { .. } => "pointwise",
            Self::Linear { .. } => "linear",
            Self::BatchNorm { .. } => "batch-norm",
            Self::Relu {} => "relu",
            Self::Relu6 {} => "relu6",
            Self::MaxPool { .. } => "max-pool",
            Self::AvgPool { .. } => "avg-pool",
            Self::GlobalAvgPool {} => "global-avg-pool",
            Self::Add {} => "add",
            Self::Flatten {} => "flatten",
            Self::Softmax {} => "softmax",
        }
    }
}

/// Height and width; written as one number when both are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PairText", into = "PairText")]
pub struct Pair(pub [usize; 2]);

impl Pair {
    /// The same size in both directions.
    pub const fn square(size: usize) -> Self {
        Self([size, size])
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::square(1)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or [height, width]")]
enum PairText {
    Square(usize),
    Both([usize; 2]),
}

impl From<PairText> for Pair {
    fn from(text: PairText) -> Self {
        match text {
            PairText::Square(size) => Self::square(size),
            PairText::Both(sizes) => Self(sizes),
        }
    }
}

impl From<Pair> for PairText {
    fn from(Pair([height, width]): Pair) -> Self {
        if height == width { Self::Square(height) } else { Self::Both([height, width]) }
    }
}

/// Padding of a convolution or pooling window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "expected \"same\", \"valid\" or { top, bottom, left, right }"
)]
pub enum Padding {
    /// By rule.
    Rule(PaddingRule),
    /// Given for every side.
    Explicit {
        /// Rows above.
        top: usize,
        /// Rows below.
        bottom: usize,
        /// Columns to the left.
        left: usize,
        /// Columns to the right.
        right: usize,
    },
}

impl Padding {
    /// Output size = input size / stride, rounded up.
    pub const SAME: Self = Self::Rule(PaddingRule::Same);
    /// No padding.
    pub const VALID: Self = Self::Rule(PaddingRule::Valid);
}

impl Default for Padding {
    fn default() -> Self {
        Self::SAME
    }
}

/// Padding rules, as in TensorFlow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PaddingRule {
    /// Output size = input size / stride, rounded up; an odd row or column goes to the bottom or
    /// right.
    Same,
    /// No padding.
    Valid,
}

/// Number of output features of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, \"classes\" or \"inputs\"")]
pub enum Features {
    /// Given.
    Fixed(usize),
    /// Known when the data is.
    FromData(DataFeatures),
}

/// A number of features that the data decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataFeatures {
    /// One per class.
    Classes,
    /// One per input value.
    Inputs,
}

/// What batch norm adds to the variance, unless told otherwise: as in the reference networks of MLPerf
/// Tiny. Channels with few weights may vary little; with a smaller number they become amplifiers of
/// noise, which do not survive int8.
pub(crate) const EPSILON: f32 = 1e-3;

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn valid() -> Padding {
    Padding::VALID
}

fn epsilon() -> f32 {
    EPSILON
}

/// Why a network cannot be built.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NetError {
    /// A layer that is impossible where it stands.
    #[error("layer `{layer}` ({kind}): {problem}")]
    Layer {
        /// Its name.
        layer: String,
        /// Its kind.
        kind: &'static str,
        /// What was expected and what was found.
        problem: String,
    },
    /// A description that is wrong as a whole.
    #[error("network `{name}`: {problem}")]
    Network {
        /// Its name.
        name: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A preset that does not exist or an option it does not have.
    #[error("{0}")]
    Preset(String),
}

impl NetSpec {
    /// The same network with everything filled in that the data decides.
    ///
    /// # Errors
    /// When the description asks for an input shape that the data does not have.
    pub fn for_data(mut self, input: [usize; 3], classes: usize) -> Result<Self, NetError> {
        if let Some(wanted) = self.input.filter(|&wanted| wanted != input) {
            let [h, w, c] = input;
            let [wh, ww, wc] = wanted;
            return Err(NetError::Network {
                name: self.name,
                problem: format!("made for inputs of {wh}x{ww}x{wc}, but the data has {h}x{w}x{c}"),
            });
        }
        self.input = Some(input);
        for layer in &mut self.layers {
            if let Kind::Linear { out: out @ Features::FromData(_), .. } = &mut layer.kind {
                *out = Features::Fixed(match *out {
                    Features::FromData(DataFeatures::Inputs) => input.iter().product(),
                    _ => classes,
                });
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_round_trip_and_strictness() {
        let text = r#"
            name = "t"
            [[layers]]
            name = "c"
            kind = "conv"
            out = 4
            kernel = [3, 5]
            padding = { top = 1, bottom = 0, left = 2, right = 2 }
            [[layers]]
            name = "r"
            inputs = ["c"]
            kind = "relu"
        "#;
        let spec: NetSpec = toml::from_str(text).unwrap();
        assert_eq!(
            spec.layers[0].kind,
            Kind::Conv {
                out: 4,
                kernel: Pair([3, 5]),
                stride: Pair::square(1),
                padding: Padding::Explicit { top: 1, bottom: 0, left: 2, right: 2 },
                groups: 1,
                bias: true,
            }
        );
        assert_eq!(spec.layers[1].inputs, ["c"]);
        let again: NetSpec = toml::from_str(&toml::to_string(&spec).unwrap()).unwrap();
        assert_eq!(spec, again);
        let json: NetSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(spec, json);

        for (wrong, named) in [
            (text.replace("kernel =", "kernal ="), "kernal"),
            (text.replace("[3, 5]", "[3, 5, 1]"), "[height, width]"),
            (text.replace("\"relu\"", "\"swish\""), "swish"),
            (text.replace("top = 1", "above = 1"), "top"),
        ] {
            let error = toml::from_str::<NetSpec>(&wrong).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
