//! Compares a target's outputs with this computer's, byte by byte.

use niwaki_core::frontend::Extractor;
use niwaki_core::link::CHUNK;
use niwaki_core::{Model, Session};
use serde::Serialize;

use crate::data::Dataset;
use crate::export::{AlignedVec, top1};

use super::bench::unit_name;
use super::device::Features;
use super::{Device, Firmware, Ran, Target, TargetError};

/// Inputs to compare on.
#[derive(Debug, Clone, Copy)]
pub struct Samples<'a> {
    /// Quantised inputs, each of the model's input length.
    pub inputs: &'a [Vec<i8>],
    /// The class of each, where the task is classification.
    pub labels: Option<&'a [usize]>,
    /// The outputs that another engine gave for them.
    pub golden: Option<&'a [Vec<i8>]>,
    /// The clips of sound that the inputs were computed from: the target gets these instead, computes the
    /// features itself, and they are compared with the inputs.
    pub clips: Option<&'a [&'a [i16]]>,
}

/// The clips of samples of a data set, for a model that takes sound.
pub fn clips<'a>(
    model: &Model<'_>,
    data: &'a Dataset,
    samples: &[usize],
) -> Option<Vec<&'a [i16]>> {
    let sound = data.sound.as_ref().filter(|_| model.front_end().is_some())?;
    Some(samples.iter().map(|&sample| sound.clip(sample)).collect())
}

/// What [`validate`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Validation {
    /// Name of the target.
    pub target: String,
    /// Inputs that were compared.
    pub samples: usize,
    /// Output bytes that differ between host and target, over all samples.
    pub mismatched_bytes: usize,
    /// Bytes of the quantised features that differ between host and target, where the target computed them.
    pub mismatched_feature_bytes: Option<usize>,
    /// Output bytes of the target that differ from another engine's, where those are given.
    pub golden_mismatched_bytes: Option<usize>,
    /// The first sample with a byte that differs.
    pub first_mismatch: Option<usize>,
    /// Share of samples whose largest output on the host is their label's.
    pub accuracy_host: Option<f64>,
    /// The same on the target.
    pub accuracy_target: Option<f64>,
    /// What the target counts: `instructions` on an emulator, `cycles` on a real board; none on the host.
    pub unit: Option<&'static str>,
    /// Mean number of executed instructions (or cycles: see `unit`) of an inference; none on the host.
    pub instructions_per_inference: Option<u64>,
    /// Mean number of executed instructions of the features of a clip, where the target computed them; none
    /// on the host.
    pub instructions_per_clip: Option<u64>,
    /// Size of the model in flash.
    pub model_bytes: usize,
    /// Size of the firmware in flash, without the model; none on the host.
    pub code_bytes: Option<u64>,
    /// Memory for the model's tensors.
    pub arena_bytes: usize,
    /// Most stack that an inference took; none on the host.
    pub stack_bytes: Option<u32>,
    /// The operators in order of execution.
    pub layers: Vec<LayerCost>,
}

/// One operator of a [`Validation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerCost {
    /// Name of the layer that it stands for.
    pub name: String,
    /// The kernel that computes it.
    pub kernel: &'static str,
    /// Executed instructions on the first sample; none on the host.
    pub instructions: Option<u64>,
}

/// Runs `model` on every sample on the host and on `target` and compares every output byte. `done` is
/// called after each sample. A board's `firmware` is built where none is given.
///
/// On [`Target::Host`] the second run is one on this computer too, in an arena full of noise and operator
/// by operator: the result may depend on neither.
///
/// # Errors
///
/// When the target cannot be used or an input has a wrong length.
pub fn validate(
    target: &Target,
    firmware: Option<&Firmware>,
    model: &Model<'_>,
    samples: Samples<'_>,
    done: &dyn Fn(),
) -> Result<Validation, TargetError> {
    let built = match (target, firmware) {
        (Target::Board(board), None) => Some(Firmware::build(board, &|_| {})?),
        _ => None,
    };
    let firmware = firmware.or(built.as_ref());
    let mut runner = Runner::start(target, firmware, model)?;
    let mut arena = AlignedVec::zeroed(model.arena_len());
    let mut session: Session<'_, '_> = Session::new(*model, arena.as_arena())?;
    let mut found = Found::default();
    for (index, input) in samples.inputs.iter().enumerate() {
        let expected = session.run(input)?;
        let label = samples.labels.and_then(|labels| labels.get(index)).copied();
        let golden = samples.golden.and_then(|golden| golden.get(index));
        let clip = samples.clips.and_then(|clips| clips.get(index));
        let ran = match clip {
            Some(clip) => {
                let (features, ran) = runner.run_clip(clip)?;
                found.add_features(index, input, &features);
                ran
            }
            None => runner.run(input)?,
        };
        found.add(index, expected, &ran, label, golden);
        done();
    }
    let (costs, stack_bytes) = match (&mut runner, samples.inputs.first()) {
        (Runner::Device(device), Some(input)) => {
            (device.profile(input)?, Some(device.stack_bytes()?))
        }
        _ => (Vec::new(), None),
    };
    let layers = (0..model.op_count())
        .map(|index| LayerCost {
            name: model.op_name(index).to_owned(),
            kernel: model.kernel(index).map_or("unknown", |kernel| kernel.name()),
            instructions: costs.get(index).copied(),
        })
        .collect();
    let count = samples.inputs.len();
    let mean = |total: u64| (count > 0).then(|| total / count as u64);
    let share =
        |right: usize| (samples.labels.is_some() && count > 0).then(|| right as f64 / count as f64);
    let unit = runner.unit();
    Ok(Validation {
        target: target.name().to_owned(),
        unit,
        samples: count,
        mismatched_bytes: found.mismatched_bytes,
        mismatched_feature_bytes: samples.clips.map(|_| found.mismatched_feature_bytes),
        golden_mismatched_bytes: samples.golden.map(|_| found.golden_mismatched_bytes),
        first_mismatch: found.first_mismatch,
        accuracy_host: share(found.right_on_host),
        accuracy_target: share(found.right_on_target),
        instructions_per_inference: unit.and_then(|_| mean(found.instructions)),
        instructions_per_clip: unit
            .and(samples.clips)
            .and_then(|_| mean(found.feature_instructions)),
        model_bytes: model.as_bytes().len(),
        code_bytes: firmware.map(|firmware| firmware.code_bytes),
        arena_bytes: model.arena_len(),
        stack_bytes,
        layers,
    })
}

