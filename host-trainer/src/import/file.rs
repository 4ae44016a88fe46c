//! A TensorFlow Lite file as it stands: tensors and operators with their positions checked.

use super::tflite_generated::tflite::{
    self, BuiltinOperator, SubGraph, TensorType, model_buffer_has_identifier, root_as_model,
};

/// The main graph of a file.
pub(super) struct File<'a> {
    pub(super) tensors: Vec<Tensor<'a>>,
    pub(super) operators: Vec<Operator<'a>>,
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
}

/// A tensor of a file: a constant when it has data.
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    pub(super) shape: Vec<usize>,
    /// Whether a dimension other than the first is left open.
    pub(super) open: bool,
    pub(super) kind: TensorType,
    pub(super) scales: Vec<f32>,
    pub(super) zero_points: Vec<i64>,
    pub(super) quantised_dimension: usize,
    pub(super) data: Option<&'a [u8]>,
    /// Whether its constants are stored sparse.
    pub(super) sparse: bool,
}

impl Tensor<'_> {
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An operator of a file.
pub(super) struct Operator<'a> {
    pub(super) code: BuiltinOperator,
    /// Name, or the custom operator's own.
    pub(super) name: String,
    pub(super) version: i32,
    /// Tensors read; `None` for optional ones that are not there.
    pub(super) inputs: Vec<Option<usize>>,
    pub(super) outputs: Vec<usize>,
    pub(super) options: tflite::Operator<'a>,
}

impl<'a> File<'a> {
    /// Reads and checks a file. The error says what is wrong with it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.len() < 8 || !model_buffer_has_identifier(bytes) {
            return Err("the letters TFL3 are missing at byte 4".to_owned());
        }
        let model = root_as_model(bytes).map_err(|error| format!("damaged: {error}"))?;
        if model.version() != 3 {
            return Err(format!("expected version 3 of the schema, found {}", model.version()));
        }
        let graph = model.subgraphs().filter(|graphs| !graphs.is_empty());
        let graph = graph.ok_or("it holds no graph")?.get(0);
        let buffers = buffers(&model)?;
        let tensors = tensors(&graph, &buffers)?;
        let operators = operators(&model, &graph, tensors.len())?;
        let indices =
            |indices: Option<flatbuffers::Vector<'a, i32>>| -> Result<Vec<usize>, String> {
                let indices = indices.into_iter().flatten();
                indices.map(|index| position(index, tensors.len(), "the graph")).collect()
            };
        let (inputs, outputs) = (indices(graph.inputs())?, indices(graph.outputs())?);
        Ok(Self { tensors, operators, inputs, outputs })
    }
}

fn buffers<'a>(model: &tflite::Model<'a>) -> Result<Vec<Option<&'a [u8]>>, String> {
    let buffers = model.buffers().into_iter().flatten().enumerate();
    let buffers = buffers.map(|(index, buffer)| {
        if buffer.offset() > 1 {
            return Err(format!("buffer {index} lies outside the flatbuffer (a file above 2 GB)"));
        }
        Ok(buffer.data().map(|data| data.bytes()).filter(|bytes| !bytes.is_empty()))
    });
    buffers.collect()
}

fn tensors<'a>(
    graph: &SubGraph<'a>,
    buffers: &[Option<&'a [u8]>],
) -> Result<Vec<Tensor<'a>>, String> {
    let tensors = graph.tensors().into_iter().flatten().enumerate();
    let tensors = tensors.map(|(index, tensor)| {
        let name = tensor.name().unwrap_or_default();
        let place = || format!("tensor {index} `{name}`");
        let shape: Vec<usize> = tensor
            .shape()
            .into_iter()
            .flatten()
            .map(usize::try_from)
            .collect::<Result<_, _>>()
            .map_err(|_| format!("{} has a negative dimension", place()))?;
        let elements = shape.iter().try_fold(1usize, |len, &n| len.checked_mul(n));
        if elements.is_none_or(|elements| elements > i32::MAX as usize) {
            return Err(format!("{} has more than 2^31 elements", place()));
        }
        let data = *buffers.get(tensor.buffer() as usize).ok_or_else(|| {
            format!("{} names buffer {} of {}", place(), tensor.buffer(), buffers.len())
        })?;
        let open =
            |signature: flatbuffers::Vector<'_, i32>| signature.iter().skip(1).any(|n| n < 0);
        let quantisation = tensor.quantization();
        Ok(Tensor {
            name,
            open: tensor.shape_signature().is_some_and(open),
            kind: tensor.type_(),
            scales: quantisation
                .and_then(|q| q.scale())
                .map(|scales| scales.iter().collect())
                .unwrap_or_default(),
            zero_points: quantisation
                .and_then(|q| q.zero_point())
                .map(|zero_points| zero_points.iter().collect())
                .unwrap_or_default(),
            quantised_dimension: quantisation
                .and_then(|q| usize::try_from(q.quantized_dimension()).ok())
                .unwrap_or(0),
            data,
            sparse: tensor.sparsity().is_some(),
            shape,
        })
    });
    tensors.collect()
}

fn operators<'a>(
    model: &tflite::Model<'a>,
    graph: &SubGraph<'a>,
    tensors: usize,
) -> Result<Vec<Operator<'a>>, String> {
    let codes: Vec<_> = model.operator_codes().into_iter().flatten().collect();
    let operators = graph.operators().into_iter().flatten().enumerate();
    let operators = operators.map(|(index, operator)| {
        let place = format!("operator {index}");
        let code = codes.get(operator.opcode_index() as usize).ok_or_else(|| {
            format!("{place} names operator code {} of {}", operator.opcode_index(), codes.len())
        })?;
        // Older files have the code in the first field, newer ones in the second or in both.
        let builtin = code.builtin_code().0.max(code.deprecated_builtin_code().into());
        let builtin = BuiltinOperator(builtin);
        let name = match (builtin, code.custom_code()) {
            (BuiltinOperator::CUSTOM, Some(custom)) => format!("custom operator `{custom}`"),
            _ => builtin
                .variant_name()
                .map_or_else(|| format!("operator code {}", builtin.0), str::to_owned),
        };
        let inputs = operator.inputs().into_iter().flatten();
        let outputs = operator.outputs().into_iter().flatten();
        Ok(Operator {
            code: builtin,
            name,
            version: code.version(),
            inputs: inputs
                .map(|input| (input != -1).then(|| position(input, tensors, &place)).transpose())
                .collect::<Result<_, _>>()?,
            outputs: outputs
                .map(|output| position(output, tensors, &place))
                .collect::<Result<_, _>>()?,
            options: operator,
        })
    });
    operators.collect()
}

fn position(index: i32, tensors: usize, place: &str) -> Result<usize, String> {
    usize::try_from(index)
        .ok()
        .filter(|&index| index < tensors)
        .ok_or_else(|| format!("{place} names tensor {index} of {tensors}"))
}
