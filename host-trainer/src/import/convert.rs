//! The operators of a TensorFlow Lite file become those of a [`Graph`].

use niwaki_core::kernels::Rescale;
use niwaki_core::model::{Clamp, Place, Window};

use super::file::{File, Operator as Source, Tensor};
use super::tables::{self, Table, WHOLE, requantise, tabulate};
use super::tflite_generated::tflite::{
    ActivationFunctionType, BuiltinOperator, Padding, TensorType,
};
use super::{Problem, Remedy};
use crate::export::{
    Constant, Function, Graph, Node, Operator, Quantisation, TensorId, TensorInfo, Weighted,
};

/// What stands in the way of importing an operator.
struct Refusal {
    what: String,
    remedy: Remedy,
}

type Result<T> = std::result::Result<T, Refusal>;

fn refuse<T>(remedy: Remedy, what: impl Into<String>) -> Result<T> {
    Err(Refusal { what: what.into(), remedy })
}

/// A combination that the operator allows and Niwaki does not.
fn unsupported<T>(what: impl Into<String>) -> Result<T> {
    refuse(Remedy::ReplaceOperator, what)
}

/// Something that no converter writes.
fn inconsistent<T>(what: impl Into<String>) -> Result<T> {
    refuse(Remedy::ConvertAgain, what)
}

/// Converts a file, or says everything that stands in the way.
pub(super) fn convert(file: &File<'_>, name: &str) -> std::result::Result<Graph, Vec<Problem>> {
    let mut importer = Importer::new(file);
    importer.check_borders();
    for (index, source) in file.operators.iter().enumerate() {
        let result = importer.operator(index, source);
        for &output in &source.outputs {
            importer.written[output] = true;
        }
        if let Err(refusal) = result {
            let output = source.outputs.first().map_or("", |&output| file.tensors[output].name);
            let place = format!("operator {index}, {}, output `{}`", source.name, short(output));
            importer.problems.push(refusal.into_problem(place));
        }
    }
    importer.finish(name)
}

impl Refusal {
    fn into_problem(self, place: String) -> Problem {
        Problem { place, what: self.what, remedy: self.remedy }
    }
}

struct Importer<'a> {
    file: &'a File<'a>,
    tensors: Vec<TensorInfo>,
    nodes: Vec<Node>,
    /// The graph's tensor for each of the file's that has one.
    ids: Vec<Option<TensorId>>,
    /// Whether an operator so far, or the caller, has written a tensor of the file.
    written: Vec<bool>,
    /// Operators that read each tensor of the file.
    readers: Vec<Vec<usize>>,
    /// Tensors that are not computed: padded ones whose reader pads itself.
    folded: Vec<Option<Folded>>,
    problems: Vec<Problem>,
}

/// A padded tensor that is not computed.
#[derive(Clone, Copy)]
struct Folded {
    /// Tensor that it is made of.
    from: usize,
    /// Rows above and columns to the left.
    pad: [usize; 2],
}

impl<'a> Importer<'a> {
    fn new(file: &'a File<'a>) -> Self {
        let count = file.tensors.len();
        let mut readers = vec![Vec::new(); count];
        for (index, operator) in file.operators.iter().enumerate() {
            for &input in operator.inputs.iter().flatten() {
                readers[input].push(index);
            }
        }
        let mut written = vec![false; count];
        for &input in &file.inputs {
            written[input] = true;
        }
        Self {
            file,
            tensors: Vec::new(),
            nodes: Vec::new(),
            ids: vec![None; count],
            written,
            readers,
            folded: vec![None; count],
            problems: Vec::new(),
        }
    }

    fn check_borders(&mut self) {
        for (what, indices) in [("input", &self.file.inputs), ("output", &self.file.outputs)] {
            let names: Vec<_> =
                indices.iter().map(|&index| short(self.file.tensors[index].name)).collect();
            if indices.len() != 1 {
                self.problems.push(Problem {
                    place: "the model".to_owned(),
                    what: format!(
                        "expected one {what}, found {}: {}",
                        indices.len(),
                        names.join(", ")
                    ),
                    remedy: Remedy::OneInputOneOutput,
                });
            }
            for (&index, name) in indices.iter().zip(names) {
                let tensor = &self.file.tensors[index];
                let batch = what == "input" && tensor.shape.len() > 1 && tensor.shape[0] != 1;
                if tensor.open || batch {
                    let sample = if tensor.open { "a shape left open" } else { "a batch" };
                    self.problems.push(Problem {
                        place: format!("{what} `{name}`"),
                        what: format!("{sample}: {:?}", tensor.shape),
                        remedy: Remedy::FixedShape,
                    });
                }
            }
        }
    }

    fn finish(mut self, name: &str) -> std::result::Result<Graph, Vec<Problem>> {
        let ends = match (&self.file.inputs[..], &self.file.outputs[..]) {
            (&[input], &[output]) if self.problems.is_empty() => {
                self.end(input).and_then(|input| Ok((input, self.end(output)?)))
            }
            _ => return Err(self.problems),
        };
        let (input, output) = match ends {
            Ok(ends) => ends,
            Err(refusal) => return Err(vec![refusal.into_problem("the model".to_owned())]),
        };
        let quantisation = self.tensors[input.0].quantisation;
        let scale = (1.0 / f64::from(quantisation.scale)) as f32;
        let mut graph = Graph {
            name: name.to_owned(),
            tensors: self.tensors,
            nodes: self.nodes,
            input,
            output,
            labels: vec![],
            normalisation: vec![(scale, quantisation.zero_point.into())],
            front_end: None,
        };
        if graph.nodes.is_empty() {
            let what = "it computes nothing".to_owned();
            return Err(vec![
                Refusal { what, remedy: Remedy::ConvertAgain }.into_problem("the model".into()),
            ]);
        }
        super::simplify::simplify(&mut graph);
        Ok(graph)
    }

    /// The integer tensor behind an input or output of the model.
    fn end(&mut self, index: usize) -> Result<TensorId> {
        match self.ids[index] {
            Some(id) => Ok(id),
            None if self.file.inputs.contains(&index) => self.tensor(index),
            None => inconsistent(format!(
                "no operator writes the output `{}`",
                short(self.file.tensors[index].name)
            )),
        }
    }

