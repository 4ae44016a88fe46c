//! Writes the bytes that `niwaki-core` runs: see `docs/format.md`.

use anyhow::{Context, Result, bail, ensure};
use niwaki_core::kernels::{KernelId, conv_in_place, depthwise};
use niwaki_core::model::layout::{
    ALIGNMENT, AddBroadcastRecord, AddRecord, ChannelRecord, CopyRecord, Header, MAGIC, MeanRecord,
    MulRecord, NormalisationRecord, OpRecord, OperandRecord, OptionalSections, PlaceRecord,
    SoftmaxRecord, Span, TensorRecord, VERSION, WindowRecord,
};
use niwaki_core::model::{Clamp, Place, Tensor, Window, checksum};
use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

use super::assign::{Offer, assign, assign_few};
use super::choose::{self, KernelChoice};
use super::graph::{Constant, Function, Graph, Node, Operator, TensorId, Weighted};
use super::narrow::remove_channels;
use super::plan::{Needs, Plan, Rows, Sharing, needed, plan};
use super::simplify::drop_constant_channels;
use crate::target::cost::Core;

/// A blob and how it came about.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The bytes of the `.niwaki` file.
    pub bytes: Vec<u8>,
    /// One entry per operator in order of execution.
    pub layers: Vec<Layer>,
    /// Where everything lies in the arena.
    pub plan: Plan,
}

/// An operator of an exported model.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Name.
    pub name: String,
    /// Kernel that was chosen.
    pub kernel: KernelId,
}

/// Chooses kernels, plans memory and writes the blob.
///
/// # Errors
///
/// When the graph does not fit the format, naming the node: a dimension above 65,535, a window above
/// 255, a network without nodes.
pub fn write(graph: &Graph) -> Result<Exported> {
    write_with(graph, KernelChoice::Cheapest(Core::CortexM4))
}

/// As [`write`](write()), with a rule for choosing kernels.
///
/// # Errors
///
/// As [`write`](write()).
pub fn write_with(graph: &Graph, choice: KernelChoice) -> Result<Exported> {
    write_within(graph, choice, None)
}

/// As [`write_with`], for an arena of at most so many bytes: what is fastest within it.
///
/// # Errors
///
/// As [`write`](write()), and when the model needs a larger arena, naming the layers that need most.
pub fn write_within(
    graph: &Graph,
    choice: KernelChoice,
    arena_limit: Option<usize>,
) -> Result<Exported> {
    ensure!(!graph.nodes.is_empty(), "the network has no operators: there is nothing to export");
    let mut graph = graph.clone();
    drop_constant_channels(&mut graph);
    remove_channels(&mut graph);
    write_simplified(&graph, choice, arena_limit)
}

/// Writes a graph as it is.
pub(super) fn write_simplified(
    graph: &Graph,
    choice: KernelChoice,
    arena_limit: Option<usize>,
) -> Result<Exported> {
    let (chosen, plan) = with_smaller_arena(graph, choice, arena_limit)?;
    if let Some(limit) = arena_limit {
        plan.check(graph, limit)?;
    }
    let bytes = assemble(graph, &plan, &chosen, choice)?;
    let layer =
        |(node, chosen): (&Node, &Chosen)| Layer { name: node.name.clone(), kernel: chosen.kernel };
    let layers = graph.nodes.iter().zip(&chosen).map(layer).collect();
    Ok(Exported { bytes, layers, plan })
}

