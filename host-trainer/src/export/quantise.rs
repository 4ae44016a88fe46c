//! A trained network in floating point becomes a [`Graph`] in integers.
//!
//! The scheme is TFLite's (Jacob et al., "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference", CVPR 2018): weights symmetric per output channel in
//! `-127..=127`, activations affine per tensor, biases in units of input scale times weight scale.
//! Batch norms are folded into the weights before them, ReLUs into the range of the output.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use niwaki_core::kernels::Rescale;
use niwaki_core::model::{Clamp, Window};

use super::graph::{Graph, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted};
use crate::data::Normalisation;
use crate::net::quant::{Affine, weight_scale};
use crate::net::shape::{self, Op, Source};
use crate::net::spec::Task;
use crate::net::units::{RangeRule, Unit, units};
use crate::net::{NetSpec, Params, Trained};

/// Quantises a trained network with the activation ranges that its training observed.
///
/// # Errors
///
/// When a parameter or a range is missing or not finite, naming it, or when the network computes
/// something that the integer operators do not offer, naming the layer.
pub fn quantise(trained: &Trained) -> Result<Graph> {
    let data = &trained.data;
    let graph =
        quantise_network(&trained.spec, &trained.params, &data.normalisation, &data.label_names)?;
    Ok(Graph { front_end: data.front_end, ..graph })
}

/// Quantises a network whose parts are given.
pub(super) fn quantise_network(
    spec: &NetSpec,
    params: &Params,
    normalisation: &Normalisation,
    labels: &[String],
) -> Result<Graph> {
    let network = shape::Graph::new(spec)?;
    let mut builder = Builder::new(&network, params)?;
    for unit in units(&network) {
        let name = &network.layers[unit.layer].name;
        builder.unit(&unit).with_context(|| format!("layer `{name}`"))?;
    }
    let result = builder.values[&Source::Layer(network.layers.len() - 1)];
    ensure!(
        result.flattened.is_none_or(|[height, width, _]| height * width == 1),
        "the network ends in a flattened image, whose order differs on the device: \
         end with a linear layer or a global pool"
    );
    let input = builder.tensors[0].quantisation;
    // (x - mean) / std = scale * (stored - zero_point), solved for the stored integer.
    let to_stored = |(mean, std): (&f32, &f32)| {
        let steps = 1.0 / (f64::from(*std) * f64::from(input.scale));
        (steps as f32, (f64::from(input.zero_point) - f64::from(*mean) * steps) as f32)
    };
    Ok(Graph {
        name: network.name.clone(),
        nodes: builder.nodes,
        input: TensorId(0),
        output: result.tensor,
        labels: match network.task {
            Task::Classify => labels.to_vec(),
            Task::Reconstruct => Vec::new(),
        },
        normalisation: normalisation.mean.iter().zip(&normalisation.std).map(to_stored).collect(),
        front_end: None,
        tensors: builder.tensors,
    })
}

/// The integer tensor that holds a layer's result.
#[derive(Clone, Copy)]
struct Value {
    tensor: TensorId,
    /// Shape before flattening. Training flattens in the order channel, row, column; the device keeps
    /// row, column, channel, and linear layers reorder their weights instead.
    flattened: Option<shape::Shape>,
}

struct Builder<'a> {
    network: &'a shape::Graph,
    params: &'a Params,
    tensors: Vec<TensorInfo>,
    nodes: Vec<Node>,
    values: HashMap<Source, Value>,
}

impl<'a> Builder<'a> {
    fn new(network: &'a shape::Graph, params: &'a Params) -> Result<Self> {
        let mut builder = Self {
            network,
            params,
            tensors: Vec::new(),
            nodes: Vec::new(),
            values: HashMap::new(),
        };
        let quantisation = builder.observed("input")?;
        let tensor = builder.tensor("input", network.input, quantisation);
        builder.values.insert(Source::Input, Value { tensor, flattened: None });
        Ok(builder)
    }

