//! Shape inference: from a description to a checked graph with the size of everything.
//!
//! Shapes are `[height, width, channels]`, as in the data and in the exported model; a flat tensor
//! of `n` features is `[1, 1, n]`.

use std::collections::HashMap;

use super::spec::{Features, INPUT, Kind, NetError, NetSpec, Padding, PaddingRule, Pair, Task};

/// Height, width, channels.
pub type Shape = [usize; 3];

/// Number of values in a tensor of this shape.
pub fn volume(shape: Shape) -> usize {
    shape.iter().product()
}

/// A network whose every layer is known to fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Name of the network.
    pub name: String,
    /// What it is trained to do.
    pub task: Task,
    /// Shape of the input.
    pub input: Shape,
    /// The layers in the order of execution; the last one is the result.
    pub layers: Vec<Node>,
}

/// A layer with its shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique name.
    pub name: String,
    /// What it reads.
    pub inputs: Vec<Source>,
    /// What it computes.
    pub op: Op,
    /// Shape of what it reads first.
    pub input: Shape,
    /// Shape of what it computes.
    pub output: Shape,
}

/// Where a layer reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The input of the network.
    Input,
    /// The layer with this index.
    Layer(usize),
}

impl Source {
    /// Its place in a list of all tensors: the input first, then what each layer computes.
    pub fn slot(self) -> usize {
        match self {
            Self::Input => 0,
            Self::Layer(layer) => layer + 1,
        }
    }
}

/// An operation with all sizes resolved: depthwise and pointwise are convolutions here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// 2-D convolution.
    Conv {
        /// Output channels, input channels per group, kernel height, kernel width.
        weight: [usize; 4],
        /// Stride and padding.
        window: Window,
        /// Groups of channels.
        groups: usize,
        /// Whether a bias is added.
        bias: bool,
    },
    /// Fully connected.
    Linear {
        /// Output features, input features.
        weight: [usize; 2],
        /// Whether a bias is added.
        bias: bool,
    },
    /// Batch normalisation.
    BatchNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// Maximum over windows.
    MaxPool(Window),
    /// Mean over windows without the padding.
    AvgPool(Window),
    /// Mean over height and width.
    GlobalAvgPool,
    /// Sum of all inputs.
    Add,
    /// All values in one dimension, in the order channel, row, column.
    Flatten,
    /// Probabilities.
    Softmax,
}

impl Op {
    /// Whether this is a convolution with one input channel per group.
    pub fn is_depthwise(&self) -> bool {
        matches!(*self, Self::Conv { weight: [_, 1, _, _], groups, .. } if groups > 1)
    }

    /// Shape of the weights, if it has any: OIHW or `[out, in]`.
    pub fn weight_shape(&self) -> Option<Vec<usize>> {
        match self {
            Self::Conv { weight, .. } => Some(weight.to_vec()),
            Self::Linear { weight, .. } => Some(weight.to_vec()),
            _ => None,
        }
    }
}

/// A window that slides over height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Steps down and to the right.
    pub stride: [usize; 2],
    /// (top, bottom), (left, right).
    pub padding: [(usize, usize); 2],
}

/// A tensor that training changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// `<layer>.weight`, `.bias`, `.gamma` or `.beta`.
    pub name: String,
    /// Index of the layer it belongs to.
    pub layer: usize,
    /// What it is.
    pub role: Role,
    /// OIHW or `[out, in]` for weights, `[channels]` for the rest.
    pub shape: Vec<usize>,
}

impl ParamSpec {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no values; a checked graph has no such parameter.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inputs that one output of the layer sums up.
    pub fn fan_in(&self) -> usize {
        self.shape[1..].iter().product()
    }
}

/// What a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Multiplied with activations; the only kind that is pruned and decayed.
    Weight,
    /// Added to outputs.
    Bias,
    /// Scale of a batch norm.
    Gamma,
    /// Shift of a batch norm.
    Beta,
    /// Weights of a gate, see [`Network::gated`](super::module::Network::gated).
    Gate,
}

