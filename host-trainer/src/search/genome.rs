//! Genomes: what a search decides, as a list of small integers.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// One value per gene of a [`Space`].
pub type Genome = Vec<u16>;

/// What one decision may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gene {
    /// One of so many ordered levels: neighbours are alike.
    Level(u16),
    /// One of so many kinds without order.
    Choice(u16),
}

impl Gene {
    /// Number of values.
    pub fn values(self) -> u16 {
        match self {
            Self::Level(values) | Self::Choice(values) => values,
        }
    }
}

/// All genomes of a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space(Vec<Gene>);

/// Distribution index of crossover and mutation: large ones keep children close to their parents.
const ETA: f64 = 10.0;

impl Space {
    /// A space of these genes, or `None` where one of them has no value.
    pub fn new(genes: Vec<Gene>) -> Option<Self> {
        let sound = !genes.is_empty() && genes.iter().all(|gene| gene.values() > 0);
        sound.then_some(Self(genes))
    }

    /// Its genes.
    pub fn genes(&self) -> &[Gene] {
        &self.0
    }

    /// Whether a genome belongs to it.
    pub fn contains(&self, genome: &[u16]) -> bool {
        genome.len() == self.0.len()
            && genome.iter().zip(&self.0).all(|(value, gene)| *value < gene.values())
    }

    /// A genome drawn evenly.
    pub fn sample(&self, rng: &mut impl Rng) -> Genome {
        self.0.iter().map(|gene| rng.random_range(0..gene.values())).collect()
    }

    /// A child of two parents: simulated binary crossover of levels (Deb and Agrawal, 1995), uniform
    /// crossover of choices; then polynomial mutation (Deb and Goyal, 1996) of about one gene.
    pub fn breed(&self, mother: &[u16], father: &[u16], rng: &mut impl Rng) -> Genome {
        let genes = self.0.iter().zip(mother.iter().zip(father));
        let mut child: Genome = genes
            .map(|(gene, (&a, &b))| match gene {
                Gene::Level(values) if a != b && rng.random_bool(0.5) => {
                    let spread = spread(rng);
                    let (low, high) = (f64::from(a), f64::from(b));
                    let value = 0.5 * ((1.0 + spread) * low + (1.0 - spread) * high);
                    nearest(value, *values)
                }
                _ => {
                    if rng.random_bool(0.5) {
                        a
                    } else {
                        b
                    }
                }
            })
            .collect();
        let rate = 1.0 / self.0.len() as f64;
        for (value, gene) in child.iter_mut().zip(&self.0) {
            if rng.random_bool(rate) {
                *value = mutate(*value, *gene, rng);
            }
        }
        child
    }
}

/// Factor by which a child of simulated binary crossover lies outside or inside of its parents.
fn spread(rng: &mut impl Rng) -> f64 {
    let u: f64 = rng.random();
    let base = if u <= 0.5 { 2.0 * u } else { 1.0 / (2.0 * (1.0 - u)) };
    base.powf(1.0 / (ETA + 1.0))
}

/// Another value of a gene. Between few levels the polynomial's steps would round to none: then it is
/// the level above or below.
fn mutate(value: u16, gene: Gene, rng: &mut impl Rng) -> u16 {
    let values = gene.values();
    if values == 1 {
        return value;
    }
    if let Gene::Choice(_) = gene {
        let other = rng.random_range(0..values - 1);
        return other + u16::from(other >= value);
    }
    let u: f64 = rng.random();
    let step = if u < 0.5 {
        (2.0 * u).powf(1.0 / (ETA + 1.0)) - 1.0
    } else {
        1.0 - (2.0 * (1.0 - u)).powf(1.0 / (ETA + 1.0))
    };
    let mutated = nearest(f64::from(value) + step * f64::from(values - 1), values);
    match (mutated == value, step < 0.0) {
        (false, _) => mutated,
        (true, true) if value > 0 => value - 1,
        (true, false) if value == values - 1 => value - 1,
        (true, _) => value + 1,
    }
}

fn nearest(value: f64, values: u16) -> u16 {
    value.round().clamp(0.0, f64::from(values - 1)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64;

    use super::*;

    proptest! {
        #[test]
        fn children_are_members(
            genes in prop::collection::vec((1_u16..40, any::<bool>()), 1..20),
            seed: u64,
        ) {
            let gene = |(values, level)| if level { Gene::Level(values) } else { Gene::Choice(values) };
            let space = Space::new(genes.into_iter().map(gene).collect()).unwrap();
            let mut rng = Pcg64::seed_from_u64(seed);
            let (mother, father) = (space.sample(&mut rng), space.sample(&mut rng));
            for _ in 0..50 {
                prop_assert!(space.contains(&space.breed(&mother, &father, &mut rng)));
            }
        }

        #[test]
        fn mutants_differ(value in 0_u16..9, level: bool, seed: u64) {
            let gene = if level { Gene::Level(9) } else { Gene::Choice(9) };
            let mutant = mutate(value, gene, &mut Pcg64::seed_from_u64(seed));
            prop_assert!(mutant != value && mutant < 9);
        }
    }
}
