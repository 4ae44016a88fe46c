//! Runs a model in a caller-supplied arena.

use core::fmt;

use crate::kernels::{self, ALL_KERNELS, KernelId};
use crate::model::layout::ALIGNMENT;
use crate::model::{
    Conv, Depthwise, Model, Op, OpProblem, OperandSource, Pool, Scratch, Tensor, Window,
};

/// Bytes at the alignment that a model needs: for `static` data from `include_bytes!`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct AlignedBytes<T: ?Sized>(pub T);

/// Memory for the tensors of a session.
///
/// ```
/// # use niwaki_core::Arena;
/// let mut arena = Arena::<1024>::new(); // or in a `static`
/// assert_eq!(arena.as_mut_slice().len(), 1024);
/// ```
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct Arena<const N: usize>([i8; N]);

impl<const N: usize> Arena<N> {
    /// An arena of `N` zero bytes.
    pub const fn new() -> Self {
        Self([0; N])
    }

    /// Its memory.
    pub const fn as_mut_slice(&mut self) -> &mut [i8] {
        &mut self.0
    }
}

impl<const N: usize> Default for Arena<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a session cannot be made or an inference cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RunError {
    /// The arena is smaller than the model needs.
    ArenaTooSmall {
        /// Bytes that the model needs.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The arena does not begin at a multiple of four bytes: use [`Arena`].
    ArenaMisaligned,
    /// The model needs kernels that this session type leaves out. Bits as in [`Model::kernels`].
    MissingKernels(u32),
    /// The input has another length than the model's.
    InputLength {
        /// Bytes that the model takes.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The model's bytes changed after they were checked.
    ModelChanged,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ArenaTooSmall { expected, found } => {
                write!(f, "the model needs an arena of {expected} bytes, found {found}")
            }
            Self::ArenaMisaligned => {
                write!(f, "the arena must begin at a multiple of {ALIGNMENT} bytes: use Arena")
            }
            Self::MissingKernels(kernels) => {
                f.write_str("the model needs kernels that this session leaves out:")?;
                for kernel in KernelId::ALL.iter().filter(|k| kernels & k.bit() != 0) {
                    write!(f, " {}", kernel.name())?;
                }
                Ok(())
            }
            Self::InputLength { expected, found } => {
                write!(f, "the model takes {expected} input bytes, found {found}")
            }
            Self::ModelChanged => f.write_str("the model's bytes changed after they were checked"),
        }
    }
}

impl core::error::Error for RunError {}

impl From<OpProblem> for RunError {
    fn from(_: OpProblem) -> Self {
        Self::ModelChanged
    }
}

/// A model with the memory it runs in.
///
/// `KERNELS` is the set of kernels that are linked: with [`Model::kernels`] of one model, as
/// `niwaki export --rust` writes it, the firmware holds that model's kernels and no others.
#[derive(Debug)]
pub struct Session<'m, 'a, const KERNELS: u32 = ALL_KERNELS> {
    model: Model<'m>,
    arena: &'a mut [i8],
    next: usize,
}

