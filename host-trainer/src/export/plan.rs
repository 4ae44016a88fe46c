//! Where in the arena each tensor and each operator's working memory lies.
//!
//! Two blocks may share bytes only when they are never needed at the same time. Finding the smallest
//! arena is NP-hard (it is Dynamic Storage Allocation); best fit over a few good orders, and over
//! random ones with a fixed seed, reaches the lower bound on common networks, and [`Plan`] says
//! whether it did.

use std::ops::Range;

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

/// Offsets of everything in the arena.
#[derive(Clone, Debug)]
pub struct Plan {
    /// First byte of each tensor, views included, in the order of [`Graph::tensors`]. Tensors that no
    /// operator touches lie at 0.
    pub tensors: Vec<usize>,
    /// First byte of each node's working memory.
    pub scratch: Vec<usize>,
    /// First and last node that needs each tensor's memory.
    pub live: Vec<Range<usize>>,
    /// Size of the arena in bytes.
    pub arena_len: usize,
    /// Most bytes that are needed at any one step: no plan can be smaller.
    pub lower_bound: usize,
}

/// Plans the arena for a graph whose node `i` needs `scratch[i]` bytes of working memory.
pub fn plan(graph: &Graph, scratch: &[usize]) -> Plan {
    assert_eq!(graph.nodes.len(), scratch.len(), "one working memory per node");
    let (blocks, owner, live) = blocks(graph, scratch);
    let offsets = smallest(&blocks);
    prove_disjoint(&blocks, &offsets);
    let end = |step: usize| {
        let live = blocks.iter().filter(|b| b.first <= step && step <= b.last);
        live.map(|b| align(b.len)).sum::<usize>()
    };
    let lower_bound = (0..graph.nodes.len()).map(end).max().unwrap_or(0);
    let tensor_count = graph.tensors.len();
    Plan {
        tensors: owner[..tensor_count].iter().map(|b| b.map_or(0, |b| offsets[b])).collect(),
        scratch: owner[tensor_count..].iter().map(|b| b.map_or(0, |b| offsets[b])).collect(),
        live,
        arena_len: height(&blocks, &offsets),
        lower_bound,
    }
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