/// Kernels and a plan, with execution row by row where that makes the arena at least a tenth smaller and the
/// inference less than a tenth slower; where there is a limit, what is faster of what meets it.
fn with_smaller_arena(
    graph: &Graph,
    choice: KernelChoice,
    limit: Option<usize>,
) -> Result<(Vec<Chosen>, Plan)> {
    let layer = |node| candidates(graph, node, choice).with_context(|| in_layer(node));
    let layers: Vec<Candidates> = graph.nodes.iter().map(layer).collect::<Result<_>>()?;
    let picks = |rows: &[Option<Rows>]| {
        let offers = offers(graph, &layers, rows);
        let picks = match choice {
            KernelChoice::Cheapest(_) => assign_few(&offers, limit),
            KernelChoice::Only(_) | KernelChoice::Fastest(_) => assign(&offers, limit),
        };
        picks.context("no kernel can execute a layer")
    };
    let picked = |picks: &[usize]| -> Vec<&Candidate> {
        picks.iter().zip(&layers).map(|(&pick, layer)| &layer.candidates[pick]).collect()
    };
    let whole_picks = picks(&vec![None; layers.len()])?;
    let whole = picked(&whole_picks);
    let rows: Vec<Option<Rows>> = whole.iter().map(|candidate| candidate.needs.rows).collect();
    let whole_needs = whole.iter().map(|candidate| Needs { rows: None, ..candidate.needs });
    let whole_plan = plan(graph, &whole_needs.collect::<Vec<_>>());
    if rows.iter().all(Option::is_none) {
        return Ok((chosen(graph, layers, whole_picks)?, whole_plan));
    }
    let smaller_picks = picks(&rows)?;
    let smaller = picked(&smaller_picks);
    let smaller_needs: Vec<Needs> = smaller.iter().map(|candidate| candidate.needs).collect();
    let smaller_plan = plan(graph, &smaller_needs);
    let cost = |picked: &[&Candidate]| picked.iter().map(|candidate| candidate.cost).sum::<f64>();
    let (slower, larger) = (cost(&smaller) / cost(&whole), whole_plan.arena_len);
    let take_smaller = match limit {
        Some(limit) if larger > limit => smaller_plan.arena_len < larger,
        Some(limit) => smaller_plan.arena_len <= limit && slower < 1.0,
        None => smaller_plan.arena_len * 10 <= larger * 9 && slower <= 1.1,
    };
    match take_smaller {
        true => Ok((chosen(graph, layers, smaller_picks)?, smaller_plan)),
        false => Ok((chosen(graph, layers, whole_picks)?, whole_plan)),
    }
}

/// The candidates that were picked, their weights packed.
fn chosen(graph: &Graph, layers: Vec<Candidates>, picks: Vec<usize>) -> Result<Vec<Chosen>> {
    let chosen = graph.nodes.iter().zip(layers).zip(picks).map(|((node, layer), pick)| {
        let Candidates { mut constants, mut weights, mut candidates } = layer;
        let Candidate { kernel, bid, .. } = candidates.swap_remove(pick);
        if let (Some(bid), Some(weighted)) = (bid, node.operator.weighted()) {
            let packed = bid.weights(weighted).with_context(|| in_layer(node))?;
            let records = constants.as_chunks_mut::<{ size_of::<ChannelRecord>() }>().0;
            for (record, count) in records.iter_mut().zip(packed.counts) {
                let whole: &mut ChannelRecord = zerocopy::transmute_mut!(record);
                whole.count = count.into();
            }
            weights = packed.bytes;
        }
        Ok(Chosen { kernel, constants, weights })
    });
    chosen.collect()
}

fn in_layer(node: &Node) -> String {
    format!("layer `{}`", node.name)
}