impl Graph {
    /// Checks a description and infers every shape.
    ///
    /// # Errors
    /// Names the first layer that cannot work and says why.
    pub fn new(spec: &NetSpec) -> Result<Self, NetError> {
        let whole = |problem: String| NetError::Network { name: spec.name.clone(), problem };
        let input = spec
            .input
            .ok_or_else(|| whole("the input shape is not known; give `input` or data".into()))?;
        if volume(input) == 0 {
            return Err(whole(format!("the input shape {input:?} has a zero")));
        }
        if spec.layers.is_empty() {
            return Err(whole("has no layers".into()));
        }
        let mut layers: Vec<Node> = Vec::with_capacity(spec.layers.len());
        let mut index: HashMap<&str, usize> = HashMap::new();
        let mut used = vec![false; spec.layers.len()];
        for (position, layer) in spec.layers.iter().enumerate() {
            let refuse = |problem: String| NetError::Layer {
                layer: layer.name.clone(),
                kind: layer.kind.name(),
                problem,
            };
            let name_ok = !layer.name.is_empty()
                && layer.name != INPUT
                && layer.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            if !name_ok {
                return Err(refuse(format!(
                    "a name consists of letters, digits, `-` and `_`, and `{INPUT}` is taken"
                )));
            }
            if index.insert(&layer.name, position).is_some() {
                return Err(refuse("the name is used twice".into()));
            }
            let inputs = if layer.inputs.is_empty() {
                vec![position.checked_sub(1).map_or(Source::Input, Source::Layer)]
            } else {
                let find = |name: &String| match index.get(name.as_str()) {
                    Some(&other) if other != position => Ok(Source::Layer(other)),
                    _ if name == INPUT => Ok(Source::Input),
                    Some(_) => Err(refuse("reads itself".into())),
                    None if spec.layers.iter().any(|other| other.name == *name) => {
                        Err(refuse(format!(
                            "reads `{name}`, which comes later; a layer can only read layers above it"
                        )))
                    }
                    None => Err(refuse(format!("reads `{name}`, which does not exist"))),
                };
                layer.inputs.iter().map(find).collect::<Result<_, _>>()?
            };
            for source in &inputs {
                if let Source::Layer(other) = *source {
                    used[other] = true;
                    if layers[other].op == Op::Softmax {
                        return Err(refuse("reads a softmax, which can only be the result".into()));
                    }
                }
            }
            let shapes: Vec<Shape> = inputs
                .iter()
                .map(|source| match *source {
                    Source::Input => input,
                    Source::Layer(other) => layers[other].output,
                })
                .collect();
            let (op, output) = infer(&layer.kind, &shapes).map_err(refuse)?;
            layers.push(Node { name: layer.name.clone(), inputs, op, input: shapes[0], output });
        }
        used[layers.len() - 1] = true;
        if let Some(unused) = used.iter().position(|&used| !used) {
            return Err(NetError::Layer {
                layer: layers[unused].name.clone(),
                kind: spec.layers[unused].kind.name(),
                problem: "nothing reads its result".into(),
            });
        }
        let graph = Self { name: spec.name.clone(), task: spec.task, input, layers };
        let output = graph.output();
        if output[..2] != [1, 1] {
            return Err(whole(format!(
                "the result has the shape {output:?}; expected a flat one (add `global-avg-pool` or `flatten`)"
            )));
        }
        if graph.task == Task::Reconstruct && volume(output) != volume(input) {
            return Err(whole(format!(
                "reconstructs {} input values with {} outputs; end with a linear layer with out = \"inputs\"",
                volume(input),
                volume(output)
            )));
        }
        if graph.params().is_empty() {
            return Err(whole("has no layer that could learn".into()));
        }
        Ok(graph)
    }

    /// Shape of the result.
    pub fn output(&self) -> Shape {
        self.layers[self.layers.len() - 1].output
    }

    /// Shape of what a source delivers.
    pub fn shape_of(&self, source: Source) -> Shape {
        match source {
            Source::Input => self.input,
            Source::Layer(index) => self.layers[index].output,
        }
    }

    /// Every trained tensor in the order of the layers.
    pub fn params(&self) -> Vec<ParamSpec> {
        let mut params = Vec::new();
        for (layer, node) in self.layers.iter().enumerate() {
            let mut add = |role, suffix, shape: &[usize]| {
                params.push(ParamSpec {
                    name: format!("{}.{suffix}", node.name),
                    layer,
                    role,
                    shape: shape.to_vec(),
                });
            };
            let channels = [node.output[2]];
            match node.op {
                Op::Conv { ref weight, bias, .. } => {
                    add(Role::Weight, "weight", weight);
                    if bias {
                        add(Role::Bias, "bias", &channels);
                    }
                }
                Op::Linear { ref weight, bias } => {
                    add(Role::Weight, "weight", weight);
                    if bias {
                        add(Role::Bias, "bias", &channels);
                    }
                }
                Op::BatchNorm { .. } => {
                    add(Role::Gamma, "gamma", &channels);
                    add(Role::Beta, "beta", &channels);
                }
                _ => {}
            }
        }
        params
    }