impl<'m, 'a, const KERNELS: u32> Session<'m, 'a, KERNELS> {
    /// A session that runs `model` in `arena`, which may be longer than needed.
    ///
    /// # Errors
    ///
    /// When the arena is too small or misaligned, or the model needs a kernel outside `KERNELS`.
    pub fn new(model: Model<'m>, arena: &'a mut [i8]) -> Result<Self, RunError> {
        let (expected, found) = (model.arena_len(), arena.len());
        let arena = arena.get_mut(..expected).ok_or(RunError::ArenaTooSmall { expected, found })?;
        if arena.as_ptr().align_offset(ALIGNMENT) != 0 {
            return Err(RunError::ArenaMisaligned);
        }
        match model.kernels() & !KERNELS {
            0 => Ok(Self { model, arena, next: 0 }),
            missing => Err(RunError::MissingKernels(missing)),
        }
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// One inference: from the int8 input in the order height, width, channel to the int8 output.
    ///
    /// # Errors
    ///
    /// When `input` has a wrong length.
    pub fn run(&mut self, input: &[i8]) -> Result<&[i8], RunError> {
        self.set_input(input)?;
        while self.step()? {}
        Ok(self.output())
    }

    /// Writes the input and makes [`step`](Self::step) begin with the first operator.
    ///
    /// # Errors
    ///
    /// When `input` has a wrong length.
    pub fn set_input(&mut self, input: &[i8]) -> Result<(), RunError> {
        let tensor = self.model.input();
        if input.len() != tensor.len() {
            return Err(RunError::InputLength { expected: tensor.len(), found: input.len() });
        }
        copy(input, self.input_mut());
        Ok(())
    }

    /// The input's memory in the arena, to be filled in place, and makes [`step`](Self::step) begin
    /// with the first operator. A run may overwrite it: fill all of it before every run.
    pub fn input_mut(&mut self) -> &mut [i8] {
        self.next = 0;
        self.arena.get_mut(self.model.input().range()).unwrap_or(&mut [])
    }

    /// Executes the next operator. `false` when it was the last or there is none left.
    ///
    /// # Errors
    ///
    /// When the model's bytes changed after they were checked.
    pub fn step(&mut self) -> Result<bool, RunError> {
        if self.next >= self.model.op_count() {
            return Ok(false);
        }
        self.execute(self.next)?;
        self.next = self.next.wrapping_add(1);
        Ok(self.next < self.model.op_count())
    }

    /// The output as the last executed operators left it.
    pub fn output(&self) -> &[i8] {
        self.arena.get(self.model.output().range()).unwrap_or(&[])
    }

    /// The arena's bytes: for looking at intermediate tensors.
    pub fn arena(&self) -> &[i8] {
        self.arena
    }

    fn execute(&mut self, index: usize) -> Result<(), RunError> {
        // A constant condition per kernel lets the linker drop the kernels left out.
        const fn linked(set: u32, kernels: &[KernelId]) -> bool {
            let mut index = 0;
            while index < kernels.len() {
                if set & kernels[index].bit() != 0 {
                    return true;
                }
                index += 1;
            }
            false
        }
        let op = self.model.decode(index)?;
        let row = self.model.row_buffer(index, &op.output());
        match &op {
            Op::Conv(conv) if const { linked(KERNELS, &[KernelId::ConvDense, KernelId::ConvSparse]) } => {
                self.windowed(&op, row, |Strip { input, output, window }, x, y, scratch| {
                    let conv = Conv { input, output, window, ..*conv };
                    kernels::conv(&conv, x, y, scratch);
                })
            }
            Op::Linear(conv)
                if const { linked(KERNELS, &[KernelId::LinearDense, KernelId::LinearSparse]) } =>
            {
                self.unary(&op, |x, y, scratch| kernels::conv(conv, x, y, scratch))
            }
            Op::Depthwise(depthwise) if const { linked(KERNELS, &[KernelId::Depthwise]) } => self
                .windowed(&op, row, |Strip { input, output, window }, x, y, scratch| {
                    let depthwise = Depthwise { input, output, window, ..*depthwise };
                    kernels::depthwise(&depthwise, x, y, scratch);
                }),
            Op::MaxPool(pool) if const { linked(KERNELS, &[KernelId::MaxPool]) } => {
                self.windowed(&op, row, |Strip { input, output, window }, x, y, _| {
                    kernels::max_pool(&Pool { input, output, window, ..*pool }, x, y);
                })
            }
            Op::AvgPool(pool) if const { linked(KERNELS, &[KernelId::AvgPool]) } => {
                self.windowed(&op, row, |Strip { input, output, window }, x, y, _| {
                    kernels::avg_pool(&Pool { input, output, window, ..*pool }, x, y);
                })
            }
            Op::Add(add) if const { linked(KERNELS, &[KernelId::Add]) } => {
                self.bring_to_output(&op)?;
                let ranges = [add.inputs[1].range(), add.output.range()];
                let [b, y] =
                    self.arena.get_disjoint_mut(ranges).map_err(|_| RunError::ModelChanged)?;
                kernels::add(add, b, y);
                Ok(())
            }
            Op::Softmax(softmax) if const { linked(KERNELS, &[KernelId::Softmax]) } => {
                self.unary(&op, |x, y, _| kernels::softmax(softmax, x, y))
            }
            Op::Lookup(lookup) if const { linked(KERNELS, &[KernelId::Lookup]) } => {
                self.bring_to_output(&op)?;
                let y = self.arena.get_mut(lookup.output.range()).ok_or(RunError::ModelChanged)?;
                kernels::lookup(lookup, y);
                Ok(())
            }
            Op::Copy(block) if const { linked(KERNELS, &[KernelId::Copy]) } => {
                self.unary(&op, |x, y, _| kernels::copy(block, x, y))
            }
            Op::Mean(mean) if const { linked(KERNELS, &[KernelId::Mean]) } => {
                self.unary(&op, |x, y, _| kernels::mean(mean, x, y))
            }
            Op::Elementwise(elementwise)
                if const { linked(KERNELS, &[KernelId::Mul, KernelId::AddBroadcast]) } =>
            {
                self.bring_to_output(&op)?;
                match elementwise.operand.source {
                    OperandSource::Constant(constant) => {
                        let y = self.arena.get_mut(elementwise.output.range());
                        let y = y.ok_or(RunError::ModelChanged)?;
                        kernels::elementwise(elementwise, constant, y);
                    }
                    OperandSource::Tensor(operand) => {
                        let ranges = [operand.range(), elementwise.output.range()];
                        let [b, y] = self
                            .arena
                            .get_disjoint_mut(ranges)
                            .map_err(|_| RunError::ModelChanged)?;
                        kernels::elementwise(elementwise, b, y);
                    }
                }
                Ok(())
            }
            _ => Err(RunError::ModelChanged),
        }
    }

    fn unary(
        &mut self,
        op: &Op<'_>,
        kernel: impl FnOnce(&[i8], &mut [i8], &mut [i8]),
    ) -> Result<(), RunError> {
        let input = op.inputs()[0].ok_or(RunError::ModelChanged)?.range();
        let ranges = [input, op.output().range(), op.scratch().range()];
        let [x, y, scratch] =
            self.arena.get_disjoint_mut(ranges).map_err(|_| RunError::ModelChanged)?;
        kernel(x, y, scratch);
        Ok(())
    }

    /// Runs an operator with a window: at once, or row by row through a buffer when its output takes
    /// the place of input rows that are used up.
    fn windowed(
        &mut self,
        op: &Op<'_>,
        row: Option<Scratch>,
        kernel: impl Fn(Strip, &[i8], &mut [i8], &mut [i8]),
    ) -> Result<(), RunError> {
        let ([Some(input), _], Some(window)) = (op.inputs(), op.window()) else {
            return Err(RunError::ModelChanged);
        };
        let output = op.output();
        let Some(row) = row else {
            let whole = Strip { input, output, window };
            return self.unary(op, |x, y, scratch| kernel(whole, x, y, scratch));
        };
        let mut target = output.offset..output.offset.wrapping_add(row.len);
        for index in 0..output.height {
            let strip = Strip::row(index, input, output, window);
            let ranges = [strip.input.range(), row.range(), op.scratch().range()];
            let [x, y, scratch] =
                self.arena.get_disjoint_mut(ranges).map_err(|_| RunError::ModelChanged)?;
            kernel(strip, x, y, scratch);
            let ranges = [row.range(), target.clone()];
            let [y, target_row] =
                self.arena.get_disjoint_mut(ranges).map_err(|_| RunError::ModelChanged)?;
            copy(y, target_row);
            target = target.end..target.end.wrapping_add(row.len);
        }
        Ok(())
    }

    /// Copies the first input to the output, for kernels that work in place, unless it is there.
    fn bring_to_output(&mut self, op: &Op<'_>) -> Result<(), RunError> {
        let input = op.inputs()[0].ok_or(RunError::ModelChanged)?.range();
        let output = op.output().range();
        if input != output {
            let [x, y] =
                self.arena.get_disjoint_mut([input, output]).map_err(|_| RunError::ModelChanged)?;
            copy(x, y);
        }
        Ok(())
    }
}

/// A part of an operator with a window: output rows and the input rows that they need.
#[derive(Clone, Copy)]
struct Strip {
    input: Tensor,
    output: Tensor,
    window: Window,
}

impl Strip {
    /// Row `index` of the output.
    fn row(index: usize, input: Tensor, output: Tensor, window: Window) -> Self {
        let [pad, left] = window.pad;
        let start = index.wrapping_mul(window.stride[0]);
        let first = start.saturating_sub(pad);
        let end = start.wrapping_add(window.kernel[0]).saturating_sub(pad).min(input.height);
        let row_len = input.width.wrapping_mul(input.channels);
        Self {
            input: Tensor {
                offset: input.offset.wrapping_add(first.wrapping_mul(row_len)),
                height: end.saturating_sub(first),
                ..input
            },
            output: Tensor { height: 1, ..output },
            window: Window { pad: [pad.saturating_sub(start), left], ..window },
        }
    }
}

/// `copy_from_slice` without its panic.
fn copy(from: &[i8], to: &mut [i8]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from;
    }
}
