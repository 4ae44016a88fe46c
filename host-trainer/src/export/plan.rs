//! Where in the arena each tensor and each operator's working memory lies.
//!
//! Two blocks may share bytes only when they are never needed at the same time, with two exceptions.
//! An operator on single elements writes over its input. An operator with a window may be executed
//! row by row: its output may then take the place of input rows that no later row needs (the
//! arrangement that Arm calls diagonal memory optimisation, at the granularity of rows).
//!
//! Finding the smallest arena is NP-hard (it is Dynamic Storage Allocation); a first fit over orders
//! that a local search with a fixed seed improves reaches the lower bound on common networks, and
//! [`Plan`] says whether it did.

use std::ops::Range;

use niwaki_core::model::Window;
use niwaki_core::model::layout::ALIGNMENT;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::graph::{Graph, Node, Operator, TensorId};

/// Bytes of the arena that are needed over a range of steps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    len: usize,
    /// First and last step at which the bytes hold something.
    first: usize,
    last: usize,
}

impl Block {
    fn coexists(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Two blocks that may overlap although both are needed at one step: the output of an operator that is
/// executed row by row, and its input.
#[derive(Clone, Copy, Debug)]
struct Overlap {
    input: usize,
    output: usize,
    /// The output begins at most this far behind the input's beginning.
    most: isize,
}

/// Offsets of everything in the arena.
#[derive(Clone, Debug)]
pub struct Plan {
    /// First byte of each tensor, views included, in the order of [`Graph::tensors`]. Tensors that no
    /// operator touches lie at 0.
    pub tensors: Vec<usize>,
    /// First byte of each node's working memory.
    pub scratch: Vec<usize>,
    /// Bytes of one row, which is buffered in front of the working memory, of each node that is
    /// executed row by row; 0 for the others.
    pub rows: Vec<usize>,
    /// First and last node that needs each tensor's memory.
    pub live: Vec<Range<usize>>,
    /// Size of the arena in bytes.
    pub arena_len: usize,
    /// Bytes that each node needs, with everything that must outlive it.
    pub needed: Vec<usize>,
    /// The largest of those: no plan that executes the same nodes row by row can be smaller.
    pub lower_bound: usize,
}

/// Output rows of fewer elements are not computed one by one without need: kernels work on several
/// at a time.
const WIDTH_WORTH_A_CALL: usize = 16;

/// Plans the arena for a graph whose node `i` needs `scratch[i]` bytes of working memory.
///
/// Execution row by row costs a little time. It is planned where it makes the arena at least a tenth
/// smaller on wide images, and wherever it helps when the arena would exceed `limit` bytes otherwise.
pub fn plan(graph: &Graph, scratch: &[usize], limit: Option<usize>) -> Plan {
    assert_eq!(graph.nodes.len(), scratch.len(), "one working memory per node");
    let whole = arrange(graph, scratch, &vec![0; graph.nodes.len()]);
    let too_large = |plan: &Plan| limit.is_some_and(|limit| plan.arena_len > limit);
    let wide = smallest_by_rows(graph, scratch, &whole, WIDTH_WORTH_A_CALL);
    let best = if wide.arena_len * 10 <= whole.arena_len * 9 { wide } else { whole.clone() };
    if !too_large(&best) {
        return best;
    }
    let any = smallest_by_rows(graph, scratch, &whole, 1);
    if any.arena_len < best.arena_len { any } else { best }
}

/// The smallest plan found when nodes whose outputs are at least `width` wide are executed row by row,
/// one more at a time, always the one that needs most.
fn smallest_by_rows(graph: &Graph, scratch: &[usize], whole: &Plan, width: usize) -> Plan {
    let mut rows = vec![0; graph.nodes.len()];
    let mut last = whole.clone();
    let mut best = whole.clone();
    while let Some(step) = (0..rows.len()).max_by_key(|&step| last.needed[step]) {
        let node = &graph.nodes[step];
        let [height, wide, channels] = graph.tensor(node.output).shape;
        if rows[step] > 0 || height < 2 || wide < width || window(node).is_none() {
            break;
        }
        rows[step] = wide * channels;
        last = arrange(graph, scratch, &rows);
        if last.arena_len < best.arena_len {
            best = last.clone();
        }
    }
    best
}

fn window(node: &Node) -> Option<Window> {
    match node.operator {
        Operator::Conv { window, .. }
        | Operator::Depthwise { window, .. }
        | Operator::MaxPool { window, .. }
        | Operator::AvgPool { window, .. } => Some(window),
        _ => None,
    }
}

/// The plan for nodes of which those with a row buffer in `rows` are executed row by row.
fn arrange(graph: &Graph, scratch: &[usize], rows: &[usize]) -> Plan {
    // Working memory changes neither which blocks tensors use nor when.
    let (tensor_blocks, owner, _) = blocks(graph, scratch);
    let overlap = |(step, node): (usize, &Node)| {
        let block = |id: TensorId| owner[graph.memory_of(id).0];
        let (input, output) = (block(node.inputs[0])?, block(node.output)?);
        let ends = tensor_blocks[input].last == step;
        let begins = tensor_blocks[output].first == step;
        if rows[step] == 0 || input == output || !ends || !begins {
            return None;
        }
        Some(Overlap { input, output, most: farthest(graph, node)? })
    };
    let overlaps: Vec<Option<Overlap>> = graph.nodes.iter().enumerate().map(overlap).collect();
    let buffer = |step: usize| overlaps[step].map_or(0, |_| align(rows[step]));
    let working: Vec<usize> =
        scratch.iter().enumerate().map(|(step, len)| buffer(step) + len).collect();
    let (blocks, owner, live) = blocks(graph, &working);
    let needed: Vec<usize> = (0..graph.nodes.len())
        .map(|step| {
            let live = blocks.iter().filter(|b| b.first <= step && step <= b.last);
            let apart = live.map(|b| align(b.len)).sum::<usize>();
            apart - overlaps[step].map_or(0, |overlap| saved(&blocks, overlap))
        })
        .collect();
    let lower_bound = needed.iter().copied().max().unwrap_or(0);
    let allowed: Vec<Overlap> = overlaps.iter().copied().flatten().collect();
    let offsets = smallest(&blocks, &allowed, lower_bound);
    prove_disjoint(&blocks, &allowed, &offsets);
    // Blocks that came to lie apart all the same need no execution row by row.
    let meet = |overlap: Overlap| {
        let range = |block: usize| offsets[block]..offsets[block] + blocks[block].len;
        let (input, output) = (range(overlap.input), range(overlap.output));
        input.start < output.end && output.start < input.end
    };
    let rows = overlaps.iter().zip(rows);
    let rows =
        rows.map(|(overlap, &len)| if overlap.is_some_and(meet) { len } else { 0 }).collect();
    let tensor_count = graph.tensors.len();
    let place = |owner: &[Option<usize>]| -> Vec<usize> {
        owner.iter().map(|block| block.map_or(0, |block| offsets[block])).collect()
    };
    Plan {
        tensors: place(&owner[..tensor_count]),
        scratch: place(&owner[tensor_count..]),
        rows,
        live,
        arena_len: height(&blocks, &offsets),
        needed,
        lower_bound,
    }
}

/// How far behind its input's beginning the output of a node may begin when the node is executed row by
/// row: each row must end before the first input row that later rows need.
fn farthest(graph: &Graph, node: &Node) -> Option<isize> {
    let window = window(node)?;
    let row_len = |id: TensorId| {
        let [_, width, channels] = graph.tensor(id).shape;
        width * channels
    };
    let (input_row, output_row) = (row_len(node.inputs[0]), row_len(node.output));
    let height = graph.tensor(node.output).shape[0];
    let slack = (1..height).map(|rows| {
        let needed = (rows * window.stride[0]).saturating_sub(window.pad[0]);
        (needed * input_row) as isize - (rows * output_row) as isize
    });
    slack.min()
}

/// Bytes that an overlap saves at its step.
fn saved(blocks: &[Block], Overlap { input, output, most }: Overlap) -> usize {
    let [input, output] = [align(blocks[input].len), align(blocks[output].len)];
    let input_start = align(usize::try_from(-most).unwrap_or(0));
    let together = output.max(input_start + input);
    (input + output).saturating_sub(together)
}

/// The blocks of a graph, for each tensor and then each node the block it uses, and the steps during
/// which each tensor is live.
type Blocks = (Vec<Block>, Vec<Option<usize>>, Vec<Range<usize>>);

fn blocks(graph: &Graph, scratch: &[usize]) -> Blocks {
    let last_step = graph.nodes.len().saturating_sub(1);
    let mut life: Vec<Option<(usize, usize)>> = vec![None; graph.tensors.len()];
    let mut touch = |id: TensorId, step: usize| {
        let life = &mut life[graph.memory_of(id).0];
        let (first, last) = life.unwrap_or((step, step));
        *life = Some((first.min(step), last.max(step)));
    };
    touch(graph.input, 0);
    for (step, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|&input| touch(input, step));
        touch(node.output, step);
    }
    touch(graph.output, last_step);

    // A tensor may take over the memory of an input that ends where it begins.
    let mut joined: Vec<usize> = (0..graph.tensors.len()).collect();
    for (step, node) in graph.nodes.iter().enumerate() {
        let in_place = node.operator.works_in_place();
        let input = graph.memory_of(node.inputs[0]).0;
        let output = graph.memory_of(node.output).0;
        let ends_here = life[input].is_some_and(|(_, last)| last == step);
        let begins_here = life[output].is_some_and(|(first, _)| first == step);
        let twice = node.inputs[1..].iter().any(|&other| graph.memory_of(other).0 == input);
        let same_len = graph.tensors[input].len() == graph.tensors[output].len();
        if in_place && ends_here && begins_here && !twice && same_len {
            joined[output] = joined[input];
        }
    }

    let mut blocks: Vec<Block> = Vec::new();
    let mut block_of: Vec<Option<usize>> = vec![None; graph.tensors.len()];
    for id in 0..graph.tensors.len() {
        let Some((first, last)) = life[id] else { continue };
        let root = joined[id];
        let len = graph.tensors[id].len();
        match block_of[root] {
            Some(index) => {
                let block = &mut blocks[index];
                block.first = block.first.min(first);
                block.last = block.last.max(last);
                block.len = block.len.max(len);
                block_of[id] = Some(index);
            }
            None => {
                blocks.push(Block { len, first, last });
                block_of[root] = Some(blocks.len() - 1);
                block_of[id] = Some(blocks.len() - 1);
            }
        }
    }
    let mut owner: Vec<Option<usize>> =
        (0..graph.tensors.len()).map(|id| block_of[graph.memory_of(TensorId(id)).0]).collect();
    for (step, &len) in scratch.iter().enumerate() {
        owner.push((len > 0).then(|| {
            blocks.push(Block { len, first: step, last: step });
            blocks.len() - 1
        }));
    }
    let live = (0..graph.tensors.len()).map(|id| {
        life[graph.memory_of(TensorId(id)).0].map_or(0..0, |(first, last)| first..last + 1)
    });
    (blocks, owner, live.collect())
}

fn align(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

fn height(blocks: &[Block], offsets: &[usize]) -> usize {
    blocks.iter().zip(offsets).map(|(block, offset)| offset + block.len).max().unwrap_or(0)
}

/// The lowest arrangement found.
fn smallest(blocks: &[Block], overlaps: &[Overlap], lower_bound: usize) -> Vec<usize> {
    /// Changes of the order that are tried; a plan of 50 blocks takes well below a second.
    const TRIALS: usize = 3_000;
    let span = |b: &Block| b.last - b.first + 1;
    let keys: [&dyn Fn(&Block) -> usize; 3] = [&|b| b.len, &|b| b.len * span(b), &|b| span(b)];
    let sorted = keys.into_iter().map(|key| {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(key(&blocks[index])));
        order
    });
    let attempt = |order: Vec<usize>| {
        let offsets = first_fit(blocks, overlaps, &order);
        (height(blocks, &offsets), order, offsets)
    };
    let Some(mut best) = sorted.map(attempt).min_by_key(|(found, ..)| *found) else {
        return Vec::new();
    };
    let mut random = Pcg64::seed_from_u64(0);
    for _ in 0..TRIALS {
        if best.0 <= lower_bound || blocks.len() < 2 {
            break;
        }
        let mut order = best.1.clone();
        for _ in 0..random.random_range(1..=3usize) {
            let moved = order.remove(random.random_range(0..order.len()));
            order.insert(random.random_range(0..=order.len()), moved);
        }
        let found = attempt(order);
        // Equal ones are taken too: the search walks over plateaus.
        if found.0 <= best.0 {
            best = found;
        }
    }
    best.2
}

/// Puts each block, in `order`, as low as the blocks allow that were placed before it.
fn first_fit(blocks: &[Block], overlaps: &[Overlap], order: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0; blocks.len()];
    for (count, &index) in order.iter().enumerate() {
        let mut forbidden: Vec<Range<isize>> = order[..count]
            .iter()
            .filter_map(|&placed| forbidden(blocks, overlaps, index, placed, offsets[placed]))
            .collect();
        forbidden.sort_by_key(|range| range.start);
        let mut offset = 0;
        for range in forbidden {
            if range.contains(&(offset as isize)) {
                offset = align(range.end as usize);
            }
        }
        offsets[index] = offset;
    }
    offsets
}

