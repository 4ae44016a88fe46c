//! What a model is: bytes, checked once, viewed in place.
//!
//! A blob is compiled off line and used from flash without being copied or unpacked, because the
//! devices that run it have less memory than it has bytes. It therefore has a layout of its own
//! rather than a serialisation format's. [`Model::new`] walks all of it once; the accessors and the
//! kernels rely on that and check nothing that could fail any more.

mod error;
mod frontend;
pub mod layout;
mod op;

use crc::{Crc, Table};
use zerocopy::FromBytes;

pub use error::{ModelError, OpProblem, Section};
pub use frontend::{FeatureKind, FrontEnd, FrontEndProblem};
use layout::{
    ALIGNMENT, CHECKSUM, CHECKSUM_START, FrontEndRecord, Header, MAGIC, NormalisationRecord,
    OPTIONAL_SECTIONS, OptionalSections, Span, VERSION,
};
pub use op::{
    Add, BlockCopy, Clamp, Conv, Depthwise, Elementwise, Function, Lookup, Mean, Op, Operand,
    OperandSource, Place, Pool, Scratch, Softmax, Tensor, Weights, Window,
};

use crate::kernels::{ALL_KERNELS, KernelId};

/// A checked view of a `.niwaki` blob.
///
/// `KERNELS` is the set of kernels that the program links to check and run it: bit `k` stands for the
/// [`KernelId`] with number `k`. It is the set of all unless said otherwise. With the
/// [`kernels`](Self::kernels) of one model, as `niwaki export --rust` writes them, the firmware holds what
/// that model needs and no more.
#[derive(Clone, Copy, Debug)]
pub struct Model<'m, const KERNELS: u32 = ALL_KERNELS> {
    bytes: &'m [u8],
    header: &'m Header,
    tensors: &'m [layout::TensorRecord],
    ops: &'m [layout::OpRecord],
    normalisation: &'m [NormalisationRecord],
    input: Tensor,
    output: Tensor,
    front_end: Option<FrontEnd>,
}

impl<'m> Model<'m> {
    /// Checks `bytes` and views them as a model that may need any kernel.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes. Any byte string is safe to pass.
    pub fn new(bytes: &'m [u8]) -> Result<Self, ModelError> {
        Self::with_kernels(bytes)
    }
}

