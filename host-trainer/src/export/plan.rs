//! Where in the arena each tensor and each operator's working memory lies.
//!
//! Two blocks may share bytes only when they are never needed at the same time. Finding the smallest
//! arena is NP-hard (it is Dynamic Storage Allocation); best fit over a few good orders, and over
//! random ones with a fixed seed, reaches the lower bound on common networks, and [`Plan`] says
//! whether it did.

use std::ops::Range;

use anyhow::{Result, bail};
use niwaki_core::model::layout::ALIGNMENT;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use super::graph::{Graph, TensorId};

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

/// What a node needs beside its tensors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Bytes of working memory.
    pub scratch: usize,
    /// What its first input may share memory with.
    pub sharing: Sharing,
    /// How it may be executed row by row instead.
    pub rows: Option<Rows>,
}

/// Execution row by row: each row of the output is buffered in front of the working memory and then takes
/// the place of input rows that no later row needs. (Arm calls the arrangement diagonal memory
/// optimisation.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Bytes of a row of the output.
    pub len: usize,
    /// How far before its input the output begins.
    pub ahead: usize,
}

/// What a node's first input may share memory with, where nothing else needs it afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Nothing.
    #[default]
    None,
    /// The output, which begins where the input does and is no longer.
    Output,
    /// The output, with another amount of working memory.
    OutputWith {
        /// Bytes of working memory then.
        scratch: usize,
    },
    /// The working memory, at whose end the input stands.
    EndOfScratch,
    /// The output, which is written row by row.
    ByRows(Rows),
}

impl Sharing {
    /// Whether the output may take the input's place.
    pub fn is_in_place(self) -> bool {
        matches!(self, Self::Output | Self::OutputWith { .. })
    }
}

/// Offsets of everything in the arena.
#[derive(Clone, Debug)]
pub struct Plan {
    /// First byte of each tensor, views included, in the order of [`Graph::tensors`]. Tensors that no
    /// operator touches lie at 0.
    pub tensors: Vec<usize>,
    /// Each node's working memory, with the row in front of it where that is buffered.
    pub scratch: Vec<Range<usize>>,
    /// Whether each node is executed row by row.
    pub by_rows: Vec<bool>,
    /// First and last node that needs each tensor's memory.
    pub live: Vec<Range<usize>>,
    /// Size of the arena in bytes.
    pub arena_len: usize,
    /// Bytes that each node needs: its tensors, its working memory and what is kept for later nodes.
    pub needed: Vec<usize>,
    /// The most of these: no plan that shares the same memory is smaller.
    pub lower_bound: usize,
}

impl Plan {
    /// Checks that the arena is not larger than a limit.
    ///
    /// # Errors
    ///
    /// Names the nodes that need most, and what would help.
    pub fn check(&self, graph: &Graph, limit: usize) -> Result<()> {
        if self.arena_len <= limit {
            return Ok(());
        }
        let names = graph.nodes.iter().map(|node| &node.name[..]);
        let mut needs: Vec<(usize, &str)> = self.needed.iter().copied().zip(names).collect();
        needs.sort_by_key(|&(needed, _)| std::cmp::Reverse(needed));
        let largest: Vec<String> = needs
            .iter()
            .take(3)
            .take_while(|(needed, _)| *needed > limit.min(self.lower_bound - 1))
            .map(|(needed, name)| format!("`{name}` {needed} bytes"))
            .collect();
        let advice = if self.lower_bound > limit {
            "no plan can do with less: make these layers or the input smaller"
        } else {
            "no better plan was found: a slightly higher limit or smaller layers would do"
        };
        bail!(
            "the model needs an arena of {} bytes, the limit is {limit}; most is needed by {}: {advice}",
            self.arena_len,
            largest.join(", ")
        )
    }
}

/// Bytes that each node needs, which shares what its needs say wherever it can.
pub(super) fn needed(graph: &Graph, needs: &[Needs]) -> Vec<usize> {
    Layout::new(graph, needs).needed(graph)
}

