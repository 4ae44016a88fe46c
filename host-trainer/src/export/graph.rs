//! A network in integers, before memory is planned and kernels are chosen.

use niwaki_core::kernels::Rescale;
use niwaki_core::model::{Clamp, FrontEnd, Place, Window};

/// Position of a tensor in [`Graph::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// Affine quantisation: `real = scale * (stored - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantisation {
    /// Real value of one integer step.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero_point: i8,
}

/// An int8 tensor.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Name, for messages.
    pub name: String,
    /// Height, width, channels; vectors are `[1, 1, n]`.
    pub shape: [usize; 3],
    /// Meaning of its integers.
    pub quantisation: Quantisation,
    /// The tensor whose memory this one is another view of: a reshape.
    pub view_of: Option<TensorId>,
}

impl TensorInfo {
    /// Number of elements, which is also the number of bytes.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Weights, biases and rescales of a convolution, linear or depthwise operator.
#[derive(Clone, Debug)]
pub struct Weighted {
    /// Convolution: output channel, kernel row, kernel column, input channel of the group. Linear:
    /// output, input in the order height, width, channel. Depthwise: kernel row, kernel column,
    /// output channel.
    pub weights: Vec<i8>,
    /// Per output channel, in units of input scale times weight scale, for inputs from which the zero
    /// point has been subtracted.
    pub bias: Vec<i32>,
    /// Per output channel: multiplier and shift, as [`Rescale::new`] takes them.
    pub rescale: Vec<(i32, i32)>,
    /// Range of outputs.
    pub clamp: Clamp,
}

impl Weighted {
    /// Multiplier and shift of each output channel as a model holds them: times zero is zero, whatever the
    /// shift, so that a zero has one that all kernels take.
    pub(super) fn usual_rescales(&self) -> impl Iterator<Item = (i32, i32)> + '_ {
        let usual = |&(multiplier, shift)| (multiplier, if multiplier == 0 { -1 } else { shift });
        self.rescale.iter().map(usual)
    }
}

/// What a node computes. See [`niwaki_core::model::Op`] for the meaning of each.
#[derive(Clone, Debug)]
pub enum Operator {
    /// Convolution.
    Conv {
        /// Constants.
        weighted: Weighted,
        /// Window.
        window: Window,
        /// Groups.
        groups: usize,
    },
    /// Linear operator over the whole input.
    Linear {
        /// Constants.
        weighted: Weighted,
    },
    /// Depthwise convolution.
    Depthwise {
        /// Constants.
        weighted: Weighted,
        /// Window.
        window: Window,
    },
    /// Largest value of a window.
    MaxPool {
        /// Window.
        window: Window,
        /// Range of outputs.
        clamp: Clamp,
    },
    /// Mean of a window.
    AvgPool {
        /// Window.
        window: Window,
        /// Range of outputs.
        clamp: Clamp,
    },
    /// Sum of two tensors.
    Add {
        /// Multiplier and shift that bring each input to the common scale.
        inputs: [(i32, i32); 2],
        /// Multiplier and shift that bring the sum to the output's scale.
        output: (i32, i32),
        /// Range of outputs.
        clamp: Clamp,
    },
    /// Softmax over the channels.
    Softmax {
        /// Multiplier and left shift.
        rescale: (i32, i32),
        /// Differences below this vanish.
        diff_min: i32,
    },
    /// A function of one value.
    Lookup {
        /// Output for the inputs -128 to 127.
        table: Box<[i8; 256]>,
    },
    /// Copy of a block: padding, concatenation, slices and transposition. Several nodes may write
    /// parts of one output.
    Copy {
        /// Elements along each of three axes.
        counts: [usize; 3],
        /// Where they come from.
        source: Place,
        /// Where they go.
        destination: Place,
        /// What the whole output becomes first.
        fill: Option<i8>,
    },
    /// Mean over each axis on which the output has one element.
    Mean {
        /// Multiplier and shift of the sum.
        rescale: (i32, i32),
        /// Range of outputs.
        clamp: Clamp,
    },
    /// Product or sum of a tensor and a second operand.
    Elementwise {
        /// What is computed.
        function: Function,
        /// The second operand, when it is not a tensor.
        constant: Option<Constant>,
        /// Range of outputs.
        clamp: Clamp,
    },
}

/// What an elementwise operator computes.
#[derive(Clone, Copy, Debug)]
pub enum Function {
    /// Product.
    Mul {
        /// Multiplier and shift of the product.
        rescale: (i32, i32),
    },
    /// Sum, as [`Operator::Add`].
    Add {
        /// Multiplier and shift that bring each input to the common scale.
        inputs: [(i32, i32); 2],
        /// Multiplier and shift that bring the sum to the output's scale.
        output: (i32, i32),
    },
}

/// A constant operand. Each dimension is the output's or 1, along which it repeats.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// The integer that stands for 0.
    pub zero_point: i8,
    /// Its elements.
    pub values: Vec<i8>,
}