    fn values(&self, name: &str) -> Result<&'a [f32]> {
        let tensor = self.params.find(name).with_context(|| format!("`{name}` is missing"))?;
        let values = &tensor.data[..];
        let finite = values.iter().all(|value| value.is_finite());
        ensure!(finite, "`{name}` holds a value that is not finite: the training diverged");
        Ok(values)
    }

    /// The quantisation of an activation whose range training observed.
    fn observed(&self, layer: &str) -> Result<Quantisation> {
        let range = self.values(&format!("{layer}.range")).with_context(|| {
            format!(
                "the range of `{layer}` is needed: train with at least one quantisation-aware epoch"
            )
        })?;
        let &[min, max] = range else {
            bail!("`{layer}.range` holds {} values, expected 2", range.len());
        };
        let Affine { scale, zero_point } = Affine::covering([min, max]);
        Ok(Quantisation { scale, zero_point: zero_point as i8 })
    }

    fn tensor(&mut self, name: &str, shape: shape::Shape, quantisation: Quantisation) -> TensorId {
        let tensor = TensorInfo { name: name.to_owned(), shape, quantisation, view_of: None };
        self.tensors.push(tensor);
        TensorId(self.tensors.len() - 1)
    }

    fn quantisation(&self, tensor: TensorId) -> Quantisation {
        self.tensors[tensor.0].quantisation
    }

    fn unit(&mut self, unit: &Unit) -> Result<()> {
        let layer = &self.network.layers[unit.layer];
        let result = &self.network.layers[unit.output()];
        let inputs: Vec<Value> = unit.inputs.iter().map(|source| self.values[source]).collect();
        let first = inputs[0];
        let flattened = match layer.op {
            Op::Linear { .. } => None,
            Op::Flatten => Some(first.flattened.unwrap_or(layer.input)),
            _ => {
                ensure!(
                    inputs.iter().all(|input| input.flattened == first.flattened),
                    "combines tensors that were flattened from different shapes"
                );
                first.flattened
            }
        };
        let input = self.quantisation(first.tensor);
        let quantisation = match unit.range {
            RangeRule::Observed => self.observed(&result.name)?,
            RangeRule::Inherited => input,
            RangeRule::Probability => Quantisation { scale: 1.0 / 256.0, zero_point: -128 },
        };
        let tensor = self.tensor(&result.name, result.output, quantisation);
        self.values.insert(Source::Layer(unit.output()), Value { tensor, flattened });
        let act = unit.act.map(|act| self.network.layers[act].op);
        let clamp = clamp(act, quantisation);
        let operator = match layer.op {
            Op::Flatten => {
                self.tensors[tensor.0].view_of = Some(first.tensor);
                return Ok(());
            }
            Op::Conv { weight, window, groups, .. } => {
                let folded = self.folded(unit)?;
                let window = core_window(&window);
                if weight[1] == 1 && groups > 1 {
                    let weights = folded.quantised(input, quantisation, depthwise_order(weight));
                    Operator::Depthwise { weighted: weights?.clamped(clamp), window }
                } else {
                    let weights = folded.quantised(input, quantisation, conv_order(weight));
                    Operator::Conv { weighted: weights?.clamped(clamp), window, groups }
                }
            }
            Op::Linear { weight: [outputs, features], .. } => {
                let [height, width, depth] = first.flattened.unwrap_or([1, 1, features]);
                let order = move |position: usize| {
                    let (output, position) = (position / features, position % features);
                    let (pixel, channel) = (position / depth, position % depth);
                    output * features + channel * (height * width) + pixel
                };
                let folded = self.folded(unit)?;
                let order = (0..outputs * features).map(|p| (p / features, order(p))).collect();
                Operator::Linear {
                    weighted: folded.quantised(input, quantisation, order)?.clamped(clamp),
                }
            }
            Op::BatchNorm { .. } => {
                // A batch norm with nothing to fold into scales each channel by itself.
                let folded = self.folded(unit)?;
                let channels = layer.output[2];
                let order = (0..channels).map(|channel| (channel, channel)).collect();
                let weighted = folded.quantised(input, quantisation, order)?.clamped(clamp);
                let window = Window { kernel: [1, 1], stride: [1, 1], pad: [0, 0] };
                Operator::Depthwise { weighted, window }
            }
            Op::Relu | Op::Relu6 => {
                let top = if layer.op == Op::Relu6 { 6.0 } else { f64::INFINITY };
                Operator::lookup(input, quantisation, |x| x.clamp(0.0, top))
            }
            Op::MaxPool(window) => Operator::MaxPool { window: core_window(&window), clamp },
            Op::AvgPool(window) => Operator::AvgPool { window: core_window(&window), clamp },
            Op::GlobalAvgPool => {
                let [height, width, _] = layer.input;
                let window = Window { kernel: [height, width], stride: [1, 1], pad: [0, 0] };
                Operator::AvgPool { window, clamp }
            }
            Op::Add => return self.add(&result.name, &inputs, tensor, clamp),
            Op::Softmax => Operator::softmax(input.scale, 1.0)
                .context("the scale of the softmax's input is not usable")?,
        };
        self.nodes.push(Node {
            name: layer.name.clone(),
            inputs: vec![first.tensor],
            output: tensor,
            operator,
        });
        Ok(())
    }

    /// A sum of any number of inputs, two at a time, each partial sum with the result's scale.
    fn add(&mut self, name: &str, inputs: &[Value], output: TensorId, clamp: Clamp) -> Result<()> {
        let whole = Clamp { min: i8::MIN, max: i8::MAX };
        let quantisation = self.quantisation(output);
        let mut sum = inputs[0].tensor;
        for (index, input) in inputs.iter().enumerate().skip(1) {
            let last = index + 1 == inputs.len();
            let shape = self.tensors[output.0].shape;
            let target = match last {
                true => output,
                false => self.tensor(&format!("{name}.{index}"), shape, quantisation),
            };
            let scales = [self.quantisation(sum), self.quantisation(input.tensor)];
            let operator = Operator::add(scales, quantisation, if last { clamp } else { whole })
                .context("the scales of the sum are too far apart")?;
            self.nodes.push(Node {
                name: name.to_owned(),
                inputs: vec![sum, input.tensor],
                output: target,
                operator,
            });
            sum = target;
        }
        Ok(())
    }

    /// Weights and biases of a unit with its batch norm folded in.
    fn folded(&self, unit: &Unit) -> Result<Folded> {
        let layer = &self.network.layers[unit.layer];
        let channels = layer.output[2];
        let (mut weights, mut bias) = match layer.op {
            Op::BatchNorm { .. } => (vec![1.0; channels], vec![0.0; channels]),
            _ => {
                let bias = match layer.op {
                    Op::Conv { bias: true, .. } | Op::Linear { bias: true, .. } => {
                        self.values(&format!("{}.bias", layer.name))?.to_vec()
                    }
                    _ => vec![0.0; channels],
                };
                let mut weights = self.values(&format!("{}.weight", layer.name))?.to_vec();
                if let Some(mask) = self.params.find(&format!("{}.mask", layer.name)) {
                    ensure!(mask.data.len() == weights.len(), "mask and weights differ in length");
                    weights.iter_mut().zip(&mask.data).for_each(|(weight, keep)| *weight *= keep);
                }
                (weights, bias)
            }
        };
        ensure!(
            bias.len() == channels && !weights.is_empty() && weights.len() % channels == 0,
            "{} weights and {} biases do not fit {channels} output channels",
            weights.len(),
            bias.len()
        );
        if let Some(norm) = unit.norm {
            let norm = &self.network.layers[norm];
            let Op::BatchNorm { epsilon } = norm.op else {
                bail!("`{}` is not a batch norm", norm.name);
            };
            let of = |what: &str| self.values(&format!("{}.{what}", norm.name));
            let (gamma, beta, mean, var) = (of("gamma")?, of("beta")?, of("mean")?, of("var")?);
            let per_channel = weights.len() / channels;
            for channel in 0..channels {
                let factor = gamma[channel] / (var[channel] + epsilon).sqrt();
                for weight in &mut weights[channel * per_channel..][..per_channel] {
                    *weight *= factor;
                }
                bias[channel] = (bias[channel] - mean[channel]) * factor + beta[channel];
            }
        }
        Ok(Folded { weights, bias })
    }
}