    /// Multiply-accumulates of one layer when all weights are used; zero for layers without weights.
    pub fn macs(&self, layer: usize) -> usize {
        let node = &self.layers[layer];
        node.op
            .weight_shape()
            .map_or(0, |shape| node.output[0] * node.output[1] * shape.iter().product::<usize>())
    }

    /// Multiply-accumulates of one inference that skips zero weights: each nonzero weight is used
    /// once per output position. `nonzeros` tells the nonzero weights of a layer.
    pub fn sparse_macs(&self, nonzeros: impl Fn(usize) -> usize) -> usize {
        (0..self.layers.len())
            .filter(|&layer| self.layers[layer].op.weight_shape().is_some())
            .map(|layer| {
                let [height, width, _] = self.layers[layer].output;
                height * width * nonzeros(layer)
            })
            .sum()
    }
}

fn infer(kind: &Kind, shapes: &[Shape]) -> Result<(Op, Shape), String> {
    if *kind == (Kind::Add {}) {
        if shapes.len() < 2 {
            return Err(format!("expected two or more inputs, found {}", shapes.len()));
        }
        return match shapes.iter().find(|&&shape| shape != shapes[0]) {
            Some(other) => {
                Err(format!("adds tensors of different shapes: {:?} and {other:?}", shapes[0]))
            }
            None => Ok((Op::Add, shapes[0])),
        };
    }
    let &[input @ [height, width, channels]] = shapes else {
        return Err(format!("expected one input, found {}", shapes.len()));
    };
    let conv =
        |out: usize, kernel: Pair, stride: Pair, padding: Padding, groups: usize, bias: bool| {
            if out == 0 || groups == 0 {
                return Err("the number of channels and of groups must not be zero".to_owned());
            }
            if !channels.is_multiple_of(groups) || !out.is_multiple_of(groups) {
                return Err(format!(
                    "{groups} groups do not divide both {channels} input and {out} output channels"
                ));
            }
            let (window, [h, w]) = slide([height, width], kernel, stride, padding)?;
            let weight = [out, channels / groups, kernel.0[0], kernel.0[1]];
            Ok((Op::Conv { weight, window, groups, bias }, [h, w, out]))
        };
    match *kind {
        Kind::Conv { out, kernel, stride, padding, groups, bias } => {
            conv(out, kernel, stride, padding, groups, bias)
        }
        Kind::Depthwise { kernel, stride, padding, multiplier, bias } => {
            conv(channels * multiplier, kernel, stride, padding, channels, bias)
        }
        Kind::Pointwise { out, stride, bias } => {
            conv(out, Pair::square(1), stride, Padding::VALID, 1, bias)
        }
        Kind::Linear { out, bias } => {
            let Features::Fixed(out) = out else {
                return Err("the number of classes or inputs is not known without data".into());
            };
            if out == 0 {
                return Err("the number of outputs must not be zero".into());
            }
            if [height, width] != [1, 1] {
                return Err(format!(
                    "expected a flat input, found {input:?}; put `flatten` or `global-avg-pool` before it"
                ));
            }
            Ok((Op::Linear { weight: [out, channels], bias }, [1, 1, out]))
        }
        Kind::BatchNorm { epsilon } if epsilon > 0.0 && epsilon.is_finite() => {
            Ok((Op::BatchNorm { epsilon }, input))
        }
        Kind::BatchNorm { epsilon } => Err(format!("epsilon must be positive, found {epsilon}")),
        Kind::Relu {} => Ok((Op::Relu, input)),
        Kind::Relu6 {} => Ok((Op::Relu6, input)),
        Kind::MaxPool { kernel, stride, padding } => {
            let (window, [h, w]) =
                slide([height, width], kernel, stride.unwrap_or(kernel), padding)?;
            Ok((Op::MaxPool(window), [h, w, channels]))
        }
        Kind::AvgPool { kernel, stride, padding } => {
            let (window, [h, w]) =
                slide([height, width], kernel, stride.unwrap_or(kernel), padding)?;
            Ok((Op::AvgPool(window), [h, w, channels]))
        }
        Kind::GlobalAvgPool {} => Ok((Op::GlobalAvgPool, [1, 1, channels])),
        Kind::Add {} => unreachable!("handled above"),
        Kind::Flatten {} => Ok((Op::Flatten, [1, 1, volume(input)])),
        Kind::Softmax {} if [height, width] == [1, 1] => Ok((Op::Softmax, input)),
        Kind::Softmax {} => Err(format!("expected a flat input, found {input:?}")),
    }
}

