//! What a study is about: everything that decides its result.

use std::fmt;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use super::arch::Arch;
use super::optimiser::Settings;
use super::sparse::Sparse;
use crate::export::Estimate;
use crate::net::{DataInfo, spec::Task};
use crate::target::cost::Core;

/// Settings of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// What is searched for.
    pub what: What,
    /// The data that candidates learn from and are judged on.
    pub data: DataInfo,
    /// Core that models are exported for and whose cost model counts.
    pub target: Core,
    /// What no candidate may exceed.
    pub limits: Limits,
    /// What is to be small beside the error.
    #[serde(default = "Cost::usual", skip_serializing_if = "Cost::are_usual")]
    pub costs: Vec<Cost>,
    /// How candidates are found.
    pub optimiser: Settings,
    /// Whether candidates are proposed by what is predicted of them.
    pub surrogate: bool,
}

/// What is searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// Sparse forms of a network.
    Sparse(Sparse),
    /// Architectures.
    Arch(Arch),
}

impl What {
    /// What networks are trained to do.
    pub fn task(&self) -> Task {
        match self {
            Self::Sparse(sparse) => sparse.net.task,
            Self::Arch(_) => Task::Classify,
        }
    }
}

/// A cost of a model that is an objective of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Instructions of an inference
    Instructions,
    /// Bytes of the model
    Flash,
    /// Bytes of its arena
    Arena,
}

impl Cost {
    /// What counts where nothing else is said.
    pub fn usual() -> Vec<Self> {
        vec![Self::Instructions, Self::Flash]
    }

    fn are_usual(costs: &[Self]) -> bool {
        costs == Self::usual()
    }

    /// Its name with its unit.
    fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Flash => "flash_bytes",
            Self::Arena => "arena_bytes",
        }
    }

    fn of(self, needs: &Needs) -> f64 {
        match self {
            Self::Instructions => needs.instructions,
            Self::Flash => needs.flash as f64,
            Self::Arena => needs.ram as f64,
        }
    }
}

impl Search {
    /// Names of the objectives, in their order; all are to be small.
    pub fn objective_names(&self) -> Vec<&'static str> {
        std::iter::once("error").chain(self.costs.iter().map(|cost| cost.name())).collect()
    }

    /// Objectives of a model with this error that takes so much.
    pub fn objectives(&self, error: f64, needs: &Needs) -> Vec<f64> {
        std::iter::once(error).chain(self.costs.iter().map(|cost| cost.of(needs))).collect()
    }
}

/// Hard limits of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Most bytes of the model.
    pub flash: Option<u64>,
    /// Most bytes of its arena.
    pub ram: Option<u64>,
    /// Most instructions of an inference.
    pub instructions: Option<u64>,
}

/// What a model takes of what is limited.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// Bytes of the model.
    pub flash: usize,
    /// Bytes of its arena.
    pub ram: usize,
    /// Instructions of an inference.
    pub instructions: f64,
}

