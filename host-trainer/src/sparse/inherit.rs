//! Weight inheritance: a network begins with what a similar one has learned.

use std::path::Path;

use anyhow::Context;
use burn::tensor::Device;

use super::{Config, state::State};
use crate::net::shape::ParamSpec;
use crate::net::{Graph, NetSpec, Params, module::Network, trained::CHECKPOINT_FILE};

/// Values of a network's own tensors, statistics of batch norms included: what others may inherit.
///
/// # Errors
/// When the checkpoint in the folder of a run cannot be read.
pub fn heritage(run: &Path, net: &NetSpec) -> anyhow::Result<Params> {
    let (all, _) = Params::load(&run.join(CHECKPOINT_FILE))?;
    let graph = Graph::new(net)?;
    let own: Vec<String> = graph.params().into_iter().map(|param| param.name).collect();
    let mut kept = Params::default();
    for (name, tensor) in all.iter() {
        let statistics = [".mean", ".var"].iter().any(|end| name.ends_with(end));
        if own.iter().any(|own| own == name) || (statistics && !name.contains('/')) {
            kept.insert(name, &tensor.shape, tensor.data.clone());
        }
    }
    Ok(kept)
}

/// How much of two networks is common to both: weights that one would inherit from the other, divided by all
/// that either has. 1 is the same network; one that merely contains the other has less.
pub fn similarity(graph: &Graph, donor: &Graph) -> f64 {
    let (ours, theirs) = (graph.params(), donor.params());
    let size = |params: &[ParamSpec]| -> usize {
        params.iter().map(|param| param.shape.iter().product::<usize>()).sum()
    };
    let common = |param: &ParamSpec| -> usize {
        let other = theirs.iter().find(|other| other.name == param.name);
        other.filter(|other| other.shape.len() == param.shape.len()).map_or(0, |other| {
            param.shape.iter().zip(&other.shape).map(|(a, b)| *a.min(b)).product()
        })
    };
    let both: usize = ours.iter().map(common).sum();
    both as f64 / (size(&ours) + size(&theirs) - both).max(1) as f64
}

/// Writes the checkpoint that a training in `folder` begins with: random values, but those of the donor
/// where it has a tensor of the same name. Channels are counted from the first; kernels of another size are
/// laid over each other by their centres.
///
/// # Errors
/// When the network is impossible or the file cannot be written.
pub fn inherit(
    folder: &Path,
    net: &NetSpec,
    config: &Config,
    donor: &Params,
    device: &Device,
) -> anyhow::Result<()> {
    let state = State::new(Network::new(Graph::new(net)?), config, device);
    let mut params = state.to_params();
    let names: Vec<(String, Vec<usize>, Vec<f32>)> = params
        .iter()
        .filter(|(name, _)| !name.starts_with("optimiser/"))
        .map(|(name, tensor)| (name.to_owned(), tensor.shape.clone(), tensor.data.clone()))
        .collect();
    for (name, shape, mut data) in names {
        if let Some(given) = donor.find(&name).filter(|given| given.shape.len() == shape.len()) {
            overlay(&mut data, &shape, &given.data, &given.shape);
            params.insert(&name, &shape, data);
        }
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("creating the folder {}", folder.display()))?;
    params.save(&folder.join(CHECKPOINT_FILE), "")
}

/// Copies what two tensors have in common: the first channels, the centres of kernels.
fn overlay(to: &mut [f32], to_shape: &[usize], from: &[f32], from_shape: &[usize]) {
    // Extent in common, and where it begins in each.
    let axes: Vec<[usize; 3]> = to_shape
        .iter()
        .zip(from_shape)
        .enumerate()
        .map(|(axis, (&a, &b))| match axis {
            0 | 1 => [a.min(b), 0, 0],
            _ => [a.min(b), a.saturating_sub(b) / 2, b.saturating_sub(a) / 2],
        })
        .collect();
    let count: usize = axes.iter().map(|[extent, ..]| extent).product();
    for index in 0..count {
        let (mut rest, mut at, mut there) = (index, 0, 0);
        let (mut step, mut step_there) = (1, 1);
        for axis in (0..axes.len()).rev() {
            let [extent, begin, begin_there] = axes[axis];
            let place = rest % extent;
            rest /= extent;
            at += (begin + place) * step;
            there += (begin_there + place) * step_there;
            step *= to_shape[axis];
            step_there *= from_shape[axis];
        }
        to[at] = from[there];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_network_is_the_most_similar_one() {
        let graph = |width: usize| {
            let net = crate::net::preset(&format!("lenet:width={width}")).unwrap();
            Graph::new(&net.for_data([28, 28, 1], 10).unwrap()).unwrap()
        };
        let (small, middle, large) = (graph(1), graph(2), graph(4));
        assert_eq!(similarity(&middle, &middle), 1.0);
        // All three share as much as the smaller one of a pair has.
        assert!(similarity(&small, &middle) < 1.0);
        assert!(similarity(&small, &large) < similarity(&small, &middle));
        assert_eq!(similarity(&small, &large), similarity(&large, &small));
    }

    #[test]
    fn kernels_lie_centre_on_centre() {
        let small: Vec<f32> = (1..=9).map(|v| v as f32).collect();
        let mut large = vec![0.0; 2 * 25];
        overlay(&mut large, &[2, 1, 5, 5], &small, &[1, 1, 3, 3]);
        assert_eq!(large[6..9], [1.0, 2.0, 3.0]);
        assert_eq!(large[16..19], [7.0, 8.0, 9.0]);
        assert_eq!(large.iter().filter(|v| **v != 0.0).count(), 9);
        let mut back = vec![0.0; 9];
        overlay(&mut back, &[1, 1, 3, 3], &large, &[2, 1, 5, 5]);
        assert_eq!(back, small);
    }
}
