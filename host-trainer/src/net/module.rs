//! Runs a network with burn: an interpreter over its fused units.
//!
//! One function serves training and evaluation. Whether gradients are recorded depends on the
//! tensors that are passed in; evaluation passes tensors without autodiff and pays nothing for it.

use burn::tensor::{
    Device, Tensor, TensorData, activation, module,
    ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions},
};

use super::{
    params::Params,
    quant::Affine,
    shape::{Graph, Op, ParamSpec, Role, Source},
    units::{RangeRule, Unit, units},
};

/// A graph prepared for execution.
#[derive(Debug)]
pub struct Network {
    /// The graph.
    pub graph: Graph,
    /// Its units in the order of execution.
    pub units: Vec<Unit>,
    /// Its trained tensors, in the order in which [`Network::forward`] takes them.
    pub params: Vec<ParamSpec>,
    steps: Vec<Step>,
    norms: Vec<usize>,
}

/// A unit with every name resolved to an index.
#[derive(Debug)]
struct Step {
    op: Op,
    /// Slots of the tensors it reads: 0 is the input, unit `i` writes slot `i + 1`.
    inputs: Vec<usize>,
    weight: Option<usize>,
    bias: Option<usize>,
    /// Parameter of its gate, if it has one.
    gate: Option<usize>,
    norm: Option<Norm>,
    act: Option<Op>,
    range: RangeRule,
    /// Slot whose range the output has.
    range_slot: usize,
}

#[derive(Debug)]
struct Norm {
    gamma: usize,
    beta: usize,
    stats: usize,
    epsilon: f32,
    /// Whether it is the operation itself instead of being fused into one.
    alone: bool,
}

/// A batch norm behind a layer with weights: indices of parameters and statistics.
#[derive(Debug, Clone, Copy)]
pub struct FusedNorm {
    /// Weights of the layer.
    pub weight: usize,
    /// Bias of the layer.
    pub bias: Option<usize>,
    /// Scale of the batch norm.
    pub gamma: usize,
    /// Statistics of the batch norm.
    pub stats: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

/// Mean and variance of every channel.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Mean.
    pub mean: Tensor<1>,
    /// Variance, not corrected for the number of samples.
    pub var: Tensor<1>,
}

/// Smallest and largest value by slot: 0 is the input, then one per unit; unset until observed.
pub type Ranges = Vec<Option<[f32; 2]>>;

/// How batch norm gets its statistics.
#[derive(Debug, Clone, Copy)]
pub enum Norms<'a> {
    /// From the batch itself, which is returned.
    Batch,
    /// Given, one per batch norm; they are folded into weights and biases.
    Running(&'a [Stats]),
}

/// What a forward pass does beside computing.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Statistics of batch norm.
    pub norms: Norms<'a>,
    /// Simulates int8 weights and activations with these ranges.
    pub quantise: Option<&'a Ranges>,
    /// Returns the range of every tensor that the integer model has.
    pub observe: bool,
    /// Returns what the last layer with weights sees.
    pub features: bool,
}

impl<'a> Pass<'a> {
    /// A pass that does nothing beside.
    pub fn new(norms: Norms<'a>) -> Self {
        Self { norms, quantise: None, observe: false, features: false }
    }
}

/// What a forward pass computed.
pub struct Output {
    /// Result before any softmax: samples x classes.
    pub logits: Tensor<2>,
    /// Statistics of every batch norm, where they come from the batch.
    pub stats: Vec<Stats>,
    /// Smallest and largest value of observed slots.
    pub observed: Vec<(usize, Tensor<1>, Tensor<1>)>,
    /// Input of the last layer with weights, where it was asked for: samples x features.
    pub features: Option<Tensor<2>>,
}

impl Network {
    /// Prepares a graph.
    pub fn new(graph: Graph) -> Self {
        let params = graph.params();
        Self::with_params(graph, params)
    }

    /// Prepares a graph with a gate behind every layer with weights but the last.
    ///
    /// A gate scales each output channel by how much the very input needs it: by `2 sigmoid(A m + b)`, where
    /// m are the means of the layer's input channels (as in Gao et al., "Dynamic channel pruning: feature
    /// boosting and suppression", ICLR 2019). With A and b zero it changes nothing.
    pub fn gated(graph: Graph) -> Self {
        let mut params = graph.params();
        let mut layers: Vec<usize> =
            params.iter().filter(|p| p.role == Role::Weight).map(|p| p.layer).collect();
        layers.pop();
        params.extend(layers.into_iter().map(|layer| {
            let node = &graph.layers[layer];
            ParamSpec {
                name: format!("{}.gate", node.name),
                layer,
                role: Role::Gate,
                shape: vec![node.output[2], node.input[2] + 1],
            }
        }));
        Self::with_params(graph, params)
    }