impl From<&Estimate> for Needs {
    fn from(estimate: &Estimate) -> Self {
        Self {
            flash: estimate.flash_bytes,
            ram: estimate.arena_bytes,
            instructions: estimate.instructions,
        }
    }
}

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Option, limit and need of each of them that is set.
    fn pairs(&self, needs: &Needs) -> impl Iterator<Item = (&'static str, u64, u64)> {
        [
            ("--flash", self.flash, needs.flash as u64),
            ("--ram", self.ram, needs.ram as u64),
            ("--instructions", self.instructions, needs.instructions.ceil() as u64),
        ]
        .into_iter()
        .filter_map(|(name, limit, need)| Some((name, limit?, need)))
    }

    /// Whether a model meets all of them.
    pub fn allow(&self, needs: &Needs) -> bool {
        self.pairs(needs).all(|(_, limit, need)| need <= limit)
    }

    /// Checks that a model meets all of them.
    ///
    /// # Errors
    /// Names the limits that it exceeds.
    pub fn check(&self, needs: &Needs) -> anyhow::Result<()> {
        let exceeded: Vec<String> = self
            .pairs(needs)
            .filter(|(_, limit, need)| need > limit)
            .map(|(name, limit, need)| format!("{name} {limit} is exceeded by {need}"))
            .collect();
        ensure!(exceeded.is_empty(), "{}", exceeded.join(", "));
        Ok(())
    }

    /// Checks that some of the smallest models that a search can reach meets them.
    ///
    /// # Errors
    /// Names the limits that are too low and the smallest values.
    pub fn check_reach(&self, what: &str, smallest: &[Needs]) -> anyhow::Result<()> {
        if self.is_empty() || smallest.iter().any(|needs| self.allow(needs)) {
            return Ok(());
        }
        let least = Needs {
            flash: smallest.iter().map(|n| n.flash).min().unwrap_or(0),
            ram: smallest.iter().map(|n| n.ram).min().unwrap_or(0),
            instructions: smallest.iter().map(|n| n.instructions).fold(f64::INFINITY, f64::min),
        };
        let low: Vec<&str> = self
            .pairs(&least)
            .filter(|(_, limit, need)| need > limit)
            .map(|(name, ..)| name)
            .collect();
        let which = match low.is_empty() {
            true => "the limits together".to_owned(),
            false => low.join(" and "),
        };
        anyhow::bail!(
            "no form of {what} can meet {which} ({self}); the smallest reachable values, each for itself, are \
             --flash {}, --ram {} and --instructions {:.0}",
            least.flash,
            least.ram,
            least.instructions.ceil()
        )
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = Needs { flash: 0, ram: 0, instructions: 0.0 };
        let parts: Vec<String> =
            self.pairs(&none).map(|(name, limit, _)| format!("{name} {limit}")).collect();
        f.write_str(if parts.is_empty() { "no limits" } else { "" })?;
        f.write_str(&parts.join(" "))
    }
}

/// What candidates are compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Objectives of the dense network.
    pub dense: Vec<f64>,
    /// A candidate that is worse in any objective counts for nothing in the hypervolume.
    pub bound: Vec<f64>,
}

/// Error that a candidate may have beyond the dense network to count, where that is a share.
const MARGIN: f64 = 0.1;

impl Reference {
    /// The reference of a dense network whose error is a share of classifications or a squared error.
    pub fn new(dense: Vec<f64>, is_share: bool) -> Self {
        let mut bound = dense.clone();
        bound[0] = if is_share { dense[0] + MARGIN } else { 2.0 * dense[0] };
        Self { dense, bound }
    }

    /// Hypervolume of points as a share of the box from zero to the bound.
    pub fn hypervolume(&self, points: &[Vec<f64>]) -> f64 {
        let share = |point: &Vec<f64>| -> Vec<f64> {
            point.iter().zip(&self.bound).map(|(value, bound)| value / bound).collect()
        };
        let shares: Vec<Vec<f64>> = points.iter().map(share).collect();
        super::pareto::hypervolume(&shares, &vec![1.0; self.bound.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_explained() {
        let limits = Limits { flash: Some(4096), ram: None, instructions: Some(1000) };
        let needs = |flash, instructions| Needs { flash, ram: 9000, instructions };
        assert!(limits.allow(&needs(4096, 999.5)) && !limits.allow(&needs(4097, 1.0)));
        let error = limits.check(&needs(5000, 2000.0)).unwrap_err().to_string();
        assert_eq!(
            error,
            "--flash 4096 is exceeded by 5000, --instructions 1000 is exceeded by 2000"
        );
        assert!(limits.check_reach("x", &[needs(9999, 9999.0), needs(1, 1.0)]).is_ok());
        let error = |smallest: &[Needs]| limits.check_reach("x", smallest).unwrap_err().to_string();
        let one = error(&[needs(5000, 300.0), needs(6000, 200.0)]);
        assert!(
            one.contains("can meet --flash (") && one.contains("--flash 5000, --ram 9000"),
            "{one}"
        );
        let both = error(&[needs(4000, 3000.0), needs(6000, 200.0)]);
        assert!(both.contains("the limits together"), "{both}");
        assert!(Limits::default().check_reach("x", &[]).is_ok());
    }

    #[test]
    fn the_hypervolume_is_a_share() {
        let reference = Reference::new(vec![0.1, 1000.0, 400.0], true);
        assert_eq!(reference.bound, [0.2, 1000.0, 400.0]);
        assert_eq!(reference.hypervolume(&[vec![0.1, 500.0, 200.0]]), 0.125);
        assert_eq!(reference.hypervolume(&[vec![0.1, 1000.0, 200.0]]), 0.0);
    }
}