/// Offsets that a block must not have because of another one that lies at `at`.
fn forbidden(
    blocks: &[Block],
    overlaps: &[Overlap],
    index: usize,
    placed: usize,
    at: usize,
) -> Option<Range<isize>> {
    if !blocks[index].coexists(&blocks[placed]) {
        return None;
    }
    let at = at as isize;
    let [len, placed_len] = [index, placed].map(|block| align(blocks[block].len) as isize);
    let (mut first, mut end) = (at - len + 1, at + placed_len);
    for overlap in overlaps {
        if (overlap.output, overlap.input) == (index, placed) {
            first = at + overlap.most + 1;
        }
        if (overlap.input, overlap.output) == (index, placed) {
            end = at - overlap.most;
        }
    }
    Some(first..end)
}

/// Panics when two blocks overlap that must not: a fault of this module, not of its input.
fn prove_disjoint(blocks: &[Block], overlaps: &[Overlap], offsets: &[usize]) {
    for a in 0..blocks.len() {
        for b in 0..a {
            let forbidden = forbidden(blocks, overlaps, a, b, offsets[b]);
            let sound = forbidden.is_none_or(|range| !range.contains(&(offsets[a] as isize)));
            assert!(sound, "blocks {a} and {b} overlap");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn coexisting_blocks_never_overlap(
            raw in prop::collection::vec((1usize..500, 0usize..20, 0usize..6), 1..24)
        ) {
            let blocks: Vec<Block> = raw
                .iter()
                .map(|&(len, first, span)| Block { len, first, last: first + span })
                .collect();
            let offsets = smallest(&blocks, &[], 0);
            for (a, block) in blocks.iter().enumerate() {
                prop_assert_eq!(offsets[a] % ALIGNMENT, 0);
                for b in 0..a {
                    let apart = offsets[a] + block.len <= offsets[b]
                        || offsets[b] + blocks[b].len <= offsets[a];
                    prop_assert!(apart || !block.coexists(&blocks[b]));
                }
            }
        }

        #[test]
        fn outputs_by_rows_stay_behind_what_is_needed(
            input_len in 1usize..500, output_len in 1usize..500, most in -600isize..600, other in 1usize..300
        ) {
            // As from a window: the output never begins a whole output before the input.
            let most = most.max(1 - output_len as isize);
            let blocks = [
                Block { len: input_len, first: 0, last: 1 },
                Block { len: output_len, first: 1, last: 2 },
                Block { len: other, first: 1, last: 1 },
            ];
            let offsets = smallest(&blocks, &[Overlap { input: 0, output: 1, most }], 0);
            let [input, output, other] = [0, 1, 2].map(|b| (offsets[b], offsets[b] + blocks[b].len));
            prop_assert!(output.0 as isize <= input.0 as isize + most || output.0 >= input.1);
            prop_assert!(other.1 <= input.0 || input.1 <= other.0);
            prop_assert!(other.1 <= output.0 || output.1 <= other.0);
            prop_assert!(other.0 % ALIGNMENT == 0);
        }
    }
}