/// Plans the arena for a graph whose node `i` needs `needs[i]`.
///
/// Execution row by row costs a little time: it is planned for the nodes that need most, and only where it
/// makes the arena at least a tenth smaller.
pub fn plan(graph: &Graph, needs: &[Needs]) -> Plan {
    assert_eq!(graph.nodes.len(), needs.len(), "one set of needs per node");
    let whole = smallest_plan(graph, needs);
    let mut needs = needs.to_vec();
    let (mut last, mut best) = (whole.clone(), whole.clone());
    while let Some(step) = (0..needs.len()).max_by_key(|&step| last.needed[step]) {
        let Some(rows) = needs[step].rows.take() else { break };
        needs[step].sharing = Sharing::ByRows(rows);
        last = smallest_plan(graph, &needs);
        if last.arena_len < best.arena_len {
            best = last.clone();
        }
    }
    if best.arena_len * 10 <= whole.arena_len * 9 { best } else { whole }
}

fn smallest_plan(graph: &Graph, needs: &[Needs]) -> Plan {
    // Sharing does not always pay: a layer that works in place may need more working memory.
    let variants = [[true, true], [true, false], [false, true], [false, false]];
    let [output_with, end_of_scratch] = [
        needs.iter().any(|need| matches!(need.sharing, Sharing::OutputWith { .. })),
        needs.iter().any(|need| need.sharing == Sharing::EndOfScratch),
    ];
    // Where no node could share so, allowing it or not gives the same plan.
    let differ =
        |allowed: &[bool; 2]| (allowed[0] || output_with) && (allowed[1] || end_of_scratch);
    let plans = variants.into_iter().filter(differ);
    let plans = plans.map(|allowed| plan_with(graph, needs, allowed));
    plans.min_by_key(|plan| plan.arena_len).expect("there are variants")
}

/// A plan in which nodes of the kinds [`Sharing::OutputWith`] and [`Sharing::EndOfScratch`] share
/// memory, where allowed.
fn plan_with(graph: &Graph, needs: &[Needs], [output_with, end_of_scratch]: [bool; 2]) -> Plan {
    let needs: Vec<Needs> = needs
        .iter()
        .map(|need| match need.sharing {
            Sharing::OutputWith { .. } if !output_with => Needs { sharing: Sharing::None, ..*need },
            Sharing::EndOfScratch if !end_of_scratch => Needs { sharing: Sharing::None, ..*need },
            _ => *need,
        })
        .collect();
    let layout = Layout::new(graph, &needs);
    let offsets = smallest(&layout.blocks);
    prove_disjoint(&layout.blocks, &offsets);
    let at = |place: &Option<Place>| place.map_or(0, |place| offsets[place.block] + place.inner);
    let needed = layout.needed(graph);
    Plan {
        by_rows: layout.by_rows,
        tensors: layout.tensors.iter().map(at).collect(),
        scratch: layout.scratch.iter().map(|(place, len)| at(place)..at(place) + len).collect(),
        live: layout.live.iter().map(|life| life.map_or(0..0, |(a, b)| a..b + 1)).collect(),
        arena_len: height(&layout.blocks, &offsets),
        lower_bound: needed.iter().copied().max().unwrap_or(0),
        needed,
    }
}

/// Where something lies: a block, and how far from its beginning.
#[derive(Clone, Copy, Debug)]
struct Place {
    block: usize,
    inner: usize,
}

/// The blocks of a graph and what lies in them.
struct Layout {
    blocks: Vec<Block>,
    /// Of each tensor, if any node touches it.
    tensors: Vec<Option<Place>>,
    /// Of each node's working memory, with its length.
    scratch: Vec<(Option<Place>, usize)>,
    /// Whether each node is executed row by row.
    by_rows: Vec<bool>,
    /// First and last step of each tensor.
    live: Vec<Option<(usize, usize)>>,
}