/// Resolves padding and finds the output size of a sliding window.
fn slide(
    input: [usize; 2],
    kernel: Pair,
    stride: Pair,
    padding: Padding,
) -> Result<(Window, [usize; 2]), String> {
    let (Pair(kernel), Pair(stride)) = (kernel, stride);
    if kernel.contains(&0) || stride.contains(&0) {
        return Err("kernel and stride must not be zero".into());
    }
    let padding = match padding {
        Padding::Rule(PaddingRule::Valid) => [(0, 0); 2],
        Padding::Rule(PaddingRule::Same) => [0, 1].map(|d| {
            let output = input[d].div_ceil(stride[d]);
            let total = ((output - 1) * stride[d] + kernel[d]).saturating_sub(input[d]);
            (total / 2, total - total / 2)
        }),
        Padding::Explicit { top, bottom, left, right } => [(top, bottom), (left, right)],
    };
    let mut output = [0; 2];
    for d in 0..2 {
        let (before, after) = padding[d];
        if before >= kernel[d] || after >= kernel[d] {
            return Err(format!(
                "padding {padding:?} reaches beyond the kernel {kernel:?}: some windows would see nothing but padding"
            ));
        }
        let padded = input[d] + before + after;
        if kernel[d] > padded {
            return Err(format!(
                "the kernel {kernel:?} is larger than the padded input ({padded} in dimension {d})"
            ));
        }
        output[d] = (padded - kernel[d]) / stride[d] + 1;
    }
    Ok((Window { kernel, stride, padding }, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(layers: &str) -> Result<Graph, NetError> {
        let spec: NetSpec = toml::from_str(&format!("name = \"t\"\n{layers}")).unwrap();
        Graph::new(&spec.for_data([9, 7, 4], 3)?)
    }

    #[test]
    fn same_padding_is_tensorflows() {
        let conv = |kernel, stride| {
            slide([9, 7], Pair::square(kernel), Pair::square(stride), Padding::SAME)
        };
        let (window, output) = conv(3, 2).unwrap();
        assert_eq!((window.padding, output), ([(1, 1), (1, 1)], [5, 4]));
        let (window, output) = conv(4, 1).unwrap();
        assert_eq!((window.padding, output), ([(1, 2), (1, 2)], [9, 7]));
        let (window, output) = conv(1, 3).unwrap();
        assert_eq!((window.padding, output), ([(0, 0), (0, 0)], [3, 3]));
    }

    #[test]
    fn impossible_layers_are_named() {
        let head = "[[layers]]\nname = \"pool\"\nkind = \"global-avg-pool\"\n\
                    [[layers]]\nname = \"fc\"\nkind = \"linear\"\nout = \"classes\"\n";
        for (layers, layer, why) in [
            (
                "[[layers]]\nname = \"big\"\nkind = \"conv\"\nout = 2\nkernel = 8\npadding = \"valid\"\n",
                "big",
                "larger",
            ),
            (
                "[[layers]]\nname = \"grp\"\nkind = \"conv\"\nout = 6\nkernel = 3\ngroups = 3\n",
                "grp",
                "divide",
            ),
            (
                "[[layers]]\nname = \"a\"\nkind = \"max-pool\"\nkernel = 2\n\
                 [[layers]]\nname = \"sum\"\nkind = \"add\"\ninputs = [\"a\", \"input\"]\n",
                "sum",
                "different shapes",
            ),
            (
                "[[layers]]\nname = \"x\"\nkind = \"relu\"\ninputs = [\"nowhere\"]\n",
                "x",
                "does not exist",
            ),
            ("[[layers]]\nname = \"x\"\nkind = \"relu\"\ninputs = [\"fc\"]\n", "x", "comes later"),
            ("[[layers]]\nname = \"x\"\nkind = \"relu\"\ninputs = [\"x\"]\n", "x", "itself"),
            ("[[layers]]\nname = \"x\"\nkind = \"linear\"\nout = 3\n", "x", "flat"),
            ("[[layers]]\nname = \"pool\"\nkind = \"relu\"\n", "pool", "twice"),
            (
                "[[layers]]\nname = \"dead\"\nkind = \"relu\"\n\
                 [[layers]]\nname = \"b\"\nkind = \"relu\"\ninputs = [\"input\"]\n",
                "dead",
                "nothing reads",
            ),
        ] {
            let error = graph(&format!("{layers}{head}")).unwrap_err().to_string();
            assert!(error.contains(&format!("`{layer}`")) && error.contains(why), "{error}");
        }
        let graph = graph(head).unwrap();
        assert_eq!(graph.output(), [1, 1, 3]);
        assert_eq!(graph.macs(1), 12);
    }
}
