//! Fewer operators for the same bytes.

use std::collections::HashSet;

use niwaki_core::model::Clamp;

use crate::export::{Graph, Node, Operator, TensorId};

/// Joins functions of one value that follow each other, and takes those that only limit their input
/// into the operator before them. Removes tensors that nothing uses any more.
pub(super) fn simplify(graph: &mut Graph) {
    let mut index = 1;
    while index < graph.nodes.len() {
        if join(graph, index) {
            graph.nodes.remove(index);
        } else {
            index += 1;
        }
    }
    remove_unused_tensors(graph);
    shorten_names(graph);
}

/// Takes the table of a node into the node that writes its input. `false` when that is not possible.
fn join(graph: &mut Graph, index: usize) -> bool {
    let node = &graph.nodes[index];
    let Operator::Lookup { table } = &node.operator else { return false };
    let (input, output) = (node.inputs[0], node.output);
    let memory = graph.memory_of(input);
    let uses = |node: &Node| node.inputs.iter().any(|&id| graph.memory_of(id) == memory);
    let used_elsewhere = graph.nodes.iter().enumerate().any(|(i, n)| i != index && uses(n));
    let is_end = [graph.input, graph.output].iter().any(|&id| graph.memory_of(id) == memory);
    let writes = |node: &Node| graph.memory_of(node.output) == memory;
    let mut writers = graph.nodes.iter().enumerate().filter(|(_, node)| writes(node));
    let (Some((writer, _)), None) = (writers.next(), writers.next()) else { return false };
    let plain = graph.nodes[writer].output == input && graph.tensor(output).view_of.is_none();
    let same_shape = graph.tensor(input).shape == graph.tensor(output).shape;
    if used_elsewhere || is_end || !plain || !same_shape || writer >= index {
        return false;
    }
    let zero_point = |id: TensorId| graph.tensor(id).quantisation.zero_point;
    let same_zero_point = zero_point(input) == zero_point(output);
    let table = table.clone();
    let operator = &mut graph.nodes[writer].operator;
    match operator {
        Operator::Lookup { table: first } => {
            for entry in first.iter_mut() {
                *entry = table[usize::from(*entry as u8 ^ 0x80)];
            }
        }
        _ => {
            // Kernels add the output's zero point: it must stay.
            let (true, Some(clamp), Some(limits)) =
                (same_zero_point, clamp_mut(operator), limits(&table))
            else {
                return false;
            };
            let joined = Clamp { min: clamp.min.max(limits.min), max: clamp.max.min(limits.max) };
            if joined.min > joined.max {
                return false;
            }
            *clamp = joined;
        }
    }
    graph.nodes[writer].output = output;
    graph.nodes[writer].name = graph.nodes[index].name.clone();
    true
}

/// The range of a table that leaves everything within it alone.
fn limits(table: &[i8; 256]) -> Option<Clamp> {
    let clamp = Clamp { min: table[0], max: table[255] };
    let limited = |x: i8| x.max(clamp.min).min(clamp.max);
    let whole = (i8::MIN..=i8::MAX).zip(table).all(|(x, &y)| y == limited(x));
    whole.then_some(clamp)
}

fn clamp_mut(operator: &mut Operator) -> Option<&mut Clamp> {
    match operator {
        Operator::Conv { weighted, .. }
        | Operator::Linear { weighted }
        | Operator::Depthwise { weighted, .. } => Some(&mut weighted.clamp),
        Operator::MaxPool { clamp, .. }
        | Operator::AvgPool { clamp, .. }
        | Operator::Add { clamp, .. }
        | Operator::Mean { clamp, .. }
        | Operator::Elementwise { clamp, .. } => Some(clamp),
        Operator::Softmax { .. } | Operator::Lookup { .. } | Operator::Copy { .. } => None,
    }
}

fn remove_unused_tensors(graph: &mut Graph) {
    let mut used: HashSet<TensorId> = HashSet::from([graph.input, graph.output]);
    for node in &graph.nodes {
        used.extend(node.inputs.iter().copied().chain([node.output]));
    }
    for id in used.clone() {
        let mut id = id;
        while let Some(viewed) = graph.tensor(id).view_of {
            used.insert(viewed);
            id = viewed;
        }
    }
    let mut new = vec![TensorId(0); graph.tensors.len()];
    let mut kept = Vec::new();
    for (index, tensor) in graph.tensors.drain(..).enumerate() {
        if used.contains(&TensorId(index)) {
            new[index] = TensorId(kept.len());
            kept.push(tensor);
        }
    }
    let renumber = |id: &mut TensorId| *id = new[id.0];
    kept.iter_mut().filter_map(|tensor| tensor.view_of.as_mut()).for_each(renumber);
    for node in &mut graph.nodes {
        node.inputs.iter_mut().for_each(renumber);
        renumber(&mut node.output);
    }
    graph.tensors = kept;
    renumber(&mut graph.input);
    renumber(&mut graph.output);
}

/// Names go into the blob: a folder that all of them share says nothing.
fn shorten_names(graph: &mut Graph) {
    let Some(prefix) = graph
        .nodes
        .first()
        .and_then(|node| node.name.split_once('/'))
        .map(|(folder, _)| format!("{folder}/"))
    else {
        return;
    };
    let count = graph.nodes.iter().filter(|node| node.name.starts_with(&prefix)).count();
    if count * 2 > graph.nodes.len() {
        for node in &mut graph.nodes {
            if let Some(rest) = node.name.strip_prefix(&prefix) {
                node.name = rest.to_owned();
            }
        }
    }
}