    fn with_params(graph: Graph, params: Vec<ParamSpec>) -> Self {
        let find = |layer: usize, role: Role| {
            params.iter().position(|param| (param.layer, param.role) == (layer, role))
        };
        let norms: Vec<usize> = (0..graph.layers.len())
            .filter(|&layer| matches!(graph.layers[layer].op, Op::BatchNorm { .. }))
            .collect();
        let units = units(&graph);
        let slot = |source: &Source| match source {
            Source::Input => 0,
            Source::Layer(layer) => {
                1 + units
                    .iter()
                    .position(|unit| unit.output() == *layer)
                    .expect("units read outputs of units")
            }
        };
        let mut steps: Vec<Step> = Vec::with_capacity(units.len());
        for (index, unit) in units.iter().enumerate() {
            let inputs: Vec<usize> = unit.inputs.iter().map(slot).collect();
            let norm = unit.norm.map(|layer| {
                let Op::BatchNorm { epsilon } = graph.layers[layer].op else {
                    unreachable!("a unit's norm is a batch norm")
                };
                Norm {
                    gamma: find(layer, Role::Gamma).expect("every batch norm has a scale"),
                    beta: find(layer, Role::Beta).expect("every batch norm has a shift"),
                    stats: norms.iter().position(|&norm| norm == layer).expect("listed above"),
                    epsilon,
                    alone: unit.layer == layer,
                }
            });
            let range_slot = match unit.range {
                RangeRule::Inherited if inputs[0] == 0 => 0,
                RangeRule::Inherited => steps[inputs[0] - 1].range_slot,
                RangeRule::Observed | RangeRule::Probability => index + 1,
            };
            steps.push(Step {
                op: graph.layers[unit.layer].op,
                inputs,
                weight: find(unit.layer, Role::Weight),
                bias: find(unit.layer, Role::Bias),
                gate: find(unit.layer, Role::Gate),
                norm,
                act: unit.act.map(|layer| graph.layers[layer].op),
                range: unit.range,
                range_slot,
            });
        }
        Self { graph, units, params, steps, norms }
    }

    /// Layers of the batch norms, in the order of statistics.
    pub fn norms(&self) -> &[usize] {
        &self.norms
    }

    /// Name of the layer whose output is in a slot.
    pub fn slot_name(&self, slot: usize) -> &str {
        match slot {
            0 => super::spec::INPUT,
            _ => &self.graph.layers[self.units[slot - 1].output()].name,
        }
    }

    /// The batch norms that are fused into a layer with weights.
    pub fn fused_norms(&self) -> impl Iterator<Item = FusedNorm> {
        self.steps.iter().filter_map(|step| {
            let norm = step.norm.as_ref().filter(|norm| !norm.alone)?;
            Some(FusedNorm {
                weight: step.weight?,
                bias: step.bias,
                gamma: norm.gamma,
                stats: norm.stats,
                epsilon: norm.epsilon,
            })
        })
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.steps.len() + 1
    }

    /// Slots whose range is observed.
    pub fn observed_slots(&self) -> impl Iterator<Item = usize> {
        let units = self.steps.iter().enumerate();
        let observed = units.filter(|(_, step)| step.range == RangeRule::Observed);
        std::iter::once(0).chain(observed.map(|(index, _)| index + 1))
    }

    /// Computes the logits of a batch in sample x channel x height x width order.
    /// `params` holds every parameter flat, in the order of `self.params`.
    pub fn forward(&self, params: &[Tensor<1>], input: Tensor<4>, pass: &Pass<'_>) -> Output {
        self.forward_paths(&[params], input, pass)
    }