impl<'m, const KERNELS: u32> Model<'m, KERNELS> {
    /// As [`new`](Model::new), for a model that needs no other kernels than `KERNELS`.
    ///
    /// ```
    /// # use niwaki_core::{Model, ModelError, kernels::KernelId};
    /// const KERNELS: u32 = KernelId::LinearPacked.bit() | KernelId::Softmax.bit();
    /// # let blob = &[];
    /// let model = Model::<KERNELS>::with_kernels(blob);
    /// # assert!(matches!(model, Err(ModelError::TooShort { .. })));
    /// ```
    ///
    /// # Errors
    ///
    /// As [`new`](Model::new), and [`ModelError::MissingKernels`] when it needs others.
    pub fn with_kernels(bytes: &'m [u8]) -> Result<Self, ModelError> {
        let header = header(bytes)?;
        match header.kernels.get() & !KERNELS {
            0 => {}
            missing => return Err(ModelError::MissingKernels(missing)),
        }
        let arena_len = header.arena_len.get() as usize;
        let tensors = <[layout::TensorRecord]>::ref_from_bytes(section(
            bytes,
            header.tensors,
            Section::Tensors,
        )?)
        .map_err(|_| ModelError::Section(Section::Tensors))?;
        let ops = <[layout::OpRecord]>::ref_from_bytes(section(bytes, header.ops, Section::Ops)?)
            .map_err(|_| ModelError::Section(Section::Ops))?;
        if tensors.len() > usize::from(u16::MAX) {
            return Err(ModelError::Section(Section::Tensors));
        }
        if ops.len() > usize::from(u16::MAX) {
            return Err(ModelError::Section(Section::Ops));
        }
        let tensor = |index: u16| {
            tensors
                .get(usize::from(index))
                .and_then(|record| Tensor::decode(record, arena_len))
                .ok_or(ModelError::Tensor { tensor: index })
        };
        for index in 0..tensors.len() {
            tensor(index as u16)?;
        }
        let (input, output) = (tensor(header.input.get())?, tensor(header.output.get())?);
        let normalisation = <[NormalisationRecord]>::ref_from_bytes(section(
            bytes,
            header.normalisation,
            Section::Normalisation,
        )?)
        .map_err(|_| ModelError::Section(Section::Normalisation))?;
        let row = input.width.wrapping_mul(input.channels);
        if ![0, 1, input.channels, row, input.len()].contains(&normalisation.len()) {
            return Err(ModelError::Section(Section::Normalisation));
        }
        section(bytes, header.strings, Section::Strings)?;
        let front_end = front_end(bytes, header)?;
        if let Some(front_end) = &front_end {
            let shape = [front_end.rows(), front_end.row_len(), 1];
            if [input.height, input.width, input.channels] != shape {
                return Err(ModelError::FrontEnd(FrontEndProblem::Shape));
            }
            if normalisation.is_empty() {
                return Err(ModelError::FrontEnd(FrontEndProblem::Normalisation));
            }
        }
        let model = Self { bytes, header, tensors, ops, normalisation, input, output, front_end };
        for index in 0..ops.len() {
            let op = index as u16;
            let checked = model.decode(index).and_then(|decoded| {
                decoded.check_overlap::<KERNELS>(model.row_buffer(index, &decoded.output()))?;
                decoded.verify_streams::<KERNELS>()?;
                let kernel = model.ops.get(index).map_or(0, |record| record.kernel);
                if kernel >= 32 || header.kernels.get() & (1 << kernel) == 0 {
                    return Err(OpProblem::UndeclaredKernel(kernel));
                }
                Ok(())
            });
            checked.map_err(|problem| ModelError::Op { op, problem })?;
        }
        let weighted = (0..ops.len()).filter(|&index| model.is_weighted(index)).count();
        if model.tunable() > weighted {
            return Err(ModelError::Tunable { marked: model.tunable(), weighted });
        }
        Ok(model)
    }

    /// As [`with_kernels`](Self::with_kernels), for a model at the beginning of a longer region of memory, such as a
    /// partition of the flash.
    ///
    /// # Errors
    ///
    /// As [`with_kernels`](Self::with_kernels).
    pub fn from_region(region: &'m [u8]) -> Result<Self, ModelError> {
        let len = match Header::ref_from_prefix(region) {
            Ok((header, _)) if header.magic == MAGIC => header.total_len.get() as usize,
            _ => region.len(),
        };
        Self::with_kernels(region.get(..len).unwrap_or(region))
    }

    /// Size of the blob in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a checked model has bytes")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The blob.
    pub fn as_bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// Bytes of arena that a [`Session`](crate::Session) needs: exact, planned by the exporter.
    pub fn arena_len(&self) -> usize {
        self.header.arena_len.get() as usize
    }

    /// First bytes of the SHA-256 of the blob: names the model in messages.
    pub fn id(&self) -> [u8; 8] {
        self.header.model_id
    }

    /// Kernels that the model needs: bit `k` stands for the [`KernelId`] with number `k`.
    pub fn kernels(&self) -> u32 {
        self.header.kernels.get()
    }

    /// Tensor that the caller fills.
    pub fn input(&self) -> Tensor {
        self.input
    }

    /// Tensor that the caller reads.
    pub fn output(&self) -> Tensor {
        self.output
    }

