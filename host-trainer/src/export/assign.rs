//! Which of its bids each layer takes.
//!
//! Working memory buys speed, but only the layer that needs most memory sets the size of the arena: up to
//! that size memory is free for all others. So the size is chosen first, by what all layers together make
//! of it, and then each layer takes what is fastest within it.

use niwaki_core::kernels::KernelId;

/// A way to execute a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) kernel: KernelId,
    /// Predicted clock cycles.
    pub(super) cost: f64,
    /// Bytes of the weights.
    pub(super) flash: usize,
    /// Bytes of the arena while it is executed: tensors and working memory.
    pub(super) need: usize,
}

impl Offer {
    /// What offers for a layer are compared by: weights twice as large must make it a tenth faster.
    fn price(&self) -> f64 {
        self.cost * (self.flash.max(1) as f64).powf(0.15)
    }

    /// Whether the kernel is a plain one, which wins only where no other can do it.
    fn is_plain(&self) -> bool {
        matches!(self.kernel, KernelId::ConvDense | KernelId::LinearDense)
    }
}

/// One offer for each layer: the fastest within a limit of the arena, if there is one and it can be met, else
/// within an arena which, were it twice as large, would not make all of them together 1.4 times as fast.
/// `None` when a layer has no offer.
pub(super) fn assign(offers: &[Vec<Offer>], limit: Option<usize>) -> Option<Vec<usize>> {
    assign_within(offers, limit).map(|(picks, _)| picks)
}

/// The same with as few sparse kernels as cost at most a fiftieth of the time: each is more code to link.
pub(super) fn assign_few(offers: &[Vec<Offer>], limit: Option<usize>) -> Option<Vec<usize>> {
    let (mut best, arena) = assign_within(offers, limit)?;
    let enough = 1.02 * cost(offers, &best);
    let mut without = 0;
    // Without one of them another may take its place, until none of them is worth it.
    loop {
        let used = best.iter().zip(offers).map(|(&pick, offers)| offers[pick].kernel);
        let used = used.fold(0, |used, kernel| used | kernel.bit());
        let sparse = KernelId::ALL.iter().filter(|k| k.is_sparse() && k.bit() & used != 0);
        let mut fewer = sparse.filter_map(|kernel| {
            let without = without | kernel.bit();
            Some((without, picks(offers, without, arena)?))
        });
        match fewer.find(|(_, picks)| cost(offers, picks) <= enough) {
            Some(fewer) => (without, best) = fewer,
            None => return Some(best),
        }
    }
}

/// Picks and the size of the arena that they were made for.
fn assign_within(offers: &[Vec<Offer>], limit: Option<usize>) -> Option<(Vec<usize>, usize)> {
    let least = |offers: &Vec<Offer>| {
        let needs = |plain: bool| offers.iter().filter(move |o| plain || !o.is_plain());
        let least = needs(false).map(|offer| offer.need).min();
        least.or_else(|| needs(true).map(|offer| offer.need).min())
    };
    let floor = offers.iter().map(least).try_fold(0, |most, least| Some(most.max(least?)))?;
    let mut sizes: Vec<usize> =
        offers.iter().flatten().map(|offer| offer.need.max(floor)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let price = |(picks, size): &(Vec<usize>, usize)| {
        let memory = if limit.is_some() { 1.0 } else { (*size as f64).sqrt() };
        cost(offers, picks) * memory
    };
    let sizes = sizes.into_iter().filter(|&size| size == floor || size <= limit.unwrap_or(size));
    let assigned = sizes.filter_map(|size| Some((picks(offers, 0, size)?, size)));
    assigned.min_by(|a, b| price(a).total_cmp(&price(b)))
}

/// Each layer's fastest offer that fits, without the kernels in the set `without`.
fn picks(offers: &[Vec<Offer>], without: u32, arena: usize) -> Option<Vec<usize>> {
    let pick = |offers: &Vec<Offer>| {
        let fits =
            |(_, offer): &(usize, &Offer)| offer.kernel.bit() & without == 0 && offer.need <= arena;
        let fitting = || offers.iter().enumerate().filter(fits);
        let others = fitting().filter(|(_, offer)| !offer.is_plain());
        let best = others.min_by(|(_, a), (_, b)| a.price().total_cmp(&b.price()));
        best.or_else(|| fitting().next()).map(|(index, _)| index)
    };
    offers.iter().map(pick).collect()
}

fn cost(offers: &[Vec<Offer>], picks: &[usize]) -> f64 {
    picks.iter().zip(offers).map(|(&pick, offers)| offers[pick].cost).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(kernel: KernelId, cost: f64, need: usize) -> Offer {
        Offer { kernel, cost, need, flash: 1000 }
    }

    #[test]
    fn memory_must_pay_for_itself_over_all_layers() {
        use KernelId::{ConvPacked, ConvSparse};
        let small = || offer(ConvPacked, 1000.0, 1000);
        // Alone, a layer that becomes 1.3 times as fast does not earn twice the arena; one that becomes
        // 1.6 times as fast does, and then the first one may have it as well.
        let slow = vec![small(), offer(ConvSparse, 770.0, 2000)];
        let fast = vec![small(), offer(ConvSparse, 600.0, 2000)];
        assert_eq!(assign(std::slice::from_ref(&slow), None), Some(vec![0]));
        assert_eq!(assign(std::slice::from_ref(&fast), None), Some(vec![1]));
        assert_eq!(assign(&[slow.clone(), fast.clone()], None), Some(vec![1, 1]));
        // Below what another layer needs anyway memory is free.
        let large = vec![offer(ConvPacked, 10.0, 4000)];
        let little = vec![small(), offer(ConvSparse, 990.0, 3900)];
        assert_eq!(assign(&[large, little], None), Some(vec![0, 1]));
        // A limit that can be met is used, one that cannot be met is not made worse.
        assert_eq!(assign(std::slice::from_ref(&slow), Some(2000)), Some(vec![1]));
        assert_eq!(assign(std::slice::from_ref(&fast), Some(1999)), Some(vec![0]));
        assert_eq!(assign(std::slice::from_ref(&fast), Some(10)), Some(vec![0]));
        assert_eq!(assign(&[fast, vec![]], None), None);
    }

    #[test]
    fn a_sparse_kernel_must_be_worth_its_code() {
        use KernelId::{ConvBlock4, ConvDense, ConvPacked, ConvSparse};
        let layer = |cost| {
            vec![
                offer(ConvDense, 10.0, 10),
                offer(ConvPacked, 1000.0, 20),
                offer(ConvSparse, cost, 20),
                offer(ConvBlock4, 400.0, 20),
            ]
        };
        // Nor is a little time worth much flash.
        let large = |cost| Offer { flash: 2000, ..offer(ConvSparse, cost, 20) };
        let layer_with = |cost| vec![offer(ConvPacked, 1000.0, 20), large(cost)];
        assert_eq!(assign(&[layer_with(920.0)], None), Some(vec![0]));
        assert_eq!(assign(&[layer_with(880.0)], None), Some(vec![1]));
        assert_eq!(assign_few(&[layer(398.0), layer(500.0)], None), Some(vec![3, 3]));
        assert_eq!(assign_few(&[layer(300.0), layer(500.0)], None), Some(vec![2, 3]));
    }
}