    /// Like [`forward`](Self::forward) with several sets of weights, each for an equal part of the
    /// batch. Everything else, batch norm with its statistics included, is that of the first set
    /// and sees the whole batch.
    pub fn forward_paths(
        &self,
        params: &[&[Tensor<1>]],
        input: Tensor<4>,
        pass: &Pass<'_>,
    ) -> Output {
        let samples = input.dims()[0];
        let mut stats: Vec<Option<Stats>> = vec![None; self.norms.len()];
        let mut observed = Vec::new();
        let mut finish = |slot: usize, range_slot: usize, rule: RangeRule, tensor: Tensor<4>| {
            if pass.observe && rule == RangeRule::Observed {
                let values = tensor.clone().without_autodiff();
                observed.push((slot, values.clone().min(), values.max()));
            }
            match pass.quantise.and_then(|ranges| ranges[range_slot]) {
                Some(range) => fake_quantise(tensor, Affine::covering(range)),
                None => tensor,
            }
        };
        let last = self.steps.iter().rposition(|step| step.weight.is_some());
        let mut features = None;
        let mut slots: Vec<Option<Tensor<4>>> = vec![None; self.slots()];
        slots[0] = Some(finish(0, 0, RangeRule::Observed, input));
        for (index, step) in self.steps.iter().enumerate() {
            // The last reader takes the tensor itself, so that burn may work in place.
            let mut take = |slot: usize| {
                let again =
                    self.steps[index + 1..].iter().any(|later| later.inputs.contains(&slot));
                let tensor = if again { slots[slot].clone() } else { slots[slot].take() };
                tensor.expect("units run in order")
            };
            let mut gate = None;
            let output = match step.op {
                Op::Conv { .. } | Op::Linear { .. } | Op::BatchNorm { .. } => {
                    let input = take(step.inputs[0]);
                    if pass.features && last == Some(index) {
                        features = Some(input.clone().reshape([samples as i32, -1]));
                    }
                    gate = step.gate.map(|at| self.gate(at, &params[0][at], input.clone()));
                    self.weighted(step, params, input, pass, &mut stats)
                }
                Op::Add => {
                    let mut sum = take(step.inputs[0]);
                    for (position, &slot) in step.inputs.iter().enumerate().skip(1) {
                        // The same tensor may be added to itself.
                        let again = step.inputs[position + 1..].contains(&slot)
                            || step.inputs[..position].contains(&slot);
                        sum = sum.clone() + if again { sum } else { take(slot) };
                    }
                    sum
                }
                Op::MaxPool(window) => module::max_pool2d(
                    take(step.inputs[0]),
                    MaxPoolOptions::new(window.kernel)
                        .with_stride(window.stride)
                        .with_padding_pairs(window.padding),
                ),
                Op::AvgPool(window) => module::avg_pool2d(
                    take(step.inputs[0]),
                    AvgPoolOptions::new(window.kernel)
                        .with_stride(window.stride)
                        .with_padding_pairs(window.padding)
                        .with_count_include_pad(false),
                ),
                Op::GlobalAvgPool => take(step.inputs[0]).mean_dim(3).mean_dim(2),
                Op::Flatten => take(step.inputs[0]).reshape([samples as i32, -1, 1, 1]),
                Op::Relu | Op::Relu6 | Op::Softmax => take(step.inputs[0]),
            };
            let output = match step.act {
                // Faster than a clamp, whose gradient fills masks.
                Some(Op::Relu6) => {
                    activation::relu(output.clone()) - activation::relu(output - 6.0)
                }
                Some(_) => activation::relu(output),
                None => output,
            };
            let output = match gate {
                Some(gate) => output * gate,
                None => output,
            };
            // Maxima and copies of quantised values are quantised already.
            let exact = matches!(step.op, Op::MaxPool(_) | Op::Flatten | Op::Softmax);
            slots[index + 1] = Some(if exact {
                output
            } else {
                finish(index + 1, step.range_slot, step.range, output)
            });
        }
        let logits = slots.pop().flatten().expect("the last unit writes the last slot");
        Output {
            logits: logits.reshape([samples as i32, -1]),
            stats: stats.into_iter().flatten().collect(),
            observed,
            features,
        }
    }

    /// Factors of the output channels that an input asks for.
    fn gate(&self, index: usize, values: &Tensor<1>, input: Tensor<4>) -> Tensor<4> {
        let [out, columns] = [0, 1].map(|axis| self.params[index].shape[axis]);
        let samples = input.dims()[0];
        let means = input.mean_dim(3).mean_dim(2).reshape([samples, columns - 1]);
        let rows: Tensor<2> = values.clone().reshape([out, columns]);
        let need = means.matmul(rows.clone().narrow(1, 0, columns - 1).transpose())
            + rows.narrow(1, columns - 1, 1).transpose();
        activation::sigmoid(need).mul_scalar(2.0).reshape([samples, out, 1, 1])
    }