    fn operator(&mut self, index: usize, source: &Source<'_>) -> Result<()> {
        type Code = BuiltinOperator;
        let (Some(&Some(x)), Some(&y)) = (source.inputs.first(), source.outputs.first()) else {
            return unsupported(self.describe(source));
        };
        let op = Io { source, x, y };
        match source.code {
            Code::CONV_2D => self.conv(index, op),
            Code::DEPTHWISE_CONV_2D => self.depthwise(index, op),
            Code::FULLY_CONNECTED => self.linear(op),
            Code::AVERAGE_POOL_2D | Code::MAX_POOL_2D => self.pool(index, op),
            Code::ADD | Code::SUB | Code::MUL => self.binary(op),
            Code::PAD | Code::PADV2 => self.pad(op),
            Code::RESHAPE | Code::SQUEEZE | Code::EXPAND_DIMS => self.view(op),
            Code::CONCATENATION => self.concatenate(op),
            Code::STRIDED_SLICE => self.strided_slice(op),
            Code::SLICE => self.slice(op),
            Code::SPLIT => self.split(op),
            Code::TRANSPOSE => self.transpose(op),
            Code::MEAN | Code::SUM => self.reduce(op),
            Code::SOFTMAX => self.softmax(op),
            Code::LOGISTIC
            | Code::TANH
            | Code::RELU
            | Code::RELU6
            | Code::RELU_N1_TO_1
            | Code::LEAKY_RELU
            | Code::HARD_SWISH => self.activation(op),
            Code::QUANTIZE => self.quantise(op),
            Code::DEQUANTIZE => self.dequantise(op),
            _ => unsupported(self.describe(source)),
        }
    }

    /// An operator that there is no conversion for, with its shapes.
    fn describe(&self, source: &Source<'_>) -> String {
        let text = |&index: &usize| {
            let tensor = &self.file.tensors[index];
            let constant = if tensor.data.is_some() { "constant " } else { "" };
            format!("{constant}{} {:?}", kind(tensor.kind), tensor.shape)
        };
        let inputs: Vec<_> = source.inputs.iter().flatten().map(text).collect();
        let outputs: Vec<_> = source.outputs.iter().map(text).collect();
        format!(
            "this operator is not supported (version {}; from {} to {})",
            source.version,
            inputs.join(", "),
            outputs.join(", ")
        )
    }

    // Tensors.

    /// The graph's tensor for one of the file's.
    fn tensor(&mut self, index: usize) -> Result<TensorId> {
        if let Some(id) = self.ids[index] {
            return Ok(id);
        }
        let tensor = &self.file.tensors[index];
        let quantisation = self.quantisation(index)?;
        let info = TensorInfo {
            name: short(tensor.name).to_owned(),
            shape: shape_of(&tensor.shape),
            quantisation,
            view_of: None,
        };
        if info.is_empty() {
            return inconsistent(format!("`{}` has no elements", info.name));
        }
        let id = self.push(info);
        self.ids[index] = Some(id);
        Ok(id)
    }

    fn push(&mut self, info: TensorInfo) -> TensorId {
        self.tensors.push(info);
        TensorId(self.tensors.len() - 1)
    }

    /// The graph's tensor for one that an operator reads.
    fn read(&mut self, index: usize) -> Result<TensorId> {
        let tensor = &self.file.tensors[index];
        if tensor.data.is_some() {
            return unsupported(format!("its input `{}` is a constant", short(tensor.name)));
        }
        if !self.written[index] {
            return inconsistent(format!("nothing writes its input `{}`", short(tensor.name)));
        }
        self.tensor(index)
    }

    /// The tensor read, seen with another shape of the same number of elements.
    fn read_as(&mut self, index: usize, shape: [usize; 3]) -> Result<TensorId> {
        let id = self.read(index)?;
        let info = &self.tensors[id.0];
        if info.shape == shape {
            return Ok(id);
        }
        let view = TensorInfo { shape, view_of: Some(id), ..info.clone() };
        Ok(self.push(view))
    }

    /// The tensor written, seen with another shape of the same number of elements.
    fn write_as(&mut self, index: usize, shape: [usize; 3]) -> Result<TensorId> {
        let id = self.tensor(index)?;
        let info = &self.tensors[id.0];
        if info.shape == shape {
            return Ok(id);
        }
        let whole = TensorInfo { shape, ..info.clone() };
        let whole = self.push(whole);
        self.tensors[id.0].view_of = Some(whole);
        Ok(whole)
    }

    /// Scale and zero point of an activation.
    fn quantisation(&self, index: usize) -> Result<Quantisation> {
        let tensor = &self.file.tensors[index];
        let name = short(tensor.name);
        let at_border = self.file.inputs.contains(&index) || self.file.outputs.contains(&index);
        // Unsigned inputs and outputs are shifted to signed ones by the caller.
        let offset = match tensor.kind {
            TensorType::INT8 => 0,
            TensorType::UINT8 if at_border => 128,
            other => {
                return refuse(
                    Remedy::FullInteger,
                    format!("`{name}` is {}, expected int8", kind(other)),
                );
            }
        };
        let ([scale], [zero_point]) = (&tensor.scales[..], &tensor.zero_points[..]) else {
            return refuse(
                Remedy::FullInteger,
                format!(
                    "`{name}` has {} scales and {} zero points, expected one of each",
                    tensor.scales.len(),
                    tensor.zero_points.len()
                ),
            );
        };
        let zero_point = i8::try_from(zero_point - offset);
        match zero_point {
            Ok(zero_point) if scale.is_normal() && *scale > 0.0 => {
                Ok(Quantisation { scale: *scale, zero_point })
            }
            _ => refuse(
                Remedy::FullInteger,
                format!(
                    "`{name}` has scale {scale} and zero point {}, expected a positive scale and \
                     an int8",
                    tensor.zero_points[0]
                ),
            ),
        }
    }

    fn node(&mut self, inputs: Vec<TensorId>, output: TensorId, operator: Operator) {
        let name = self.tensors[output.0].name.clone();
        self.nodes.push(Node { name, inputs, output, operator });
    }

    // Constants.

    fn constant(&self, op: Io<'_>, position: usize, what: &str) -> Result<&'a Tensor<'a>> {
        let index = op.source.inputs.get(position).copied().flatten();
        let Some(tensor) = index.map(|index| &self.file.tensors[index]) else {
            return inconsistent(format!("it has no {what}"));
        };
        if tensor.data.is_none() {
            return unsupported(format!("its {what} `{}` is not constant", short(tensor.name)));
        }
        if tensor.sparse {
            return unsupported(format!("its {what} are stored sparse: expected all of them"));
        }
        Ok(tensor)
    }

    /// A constant vector of positions, sizes or axes.
    fn integers(&self, op: Io<'_>, position: usize, what: &str) -> Result<Vec<i64>> {
        let tensor = self.constant(op, position, what)?;
        let data = tensor.data.unwrap_or_default();
        let values: Vec<i64> = match tensor.kind {
            TensorType::INT32 => words(data).map(i32::from_le_bytes).map(i64::from).collect(),
            TensorType::INT64 => words(data).map(i64::from_le_bytes).collect(),
            other => return unsupported(format!("its {what} are {}", kind(other))),
        };
        if values.len() != tensor.len() {
            return inconsistent(format!("its {what} are incomplete"));
        }
        Ok(values)
    }

