//! Methods of sparse training: when masks are drawn and which of its paths a network trains.
//!
//! A method is a plain description. It tells the trainer at every step which phase the training is
//! in and whether masks are due to be drawn or changed; it has no state beside the masks themselves,
//! so that a resumed run needs nothing else.
//!
//! Published schedules count steps of long trainings. Here every time is a share of the training,
//! so that a method keeps its shape at any length.

use std::{fmt, str::FromStr};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    decoupled::Decoupled,
    dynamic::{Dynamic, Srigl, Update},
};

/// A method with its settings.
///
/// As text it is a name and what differs from the defaults: `rigl`, `gmp:start=0.2,end=0.7`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// All weights, no mask.
    Dense,
    /// A random mask from the first step to the last: the control of every other method.
    Static,
    /// Pruning by a score at once, then fine-tuning.
    OneShot(OneShot),
    /// Gradual magnitude pruning: the density falls by a cubic schedule (Zhu and Gupta, "To prune,
    /// or not to prune", 2017, arXiv:1710.01878).
    Gmp(Gmp),
    /// Sparse evolutionary training (Mocanu et al., Nature Communications 9:2383, 2018): see
    /// [`super::dynamic::set`].
    Set(Dynamic),
    /// Rigging the lottery (Evci et al., ICML 2020): see [`super::dynamic::rigl`].
    Rigl(Dynamic),
    /// Structured RigL (Lasby et al., ICLR 2024): see [`super::dynamic::srigl`].
    Srigl(Srigl),
    /// Self-decoupled training.
    Decoupled(Decoupled),
}

/// Names of methods and what they do, in the order of `--help`.
pub const METHODS: &[(&str, &str)] = &[
    ("dense", "all weights, no mask"),
    ("static", "a random mask from start to end: the control of every other method"),
    (
        "one-shot",
        "all weights, then the smallest are pruned at once and the rest is fine-tuned (Han et al. 2015)",
    ),
    ("gmp", "gradual magnitude pruning by a cubic schedule (Zhu and Gupta 2017)"),
    (
        "set",
        "sparse evolutionary training: drops small weights, grows random ones (Mocanu et al. 2018)",
    ),
    ("rigl", "drops small weights, grows those with large gradients (Evci et al. 2020)"),
    ("srigl", "the same with constant fan-in and neuron ablation (Lasby et al. 2024)"),
    ("decoupled", "self-decoupled: redundant weights help to train a random backbone and fade out"),
    ("decoupled-magnitude", "the same with the largest weights as backbone"),
    ("decoupled-gmp", "the same with a backbone that is pruned gradually"),
    (
        "decoupled-moving",
        "the same with the largest weights again and again, without a dense beginning",
    ),
];

/// Settings of one-shot magnitude pruning (Han et al., "Learning both weights and connections",
/// NeurIPS 2015, with one iteration).
///
/// The learning rate goes on where it is, so that fine-tuning has the rates that the dense network
/// would have had; Renda et al. (ICLR 2020) find this better than fine-tuning at the last rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OneShot {
    /// Share of the training with all weights.
    pub at: f64,
}

impl Default for OneShot {
    fn default() -> Self {
        Self { at: 0.6 }
    }
}

/// Settings of gradual magnitude pruning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gmp {
    /// Share of the training before the first weight is pruned.
    pub start: f64,
    /// Share of the training after which the density is final.
    pub end: f64,
    /// How often masks are renewed in between.
    pub renewals: usize,
}

impl Default for Gmp {
    fn default() -> Self {
        Self { start: 0.1, end: 0.6, renewals: 40 }
    }
}

/// How the backbone of self-decoupled training is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MaskKind {
    /// At random, before training
    #[default]
    Random,
    /// The largest weights, after a first part of the training with all weights
    Magnitude,
    /// The largest weights, fewer and fewer by the schedule of gradual magnitude pruning
    Gmp,
    /// At random, then the largest weights, chosen again and again from early on
    Moving,
}

/// What the network trains in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Phase {
    /// All weights.
    Dense,
    /// The backbone alone and the whole network, whose redundant weights count `gamma`.
    Both {
        /// Factor of the redundant weights.
        gamma: f64,
        /// Factor by which the redundant weights shrink after the step.
        shrink: f64,
    },
    /// The backbone alone.
    Masked,
}

/// How new masks are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// At random.
    Random,
    /// The weights with the highest scores.
    Scores,
}

/// New masks that are due before a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renewal {
    /// How they are found.
    pub choice: Choice,
    /// Density of the network under them.
    pub density: f64,
}

/// Where the training is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
}

impl Clock {
    /// The step that a share of the training ends with.
    pub fn at(&self, share: f64) -> usize {
        (self.steps as f64 * share).round() as usize
    }
}