impl Operator {
    /// The sum of two tensors with these quantisations, rescaled as TFLite does. `None` when a scale
    /// is not a positive number.
    pub fn add(inputs: [Quantisation; 2], output: Quantisation, clamp: Clamp) -> Option<Self> {
        let [a, b] = inputs.map(|q| f64::from(q.scale));
        let twice_the_larger = 2.0 * a.max(b);
        Some(Self::Add {
            inputs: [
                Rescale::quantise(a / twice_the_larger)?,
                Rescale::quantise(b / twice_the_larger)?,
            ],
            output: Rescale::quantise(
                twice_the_larger / (f64::from(1 << 20) * f64::from(output.scale)),
            )?,
            clamp,
        })
    }

    /// The softmax of a tensor with this scale, prepared as TFLite does (`beta` is 1 almost always).
    /// `None` when the scale is not a positive number.
    pub fn softmax(scale: f32, beta: f64) -> Option<Self> {
        const INTEGER_BITS: i32 = 5;
        let real = beta * f64::from(scale) * f64::from(1u32 << (31 - INTEGER_BITS));
        // Above, neighbouring scores are further apart than an int8 probability can tell.
        let real = real.min(f64::from((1 << 30) - 1));
        let (multiplier, left_shift) = Rescale::quantise(real)?;
        // TFLite asserts that the multiplier is above one; smaller scales are exact with shift 0.
        if left_shift < 0 {
            return None;
        }
        let most = f64::from((1 << INTEGER_BITS) - 1) * f64::from(1u32 << (31 - INTEGER_BITS))
            / (left_shift as f64).exp2();
        Some(Self::Softmax { rescale: (multiplier, left_shift), diff_min: -(most.floor() as i32) })
    }

    /// A tabulated function of real numbers.
    pub fn lookup(
        input: Quantisation,
        output: Quantisation,
        function: impl Fn(f64) -> f64,
    ) -> Self {
        let mut table = Box::new([0i8; 256]);
        for (entry, stored) in table.iter_mut().zip(-128i32..) {
            let real = f64::from(input.scale) * f64::from(stored - i32::from(input.zero_point));
            *entry = output.quantise(function(real));
        }
        Self::Lookup { table }
    }

    /// Whether the output may take the place of the first input.
    pub fn works_in_place(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Lookup { .. } | Self::Elementwise { .. })
    }

    /// Constants of a weighted operator.
    pub fn weighted(&self) -> Option<&Weighted> {
        match self {
            Self::Conv { weighted, .. }
            | Self::Linear { weighted }
            | Self::Depthwise { weighted, .. } => Some(weighted),
            _ => None,
        }
    }
}

impl Quantisation {
    /// The nearest integer to a real value, within int8.
    pub fn quantise(self, real: f64) -> i8 {
        let stored = (real / f64::from(self.scale)).round() + f64::from(self.zero_point);
        stored.clamp(-128.0, 127.0) as i8
    }
}

/// An operator with the tensors it reads and writes.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name of the layer, for tables and messages.
    pub name: String,
    /// Tensors read.
    pub inputs: Vec<TensorId>,
    /// Tensor written.
    pub output: TensorId,
    /// What is computed.
    pub operator: Operator,
}

/// A network in integers. Nodes stand in an order in which they can be executed.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    /// Tensors.
    pub tensors: Vec<TensorInfo>,
    /// Operators.
    pub nodes: Vec<Node>,
    /// Tensor that the caller fills.
    pub input: TensorId,
    /// Tensor that the caller reads.
    pub output: TensorId,
    /// Class labels; may be empty.
    pub labels: Vec<String>,
    /// Scale and offset from raw features to stored inputs: none, one for all elements, one per
    /// channel, one per column and channel, or one per element.
    pub normalisation: Vec<(f32, f32)>,
    /// How sound becomes the raw features.
    pub front_end: Option<FrontEnd>,
}

impl Graph {
    /// The tensor.
    pub fn tensor(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.0]
    }

    /// The tensor whose memory this one uses: itself unless it is a view.
    pub fn memory_of(&self, mut id: TensorId) -> TensorId {
        while let Some(viewed) = self.tensor(id).view_of {
            id = viewed;
        }
        id
    }

    /// Multiply-accumulates of a node as a dense network counts them, each output element of a
    /// weighted operator costing one per weight of its channel.
    pub fn macs(&self, node: &Node) -> u64 {
        let [height, width, channels] = self.tensor(node.output).shape;
        let per_channel = match &node.operator {
            Operator::Depthwise { window, .. } => window.kernel.iter().product(),
            Operator::Conv { weighted, .. } | Operator::Linear { weighted } => {
                weighted.weights.len() / channels
            }
            _ => 0,
        };
        (height * width * channels) as u64 * per_channel as u64
    }
}