/// Sums over the samples.
#[derive(Default)]
struct Found {
    mismatched_bytes: usize,
    mismatched_feature_bytes: usize,
    golden_mismatched_bytes: usize,
    first_mismatch: Option<usize>,
    right_on_host: usize,
    right_on_target: usize,
    instructions: u64,
    feature_instructions: u64,
}

impl Found {
    fn add_features(&mut self, index: usize, expected: &[i8], features: &Features) {
        let mismatched = differing(expected, &features.input);
        self.mismatched_feature_bytes += mismatched;
        if mismatched > 0 {
            self.first_mismatch.get_or_insert(index);
        }
        self.feature_instructions += features.count;
    }

    fn add(
        &mut self,
        index: usize,
        expected: &[i8],
        ran: &Ran,
        label: Option<usize>,
        golden: Option<&Vec<i8>>,
    ) {
        let from_host = differing(expected, &ran.output);
        let from_golden = golden.map_or(0, |golden| differing(golden, &ran.output));
        self.mismatched_bytes += from_host;
        self.golden_mismatched_bytes += from_golden;
        if from_host + from_golden > 0 {
            self.first_mismatch.get_or_insert(index);
        }
        self.right_on_host += usize::from(label == Some(top1(expected)));
        self.right_on_target += usize::from(label == Some(top1(&ran.output)));
        self.instructions += ran.count;
    }
}

/// Where the compared run happens.
enum Runner<'m> {
    Device(Box<Device>),
    Host { model: Model<'m>, arena: AlignedVec },
}

impl<'m> Runner<'m> {
    fn start(
        target: &Target,
        firmware: Option<&Firmware>,
        model: &Model<'m>,
    ) -> Result<Self, TargetError> {
        match (target, firmware) {
            (Target::Board(board), Some(firmware)) => {
                Ok(Self::Device(Box::new(Device::start(board, firmware, model)?)))
            }
            (Target::Attached { board, port }, _) => {
                Ok(Self::Device(Box::new(Device::connect_untuned(board, port, model)?)))
            }
            _ => Ok(Self::Host { model: *model, arena: AlignedVec::zeroed(model.arena_len()) }),
        }
    }

    fn unit(&self) -> Option<&'static str> {
        match self {
            Self::Device(device) => Some(unit_name(device.about().counter)),
            Self::Host { .. } => None,
        }
    }

    fn run(&mut self, input: &[i8]) -> Result<Ran, TargetError> {
        match self {
            Self::Device(device) => device.run(input),
            Self::Host { model, arena } => {
                let arena = arena.as_arena();
                arena.fill(NOISE);
                let mut session: Session<'_, '_> = Session::new(*model, arena)?;
                session.set_input(input)?;
                while session.step()? {}
                Ok(Ran { output: session.output().to_vec(), count: 0 })
            }
        }
    }
}

impl Runner<'_> {
    /// As a device does it: the samples come in pieces.
    fn run_clip(&mut self, clip: &[i16]) -> Result<(Features, Ran), TargetError> {
        let model = match self {
            Self::Device(device) => return device.run_clip(clip),
            Self::Host { model, .. } => *model,
        };
        let mut input = vec![0; model.input().len()];
        if let Some(front_end) = model.front_end() {
            let mut memory = AlignedVec::zeroed(front_end.memory_len());
            let mut extractor = Extractor::new(*front_end, memory.as_arena())?;
            for samples in clip.chunks(CHUNK / 2) {
                extractor.push(samples, |index, row| {
                    let first = index * row.len();
                    model.quantise_from(first, row, &mut input[first..]);
                });
            }
        }
        let ran = self.run(&input)?;
        Ok((Features { input, count: 0 }, ran))
    }
}

/// What the arena holds before a run on the host.
const NOISE: i8 = 0x5a;

/// Bytes that differ, those that only one side has included.
fn differing(expected: &[i8], found: &[i8]) -> usize {
    let common = expected.iter().zip(found).filter(|(a, b)| a != b).count();
    common + expected.len().abs_diff(found.len())
}