    fn weighted(
        &self,
        step: &Step,
        paths: &[&[Tensor<1>]],
        input: Tensor<4>,
        pass: &Pass<'_>,
        stats: &mut [Option<Stats>],
    ) -> Tensor<4> {
        let param = |index: usize| paths[0][index].clone();
        let output = match (step.weight, paths) {
            (Some(_), [_, _, ..]) => {
                let parts = input.chunk(paths.len(), 0).into_iter().zip(paths);
                Tensor::cat(
                    parts.map(|(part, path)| self.sums(step, path, part, pass)).collect(),
                    0,
                )
            }
            _ => self.sums(step, paths[0], input, pass),
        };
        match (&step.norm, pass.norms) {
            (Some(norm), Norms::Batch) => {
                let (gamma, beta) = (param(norm.gamma), param(norm.beta));
                let result = module::batch_norm_train(output, gamma, beta, f64::from(norm.epsilon));
                stats[norm.stats] = Some(Stats {
                    mean: result.mean.without_autodiff(),
                    var: result.variance.without_autodiff(),
                });
                result.output
            }
            _ => output,
        }
    }

    /// What a layer computes before batch statistics: with given ones, they are folded in.
    fn sums(
        &self,
        step: &Step,
        params: &[Tensor<1>],
        input: Tensor<4>,
        pass: &Pass<'_>,
    ) -> Tensor<4> {
        let param = |index: usize| params[index].clone();
        let mut bias = step.bias.map(param);
        let mut weight = step.weight.map(|index| {
            let out = self.params[index].shape[0] as i32;
            param(index).reshape([out, -1])
        });
        if let (Some(norm), Norms::Running(running)) = (&step.norm, pass.norms) {
            let Stats { mean, var } = running[norm.stats].clone();
            let scale = param(norm.gamma) / (var + norm.epsilon).sqrt();
            let mean = bias.take().map_or(mean.clone(), |bias| mean - bias);
            let shift = param(norm.beta) - mean * scale.clone();
            if norm.alone {
                let channels = scale.dims()[0];
                let column = |values: Tensor<1>| values.reshape([1, channels, 1, 1]);
                return input * column(scale) + column(shift);
            }
            weight = weight.map(|weight| weight * scale.unsqueeze_dim::<2>(1));
            bias = Some(shift);
        }
        if pass.quantise.is_some() {
            weight = weight.map(fake_quantise_weight);
        }
        match (step.op, weight) {
            (Op::Conv { weight: shape, window, groups, .. }, Some(weight)) => module::conv2d(
                input,
                weight.reshape(shape),
                bias,
                ConvOptions::new_with_padding(window.stride, window.padding, [1, 1], groups),
            ),
            (Op::Linear { weight: [out, features], .. }, Some(weight)) => {
                let samples = input.dims()[0];
                let sums = input.reshape([samples, features]).matmul(weight.transpose());
                let sums = match bias {
                    Some(bias) => sums + bias.unsqueeze::<2>(),
                    None => sums,
                };
                sums.reshape([samples, out, 1, 1])
            }
            _ => input,
        }
    }

    /// Reads the parameters of a network from named host tensors.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn upload(&self, params: &Params, device: &Device) -> anyhow::Result<Vec<Tensor<1>>> {
        self.params
            .iter()
            .map(|spec| Ok(tensor(params.get(&spec.name, &spec.shape)?, device)))
            .collect()
    }
}

/// A flat tensor on a device.
pub fn tensor(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// The values of a tensor on the host.
pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.try_to_vec_as::<f32>().expect("32-bit floats are read as such")
}

/// Rounds to the steps of an int8 tensor. The gradient passes where the value is inside the range
/// (straight-through estimator).
fn fake_quantise(tensor: Tensor<4>, format: Affine) -> Tensor<4> {
    let [low, high] = format.limits();
    let inside = tensor.clamp(low, high);
    let plain = inside.clone().without_autodiff();
    let rounded = plain.clone().div_scalar(format.scale).round().mul_scalar(format.scale);
    inside + (rounded - plain)
}