    /// Weights with their scales per output channel, `axis` being the output channels' dimension.
    fn weights(&self, op: Io<'_>, rank: usize, axis: usize) -> Result<(&'a Tensor<'a>, Vec<i8>)> {
        let tensor = self.constant(op, 1, "weights")?;
        let name = short(tensor.name);
        if tensor.kind != TensorType::INT8 {
            return refuse(
                Remedy::FullInteger,
                format!("its weights `{name}` are {}, expected int8", kind(tensor.kind)),
            );
        }
        let channels = match tensor.shape.get(axis) {
            Some(&channels) if tensor.shape.len() == rank && tensor.len() > 0 => channels,
            _ => return inconsistent(format!("its weights have the shape {:?}", tensor.shape)),
        };
        if tensor.zero_points.iter().any(|&zero_point| zero_point != 0) {
            return refuse(
                Remedy::FullInteger,
                format!("its weights `{name}` have a zero point, expected symmetric ones"),
            );
        }
        let scales = tensor.scales.len();
        if scales != 1 && (scales != channels || tensor.quantised_dimension != axis) {
            return refuse(
                Remedy::FullInteger,
                format!("its weights `{name}` have {scales} scales for {channels} channels"),
            );
        }
        let data = tensor.data.unwrap_or_default();
        if data.len() != tensor.len() {
            return inconsistent(format!("its weights `{name}` are incomplete"));
        }
        Ok((tensor, data.iter().map(|&byte| byte as i8).collect()))
    }

    fn bias(&self, op: Io<'_>, channels: usize) -> Result<Vec<i32>> {
        if op.source.inputs.get(2).copied().flatten().is_none() {
            return Ok(vec![0; channels]);
        }
        let tensor = self.constant(op, 2, "bias")?;
        if tensor.kind != TensorType::INT32 {
            return refuse(
                Remedy::FullInteger,
                format!("its bias is {}, expected int32", kind(tensor.kind)),
            );
        }
        let bias: Vec<i32> =
            words(tensor.data.unwrap_or_default()).map(i32::from_le_bytes).collect();
        match bias.len() == channels {
            true => Ok(bias),
            false => inconsistent(format!("{} biases for {channels} channels", bias.len())),
        }
    }

    /// Multiplier and shift of each output channel. The scales are multiplied in double precision.
    fn rescales(
        &self,
        op: Io<'_>,
        weights: &Tensor<'_>,
        channels: usize,
    ) -> Result<Vec<(i32, i32)>> {
        let [x, y] = [self.quantisation(op.x)?, self.quantisation(op.y)?];
        let scales = weights.scales.iter().cycle().take(channels);
        scales
            .map(|&scale| rescale(f64::from(x.scale) * f64::from(scale) / f64::from(y.scale)))
            .collect()
    }

    // Operators with weights.

    fn conv(&mut self, index: usize, op: Io<'_>) -> Result<()> {
        let geometry = self.geometry(index)?;
        let (weights, values) = self.weights(op, 4, 0)?;
        let [channels, kernel_h, kernel_w, depth] = dimensions(weights);
        let (x, window) = self.window(op, geometry)?;
        let y = self.tensor(op.y)?;
        let (x_shape, y_shape) = (self.tensors[x.0].shape, self.tensors[y.0].shape);
        let groups = x_shape[2] / depth;
        if x_shape[2] % depth != 0
            || groups == 0
            || channels % groups != 0
            || y_shape[2] != channels
        {
            return inconsistent(format!(
                "weights {:?} for an input of {} and an output of {} channels",
                weights.shape, x_shape[2], y_shape[2]
            ));
        }
        let weighted = Weighted {
            weights: dilate(&values, [channels, kernel_h, kernel_w, depth], geometry.dilation),
            bias: self.bias(op, channels)?,
            rescale: self.rescales(op, weights, channels)?,
            clamp: self.clamp(op, geometry.activation)?,
        };
        let whole = window.pad == [0, 0] && window.kernel == x_shape[..2] && groups == 1;
        let operator = if whole && y_shape[..2] == [1, 1] {
            Operator::Linear { weighted }
        } else {
            Operator::Conv { weighted, window, groups }
        };
        self.node(vec![x], y, operator);
        Ok(())
    }

    fn depthwise(&mut self, index: usize, op: Io<'_>) -> Result<()> {
        let geometry = self.geometry(index)?;
        let (weights, values) = self.weights(op, 4, 3)?;
        let [one, kernel_h, kernel_w, channels] = dimensions(weights);
        let (x, window) = self.window(op, geometry)?;
        let y = self.tensor(op.y)?;
        let (depth, outputs) = (self.tensors[x.0].shape[2], self.tensors[y.0].shape[2]);
        if one != 1 || channels % depth != 0 || outputs != channels {
            return inconsistent(format!(
                "weights {:?} for an input of {depth} and an output of {outputs} channels",
                weights.shape
            ));
        }
        let weighted = Weighted {
            weights: dilate(&values, [1, kernel_h, kernel_w, channels], geometry.dilation),
            bias: self.bias(op, channels)?,
            rescale: self.rescales(op, weights, channels)?,
            clamp: self.clamp(op, geometry.activation)?,
        };
        self.node(vec![x], y, Operator::Depthwise { weighted, window });
        Ok(())
    }

    fn linear(&mut self, op: Io<'_>) -> Result<()> {
        let Some(options) = op.source.options.builtin_options_as_fully_connected_options() else {
            return inconsistent("it has no options");
        };
        if options.weights_format().0 != 0 {
            return unsupported("its weights are shuffled");
        }
        let (weights, values) = self.weights(op, 2, 0)?;
        let (channels, depth) = (weights.shape[0], weights.shape[1]);
        let (x_len, y_len) = (self.file.tensors[op.x].len(), self.file.tensors[op.y].len());
        let rows = x_len / depth;
        if x_len % depth != 0 || rows == 0 || y_len != rows * channels {
            return inconsistent(format!(
                "weights {:?} for {x_len} inputs and {y_len} outputs",
                weights.shape
            ));
        }
        let rescale = if weights.scales.len() > 1 {
            self.rescales(op, weights, channels)?
        } else {
            // One scale for all: here the product is taken in single precision.
            let [x, y] = [self.quantisation(op.x)?, self.quantisation(op.y)?];
            let real = f64::from(x.scale * weights.scales[0]) / f64::from(y.scale);
            vec![rescale(real)?; channels]
        };
        let weighted = Weighted {
            weights: values,
            bias: self.bias(op, channels)?,
            rescale,
            clamp: self.clamp(op, options.fused_activation_function())?,
        };
        if rows == 1 {
            let (x, y) = (self.read(op.x)?, self.write_as(op.y, [1, 1, channels])?);
            self.node(vec![x], y, Operator::Linear { weighted });
        } else {
            // The same weights for each of several rows: a convolution of one element.
            let x = self.read_as(op.x, [1, rows, depth])?;
            let y = self.write_as(op.y, [1, rows, channels])?;
            let window = Window { kernel: [1, 1], stride: [1, 1], pad: [0, 0] };
            self.node(vec![x], y, Operator::Conv { weighted, window, groups: 1 });
        }
        Ok(())
    }