impl Layout {
    fn new(graph: &Graph, needs: &[Needs]) -> Self {
        let live = lives(graph);
        let mut layout = Self {
            blocks: Vec::new(),
            tensors: vec![None; graph.tensors.len()],
            scratch: Vec::new(),
            by_rows: vec![false; graph.nodes.len()],
            live,
        };
        layout.place(graph, graph.input);
        for (step, (node, need)) in graph.nodes.iter().zip(needs).enumerate() {
            // Constants aside, what a node reads was written before.
            node.inputs.iter().for_each(|&input| layout.place(graph, input));
            let input = graph.memory_of(node.inputs[0]).0;
            let output = graph.memory_of(node.output).0;
            let twice = node.inputs[1..].iter().any(|&other| graph.memory_of(other).0 == input);
            let ends = layout.live[input].is_some_and(|(_, last)| last == step) && !twice;
            let begins = layout.live[output].is_some_and(|(first, _)| first == step);
            let (input_len, output_len) = (graph.tensors[input].len(), graph.tensors[output].len());
            let place = layout.tensors[input];
            let mut scratch = need.scratch;
            match (need.sharing, place) {
                (Sharing::Output, Some(place)) if ends && begins && output_len <= input_len => {
                    layout.share(output, place);
                }
                (Sharing::OutputWith { scratch: other }, Some(place))
                    if ends && begins && output_len <= input_len =>
                {
                    layout.share(output, place);
                    scratch = other;
                }
                (Sharing::EndOfScratch, Some(place))
                    if ends
                        && scratch >= input_len
                        && input_len.is_multiple_of(ALIGNMENT)
                        && scratch.is_multiple_of(ALIGNMENT) =>
                {
                    // Room before the input, for the part of the working memory that it is not.
                    let missing = (scratch - input_len).saturating_sub(place.inner);
                    layout.shift(place.block, missing);
                    let inner = place.inner + missing + input_len - scratch;
                    layout.place(graph, node.output);
                    let place = Place { block: place.block, inner };
                    layout.scratch.push((Some(place), scratch));
                    continue;
                }
                (Sharing::ByRows(rows), Some(place)) if ends && begins => {
                    let ahead = align(rows.ahead);
                    let missing = ahead.saturating_sub(place.inner);
                    layout.shift(place.block, missing);
                    let inner = place.inner + missing - ahead;
                    layout.share(output, Place { block: place.block, inner });
                    let block = &mut layout.blocks[place.block];
                    block.len = block.len.max(inner + output_len);
                    layout.by_rows[step] = true;
                    scratch += align(rows.len);
                }
                _ => {}
            }
            layout.place(graph, node.output);
            let place = (scratch > 0).then(|| layout.block(scratch, step, step));
            layout.scratch.push((place, scratch));
        }
        for id in 0..graph.tensors.len() {
            layout.tensors[id] = layout.tensors[graph.memory_of(TensorId(id)).0];
            layout.live[id] = layout.live[graph.memory_of(TensorId(id)).0];
        }
        layout
    }

    /// Bytes of the blocks that are needed at each step.
    fn needed(&self, graph: &Graph) -> Vec<usize> {
        let needed = |step: usize| {
            let live = self.blocks.iter().filter(|b| b.first <= step && step <= b.last);
            live.map(|b| align(b.len)).sum()
        };
        (0..graph.nodes.len()).map(needed).collect()
    }

    fn block(&mut self, len: usize, first: usize, last: usize) -> Place {
        self.blocks.push(Block { len, first, last });
        Place { block: self.blocks.len() - 1, inner: 0 }
    }

    /// Gives a tensor a block of its own unless it has a place.
    fn place(&mut self, graph: &Graph, id: TensorId) {
        let memory = graph.memory_of(id).0;
        if let (None, Some((first, last))) = (self.tensors[memory], self.live[memory]) {
            self.tensors[memory] = Some(self.block(graph.tensors[memory].len(), first, last));
        }
    }

    /// Puts a tensor where another one begins, which ends when this one is written.
    fn share(&mut self, tensor: usize, place: Place) {
        self.tensors[tensor] = Some(place);
        if let Some((_, last)) = self.live[tensor] {
            let block = &mut self.blocks[place.block];
            block.last = block.last.max(last);
        }
    }

    /// Moves all that lies in a block behind `room` new bytes.
    fn shift(&mut self, block: usize, room: usize) {
        self.blocks[block].len += room;
        let scratch = self.scratch.iter_mut().filter_map(|(place, _)| place.as_mut());
        for place in self.tensors.iter_mut().flatten().chain(scratch) {
            if place.block == block {
                place.inner += room;
            }
        }
    }
}