/// Largest bias as stored, before the zero point's part is added: that of all sparse kernels.
const BIAS_LIMIT: f64 = (1 << 27) as f64;
/// Smallest factor from a sum to an output: further to the right, kernels have to shift in a slow way, or
/// cannot. Weights rounded to its steps change an output by less than a thousandth of a step each.
const SMALLEST_RESCALE: f64 = 1.0 / (1 << 20) as f64;

/// Float weights, output channel by output channel, and biases.
struct Folded {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Folded {
    /// Integers in the order given: for each of them its output channel and where it comes from.
    fn quantised(
        &self,
        input: Quantisation,
        output: Quantisation,
        order: Vec<(usize, usize)>,
    ) -> Result<Weighted> {
        let per_channel = self.weights.len() / self.bias.len();
        let input_scale = f64::from(input.scale);
        let scales: Vec<f64> = self
            .weights
            .chunks(per_channel)
            .zip(&self.bias)
            .map(|(weights, bias)| {
                let largest = weights.iter().fold(0.0f32, |most, w| most.max(w.abs()));
                let for_weights = match largest > f32::MIN_POSITIVE {
                    true => f64::from(weight_scale(largest)),
                    false => 0.0,
                };
                // A channel of tiny weights, or none, must still be able to express its bias.
                let for_bias = f64::from(bias.abs()) / (input_scale * BIAS_LIMIT);
                let for_rescale = SMALLEST_RESCALE * f64::from(output.scale) / input_scale;
                for_weights.max(for_bias).max(for_rescale)
            })
            .collect();
        let weights = order.iter().map(|&(channel, from)| {
            let steps = (f64::from(self.weights[from]) / scales[channel]).round();
            steps.clamp(-127.0, 127.0) as i8
        });
        let bias = self.bias.iter().zip(&scales);
        let bias =
            bias.map(|(&bias, scale)| (f64::from(bias) / (input_scale * scale)).round() as i32);
        let rescale = scales.iter().map(|scale| {
            Rescale::quantise(input_scale * scale / f64::from(output.scale))
                .context("the scales of input, weights and output are too far apart")
        });
        Ok(Weighted {
            weights: weights.collect(),
            bias: bias.collect(),
            rescale: rescale.collect::<Result<_>>()?,
            clamp: Clamp { min: i8::MIN, max: i8::MAX },
        })
    }
}

impl Weighted {
    fn clamped(self, clamp: Clamp) -> Self {
        Self { clamp, ..self }
    }
}

/// From OIHW to output channel, row, column, input channel.
fn conv_order([outputs, depth, height, width]: [usize; 4]) -> Vec<(usize, usize)> {
    let mut order = Vec::with_capacity(outputs * depth * height * width);
    for output in 0..outputs {
        for pixel in 0..height * width {
            for channel in 0..depth {
                order.push((output, (output * depth + channel) * height * width + pixel));
            }
        }
    }
    order
}

/// From OIHW with one input channel to row, column, output channel.
fn depthwise_order([outputs, _, height, width]: [usize; 4]) -> Vec<(usize, usize)> {
    let pixels = height * width;
    (0..pixels)
        .flat_map(|pixel| (0..outputs).map(move |output| (output, output * pixels + pixel)))
        .collect()
}

fn core_window(window: &shape::Window) -> Window {
    Window {
        kernel: window.kernel,
        stride: window.stride,
        pad: [window.padding[0].0, window.padding[1].0],
    }
}

fn clamp(act: Option<Op>, quantisation: Quantisation) -> Clamp {
    match act {
        Some(Op::Relu) => Clamp { min: quantisation.zero_point, max: i8::MAX },
        Some(Op::Relu6) => Clamp { min: quantisation.zero_point, max: quantisation.quantise(6.0) },
        _ => Clamp { min: i8::MIN, max: i8::MAX },
    }
}

#[cfg(test)]
mod tests {
    use niwaki_core::kernels::sparse::{LINEAR_SHIFTS, MAX_BIAS};