    // Windows.

    /// Window and activation of a convolution or pooling as the file describes them.
    fn geometry(&self, index: usize) -> Result<Geometry> {
        let source = &self.file.operators[index];
        let weights =
            source.inputs.get(1).copied().flatten().map(|index| &self.file.tensors[index]);
        let kernel = match weights.map(|weights| &weights.shape[..]) {
            Some(&[_, height, width, _]) => [height, width],
            _ => [0, 0],
        };
        type Code = BuiltinOperator;
        let options = &source.options;
        let geometry = match source.code {
            Code::CONV_2D => options.builtin_options_as_conv_2_doptions().map(|options| {
                let dilation = [options.dilation_h_factor(), options.dilation_w_factor()];
                let stride = [options.stride_h(), options.stride_w()];
                (options.padding(), stride, dilation, kernel, options.fused_activation_function())
            }),
            Code::DEPTHWISE_CONV_2D => {
                options.builtin_options_as_depthwise_conv_2_doptions().map(|options| {
                    let dilation = [options.dilation_h_factor(), options.dilation_w_factor()];
                    let stride = [options.stride_h(), options.stride_w()];
                    let activation = options.fused_activation_function();
                    (options.padding(), stride, dilation, kernel, activation)
                })
            }
            _ => options.builtin_options_as_pool_2_doptions().map(|options| {
                let positive = |size| usize::try_from(size).unwrap_or(0);
                let kernel = [options.filter_height(), options.filter_width()].map(positive);
                let stride = [options.stride_h(), options.stride_w()];
                let activation = options.fused_activation_function();
                (options.padding(), stride, [1, 1], kernel, activation)
            }),
        };
        let Some((padding, stride, dilation, kernel, activation)) = geometry else {
            return inconsistent("it has no options");
        };
        // What the format of blobs can express.
        let small = |size: i32| usize::try_from(size).ok().filter(|size| (1..=255).contains(size));
        let ([Some(stride_h), Some(stride_w)], [Some(dilation_h), Some(dilation_w)]) =
            (stride.map(small), dilation.map(small))
        else {
            return unsupported(format!("stride {stride:?}, dilation {dilation:?}"));
        };
        let dilation = [dilation_h, dilation_w];
        if kernel.contains(&0) {
            return inconsistent("a kernel without elements");
        }
        let spread = |axis: usize| (kernel[axis] - 1).saturating_mul(dilation[axis]) + 1;
        let kernel_spread = [spread(0), spread(1)];
        if dilation != [1, 1] && kernel_spread.iter().any(|&size| size > 255) {
            return unsupported(format!("kernel {kernel:?} with dilation {dilation:?}"));
        }
        Ok(Geometry {
            padding,
            stride: [stride_h, stride_w],
            dilation,
            kernel: kernel_spread,
            activation,
        })
    }

    /// The tensor that a window moves over and the window with its padding.
    fn window(&mut self, op: Io<'_>, geometry: Geometry) -> Result<(TensorId, Window)> {
        let (from, before) = match self.folded[op.x] {
            Some(folded) => (folded.from, folded.pad),
            None => (op.x, [0, 0]),
        };
        let pad = self.padding(op, geometry)?;
        let pad = [pad[0] + before[0], pad[1] + before[1]];
        let window = Window { kernel: geometry.kernel, stride: geometry.stride, pad };
        Ok((self.read(from)?, window))
    }

    /// Rows and columns of padding above and to the left.
    fn padding(&self, op: Io<'_>, geometry: Geometry) -> Result<[usize; 2]> {
        let (x, y) = (&self.file.tensors[op.x].shape, &self.file.tensors[op.y].shape);
        let (&[x_batch, x_height, x_width, _], &[y_batch, y_height, y_width, _]) = (&x[..], &y[..])
        else {
            return inconsistent(format!("from {x:?} to {y:?}: expected four dimensions"));
        };
        if x_batch != 1 || y_batch != 1 {
            return refuse(Remedy::FixedShape, format!("a batch of {x_batch}, expected 1"));
        }
        let mut pad = [0; 2];
        let sizes = [(x_height, y_height), (x_width, y_width)];
        for (axis, (input, output)) in sizes.into_iter().enumerate() {
            let (kernel, stride) = (geometry.kernel[axis], geometry.stride[axis]);
            let expected = match geometry.padding {
                Padding::SAME => input.div_ceil(stride),
                _ => (input + stride).saturating_sub(kernel) / stride,
            };
            if output != expected || output == 0 {
                return inconsistent(format!("from {x:?} to {y:?}: expected {expected}"));
            }
            if geometry.padding == Padding::SAME {
                pad[axis] = ((output - 1) * stride + kernel).saturating_sub(input) / 2;
            }
        }
        Ok(pad)
    }

    fn pool(&mut self, index: usize, op: Io<'_>) -> Result<()> {
        let geometry = self.geometry(index)?;
        let (x, window) = self.window(op, geometry)?;
        let y = self.tensor(op.y)?;
        if self.tensors[x.0].shape[2] != self.tensors[y.0].shape[2] {
            return inconsistent("it changes the number of channels");
        }
        let clamp = self.clamp(op, geometry.activation)?;
        let operator = match op.source.code {
            BuiltinOperator::MAX_POOL_2D => Operator::MaxPool { window, clamp },
            _ => Operator::AvgPool { window, clamp },
        };
        self.node(vec![x], y, operator);
        Ok(())
    }