/// What each candidate takes: its predicted time and the bytes of the arena.
fn offers(graph: &Graph, layers: &[Candidates], rows: &[Option<Rows>]) -> Vec<Vec<Offer>> {
    let nodes = || graph.nodes.iter().zip(rows);
    let tensors = nodes().map(|(node, &rows)| Needs { rows, ..tensor_needs(node) });
    let by_rows = plan(graph, &tensors.collect::<Vec<_>>()).by_rows;
    // Bytes of the tensors at each step.
    let tensors = |sharing: &dyn Fn(usize) -> Sharing| {
        let needs = graph.nodes.iter().enumerate().map(|(step, node)| match sharing(step) {
            Sharing::None => tensor_needs(node),
            sharing => Needs { sharing, ..Needs::default() },
        });
        needed(graph, &needs.collect::<Vec<_>>())
    };
    let apart = tensors(&|_| Sharing::None);
    let in_place = tensors(&|step| {
        let candidates = &layers[step].candidates;
        let works = candidates.iter().any(|candidate| candidate.needs.sharing.is_in_place());
        if works { Sharing::Output } else { Sharing::None }
    });
    let rowwise = tensors(&|step| {
        let rows = rows[step].filter(|_| by_rows[step]);
        rows.map_or(Sharing::None, Sharing::ByRows)
    });
    let offer = |step: usize, candidate: &Candidate| {
        let Needs { scratch, sharing, rows } = candidate.needs;
        let need = match sharing {
            _ if rows.is_some() && by_rows[step] => rowwise[step] + scratch,
            Sharing::Output => in_place[step] + scratch,
            Sharing::OutputWith { scratch: other } => {
                (in_place[step] + other).min(apart[step] + scratch)
            }
            Sharing::EndOfScratch => {
                apart[step] + scratch - graph.tensor(graph.nodes[step].inputs[0]).len().min(scratch)
            }
            Sharing::None | Sharing::ByRows(_) => apart[step] + scratch,
        };
        let flash = candidate.bid.as_ref().map_or(0, |bid| bid.flash);
        Offer { kernel: candidate.kernel, cost: candidate.cost, flash, need }
    };
    let layers = layers.iter().enumerate();
    layers.map(|(step, l)| l.candidates.iter().map(|c| offer(step, c)).collect()).collect()
}

/// What a node needs whatever its kernel.
fn tensor_needs(node: &Node) -> Needs {
    let sharing = if node.operator.works_in_place() { Sharing::Output } else { Sharing::None };
    Needs { sharing, ..Needs::default() }
}

/// A kernel with its constants in the order it reads them.
struct Chosen {
    kernel: KernelId,
    constants: Vec<u8>,
    weights: Vec<u8>,
}

/// The kernels that can execute a node, with what they have in common.
struct Candidates {
    constants: Vec<u8>,
    /// Of a node that has one candidate.
    weights: Vec<u8>,
    candidates: Vec<Candidate>,
}

/// One of them.
struct Candidate {
    kernel: KernelId,
    needs: Needs,
    /// Predicted clock cycles of a convolution or linear layer.
    cost: f64,
    /// That of a convolution or linear layer.
    bid: Option<choose::Bid>,
}

/// The candidates for a convolution or linear layer; `window` is that of a convolution.
fn weighted_candidates(
    graph: &Graph,
    node: &Node,
    weighted: &Weighted,
    window: Option<Window>,
    groups: usize,
    choice: KernelChoice,
) -> Result<Candidates> {
    let (input, output) = (core_tensor(graph, node.inputs[0]), core_tensor(graph, node.output));
    let shape = &choose::Shape { input, output, window, groups };
    let channels = shape.output.channels;
    check_weighted(weighted, channels)?;
    let per_channel = weighted.weights.len() / channels;
    let sum = |channel: usize| {
        let weights = &weighted.weights[channel * per_channel..][..per_channel];
        weights.iter().map(|&w| i32::from(w)).sum()
    };
    let in_place = window.is_some_and(|w| conv_in_place(&shape.input, &shape.output, &w));
    let candidate = |bid: choose::Bid| {
        let rows = match bid.kernel {
            KernelId::ConvPacked | KernelId::ConvDense => window.and_then(|w| rows(shape, &w)),
            _ => None,
        };
        let sharing = match bid.kernel {
            KernelId::LinearPacked => Sharing::EndOfScratch,
            kernel if in_place && kernel != KernelId::ConvDense => Sharing::Output,
            _ => Sharing::None,
        };
        let needs = Needs { scratch: bid.scratch_len, sharing, rows };
        Candidate { kernel: bid.kernel, needs, cost: bid.cost, bid: Some(bid) }
    };
    let bids = choose::bids(shape, weighted, &folded_biases(graph, node, weighted, sum), choice)?;
    Ok(Candidates {
        constants: channel_records(graph, node, weighted, sum),
        weights: vec![],
        candidates: bids.into_iter().map(candidate).collect(),
    })
}

