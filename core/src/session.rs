//! Runs a model in a caller-supplied arena.

use core::fmt;
use core::ops::Range;

use crate::kernels::sparse::Block;
use crate::kernels::{self, ALL_KERNELS, DEPTHWISE, KernelId, has_any};
use crate::model::layout::ALIGNMENT;
use crate::model::{Conv, Model, Op, OpProblem, OperandSource, Weights};

/// The kernels of a convolution over its nonzero weights.
const SPARSE_CONVOLUTIONS: [KernelId; 3] =
    [KernelId::ConvSparse, KernelId::ConvBlock2, KernelId::ConvBlock4];

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
/// `KERNELS` is the set of kernels that are linked, all of them unless the [`Model`] was made with fewer.
#[derive(Debug)]
pub struct Session<'m, 'a, const KERNELS: u32 = ALL_KERNELS> {
    model: Model<'m, KERNELS>,
    arena: &'a mut [i8],
    next: usize,
}

impl<'m, 'a, const KERNELS: u32> Session<'m, 'a, KERNELS> {
    /// A session that runs `model` in `arena`, which may be longer than needed.
    ///
    /// # Errors
    ///
    /// When the arena is too small or misaligned.
    pub fn new(model: Model<'m, KERNELS>, arena: &'a mut [i8]) -> Result<Self, RunError> {
        let (expected, found) = (model.arena_len(), arena.len());
        let arena = arena.get_mut(..expected).ok_or(RunError::ArenaTooSmall { expected, found })?;
        if arena.as_ptr().align_offset(ALIGNMENT) != 0 {
            return Err(RunError::ArenaMisaligned);
        }
        Ok(Self { model, arena, next: 0 })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m, KERNELS> {
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
        // By reference: an operator is large, and moving it takes longer than decoding it.
        self.execute(self.next, self.model.decode(self.next).as_ref().map_err(|e| *e)?)?;
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

    /// Executes `op`, which stands for operator `index`.
    pub(crate) fn execute(&mut self, index: usize, op: &Op<'_>) -> Result<(), RunError> {
        match op {
            Op::Conv(conv) => match conv.weights {
                Weights::Dense(_) if const { has_any(KERNELS, &[KernelId::ConvDense]) } => self
                    .conv(index, conv, |conv, x, y, scratch| {
                        kernels::conv(conv, x.unwrap_or(&[]), y, scratch);
                    }),
                Weights::Packed(words) if const { has_any(KERNELS, &[KernelId::ConvPacked]) } => {
                    self.conv(index, conv, |conv, x, y, scratch| {
                        kernels::packed::conv(conv, words, x, y, scratch);
                    })
                }
                Weights::Sparse(ref stream) if const { has_any(KERNELS, &SPARSE_CONVOLUTIONS) } => {
                    self.unary_or_in_place(op, |x, y, scratch| match stream.geometry().block() {
                        Block::One if const { has_any(KERNELS, &[KernelId::ConvSparse]) } => {
                            kernels::conv_sparse::<1>(conv, stream, x, y, scratch);
                        }
                        Block::Two if const { has_any(KERNELS, &[KernelId::ConvBlock2]) } => {
                            kernels::conv_sparse::<2>(conv, stream, x, y, scratch);
                        }
                        Block::Four if const { has_any(KERNELS, &[KernelId::ConvBlock4]) } => {
                            kernels::conv_sparse::<4>(conv, stream, x, y, scratch);
                        }
                        _ => {}
                    })
                }
                _ => Err(RunError::ModelChanged),
            },
            Op::Linear(conv) => match conv.weights {
                Weights::Dense(_) if const { has_any(KERNELS, &[KernelId::LinearDense]) } => {
                    self.unary(op, |x, y, scratch| kernels::conv(conv, x, y, scratch))
                }
                Weights::Packed(words) if const { has_any(KERNELS, &[KernelId::LinearPacked]) } => {
                    self.unary_or_in_place(op, |x, y, scratch| {
                        kernels::packed::linear(conv, words, x, y, scratch);
                    })
                }
                Weights::SparseLinear(ref stream) => {
                    self.unary(op, |x, y, scratch| match stream.block() {
                        Block::One if const { has_any(KERNELS, &[KernelId::LinearSparse]) } => {
                            kernels::linear_sparse::<1>(conv, stream, x, y, scratch);
                        }
                        Block::Two if const { has_any(KERNELS, &[KernelId::LinearBlock2]) } => {
                            kernels::linear_sparse::<2>(conv, stream, x, y, scratch);
                        }
                        Block::Four if const { has_any(KERNELS, &[KernelId::LinearBlock4]) } => {
                            kernels::linear_sparse::<4>(conv, stream, x, y, scratch);
                        }
                        _ => {}
                    })
                }
                _ => Err(RunError::ModelChanged),
            },
            Op::Depthwise(depthwise) if const { has_any(KERNELS, DEPTHWISE) } => self
                .unary_or_in_place(op, |x, y, scratch| {
                    if const { has_any(KERNELS, &[KernelId::DepthwiseLarge]) } {
                        kernels::depthwise::<4>(depthwise, x, y, scratch);
                    } else {
                        kernels::depthwise::<1>(depthwise, x, y, scratch);
                    }
                }),
            Op::MaxPool(pool) if const { has_any(KERNELS, &[KernelId::MaxPool]) } => {
                self.unary(op, |x, y, _| kernels::max_pool(pool, x, y))
            }
            Op::AvgPool(pool) if const { has_any(KERNELS, &[KernelId::AvgPool]) } => {
                self.unary(op, |x, y, _| kernels::avg_pool(pool, x, y))
            }
            Op::Add(add) if const { has_any(KERNELS, &[KernelId::Add]) } => {
                self.bring_to_output(op)?;
                let ranges = [add.inputs[1].range(), add.output.range()];
                let [b, y] =
                    self.arena.get_disjoint_mut(ranges).map_err(|_| RunError::ModelChanged)?;
                kernels::add(add, b, y);
                Ok(())
            }
            Op::Softmax(softmax) if const { has_any(KERNELS, &[KernelId::Softmax]) } => {
                self.unary(op, |x, y, _| kernels::softmax(softmax, x, y))
            }
            Op::Lookup(lookup) if const { has_any(KERNELS, &[KernelId::Lookup]) } => {
                self.bring_to_output(op)?;
                let y = self.arena.get_mut(lookup.output.range()).ok_or(RunError::ModelChanged)?;
                kernels::lookup(lookup, y);
                Ok(())
            }
            Op::Copy(block) if const { has_any(KERNELS, &[KernelId::Copy]) } => {
                self.unary(op, |x, y, _| kernels::copy(block, x, y))
            }
            Op::Mean(mean) if const { has_any(KERNELS, &[KernelId::Mean]) } => {
                self.unary(op, |x, y, _| kernels::mean(mean, x, y))
            }
            Op::Elementwise(elementwise)
                if const { has_any(KERNELS, &[KernelId::Mul, KernelId::AddBroadcast]) } =>
            {
                self.bring_to_output(op)?;
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

    /// Like [`unary`](Self::unary), for kernels whose input may stand where the output goes or at the
    /// end of the scratch, which [`Op`] has checked. They get `None` for it then.
    fn unary_or_in_place(
        &mut self,
        op: &Op<'_>,
        kernel: impl FnOnce(Option<&[i8]>, &mut [i8], &mut [i8]),
    ) -> Result<(), RunError> {
        let input = op.inputs()[0].ok_or(RunError::ModelChanged)?.range();
        let (output, scratch) = (op.output().range(), op.scratch().range());
        let apart = |a: &Range<usize>, b: &Range<usize>| a.end <= b.start || b.end <= a.start;
        let x = if !apart(&input, &output) {
            // The output is the input's beginning.
            let ranges = [input, scratch];
            let [y, scratch] =
                self.arena.get_disjoint_mut(ranges).map_err(|_| RunError::ModelChanged)?;
            kernel(None, y, scratch);
            return Ok(());
        } else if apart(&input, &scratch) {
            Some(input)
        } else {
            None
        };
        let ranges = [x.clone().unwrap_or(0..0), output, scratch];
        let [input, y, scratch] =
            self.arena.get_disjoint_mut(ranges).map_err(|_| RunError::ModelChanged)?;
        kernel(x.is_some().then_some(&*input), y, scratch);
        Ok(())
    }

    /// Runs a convolution: at once, or row by row through a buffer when its output takes the place of
    /// input rows that are used up.
    fn conv(
        &mut self,
        index: usize,
        conv: &Conv<'_>,
        kernel: impl Fn(&Conv<'_>, Option<&[i8]>, &mut [i8], &mut [i8]),
    ) -> Result<(), RunError> {
        let Some(row) = self.model.row_buffer(index, &conv.output) else {
            return self.unary_or_in_place(&Op::Conv(*conv), |x, y, scratch| {
                kernel(conv, x, y, scratch);
            });
        };
        let mut target = conv.output.offset..conv.output.offset.wrapping_add(row.len);
        for index in 0..conv.output.height {
            let part = conv.row(index);
            let ranges = [part.input.range(), row.range(), conv.scratch.range()];
            let [x, y, scratch] =
                self.arena.get_disjoint_mut(ranges).map_err(|_| RunError::ModelChanged)?;
            kernel(&part, Some(x), y, scratch);
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

/// `copy_from_slice` without its panic.
fn copy(from: &[i8], to: &mut [i8]) {
    let len = from.len().min(to.len());
    if let (Some(from), Some(to)) = (from.get(..len), to.get_mut(..len)) {
        to.copy_from_slice(from);
    }
}