    fn pad(&mut self, op: Io<'_>) -> Result<()> {
        let amounts = self.integers(op, 1, "amounts of padding")?;
        let (x, y) = (&self.file.tensors[op.x], &self.file.tensors[op.y]);
        let amounts: Vec<[usize; 2]> = amounts
            .chunks_exact(2)
            .map(|pair| [pair[0], pair[1]].map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
            .collect();
        let sizes = x.shape.iter().zip(&y.shape).zip(&amounts);
        let fits = |((&x, &y), &[before, after]): ((&usize, &usize), &[usize; 2])| {
            x.checked_add(before).and_then(|n| n.checked_add(after)) == Some(y)
        };
        let ranks = [x.shape.len(), y.shape.len(), amounts.len()];
        if ranks != [ranks[0]; 3] || !sizes.into_iter().all(fits) {
            return inconsistent(format!("from {:?} to {:?} by {amounts:?}", x.shape, y.shape));
        }
        let value = if op.source.inputs.len() > 2 {
            self.scalar(op, 2, "value of the padding")?
        } else {
            self.quantisation(op.y)?.zero_point
        };
        if let Some(folded) = self.fold_padding(op, value, &amounts)? {
            self.folded[op.y] = Some(folded);
            return Ok(());
        }
        let to = strides(&y.shape);
        let first = amounts.iter().zip(&to).map(|(amount, stride)| amount[0] * stride).sum();
        let axes = axes(&x.shape, &strides(&x.shape), &to);
        self.block(op, axes, 0, first, Some(value))
    }

    /// Whether the only reader of a padded tensor can pad itself.
    fn fold_padding(
        &self,
        op: Io<'_>,
        value: i8,
        amounts: &[[usize; 2]],
    ) -> Result<Option<Folded>> {
        let (&[reader], &[[0, 0], rows, columns, [0, 0]]) = (&self.readers[op.y][..], amounts)
        else {
            return Ok(None);
        };
        let source = &self.file.operators[reader];
        let quantisation = self.quantisation(op.x)?;
        let is_zero =
            value == quantisation.zero_point && quantisation == self.quantisation(op.y)?;
        let harmless = match source.code {
            BuiltinOperator::CONV_2D | BuiltinOperator::DEPTHWISE_CONV_2D => is_zero,
            // Padding of pools takes no part, as does the smallest value in a maximum.
            BuiltinOperator::MAX_POOL_2D => is_zero && value == i8::MIN,
            _ => false,
        };
        let first = source.inputs.first().copied().flatten() == Some(op.y);
        let (Some(&y), true) = (source.outputs.first(), harmless && first) else {
            return Ok(None);
        };
        if self.file.outputs.contains(&op.y) || self.folded[op.x].is_some() {
            return Ok(None);
        }
        // What is wrong with the reader is the reader's to say.
        let own = Io { source, x: op.y, y };
        let geometry = self.geometry(reader).ok();
        let Some((geometry, own)) = geometry.and_then(|g| Some((g, self.padding(own, g).ok()?)))
        else {
            return Ok(None);
        };
        let (x, y) = (&self.file.tensors[op.x].shape, &self.file.tensors[y].shape);
        let legal = [rows, columns].into_iter().enumerate().all(|(axis, [before, _])| {
            let pad = before + own[axis];
            let last = (y[axis + 1] - 1) * geometry.stride[axis];
            pad < geometry.kernel[axis] && last < x[axis + 1] + pad
        });
        Ok(legal.then_some(Folded { from: op.x, pad: [rows[0], columns[0]] }))
    }

    // Blocks.

    fn view(&mut self, op: Io<'_>) -> Result<()> {
        let (x, y) = (self.read(op.x)?, self.tensor(op.y)?);
        if self.tensors[x.0].len() != self.tensors[y.0].len() {
            return inconsistent("it changes the number of elements");
        }
        self.tensors[y.0].view_of = Some(x);
        Ok(())
    }

    /// A node that copies a block from `op.x` to `op.y`.
    fn block(
        &mut self,
        op: Io<'_>,
        axes: Vec<Axis>,
        from: usize,
        to: usize,
        fill: Option<i8>,
    ) -> Result<()> {
        let (x, y) = (self.read(op.x)?, self.tensor(op.y)?);
        let Some([a, b, c]) = merge(&axes) else {
            return unsupported(format!(
                "from {:?} to {:?} it moves elements along more than three axes",
                self.file.tensors[op.x].shape, self.file.tensors[op.y].shape
            ));
        };
        let operator = Operator::Copy {
            counts: [a.count, b.count, c.count],
            source: Place { first: from, strides: [a.from, b.from, c.from] },
            destination: Place { first: to, strides: [a.to, b.to, c.to] },
            fill,
        };
        self.node(vec![x], y, operator);
        Ok(())
    }

    fn concatenate(&mut self, op: Io<'_>) -> Result<()> {
        let Some(options) = op.source.options.builtin_options_as_concatenation_options() else {
            return inconsistent("it has no options");
        };
        if options.fused_activation_function() != ActivationFunctionType::NONE {
            return unsupported("a fused activation");
        }
        let shape = &self.file.tensors[op.y].shape;
        let axis = axis(options.axis().into(), shape.len())?;
        let to = strides(shape);
        let mut at = 0;
        for &input in &op.source.inputs {
            let Some(input) = input else { return inconsistent("an input is missing") };
            let part = &self.file.tensors[input].shape;
            let others = |shape: &[usize]| {
                let others = shape.iter().enumerate().filter(|&(index, _)| index != axis);
                others.map(|(_, &n)| n).collect::<Vec<_>>()
            };
            if part.len() != shape.len() || others(part) != others(shape) {
                return inconsistent(format!("it joins {part:?} into {shape:?}"));
            }
            let axes = axes(part, &strides(part), &to);
            self.block(Io { x: input, ..op }, axes, 0, at * to[axis], None)?;
            at += part[axis];
        }
        match at == shape[axis] {
            true => Ok(()),
            false => inconsistent(format!("its inputs do not fill {shape:?}")),
        }
    }

    /// A node that copies the elements at `begin`, `begin + step`, … of `op.x` to all of `op.y`.
    fn cut(&mut self, op: Io<'_>, begin: &[usize], step: &[usize], counts: &[usize]) -> Result<()> {
        let (x, y) = (&self.file.tensors[op.x], &self.file.tensors[op.y]);
        let from = strides(&x.shape);
        let inside = x.shape.iter().zip(begin).zip(step.iter().zip(counts)).all(
            |((&len, &begin), (&step, &count))| {
                count > 0
                    && (count - 1)
                        .checked_mul(step)
                        .and_then(|last| last.checked_add(begin))
                        .is_some_and(|last| last < len)
            },
        );
        if !inside || counts.iter().product::<usize>() != y.len() {
            return inconsistent(format!(
                "it cuts {counts:?} at {begin:?} in steps of {step:?} from {:?} to {:?}",
                x.shape, y.shape
            ));
        }
        let first = begin.iter().zip(&from).map(|(begin, stride)| begin * stride).sum();
        let steps: Vec<usize> = from.iter().zip(step).map(|(stride, step)| stride * step).collect();
        let axes = axes(counts, &steps, &strides(counts));
        self.block(op, axes, first, 0, None)
    }

    fn strided_slice(&mut self, op: Io<'_>) -> Result<()> {
        let Some(options) = op.source.options.builtin_options_as_strided_slice_options() else {
            return inconsistent("it has no options");
        };
        if options.ellipsis_mask() != 0 || options.new_axis_mask() != 0 || options.offset() {
            return unsupported("an ellipsis, a new axis or ends as offsets");
        }
        let begin = self.integers(op, 1, "beginnings")?;
        let end = self.integers(op, 2, "ends")?;
        let step = self.integers(op, 3, "steps")?;
        let shape = self.file.tensors[op.x].shape.clone();
        let rank = shape.len();
        if begin.len() != end.len() || end.len() != step.len() || step.len() > rank {
            return inconsistent(format!("slices {begin:?} {end:?} {step:?} of {shape:?}"));
        }
        if step.iter().any(|&step| step < 1) {
            return unsupported(format!("steps {step:?}: expected positive ones"));
        }
        let (mut first, mut steps, mut counts) = (vec![0; rank], vec![1; rank], shape.clone());
        for axis in 0..begin.len() {
            let len = shape[axis] as i64;
            let place = |at: i64| (if at < 0 { at + len } else { at }).clamp(0, len);
            let has = |mask: i32| axis < 31 && mask & (1 << axis) != 0;
            let from = if has(options.begin_mask()) { 0 } else { place(begin[axis]) };
            let mut to = if has(options.end_mask()) { len } else { place(end[axis]) };
            if has(options.shrink_axis_mask()) {
                to = from + 1;
            }
            first[axis] = from as usize;
            steps[axis] = step[axis] as usize;
            counts[axis] = ((to - from).max(0) as usize).div_ceil(steps[axis]);
        }
        self.cut(op, &first, &steps, &counts)
    }

    fn slice(&mut self, op: Io<'_>) -> Result<()> {
        let begin = self.integers(op, 1, "beginnings")?;
        let size = self.integers(op, 2, "sizes")?;
        let shape = self.file.tensors[op.x].shape.clone();
        if begin.len() != shape.len() || size.len() != shape.len() {
            return inconsistent(format!("a slice {begin:?} {size:?} of {shape:?}"));
        }
        let begin: Vec<usize> =
            begin.iter().map(|&begin| usize::try_from(begin).unwrap_or(usize::MAX)).collect();
        let rest = |axis: usize| shape[axis].saturating_sub(begin[axis]);
        let counts: Vec<usize> = size
            .iter()
            .enumerate()
            .map(|(axis, &size)| usize::try_from(size).unwrap_or_else(|_| rest(axis)))
            .collect();
        self.cut(op, &begin, &vec![1; shape.len()], &counts)
    }

    fn split(&mut self, op: Io<'_>) -> Result<()> {
        let Some(x) = op.source.inputs.get(1).copied().flatten() else {
            return inconsistent("an input is missing");
        };
        let shape = self.file.tensors[x].shape.clone();
        let at = match self.integers(op, 0, "axis")?[..] {
            [at] => axis(at, shape.len())?,
            _ => return inconsistent("expected one axis"),
        };
        let parts = op.source.outputs.len();
        let mut counts = shape.clone();
        counts[at] = shape[at] / parts;
        for (part, &y) in op.source.outputs.iter().enumerate() {
            let mut begin = vec![0; shape.len()];
            begin[at] = part * counts[at];
            // A part that nothing reads needs no copy.
            if !self.readers[y].is_empty() || self.file.outputs.contains(&y) {
                self.cut(Io { x, y, ..op }, &begin, &vec![1; shape.len()], &counts)?;
            }
        }
        Ok(())
    }

    fn transpose(&mut self, op: Io<'_>) -> Result<()> {
        let order = self.integers(op, 1, "order of axes")?;
        let (x, y) = (&self.file.tensors[op.x], &self.file.tensors[op.y]);
        let rank = x.shape.len();
        let order: Vec<usize> = order.iter().map(|&at| axis(at, rank)).collect::<Result<_>>()?;
        let mut sorted = order.clone();
        sorted.sort_unstable();
        let shape: Vec<usize> = order.iter().map(|&axis| x.shape[axis]).collect();
        if !sorted.iter().copied().eq(0..rank) || shape != y.shape {
            return inconsistent(format!("from {:?} to {:?} by {order:?}", x.shape, y.shape));
        }
        let moved: Vec<usize> = order.iter().copied().filter(|&axis| x.shape[axis] != 1).collect();
        if moved.is_sorted() {
            return self.view(op);
        }
        let x_strides = strides(&x.shape);
        let from: Vec<usize> = order.iter().map(|&axis| x_strides[axis]).collect();
        let axes = axes(&shape, &from, &strides(&shape));
        self.block(op, axes, 0, 0, None)
    }

    // Elementwise operators.

    /// A constant int8 of one element.
    fn scalar(&self, op: Io<'_>, position: usize, what: &str) -> Result<i8> {
        let tensor = self.constant(op, position, what)?;
        match (tensor.kind, tensor.data) {
            (TensorType::INT8, Some(&[value])) => Ok(value as i8),
            _ => unsupported(format!("its {what} is {} {:?}", kind(tensor.kind), tensor.shape)),
        }
    }

    fn binary(&mut self, op: Io<'_>) -> Result<()> {
        type Code = BuiltinOperator;
        let options = &op.source.options;
        let activation = match op.source.code {
            Code::ADD => {
                options.builtin_options_as_add_options().map(|o| o.fused_activation_function())
            }
            Code::SUB => {
                options.builtin_options_as_sub_options().map(|o| o.fused_activation_function())
            }
            _ => options.builtin_options_as_mul_options().map(|o| o.fused_activation_function()),
        };
        let Some(activation) = activation else { return inconsistent("it has no options") };
        let Some(second) = op.source.inputs.get(1).copied().flatten() else {
            return inconsistent("an input is missing");
        };
        let clamp = self.clamp(op, activation)?;
        let indices = [op.x, second];
        let [a, b] = [self.quantisation(op.x)?, self.quantisation(second)?];
        let y = self.quantisation(op.y)?;
        let function = match op.source.code {
            Code::MUL => {
                let real = f64::from(a.scale) * f64::from(b.scale) / f64::from(y.scale);
                Function::Mul { rescale: rescale(real)? }
            }
            _ => match Operator::add([a, b], y, clamp) {
                Some(Operator::Add { inputs, output, .. }) if output.1 <= 0 => {
                    Function::Add { inputs, output }
                }
                _ => {
                    return unsupported(format!(
                        "scales {} and {} to {}",
                        a.scale, b.scale, y.scale
                    ));
                }
            },
        };
        let is_constant = indices.map(|index| self.file.tensors[index].data.is_some());
        let shapes = indices.map(|index| shape_of(&self.file.tensors[index].shape));
        let shape = shape_of(&self.file.tensors[op.y].shape);

        // With one number for all elements it is a function of one value.
        for constant in [0, 1] {
            let other = 1 - constant;
            let index = indices[constant];
            if is_constant[constant] && !is_constant[other] && self.file.tensors[index].len() == 1 {
                let value: i32 = self.scalar(op, constant, "operand")?.into();
                let minus = op.source.code == Code::SUB;
                let table = tabulate(clamp, |x| {
                    let mut operands = [value; 2];
                    operands[other] = x;
                    let [x, z] = [
                        operands[0] - i32::from(a.zero_point),
                        operands[1] - i32::from(b.zero_point),
                    ];
                    combine(function, minus, x, z).saturating_add(y.zero_point.into())
                });
                return self.lookup(Io { x: indices[other], ..op }, table);
            }
        }
        if op.source.code == Code::SUB {
            return unsupported(format!("from {shapes:?}: a difference of two tensors"));
        }
        // The first operand must have the output's shape: both functions are symmetric.
        let first = match shapes.map(|s| s == shape) {
            [true, _] if !is_constant[0] => 0,
            [_, true] if !is_constant[1] => 1,
            _ => {
                return unsupported(format!(
                    "from {shapes:?} to {shape:?}, of which one may repeat"
                ));
            }
        };
        let second = 1 - first;
        let fits = shapes[second].iter().zip(shape).all(|(&n, whole)| n == 1 || n == whole);
        if !fits {
            return inconsistent(format!("from {shapes:?} to {shape:?}"));
        }
        let function = match function {
            Function::Add { inputs, output } => {
                Function::Add { inputs: [inputs[first], inputs[second]], output }
            }
            function => function,
        };
        let x = self.read(indices[first])?;
        let z = match is_constant[second] {
            true => None,
            false => Some(self.read(indices[second])?),
        };
        let y = self.tensor(op.y)?;
        let operator = match (z, function) {
            (Some(_), Function::Add { inputs, output }) if shapes[second] == shape => {
                Operator::Add { inputs, output, clamp }
            }
            _ => {
                let constant = match is_constant[second] {
                    true => Some(self.operand(op, second, shapes[second], [a, b][second])?),
                    false => None,
                };
                Operator::Elementwise { function, constant, clamp }
            }
        };
        self.node([Some(x), z].into_iter().flatten().collect(), y, operator);
        Ok(())
    }

    fn operand(
        &self,
        op: Io<'_>,
        position: usize,
        shape: [usize; 3],
        quantisation: Quantisation,
    ) -> Result<Constant> {
        let tensor = self.constant(op, position, "operand")?;
        let data = tensor.data.unwrap_or_default();
        if data.len() != tensor.len() {
            return inconsistent("its operand is incomplete");
        }
        let values = data.iter().map(|&byte| byte as i8).collect();
        Ok(Constant { shape, zero_point: quantisation.zero_point, values })
    }

    fn lookup(&mut self, op: Io<'_>, table: Table) -> Result<()> {
        let (x, y) = (self.read(op.x)?, self.tensor(op.y)?);
        let [from, to] = [x, y].map(|tensor| self.tensors[tensor.0].shape);
        if from != to {
            return inconsistent(format!("it changes the shape from {from:?} to {to:?}"));
        }
        self.node(vec![x], y, Operator::Lookup { table });
        Ok(())
    }

    fn activation(&mut self, op: Io<'_>) -> Result<()> {
        type Code = BuiltinOperator;
        let [x, y] = [self.quantisation(op.x)?, self.quantisation(op.y)?];
        let table = match op.source.code {
            Code::LOGISTIC if (y.scale, y.zero_point) != (1.0 / 256.0, -128) => {
                return inconsistent("expected an output scale of 1/256 and a zero point of -128");
            }
            Code::TANH if (y.scale, y.zero_point) != (1.0 / 128.0, 0) => {
                return inconsistent("expected an output scale of 1/128 and a zero point of 0");
            }
            Code::LOGISTIC => tables::logistic(x),
            Code::TANH => tables::tanh(x),
            Code::HARD_SWISH => tables::hard_swish(x, y),
            Code::RELU => requantise(x, y, range(ActivationFunctionType::RELU, y)),
            Code::RELU_N1_TO_1 => requantise(x, y, range(ActivationFunctionType::RELU_N1_TO_1, y)),
            // The reference kernel clamps the stored values and leaves the scale alone.
            Code::RELU6 => Some(tabulate(range(ActivationFunctionType::RELU6, x), |x| x)),
            _ => match op.source.options.builtin_options_as_leaky_relu_options() {
                Some(options) => tables::leaky_relu(x, y, options.alpha()),
                None => return inconsistent("it has no options"),
            },
        };
        match table {
            Some(table) => self.lookup(op, table),
            None => unsupported(format!("from scale {} to scale {}", x.scale, y.scale)),
        }
    }

    fn softmax(&mut self, op: Io<'_>) -> Result<()> {
        let Some(options) = op.source.options.builtin_options_as_softmax_options() else {
            return inconsistent("it has no options");
        };
        let [x, y] = [self.quantisation(op.x)?, self.quantisation(op.y)?];
        if (y.scale, y.zero_point) != (1.0 / 256.0, -128) {
            return inconsistent("expected an output scale of 1/256 and a zero point of -128");
        }
        let Some(operator) = Operator::softmax(x.scale, options.beta().into()) else {
            return unsupported(format!("scale {} and beta {}", x.scale, options.beta()));
        };
        let (x, y) = (self.read(op.x)?, self.tensor(op.y)?);
        if self.tensors[x.0].shape != self.tensors[y.0].shape {
            return inconsistent("it changes the shape");
        }
        self.node(vec![x], y, operator);
        Ok(())
    }

    fn reduce(&mut self, op: Io<'_>) -> Result<()> {
        let axes = self.integers(op, 1, "axes")?;
        let shape = &self.file.tensors[op.x].shape;
        let rank = shape.len();
        let mut reduced = shape.clone();
        for &at in &axes {
            reduced[axis(at, rank)?] = 1;
        }
        let count = shape.iter().product::<usize>() / reduced.iter().product::<usize>().max(1);
        if count == 0 || self.file.tensors[op.y].len() * count != self.file.tensors[op.x].len() {
            return inconsistent(format!("over {axes:?} of {shape:?}"));
        }
        let (shape, reduced) = (shape_of(shape), shape_of(&reduced));
        if shape.iter().zip(reduced).any(|(&whole, part)| part != whole && part != 1) {
            return unsupported(format!("over {axes:?} of {rank} axes"));
        }
        let [x, y] = [self.quantisation(op.x)?, self.quantisation(op.y)?];
        let (mut multiplier, mut shift) = rescale(f64::from(x.scale) / f64::from(y.scale))?;
        if op.source.code == BuiltinOperator::MEAN {
            // The division by the count is part of the multiplier, with as many bits as there are.
            let spare = (count.ilog2() as i32).min(32).min(31 + shift);
            multiplier = ((i64::from(multiplier) << spare) / count as i64) as i32;
            shift -= spare;
        }
        let (x, y) = (self.read(op.x)?, self.write_as(op.y, reduced)?);
        let operator = Operator::Mean { rescale: (multiplier, shift), clamp: WHOLE };
        self.node(vec![x], y, operator);
        Ok(())
    }

    // Borders.

    fn quantise(&mut self, op: Io<'_>) -> Result<()> {
        let from = self.file.tensors[op.x].kind;
        if from == TensorType::FLOAT32 && self.file.inputs.contains(&op.x) {
            if self.readers[op.x].len() != 1 {
                return unsupported("several operators read the float input");
            }
            // The caller quantises: the model begins behind this operator.
            let y = self.tensor(op.y)?;
            self.ids[op.x] = Some(y);
            return Ok(());
        }
        let [x, y] = [self.quantisation(op.x)?, self.quantisation(op.y)?];
        match requantise(x, y, WHOLE) {
            Some(table) => self.lookup(op, table),
            None => unsupported(format!("from scale {} to scale {}", x.scale, y.scale)),
        }
    }

    fn dequantise(&mut self, op: Io<'_>) -> Result<()> {
        if !self.file.outputs.contains(&op.y) || !self.readers[op.y].is_empty() {
            return refuse(
                Remedy::FullInteger,
                "it leads to operators in floating point in the middle of the model",
            );
        }
        // The caller dequantises: the model ends before this operator.
        let x = self.read(op.x)?;
        self.ids[op.y] = Some(x);
        Ok(())
    }

    fn clamp(&self, op: Io<'_>, activation: ActivationFunctionType) -> Result<Clamp> {
        type Kind = ActivationFunctionType;
        match activation {
            Kind::NONE | Kind::RELU | Kind::RELU6 | Kind::RELU_N1_TO_1 => {
                Ok(range(activation, self.quantisation(op.y)?))
            }
            other => {
                unsupported(format!("the fused activation {}", other.variant_name().unwrap_or("?")))
            }
        }
    }
}

/// An operator with its first input and its first output.
#[derive(Clone, Copy)]
struct Io<'a> {
    source: &'a Source<'a>,
    x: usize,
    y: usize,
}