/// The kernels that can execute a node.
fn candidates(graph: &Graph, node: &Node, choice: KernelChoice) -> Result<Candidates> {
    let mut needs = tensor_needs(node);
    let mut chosen = Chosen { kernel: KernelId::Softmax, constants: vec![], weights: vec![] };
    match &node.operator {
        Operator::Conv { weighted, window, groups } => {
            return weighted_candidates(graph, node, weighted, Some(*window), *groups, choice);
        }
        Operator::Linear { weighted } => {
            return weighted_candidates(graph, node, weighted, None, 1, choice);
        }
        Operator::Depthwise { weighted, window } => {
            let channels = graph.tensor(node.output).shape[2];
            check_weighted(weighted, channels)?;
            let sum = |channel: usize| {
                let weights = weighted.weights.iter().skip(channel).step_by(channels);
                weights.map(|&w| i32::from(w)).sum()
            };
            chosen.constants = channel_records(graph, node, weighted, sum);
            chosen.weights = weighted.weights.as_bytes().to_vec();
            let (input, output) =
                (core_tensor(graph, node.inputs[0]), core_tensor(graph, node.output));
            let large = depthwise::wants_large(&input, &output, window);
            chosen.kernel = if large { KernelId::DepthwiseLarge } else { KernelId::Depthwise };
            let scratch = depthwise::scratch_len(&input, &output, window, large);
            let in_place = depthwise::in_place_scratch_len(&input, &output, window, large)
                .filter(|_| graph.tensor(node.inputs[0]).shape == graph.tensor(node.output).shape);
            needs = Needs {
                scratch,
                sharing: in_place.map_or(Sharing::None, |scratch| Sharing::OutputWith { scratch }),
                rows: None,
            };
        }
        Operator::MaxPool { .. } => chosen.kernel = KernelId::MaxPool,
        Operator::AvgPool { .. } => chosen.kernel = KernelId::AvgPool,
        Operator::Add { inputs, output, .. } => {
            chosen.kernel = KernelId::Add;
            let record = add_record(inputs, *output);
            chosen.constants = record.as_bytes().to_vec();
        }
        Operator::Softmax { rescale, diff_min } => {
            chosen.kernel = KernelId::Softmax;
            let record = SoftmaxRecord {
                multiplier: rescale.0.into(),
                left_shift: rescale.1.into(),
                diff_min: (*diff_min).into(),
            };
            chosen.constants = record.as_bytes().to_vec();
        }
        Operator::Lookup { table } => {
            chosen.kernel = KernelId::Lookup;
            chosen.constants = table.as_bytes().to_vec();
        }
        Operator::Copy { counts, source, destination, fill } => {
            chosen.kernel = KernelId::Copy;
            let mut record = CopyRecord {
                counts: Default::default(),
                has_fill: fill.is_some().into(),
                fill: fill.unwrap_or(0),
                source: place_record(source)?,
                destination: place_record(destination)?,
            };
            for (slot, &count) in record.counts.iter_mut().zip(counts) {
                *slot = dimension(count)?.into();
            }
            chosen.constants = record.as_bytes().to_vec();
        }
        Operator::Mean { rescale: (multiplier, shift), .. } => {
            chosen.kernel = KernelId::Mean;
            let record = MeanRecord { multiplier: (*multiplier).into(), shift: (*shift).into() };
            chosen.constants = record.as_bytes().to_vec();
        }
        Operator::Elementwise { function, constant, .. } => {
            let operand = operand_record(constant.as_ref())?;
            if let Some(constant) = constant {
                chosen.weights = constant.values.as_bytes().to_vec();
            }
            (chosen.kernel, chosen.constants) = match function {
                Function::Mul { rescale: (multiplier, shift) } => {
                    let (multiplier, shift) = ((*multiplier).into(), (*shift).into());
                    let record = MulRecord { operand, multiplier, shift };
                    (KernelId::Mul, record.as_bytes().to_vec())
                }
                Function::Add { inputs, output } => {
                    let record = AddBroadcastRecord { operand, add: add_record(inputs, *output) };
                    (KernelId::AddBroadcast, record.as_bytes().to_vec())
                }
            };
        }
    }
    let Chosen { kernel, constants, weights } = chosen;
    Ok(Candidates {
        constants,
        weights,
        candidates: vec![Candidate { kernel, needs, cost: 0.0, bid: None }],
    })
}