    use super::*;

    #[test]
    fn channels_without_weights_keep_their_bias_and_a_usual_shift() {
        let [input, output] =
            [(0.7, -3), (0.02, 5)].map(|(scale, zero_point)| Quantisation { scale, zero_point });
        let bias = vec![0.311, -1.7, 900.0, 0.0, 0.2, 2.0];
        let weights =
            [[0.0; 2], [1e-9, 0.0], [0.0; 2], [0.0; 2], [1e-4, -1e-4], [0.01, -0.004]].concat();
        let order = (0..weights.len()).map(|weight| (weight / 2, weight)).collect();
        let quantised = Folded { weights, bias: bias.clone() }.quantised(input, output, order);
        let quantised = quantised.unwrap();
        for (channel, &real) in bias.iter().enumerate() {
            let (multiplier, shift) = quantised.rescale[channel];
            assert!(LINEAR_SHIFTS.contains(&shift), "{channel}: {shift}");
            let stored = quantised.bias[channel];
            assert!(stored.unsigned_abs() < MAX_BIAS);
            let steps = f64::from(stored) * f64::from(multiplier) * f64::from(shift - 31).exp2();
            assert!((steps - f64::from(real) / 0.02).abs() < 0.01, "{channel}: {steps}");
        }
        assert_eq!(&quantised.weights[8..], [127, -127, 127, -51]);
    }
}