    /// Number of operators.
    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    /// Operator `index` in order of execution, `None` past the last.
    pub fn op(&self, index: usize) -> Option<Op<'m>> {
        self.decode(index).ok()
    }

    /// Kernel of operator `index`, `None` past the last.
    pub fn kernel(&self, index: usize) -> Option<KernelId> {
        self.ops.get(index).and_then(|record| KernelId::from_number(record.kernel))
    }

    /// Number of weighted operators, the last in the order of execution, whose weights may be tuned on
    /// the device.
    pub fn tunable(&self) -> usize {
        self.header.tunable.get().into()
    }

    /// Whether operator `index` is a convolution, a linear operator or a depthwise convolution.
    pub(crate) fn is_weighted(&self, index: usize) -> bool {
        self.kernel(index).is_some_and(KernelId::is_weighted)
    }

    /// Bytes of constants and weights of operator `index`.
    pub fn constant_bytes(&self, index: usize) -> usize {
        self.ops.get(index).map_or(0, |record| {
            (record.constants.len.get() as usize).wrapping_add(record.weights.len.get() as usize)
        })
    }

    /// The model's name; empty when the blob carries no strings.
    pub fn name(&self) -> &'m str {
        self.string(0)
    }

    /// Number of class labels that the blob carries.
    pub fn label_count(&self) -> usize {
        self.header.label_count.get().into()
    }

    /// Label of class `class`; empty past the last.
    pub fn label(&self, class: usize) -> &'m str {
        if class < self.label_count() { self.string(1usize.wrapping_add(class)) } else { "" }
    }

    /// Name of the layer that operator `index` stands for; empty when the blob carries none.
    pub fn op_name(&self, index: usize) -> &'m str {
        self.string(1usize.wrapping_add(self.label_count()).wrapping_add(index))
    }

    /// The processor core that the kernels were chosen for, such as `cortex-m4`; empty when the blob does not
    /// say. Any core gives the same outputs.
    pub fn core_name(&self) -> &'m str {
        self.string(1usize.wrapping_add(self.label_count()).wrapping_add(self.op_count()))
    }

    /// How sound becomes the raw features; `None` for models of anything else.
    pub fn front_end(&self) -> Option<&FrontEnd> {
        self.front_end.as_ref()
    }

    /// How raw features become inputs: none, one record for all elements, one per channel, one per
    /// column and channel, or one per element.
    pub fn normalisation(&self) -> &'m [NormalisationRecord] {
        self.normalisation
    }

    /// Brings raw features to the int8 input, in the order height, width, channel, as the training
    /// did. This is the border of the integer world: it computes in f32 and is not part of the
    /// inference path. Elements beyond the shorter of the two slices are left alone.
    pub fn quantise_input(&self, raw: &[f32], input: &mut [i8]) {
        self.quantise_from(0, raw, input);
    }

    /// As [`quantise_input`](Self::quantise_input), for the elements from `first` on: of an input that
    /// is computed part by part.
    pub fn quantise_from(&self, first: usize, raw: &[f32], input: &mut [i8]) {
        let Some(last) = self.normalisation.len().checked_sub(1) else {
            return;
        };
        let mut record = first.checked_rem(self.normalisation.len()).unwrap_or(0);
        for (raw, input) in raw.iter().zip(input) {
            let (scale, offset) = match self.normalisation.get(record) {
                Some(n) => (n.scale.get(), n.offset.get()),
                None => (0.0, 0.0),
            };
            record = if record == last { 0 } else { record.wrapping_add(1) };
            // `as` saturates and sends NaN to 0.
            *input = round(scale * *raw + offset) as i8;
        }
    }

    pub(crate) fn decode(&self, index: usize) -> Result<Op<'m>, OpProblem> {
        let record = self.ops.get(index).ok_or(OpProblem::NoSuchTensor)?;
        let context = op::Context {
            bytes: self.bytes,
            tensors: self.tensors,
            arena_len: self.header.arena_len.get() as usize,
        };
        Op::decode::<KERNELS>(record, context)
    }

    /// The blob's bytes of constants and of weights of operator `index`.
    #[cfg(feature = "learn")]
    pub(crate) fn constants_and_weights(&self, index: usize) -> [&'m [u8]; 2] {
        let spans = self.ops.get(index).map(|record| [record.constants, record.weights]);
        spans.map_or([&[], &[]], |spans| {
            spans.map(|span| slice(self.bytes, span).unwrap_or_default())
        })
    }

    /// Operator `index` with the constants and weights that stand in `bytes` at these offsets, as long
    /// as the blob's, in place of the blob's.
    #[cfg(feature = "learn")]
    pub(crate) fn decode_with<'t>(
        &self,
        index: usize,
        bytes: &'t [u8],
        constants: u32,
        weights: u32,
    ) -> Result<Op<'t>, OpProblem>
    where
        'm: 't,
    {
        let record = self.ops.get(index).ok_or(OpProblem::NoSuchTensor)?;
        let record = layout::OpRecord {
            constants: Span { offset: constants.into(), ..record.constants },
            weights: Span { offset: weights.into(), ..record.weights },
            ..*record
        };
        Op::decode::<KERNELS>(
            &record,
            op::Context { bytes, tensors: self.tensors, arena_len: self.arena_len() },
        )
    }

    /// Working memory for one row of `output`, when operator `index` that writes it is executed row
    /// by row.
    pub fn row_buffer(&self, index: usize, output: &Tensor) -> Option<Scratch> {
        let record = self.ops.get(index)?;
        let kernel = KernelId::from_number(record.kernel)?;
        op::row_buffer(record, kernel, output, self.arena_len()).ok()?
    }

    fn string(&self, index: usize) -> &'m str {
        let mut rest = slice(self.bytes, self.header.strings).unwrap_or_default();
        for _ in 0..index {
            let Some((_, behind)) = split_string(rest) else { return "" };
            rest = behind;
        }
        split_string(rest).map_or("", |(text, _)| core::str::from_utf8(text).unwrap_or(""))
    }
}