impl Method {
    /// The method of this name from [`METHODS`] with its default settings.
    pub fn named(name: &str) -> Option<Self> {
        let decoupled = |mask| Self::Decoupled(Decoupled { mask, ..Decoupled::default() });
        Some(match name {
            "dense" => Self::Dense,
            "static" => Self::Static,
            "one-shot" => Self::OneShot(OneShot::default()),
            "gmp" => Self::Gmp(Gmp::default()),
            "set" => Self::Set(Dynamic::default()),
            "rigl" => Self::Rigl(Dynamic::default()),
            "srigl" => Self::Srigl(Srigl::default()),
            "decoupled" => decoupled(MaskKind::Random),
            "decoupled-magnitude" => decoupled(MaskKind::Magnitude),
            "decoupled-gmp" => decoupled(MaskKind::Gmp),
            "decoupled-moving" => decoupled(MaskKind::Moving),
            _ => return None,
        })
    }

    /// Name from [`METHODS`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Static => "static",
            Self::OneShot(_) => "one-shot",
            Self::Gmp(_) => "gmp",
            Self::Set(_) => "set",
            Self::Rigl(_) => "rigl",
            Self::Srigl(_) => "srigl",
            Self::Decoupled(decoupled) => match decoupled.mask {
                MaskKind::Random => "decoupled",
                MaskKind::Magnitude => "decoupled-magnitude",
                MaskKind::Gmp => "decoupled-gmp",
                MaskKind::Moving => "decoupled-moving",
            },
        }
    }

    /// Whether it keeps the weights with the highest scores, now or at some time.
    pub fn chooses_by_score(&self) -> bool {
        match self {
            Self::OneShot(_) | Self::Gmp(_) => true,
            Self::Decoupled(decoupled) => decoupled.mask != MaskKind::Random,
            _ => false,
        }
    }

    /// Settings by name.
    pub fn settings(&self) -> Vec<(String, Value)> {
        let Ok(Value::Object(mut settings)) = serde_json::to_value(self) else { return Vec::new() };
        settings.remove("name");
        settings.into_iter().collect()
    }

    /// What is trained in the step that comes next.
    pub fn phase(&self, clock: Clock) -> Phase {
        match self {
            Self::Dense => Phase::Dense,
            Self::OneShot(one_shot) if clock.step < clock.at(one_shot.at) => Phase::Dense,
            Self::Gmp(gmp) if clock.step < clock.at(gmp.start) => Phase::Dense,
            Self::Static
            | Self::OneShot(_)
            | Self::Gmp(_)
            | Self::Set(_)
            | Self::Rigl(_)
            | Self::Srigl(_) => Phase::Masked,
            Self::Decoupled(decoupled) => decoupled.phase(clock),
        }
    }

    /// The masks that are due before the step that comes next, if any.
    pub fn renewal(&self, clock: Clock, density: f64) -> Option<Renewal> {
        let once = |step: usize, choice: Choice| {
            (clock.step == step).then_some(Renewal { choice, density })
        };
        match self {
            Self::Dense => None,
            Self::Static | Self::Set(_) | Self::Rigl(_) | Self::Srigl(_) => once(0, Choice::Random),
            Self::OneShot(one_shot) => once(clock.at(one_shot.at), Choice::Scores),
            Self::Gmp(gmp) => gmp.renewal(clock, density),
            Self::Decoupled(decoupled) => decoupled.renewal(clock, density),
        }
    }

    /// The change of masks that is due in the step that comes next, if any.
    pub fn update(&self, clock: Clock) -> Option<Update> {
        match self {
            Self::Set(set) => Some(Update::Set { drop: set.due(clock)? }),
            Self::Rigl(rigl) => Some(Update::Rigl { drop: rigl.due(clock)? }),
            Self::Srigl(srigl) => {
                Some(Update::Srigl { drop: srigl.dynamic().due(clock)?, salient: srigl.salient })
            }
            _ => None,
        }
    }

    /// Share of the training after which the float network is as it will be, but for its values.
    pub fn settled(&self) -> f64 {
        match self {
            Self::Dense | Self::Static => 0.0,
            Self::OneShot(one_shot) => one_shot.at,
            Self::Gmp(gmp) => gmp.end,
            Self::Set(dynamic) | Self::Rigl(dynamic) => dynamic.until,
            Self::Srigl(srigl) => srigl.until,
            Self::Decoupled(decoupled) => decoupled.until,
        }
    }

    /// The same method, settled after this share of the training or before.
    pub(super) fn settle_by(&mut self, share: f64) {
        match self {
            Self::Dense | Self::Static => {}
            Self::OneShot(one_shot) => one_shot.at = one_shot.at.min(share),
            Self::Gmp(gmp) => gmp.end = gmp.end.min(share),
            Self::Set(dynamic) | Self::Rigl(dynamic) => dynamic.until = dynamic.until.min(share),
            Self::Srigl(srigl) => srigl.until = srigl.until.min(share),
            Self::Decoupled(decoupled) => decoupled.settle_by(share),
        }
    }

    /// Checks what types cannot.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let check = || match self {
            Self::Dense | Self::Static => Ok(()),
            Self::OneShot(one_shot) => share("at", one_shot.at),
            Self::Gmp(gmp) => {
                share("start", gmp.start)?;
                share("end", gmp.end)?;
                anyhow::ensure!(gmp.start <= gmp.end, "it must not end before it starts");
                Ok(())
            }
            Self::Set(dynamic) | Self::Rigl(dynamic) => dynamic.check(),
            Self::Srigl(srigl) => srigl.check(),
            Self::Decoupled(decoupled) => decoupled.check(),
        };
        check().with_context(|| format!("in the settings of the method {}", self.name()))
    }
}