fn add_record(inputs: &[(i32, i32); 2], output: (i32, i32)) -> AddRecord {
    AddRecord {
        input_multipliers: inputs.map(|(multiplier, _)| multiplier.into()),
        input_shifts: inputs.map(|(_, shift)| shift.into()),
        output_multiplier: output.0.into(),
        output_shift: output.1.into(),
    }
}

fn operand_record(constant: Option<&Constant>) -> Result<OperandRecord> {
    let mut record = OperandRecord {
        dimensions: Default::default(),
        zero_point: constant.map_or(0, |constant| constant.zero_point),
        reserved: 0,
    };
    if let Some(constant) = constant {
        for (slot, &len) in record.dimensions.iter_mut().zip(&constant.shape) {
            *slot = dimension(len)?.into();
        }
    }
    Ok(record)
}

fn place_record(place: &Place) -> Result<PlaceRecord> {
    let mut record =
        PlaceRecord { first: u32::try_from(place.first)?.into(), strides: Default::default() };
    for (slot, &stride) in record.strides.iter_mut().zip(&place.strides) {
        *slot = u32::try_from(stride)?.into();
    }
    Ok(record)
}

fn dimension(value: usize) -> Result<u16> {
    u16::try_from(value).with_context(|| format!("dimension {value} exceeds 65,535"))
}

/// How a convolution may be executed row by row, where its rows are wide enough to be worth a call each:
/// each row of the output must end before the first input row that later rows need.
fn rows(shape: &choose::Shape, window: &Window) -> Option<Rows> {
    const WORTH_A_CALL: usize = 16;
    let (input, output) = (&shape.input, &shape.output);
    let len = output.width * output.channels;
    let ahead = (1..output.height).map(|rows| {
        let needed = (rows * window.stride[0]).saturating_sub(window.pad[0]);
        (rows * len).saturating_sub(needed * input.width * input.channels)
    });
    ahead.max().filter(|_| output.width >= WORTH_A_CALL).map(|ahead| Rows { len, ahead })
}

fn check_weighted(weighted: &Weighted, channels: usize) -> Result<()> {
    ensure!(
        weighted.bias.len() == channels && weighted.rescale.len() == channels,
        "expected one bias and one rescale for each of {channels} channels, found {} and {}",
        weighted.bias.len(),
        weighted.rescale.len()
    );
    ensure!(
        !weighted.weights.is_empty() && weighted.weights.len().is_multiple_of(channels),
        "{} weights do not divide among {channels} channels",
        weighted.weights.len()
    );
    Ok(())
}

/// Biases with the input's zero point folded in.
fn folded_biases(
    graph: &Graph,
    node: &Node,
    weighted: &Weighted,
    sum_of_weights: impl Fn(usize) -> i32,
) -> Vec<i32> {
    let zero = i32::from(graph.tensor(node.inputs[0]).quantisation.zero_point);
    let folded = |(channel, bias): (usize, &i32)| {
        bias.wrapping_sub(zero.wrapping_mul(sum_of_weights(channel)))
    };
    weighted.bias.iter().enumerate().map(folded).collect()
}