/// Rounds weights, one row per output channel, to int8 steps of the row's largest magnitude.
fn fake_quantise_weight(weight: Tensor<2>) -> Tensor<2> {
    let plain = weight.clone().without_autodiff();
    // A row of zeros has any scale.
    let scale = plain.clone().abs().max_dim(1).clamp_min(1e-30).div_scalar(127.0);
    let rounded = (plain.clone() / scale.clone()).round() * scale;
    weight + (rounded - plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::preset;

    /// Gates that are zero change nothing; others scale channels by what the very input holds.
    #[test]
    fn gates_see_the_input() {
        let device = Device::flex();
        let spec = preset("lenet:width=0.5").unwrap().for_data([8, 8, 1], 3).unwrap();
        let graph = Graph::new(&spec).unwrap();
        let (plain, gated) = (Network::new(graph.clone()), Network::gated(graph));
        let values_of = |net: &Network, gate: f32| -> Vec<Tensor<1>> {
            let value = |param: &ParamSpec| -> Vec<f32> {
                let wave = |index: usize| (0.7 * index as f32).sin();
                match param.role {
                    Role::Gamma => vec![1.0; param.len()],
                    Role::Gate => vec![gate; param.len()],
                    _ => (0..param.len()).map(wave).collect(),
                }
            };
            net.params.iter().map(|param| tensor(&value(param), &device)).collect()
        };
        let batch: Vec<f32> = (0..128).map(|index| (0.3 * index as f32).cos()).collect();
        let batch = Tensor::from_data(TensorData::new(batch, [2, 1, 8, 8]), &device);
        let pass = Pass::new(Norms::Batch);
        let logits = |net: &Network, gate: f32| {
            values(&net.forward(&values_of(net, gate), batch.clone(), &pass).logits)
        };
        let open = logits(&gated, 0.0);
        assert_eq!(open, logits(&plain, 0.0));
        let differences = |other: Vec<f32>| -> Vec<f32> {
            let pairs = open.iter().zip(other);
            pairs.map(|(a, b)| (a - b).abs()).collect()
        };
        let moved = differences(logits(&gated, 0.5));
        assert!(moved.iter().all(|d| *d > 1e-4), "{moved:?}");
        assert_ne!(moved[..3], moved[3..]);
        assert_eq!(gated.params.len(), plain.params.len() + 3);
    }

    /// Paths next to each other compute what each computes alone, but for statistics in common.
    #[test]
    fn paths_have_their_own_weights() {
        let device = Device::flex();
        let spec = preset("resnet8:width=4").unwrap().for_data([8, 8, 1], 3).unwrap();
        let net = Network::new(Graph::new(&spec).unwrap());
        let wave = |len: usize, step: f32| -> Vec<f32> {
            (0..len).map(|index| (step * index as f32).sin()).collect()
        };
        let params = |step: f32| -> Vec<Tensor<1>> {
            let values = |param: &ParamSpec| match param.role {
                Role::Weight => wave(param.len(), step),
                Role::Gamma => vec![1.0; param.len()],
                _ => vec![0.1; param.len()],
            };
            net.params.iter().map(|param| tensor(&values(param), &device)).collect()
        };
        let (a, b) = (params(0.7), params(1.3));
        let batch =
            |step: f32| Tensor::from_data(TensorData::new(wave(128, step), [2, 1, 8, 8]), &device);
        let (x, y) = (batch(0.3), batch(0.5));
        let both = Tensor::cat(vec![x.clone(), y.clone()], 0);
        let stats: Vec<Stats> = net
            .norms()
            .iter()
            .map(|&layer| {
                let channels = net.graph.layers[layer].output[2];
                Stats {
                    mean: Tensor::zeros([channels], &device),
                    var: Tensor::ones([channels], &device),
                }
            })
            .collect();
        let running = Pass::new(Norms::Running(&stats));
        let together = values(&net.forward_paths(&[&a, &b], both.clone(), &running).logits);
        let apart = [
            values(&net.forward(&a, x, &running).logits),
            values(&net.forward(&b, y, &running).logits),
        ];
        assert_eq!(together, apart.concat());

        let pass = Pass { norms: Norms::Batch, ..running };
        let same = values(&net.forward_paths(&[&a, &a], both.clone(), &pass).logits);
        let alone = values(&net.forward(&a, both.clone(), &pass).logits);
        assert!(same.iter().zip(&alone).all(|(a, b)| (a - b).abs() < 1e-4));
        let other = values(&net.forward_paths(&[&a, &b], both, &pass).logits);
        assert!(other.iter().zip(&alone).any(|(a, b)| (a - b).abs() > 1e-2));
    }
}