#[derive(Clone, Copy)]
struct Geometry {
    padding: Padding,
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Height and width that the kernel covers.
    kernel: [usize; 2],
    activation: ActivationFunctionType,
}

/// One axis of a block: elements, and their distances where they come from and where they go.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    count: usize,
    from: usize,
    to: usize,
}

fn axes(counts: &[usize], from: &[usize], to: &[usize]) -> Vec<Axis> {
    let axes = counts.iter().zip(from).zip(to);
    axes.map(|((&count, &from), &to)| Axis { count, from, to }).collect()
}

/// The same block with as few axes as possible, when three suffice.
fn merge(axes: &[Axis]) -> Option<[Axis; 3]> {
    let mut merged: Vec<Axis> = Vec::new();
    for &axis in axes.iter().filter(|axis| axis.count != 1) {
        match merged.last_mut() {
            Some(outer)
                if outer.from == axis.count * axis.from
                    && outer.to == axis.count * axis.to
                    && outer.count * axis.count <= usize::from(u16::MAX) =>
            {
                *outer = Axis { count: outer.count * axis.count, ..axis };
            }
            _ => merged.push(axis),
        }
    }
    let mut padded = [Axis { count: 1, from: 1, to: 1 }; 3];
    let start = padded.len().checked_sub(merged.len())?;
    padded[start..].copy_from_slice(&merged);
    Some(padded)
}