/// Folded biases and rescales.
fn channel_records(
    graph: &Graph,
    node: &Node,
    weighted: &Weighted,
    sum_of_weights: impl Fn(usize) -> i32,
) -> Vec<u8> {
    let biases = folded_biases(graph, node, weighted, sum_of_weights);
    let records: Vec<ChannelRecord> = biases
        .iter()
        .zip(weighted.usual_rescales())
        .map(|(&bias, (multiplier, shift))| ChannelRecord::new(bias, multiplier, shift, 0))
        .collect();
    records.as_bytes().to_vec()
}

/// A tensor as core describes it, before its place in the arena is known.
fn core_tensor(graph: &Graph, id: TensorId) -> Tensor {
    let info = graph.tensor(id);
    let [height, width, channels] = info.shape;
    Tensor {
        offset: 0,
        height,
        width,
        channels,
        zero_point: info.quantisation.zero_point,
        scale: info.quantisation.scale,
    }
}

fn assemble(
    graph: &Graph,
    plan: &Plan,
    chosen: &[Chosen],
    choice: KernelChoice,
) -> Result<Vec<u8>> {
    let id = |tensor: TensorId| u16::try_from(tensor.0).context("more than 65,535 tensors");
    let tensors: Vec<TensorRecord> = graph
        .tensors
        .iter()
        .zip(&plan.tensors)
        .map(|(tensor, &offset)| {
            let [height, width, channels] = tensor.shape;
            Ok(TensorRecord {
                offset: u32::try_from(offset)?.into(),
                height: dimension(height)?.into(),
                width: dimension(width)?.into(),
                channels: dimension(channels)?.into(),
                reserved: 0,
                zero_point: tensor.quantisation.zero_point,
                scale: tensor.quantisation.scale.into(),
            })
        })
        .collect::<Result<_>>()?;

    // A model without optional sections has no spans for them.
    let header_len = size_of::<Header>()
        + if graph.front_end.is_some() { size_of::<OptionalSections>() } else { 0 };
    let mut bytes = vec![0; header_len];
    let tensors = append(&mut bytes, tensors.as_bytes())?;
    // The table of operators points behind itself: constants first, then the table is filled in.
    let ops_start = bytes.len();
    let ops_len = chosen.len() * size_of::<OpRecord>();
    bytes.resize((ops_start + ops_len).next_multiple_of(ALIGNMENT), 0);
    for (index, (node, chosen)) in graph.nodes.iter().zip(chosen).enumerate() {
        let record = OpRecord {
            constants: append(&mut bytes, &chosen.constants)?,
            weights: append(&mut bytes, &chosen.weights)?,
            scratch: Span::new(
                u32::try_from(plan.scratch[index].start)?,
                u32::try_from(plan.scratch[index].len())?,
            ),
            by_rows: plan.by_rows[index].into(),
            ..op_record(node, chosen.kernel, id)
                .with_context(|| format!("layer `{}`", node.name))?
        };
        let at = ops_start + index * size_of::<OpRecord>();
        bytes[at..at + size_of::<OpRecord>()].copy_from_slice(record.as_bytes());
    }
    let normalisation: Vec<NormalisationRecord> = graph
        .normalisation
        .iter()
        .map(|&(scale, offset)| NormalisationRecord { scale: scale.into(), offset: offset.into() })
        .collect();
    let normalisation = append(&mut bytes, normalisation.as_bytes())?;
    let names = graph.nodes.iter().map(|node| &node.name);
    let core = match choice {
        KernelChoice::Cheapest(core) => Some(core.to_string()),
        KernelChoice::Only(_) | KernelChoice::Fastest(_) => None,
    };
    let mut strings = Vec::new();
    for text in std::iter::once(&graph.name).chain(&graph.labels).chain(names).chain(&core) {
        strings.extend(
            u16::try_from(text.len()).context("a name of more than 65,535 bytes")?.to_le_bytes(),
        );
        strings.extend(text.as_bytes());
    }
    let strings = append(&mut bytes, &strings)?;
    if let Some(front_end) = &graph.front_end {
        let front_end = append(&mut bytes, front_end.encode().as_bytes())?;
        let sections = OptionalSections { front_end };
        bytes[size_of::<Header>()..header_len].copy_from_slice(sections.as_bytes());
    }

    let header = Header {
        magic: MAGIC,
        version: VERSION.into(),
        header_len: (header_len as u16).into(),
        total_len: u32::try_from(bytes.len()).context("a model of more than 4 GiB")?.into(),
        checksum: 0.into(),
        model_id: [0; 8],
        arena_len: u32::try_from(plan.arena_len)?.into(),
        kernels: chosen.iter().fold(0, |set, chosen| set | chosen.kernel.bit()).into(),
        input: id(graph.input)?.into(),
        output: id(graph.output)?.into(),
        label_count: u16::try_from(graph.labels.len())?.into(),
        tunable: 0.into(),
        tensors,
        ops: Span::new(u32::try_from(ops_start)?, u32::try_from(ops_len)?),
        strings,
        normalisation,
    };
    seal(&mut bytes, header);
    Ok(bytes)
}

