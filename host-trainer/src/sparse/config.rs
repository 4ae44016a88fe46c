//! Settings of a training run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Method,
    criteria::Criterion,
    decoupled::Decoupled,
    mask::{Budget, Distribution, Structure},
    method::{MaskKind, share},
    optimiser::Rule,
};
use crate::{data::Augment, net::Graph};

/// Everything that decides the result of a training run, beside network and data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Method of sparse training.
    pub method: Method,
    /// Share of the weights that is nonzero in the end, see [`super::mask`].
    pub density: f64,
    /// How that share is divided among the layers.
    pub distribution: Distribution,
    /// Which weights of a layer are kept or dropped together.
    #[serde(default)]
    pub structure: Structure,
    /// What weights are scored by, where a method keeps those with the highest scores.
    #[serde(default)]
    pub criterion: Criterion,
    /// Folder of another run of the same network whose values training begins with, relative to the folder
    /// of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// Folder of a run whose masks are taken where the method would draw random ones, relative to the folder
    /// of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_from: Option<PathBuf>,
    /// Passes over the training split.
    pub epochs: usize,
    /// Epochs at the end that simulate int8 arithmetic.
    pub qat_epochs: usize,
    /// Samples per step.
    pub batch: usize,
    /// Parts of a batch that are computed separately, in parallel on a CPU. Batch norm takes its
    /// statistics from a part, so this number is a setting and does not follow the machine.
    pub shards: usize,
    /// Update rule.
    pub optimiser: Rule,
    /// Largest learning rate; it follows half a cosine after a linear warm-up.
    pub learning_rate: f64,
    /// Epochs of warm-up.
    pub warmup: f64,
    /// Weight decay; biases and batch norm are not decayed.
    pub weight_decay: f64,
    /// Share of the target probability that is spread over all classes.
    pub label_smoothing: f64,
    /// Random changes of training samples.
    pub augment: Option<Augment>,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        let optimiser = Rule::default();
        Self {
            method: Method::Decoupled(Decoupled { mask: MaskKind::Gmp, ..Decoupled::default() }),
            density: 0.1,
            distribution: Distribution::default(),
            structure: Structure::default(),
            criterion: Criterion::default(),
            start: None,
            mask_from: None,
            epochs: 12,
            qat_epochs: 2,
            batch: 128,
            shards: 4,
            optimiser,
            learning_rate: optimiser.learning_rate(),
            warmup: 0.5,
            weight_decay: optimiser.weight_decay(),
            label_smoothing: 0.0,
            augment: None,
            seed: 0,
        }
    }
}

impl Config {
    /// Epochs of quantisation-aware training that suit a number of epochs: a fifth, at most two.
    pub fn qat_epochs_for(epochs: usize) -> usize {
        (epochs / 5).min(2)
    }

    /// Share of the training that works with float weights and activations.
    fn float_share(&self) -> f64 {
        1.0 - self.qat_epochs as f64 / self.epochs as f64
    }

    /// The same settings with a method that is complete before int8 is simulated, and with the
    /// structure that it needs.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let float = self.float_share();
        self.method.settle_by(float);
        if let (Method::Srigl(_), Structure::Unstructured) = (&self.method, self.structure) {
            self.structure = Structure::FanIn;
        }
        self
    }

    /// The same settings for a run in a folder: paths no longer depend on it.
    pub(super) fn in_folder(mut self, run: &Path) -> Self {
        for path in [&mut self.start, &mut self.mask_from].into_iter().flatten() {
            *path = run.join(&path);
        }
        self
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the setting, what was expected and what was found.
    pub fn check(&self) -> anyhow::Result<()> {
        let positive = |name: &str, value: f64| {
            anyhow::ensure!(
                value > 0.0 && value.is_finite(),
                "{name} must be positive, found {value}"
            );
            Ok(())
        };
        self.method.check()?;
        match (&self.method, self.structure) {
            (Method::Srigl(_), Structure::FanIn)
            | (Method::Set(_) | Method::Rigl(_), Structure::Unstructured) => {}
            (Method::Srigl(_), _) => {
                anyhow::bail!("the method srigl needs the structure fan-in")
            }
            (Method::Set(_) | Method::Rigl(_), _) => anyhow::bail!(
                "the method {} moves single weights, which the structure does not allow; for a \
                 constant fan-in there is srigl",
                self.method.name()
            ),
            _ => {}
        }
        anyhow::ensure!(
            self.criterion == Criterion::default() || self.method.chooses_by_score(),
            "the method {} does not choose weights by a score, so that the criterion {} has no meaning; \
             one-shot, gmp and the kinds of decoupled whose masks do not stay random do",
            self.method.name(),
            self.criterion.name()
        );
        let random = match &self.method {
            Method::Static | Method::Set(_) | Method::Rigl(_) => true,
            Method::Decoupled(decoupled) => decoupled.mask == MaskKind::Random,
            _ => false,
        };
        anyhow::ensure!(
            self.mask_from.is_none() || random,
            "masks of another run take the place of random ones that stay, which {} does not have",
            self.method.name()
        );
        share("density", self.density)?;
        share("label smoothing", self.label_smoothing)?;
        positive("density", self.density)?;
        positive("learning rate", self.learning_rate)?;
        anyhow::ensure!(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "weight decay must not be negative, found {}",
            self.weight_decay
        );
        anyhow::ensure!(
            self.warmup >= 0.0 && self.warmup.is_finite(),
            "warm-up must not be negative, found {}",
            self.warmup
        );
        anyhow::ensure!(self.epochs > 0, "the number of epochs must not be 0");
        anyhow::ensure!(self.batch > 0 && self.shards > 0, "batch and shards must not be 0");
        anyhow::ensure!(
            self.qat_epochs <= self.epochs,
            "{} quantisation-aware epochs do not fit into {} epochs",
            self.qat_epochs,
            self.epochs
        );
        // The float network must be finished before int8 is simulated.
        let float = self.float_share();
        let needed = self.method.settled();
        anyhow::ensure!(
            needed <= float,
            "{} is complete after {:.0} % of the training, but quantisation-aware epochs start after {:.0} %",
            self.method.name(),
            100.0 * needed,
            100.0 * float
        );
        Ok(())
    }

    /// Checks that a network can have the density with the structure of its masks.
    ///
    /// # Errors
    /// When layers that stay dense or the least size of a structure exceed it.
    pub fn check_density(&self, graph: &Graph) -> anyhow::Result<()> {
        if self.method == Method::Dense {
            return Ok(());
        }
        let budget =
            Budget::new(graph, &graph.params(), self.density, self.distribution, self.structure)?;
        let real = budget.kept() as f64 / budget.weights as f64;
        anyhow::ensure!(
            real <= 1.1 * self.density,
            "a density of {} is not possible with the structure of the masks: the nearest one is {real:.3}",
            self.density
        );
        Ok(())
    }
}