/// Distances between neighbours along each axis of a tensor.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

fn axis(axis: i64, rank: usize) -> Result<usize> {
    let positive = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(positive) {
        Ok(positive) if positive < rank => Ok(positive),
        _ => inconsistent(format!("axis {axis} of {rank}")),
    }
}

/// The height, width and channels that stand for a shape of any rank.
fn shape_of(shape: &[usize]) -> [usize; 3] {
    match *shape {
        [] => [1, 1, 1],
        [channels] => [1, 1, channels],
        [width, channels] => [1, width, channels],
        [ref outer @ .., width, channels] => [outer.iter().product(), width, channels],
    }
}

/// Height, width and so on of weights whose rank was checked.
fn dimensions(tensor: &Tensor<'_>) -> [usize; 4] {
    let mut dimensions = [1; 4];
    for (slot, &dimension) in dimensions.iter_mut().zip(&tensor.shape) {
        *slot = dimension;
    }
    dimensions
}

/// A kernel with zeros between its elements, so that it needs no dilation.
fn dilate(
    weights: &[i8],
    [outer, height, width, inner]: [usize; 4],
    [dilation_h, dilation_w]: [usize; 2],
) -> Vec<i8> {
    let (wide_h, wide_w) = ((height - 1) * dilation_h + 1, (width - 1) * dilation_w + 1);
    if (wide_h, wide_w) == (height, width) {
        return weights.to_vec();
    }
    let mut wide = vec![0; outer * wide_h * wide_w * inner];
    for (tap, values) in weights.chunks(inner).enumerate() {
        let (kernel, y, x) = (tap / width / height, tap / width % height, tap % width);
        let at = ((kernel * wide_h + y * dilation_h) * wide_w + x * dilation_w) * inner;
        wide[at..at + inner].copy_from_slice(values);
    }
    wide
}