/// Writes the header with the id and the checksum of the bytes behind it.
pub(super) fn seal(bytes: &mut [u8], mut header: Header) {
    let mut set = |header: &Header| {
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        let behind_id = std::mem::offset_of!(Header, arena_len);
        (Sha256::digest(&bytes[behind_id..]), checksum(bytes))
    };
    let (digest, _) = set(&header);
    header.model_id.copy_from_slice(&digest[..8]);
    let (_, checksum) = set(&header);
    header.checksum = checksum.into();
    set(&header);
}

fn append(bytes: &mut Vec<u8>, data: &[u8]) -> Result<Span> {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let span = Span::new(u32::try_from(bytes.len())?, u32::try_from(data.len())?);
    bytes.extend(data);
    Ok(span)
}

fn op_record(
    node: &Node,
    kernel: KernelId,
    id: impl Fn(TensorId) -> Result<u16>,
) -> Result<OpRecord> {
    let whole = Clamp { min: i8::MIN, max: i8::MAX };
    let (window, clamp, groups) = match &node.operator {
        Operator::Conv { weighted, window, groups } => (Some(window), weighted.clamp, *groups),
        Operator::Linear { weighted } => (None, weighted.clamp, 1),
        Operator::Depthwise { weighted, window } => (Some(window), weighted.clamp, 1),
        Operator::MaxPool { window, clamp } | Operator::AvgPool { window, clamp } => {
            (Some(window), *clamp, 1)
        }
        Operator::Add { clamp, .. }
        | Operator::Mean { clamp, .. }
        | Operator::Elementwise { clamp, .. } => (None, *clamp, 1),
        Operator::Softmax { .. } | Operator::Lookup { .. } | Operator::Copy { .. } => {
            (None, whole, 1)
        }
    };
    let inputs = match node.inputs[..] {
        [only] => [only, only],
        [first, second] => [first, second],
        _ => bail!("expected one or two inputs, found {}", node.inputs.len()),
    };
    Ok(OpRecord {
        kernel: kernel as u8,
        clamp_min: clamp.min,
        clamp_max: clamp.max,
        inputs: [id(inputs[0])?.into(), id(inputs[1])?.into()],
        output: id(node.output)?.into(),
        groups: u16::try_from(groups).context("more than 65,535 groups")?.into(),
        window: window.map(window_record).transpose()?.unwrap_or_default(),
        ..OpRecord::default()
    })
}

fn window_record(window: &Window) -> Result<WindowRecord> {
    let small = |value: usize| {
        u8::try_from(value)
            .with_context(|| format!("window, stride or padding {value} exceeds 255"))
    };
    Ok(WindowRecord {
        kernel_h: small(window.kernel[0])?,
        kernel_w: small(window.kernel[1])?,
        stride_h: small(window.stride[0])?,
        stride_w: small(window.stride[1])?,
        pad_top: small(window.pad[0])?,
        pad_left: small(window.pad[1])?,
        reserved: [0; 2],
    })
}