/// Half away from zero, without a maths library.
fn round(x: f32) -> f32 {
    // Beyond 2^23 a float has no fraction and the cast below would saturate wrongly.
    if !(-8_388_608.0..=8_388_608.0).contains(&x) {
        return x;
    }
    let half = if x < 0.0 { -0.5 } else { 0.5 };
    ((x + half) as i32) as f32
}

fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_le_bytes(*len).into())
}

fn header(bytes: &[u8]) -> Result<&Header, ModelError> {
    let (header, _) = Header::ref_from_prefix(bytes)
        .map_err(|_| ModelError::TooShort { expected: size_of::<Header>(), found: bytes.len() })?;
    if header.magic != MAGIC {
        return Err(ModelError::NotAModel);
    }
    if header.version.get() != VERSION {
        return Err(ModelError::Version { expected: VERSION, found: header.version.get() });
    }
    let spans = usize::from(header.header_len.get()).wrapping_sub(size_of::<Header>());
    if spans > OPTIONAL_SECTIONS * size_of::<Span>() || !spans.is_multiple_of(size_of::<Span>()) {
        return Err(ModelError::Section(Section::Header));
    }
    let total = header.total_len.get() as usize;
    if total != bytes.len() {
        return Err(ModelError::Length { expected: total, found: bytes.len() });
    }
    if bytes.as_ptr().align_offset(ALIGNMENT) != 0 {
        return Err(ModelError::Misaligned);
    }
    let found = checksum(bytes);
    if header.checksum.get() != found {
        return Err(ModelError::Checksum { expected: header.checksum.get(), found });
    }
    Ok(header)
}

/// The checksum that the header of the blob `bytes` must hold.
pub fn checksum(bytes: &[u8]) -> u32 {
    const CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CHECKSUM);
    CRC.checksum(bytes.get(CHECKSUM_START..).unwrap_or_default())
}

fn slice(bytes: &[u8], span: Span) -> Option<&[u8]> {
    let start = span.offset.get() as usize;
    bytes.get(start..start.checked_add(span.len.get() as usize)?)
}

fn section(bytes: &[u8], span: Span, section: Section) -> Result<&[u8], ModelError> {
    slice(bytes, span)
        .filter(|_| span.offset.get() as usize >= size_of::<Header>() || span.len.get() == 0)
        .ok_or(ModelError::Section(section))
}

/// The span behind the header with the number `index`, where there is one.
fn optional(bytes: &[u8], header: &Header, index: usize) -> Option<Span> {
    let spans = bytes.get(size_of::<Header>()..usize::from(header.header_len.get()))?;
    let span = *<[Span]>::ref_from_bytes(spans).ok()?.get(index)?;
    (span.len.get() > 0).then_some(span)
}

fn front_end(bytes: &[u8], header: &Header) -> Result<Option<FrontEnd>, ModelError> {
    const INDEX: usize = core::mem::offset_of!(OptionalSections, front_end) / size_of::<Span>();
    let Some(span) = optional(bytes, header, INDEX) else { return Ok(None) };
    FrontEndRecord::ref_from_bytes(section(bytes, span, Section::FrontEnd)?)
        .map_err(|_| FrontEndProblem::Size)
        .and_then(FrontEnd::decode)
        .map(Some)
        .map_err(ModelError::FrontEnd)
}