/// Sum, difference or product of operands without their zero points, without the output's.
fn combine(function: Function, minus: bool, x: i32, z: i32) -> i32 {
    let apply = |(multiplier, shift): (i32, i32), x: i32| {
        Rescale::new(multiplier, shift).unwrap_or(Rescale::ZERO).apply(x)
    };
    match function {
        Function::Mul { rescale } => apply(rescale, x * z),
        Function::Add { inputs, output } => {
            let x = apply(inputs[0], x << 20);
            let z = apply(inputs[1], z << 20);
            apply(output, if minus { x - z } else { x + z })
        }
    }
}

fn rescale(real: f64) -> Result<(i32, i32)> {
    match Rescale::quantise(real) {
        Some(rescale) => Ok(rescale),
        None => unsupported(format!("its scales have the ratio {real}")),
    }
}

/// Smallest and largest integer of a fused activation. The division is in single precision.
fn range(activation: ActivationFunctionType, quantisation: Quantisation) -> Clamp {
    let stored = |real: f32| {
        let stored = (real / quantisation.scale).round() as i32;
        let stored = stored.saturating_add(quantisation.zero_point.into());
        stored.clamp(i8::MIN.into(), i8::MAX.into()) as i8
    };
    match activation {
        ActivationFunctionType::RELU => Clamp { min: stored(0.0), max: i8::MAX },
        ActivationFunctionType::RELU6 => Clamp { min: stored(0.0), max: stored(6.0) },
        ActivationFunctionType::RELU_N1_TO_1 => Clamp { min: stored(-1.0), max: stored(1.0) },
        _ => WHOLE,
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks().0.iter().copied()
}

fn kind(kind: TensorType) -> String {
    kind.variant_name().map_or_else(|| format!("type {}", kind.0), str::to_lowercase)
}

/// The first of the names that converters join with semicolons.
fn short(name: &str) -> &str {
    name.split(';').next().unwrap_or(name)
}