/// First and last step at which each tensor's memory is needed; views count for what they view.
fn lives(graph: &Graph) -> Vec<Option<(usize, usize)>> {
    let last_step = graph.nodes.len().saturating_sub(1);
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; graph.tensors.len()];
    let mut touch = |id: TensorId, step: usize| {
        let life = &mut lives[graph.memory_of(id).0];
        let (first, last) = life.unwrap_or((step, step));
        *life = Some((first.min(step), last.max(step)));
    };
    touch(graph.input, 0);
    for (step, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|&input| touch(input, step));
        touch(node.output, step);
    }
    touch(graph.output, last_step);
    lives
}

fn align(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

fn height(blocks: &[Block], offsets: &[usize]) -> usize {
    blocks.iter().zip(offsets).map(|(block, offset)| offset + block.len).max().unwrap_or(0)
}

/// The lowest arrangement found.
fn smallest(blocks: &[Block]) -> Vec<usize> {
    /// Random orders tried beyond the usual ones; a plan of 50 blocks takes well below a second.
    const RANDOM_ORDERS: usize = 2_000;
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    let span = |b: &Block| b.last - b.first + 1;
    let keys: [&dyn Fn(&Block) -> usize; 3] = [&|b| b.len, &|b| b.len * span(b), &|b| span(b)];
    let mut best: Option<Vec<usize>> = None;
    let mut consider = |order: &[usize]| {
        let offsets = best_fit(blocks, order);
        let lower = |best: &Vec<usize>| height(blocks, &offsets) < height(blocks, best);
        if best.as_ref().is_none_or(lower) {
            best = Some(offsets);
        }
    };
    for key in keys {
        order.sort_by_key(|&index| std::cmp::Reverse(key(&blocks[index])));
        consider(&order);
    }
    order.sort_by_key(|&index| std::cmp::Reverse(blocks[index].len));
    let mut random = Pcg64::seed_from_u64(0);
    for _ in 0..RANDOM_ORDERS {
        let mut shuffled = order.clone();
        // A few exchanges of a good order do better than an arbitrary one.
        for _ in 0..random.random_range(1..=4usize) {
            let (a, b) = (
                random.random_range(0..order.len().max(1)),
                random.random_range(0..order.len().max(1)),
            );
            if !shuffled.is_empty() {
                shuffled.swap(a, b);
            }
        }
        consider(&shuffled);
    }
    best.unwrap_or_default()
}

/// Puts each block, in `order`, into the smallest gap between the blocks it coexists with that holds
/// it, else on top.
fn best_fit(blocks: &[Block], order: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0; blocks.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(blocks.len());
    for &index in order {
        let block = &blocks[index];
        let mut taken: Vec<Range<usize>> = placed
            .iter()
            .filter(|&&other| blocks[other].coexists(block))
            .map(|&other| offsets[other]..offsets[other] + align(blocks[other].len))
            .collect();
        taken.sort_by_key(|range| range.start);
        let mut free = 0;
        let mut best: Option<(usize, usize)> = None;
        for range in taken {
            if range.start >= free {
                let gap = range.start - free;
                if gap >= block.len && best.is_none_or(|(smallest, _)| gap < smallest) {
                    best = Some((gap, free));
                }
            }
            free = free.max(range.end);
        }
        offsets[index] = best.map_or(free, |(_, offset)| offset);
        placed.push(index);
    }
    offsets
}

/// Panics when two blocks that coexist overlap: a fault of this module, not of its input.
fn prove_disjoint(blocks: &[Block], offsets: &[usize]) {
    for (a, block) in blocks.iter().enumerate() {
        for b in 0..a {
            let apart =
                offsets[a] + block.len <= offsets[b] || offsets[b] + blocks[b].len <= offsets[a];
            assert!(apart || !block.coexists(&blocks[b]), "blocks {a} and {b} overlap");
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
            let order: Vec<usize> = (0..blocks.len()).collect();
            let offsets = best_fit(&blocks, &order);
            prove_disjoint(&blocks, &offsets);
            prop_assert!(offsets.iter().all(|offset| offset % ALIGNMENT == 0));
        }
    }
}