/// Checks that a setting is a share.
pub(super) fn share(name: &str, value: f64) -> anyhow::Result<()> {
    anyhow::ensure!((0.0..=1.0).contains(&value), "{name} must be between 0 and 1, found {value}");
    Ok(())
}

impl FromStr for Method {
    type Err = anyhow::Error;

    /// Reads `NAME` or `NAME:SETTING=VALUE,...`.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let method = Self::named(name).with_context(|| {
            let names: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
            format!("no method is called `{name}`; expected one of {}", names.join(", "))
        })?;
        let mut json = serde_json::to_value(&method)?;
        for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
            let slot = setting.split_once('=').and_then(|(key, value)| {
                let slot = json.get_mut(key).filter(|_| key != "name")?;
                Some((slot, value))
            });
            let Some((slot, value)) = slot else {
                let known: Vec<String> =
                    method.settings().iter().map(|(key, value)| format!("{key}={value}")).collect();
                anyhow::bail!(
                    "the method {name} has no setting `{setting}`; it has {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                );
            };
            *slot = match slot {
                Value::String(_) => Value::String(value.to_owned()),
                _ => serde_json::from_str(value)
                    .with_context(|| format!("expected a number in `{setting}`"))?,
            };
        }
        let method: Self =
            serde_json::from_value(json).with_context(|| format!("in the method `{text}`"))?;
        method.check()?;
        Ok(method)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defaults = Self::named(self.name()).map(|method| method.settings()).unwrap_or_default();
        let changed: Vec<String> = self
            .settings()
            .into_iter()
            .zip(defaults)
            .filter(|(setting, default)| setting != default)
            .map(|((key, value), _)| match value {
                Value::String(text) => format!("{key}={text}"),
                value => format!("{key}={value}"),
            })
            .collect();
        match changed.is_empty() {
            true => f.write_str(self.name()),
            false => write!(f, "{}:{}", self.name(), changed.join(",")),
        }
    }
}

impl Gmp {
    /// The masks that are due before the step that comes next, if any.
    pub(super) fn renewal(&self, clock: Clock, density: f64) -> Option<Renewal> {
        let (start, end) = (clock.at(self.start), clock.at(self.end).max(clock.at(self.start)));
        let every = ((end - start) / self.renewals.max(1)).max(1);
        let due = (start..end).contains(&clock.step) && (clock.step - start).is_multiple_of(every);
        if !due && clock.step != end {
            return None;
        }
        let rest = 1.0 - (clock.step - start) as f64 / (end - start).max(1) as f64;
        Some(Renewal { choice: Choice::Scores, density: density + (1.0 - density) * rest.powi(3) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gmp_is_cubic_and_ends_at_the_density() {
        let gmp = Method::Gmp(Gmp::default());
        let densities: Vec<f64> = (0..1000)
            .filter_map(|step| gmp.renewal(Clock { step, steps: 1000 }, 0.1))
            .map(|renewal| renewal.density)
            .collect();
        assert_eq!((densities[0], *densities.last().unwrap()), (1.0, 0.1));
        assert!(densities.is_sorted_by(|a, b| a > b));
        assert!((densities[densities.len() / 2] - (0.1 + 0.9 / 8.0)).abs() < 0.02);
    }

    #[test]
    fn methods_are_written_as_they_are_read() {
        for (name, _) in METHODS {
            assert_eq!(name.parse::<Method>().unwrap().to_string(), *name);
        }
        for text in
            ["gmp:end=0.7,start=0.2", "decoupled-gmp:distil=0.0,norms=shared", "rigl:drop=0.5"]
        {
            assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
        }
        // The mask decides the name.
        let method: Method = "decoupled:mask=magnitude".parse().unwrap();
        assert_eq!(method.to_string(), "decoupled-magnitude");
        let error = |text: &str| format!("{:#}", text.parse::<Method>().unwrap_err());
        assert!(error("snip").contains("rigl"));
        assert!(error("gmp:until=1").contains("renewals=40"));
        assert!(error("dense:name=gmp").contains("none"));
        assert!(error("gmp:end=soon").contains("end=soon"));
        assert!(error("rigl:drop=1.5").contains("between 0 and 1"));
        assert!(error("decoupled:norms=none").contains("shared"));
    }
}
