//! The kernels against definitions that are as plain as can be.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::{avg_pool, conv, depthwise, max_pool};
use crate::model::layout::ChannelRecord;
use crate::model::{Clamp, Conv, Depthwise, Pool, Scratch, Tensor, Weights, Window};

fn tensor(height: usize, width: usize, channels: usize, zero_point: i8) -> Tensor {
    Tensor { offset: 0, height, width, channels, zero_point, scale: 1.0 }
}

/// A random convolution with its weights in dense order.
#[derive(Debug, Clone)]
struct Case {
    input: Tensor,
    output: Tensor,
    window: Window,
    groups: usize,
    x: Vec<i8>,
    weights: Vec<i8>,
    channels: Vec<(i32, i32, i32)>,
}

const CLAMP: Clamp = Clamp { min: -120, max: 125 };

fn axis() -> impl Strategy<Value = (usize, usize, usize, usize, usize)> {
    // Size, kernel, stride, padding before and how much of the possible output is computed.
    (1usize..12, 1usize..5, 1usize..4, 0usize..4).prop_flat_map(|(size, kernel, stride, pad)| {
        let pad = pad.min(kernel - 1);
        let most = (size + pad - 1) / stride + 1;
        (Just(size), Just(kernel), Just(stride), Just(pad), 1..=most)
    })
}

fn case() -> impl Strategy<Value = Case> {
    (axis(), axis(), 1usize..5, 1usize..5, 1usize..4, any::<[i8; 2]>(), 0.0f64..1.0, any::<u64>())
        .prop_map(|(v, h, depth, outputs, groups, zero, density, seed)| {
            let (input, output) = (
                tensor(v.0, h.0, depth * groups, zero[0]),
                tensor(v.4, h.4, outputs * groups, zero[1]),
            );
            let mut state = seed | 1;
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let count = output.channels * v.1 * h.1 * depth;
            let x = (0..input.len()).map(|_| random() as i8).collect();
            let weights =
                (0..count)
                    .map(|_| {
                        if random() as f64 / u64::MAX as f64 <= density {
                            random() as i8
                        } else {
                            0
                        }
                    })
                    .collect();
            let channels = (0..output.channels)
                .map(|_| {
                    let bias = random() as i32 % 100_000;
                    (bias, (1 << 30) | (random() as i32 & 0x3fff_ffff), -(random() as i32 & 15))
                })
                .collect();
            Case {
                input,
                output,
                window: Window { kernel: [v.1, h.1], stride: [v.2, h.2], pad: [v.3, h.3] },
                groups,
                x,
                weights,
                channels,
            }
        })
}

impl Case {
    fn records(&self) -> Vec<ChannelRecord> {
        let record = |&(bias, multiplier, shift): &(i32, i32, i32)| {
            ChannelRecord::new(bias, multiplier, shift, 0)
        };
        self.channels.iter().map(record).collect()
    }

    /// The input at a position that may lie in the padding.
    fn x(&self, y: usize, x: usize, channel: usize) -> i32 {
        let (y, x) = (y.wrapping_sub(self.window.pad[0]), x.wrapping_sub(self.window.pad[1]));
        if y < self.input.height && x < self.input.width {
            i32::from(self.x[(y * self.input.width + x) * self.input.channels + channel])
        } else {
            i32::from(self.input.zero_point)
        }
    }

    fn requantise(&self, channel: usize, sum: i32) -> i8 {
        let (_, multiplier, shift) = self.channels[channel];
        let product = i64::from(sum) * i64::from(multiplier);
        let high = (product + (1 << 30)).div_euclid(1 << 31);
        // Not `exp2`, whose last digits the platform may choose.
        let divisor = f64::from(1 << -shift);
        let scaled = (high as f64 / divisor).round() as i64 + i64::from(self.output.zero_point);
        scaled.clamp(CLAMP.min.into(), CLAMP.max.into()) as i8
    }

    /// Every output from the definition of a convolution.
    fn expected(&self, taps: impl Fn(usize) -> Vec<(usize, i8, usize, usize)>) -> Vec<i8> {
        let mut outputs = Vec::new();
        for oy in 0..self.output.height {
            for ox in 0..self.output.width {
                for oc in 0..self.output.channels {
                    let sum =
                        taps(oc).into_iter().fold(self.channels[oc].0, |sum, (ci, w, ky, kx)| {
                            let [sh, sw] = self.window.stride;
                            sum + self.x(oy * sh + ky, ox * sw + kx, ci) * i32::from(w)
                        });
                    outputs.push(self.requantise(oc, sum));
                }
            }
        }
        outputs
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 2000 }))]

    #[test]
    fn convolutions_equal_the_definition(case in case()) {
        let depth = case.input.channels / case.groups;
        let outputs = case.output.channels / case.groups;
        let [kernel_h, kernel_w] = case.window.kernel;
        let expected = case.expected(|oc| {
            let mut taps = Vec::new();
            for ky in 0..kernel_h {
                for kx in 0..kernel_w {
                    for ci in 0..depth {
                        let w = case.weights[((oc * kernel_h + ky) * kernel_w + kx) * depth + ci];
                        taps.push((oc / outputs * depth + ci, w, ky, kx));
                    }
                }
            }
            taps
        });
        let channels = case.records();
        let op = Conv {
            input: case.input,
            output: case.output,
            window: case.window,
            groups: case.groups,
            clamp: CLAMP,
            channels: &channels,
            weights: Weights::Dense(&case.weights),
            scratch: Scratch::default(),
        };
        let mut y = vec![0; case.output.len()];
        conv(&op, &case.x, &mut y, &mut []);
        prop_assert_eq!(&y, &expected);
    }

    #[test]
    fn depthwise_equals_the_definition(mut case in case()) {
        // The same case read as a depthwise one: each input channel has `multiplier` outputs.
        let multiplier = case.output.channels / case.groups;
        case.output.channels = case.input.channels * multiplier;
        let [kernel_h, kernel_w] = case.window.kernel;
        let outputs = case.output.channels;
        let tap = |case: &Case, i: usize| case.weights[i % case.weights.len()];
        let weights: Vec<i8> = (0..kernel_h * kernel_w * outputs).map(|i| tap(&case, i)).collect();
        case.channels = case.channels.iter().copied().cycle().take(outputs).collect();
        let expected = case.expected(|oc| {
            let positions = (0..kernel_h).flat_map(|ky| (0..kernel_w).map(move |kx| (ky, kx)));
            let taps = positions.map(|(ky, kx)| {
                (oc / multiplier, weights[(ky * kernel_w + kx) * outputs + oc], ky, kx)
            });
            taps.collect()
        });
        let channels = case.records();
        let op = Depthwise {
            input: case.input,
            output: case.output,
            window: case.window,
            clamp: CLAMP,
            channels: &channels,
            weights: &weights,
            scratch: Scratch::default(),
            large: false,
        };
        let mut y = vec![0; case.output.len()];
        depthwise::<1>(&op, Some(&case.x), &mut y, &mut []);
        prop_assert_eq!(y, expected);
    }

    #[test]
    fn pools_equal_the_definition(mut case in case()) {
        case.output.channels = case.input.channels;
        let op = Pool { input: case.input, output: case.output, window: case.window, clamp: CLAMP };
        let (mut largest, mut mean) = (vec![0; op.output.len()], vec![0; op.output.len()]);
        max_pool(&op, &case.x, &mut largest);
        avg_pool(&op, &case.x, &mut mean);
        let mut index = 0;
        for oy in 0..op.output.height {
            for ox in 0..op.output.width {
                for channel in 0..op.output.channels {
                    let mut under = Vec::new();
                    for ky in 0..op.window.kernel[0] {
                        for kx in 0..op.window.kernel[1] {
                            let y = (oy * op.window.stride[0] + ky).wrapping_sub(op.window.pad[0]);
                            let x = (ox * op.window.stride[1] + kx).wrapping_sub(op.window.pad[1]);
                            if y < op.input.height && x < op.input.width {
                                let at = (y * op.input.width + x) * op.input.channels + channel;
                                under.push(i32::from(case.x[at]));
                            }
                        }
                    }
                    let limit = |v: i32| v.clamp(CLAMP.min.into(), CLAMP.max.into()) as i8;
                    prop_assert_eq!(largest[index], limit(*under.iter().max().unwrap()));
                    let exact = f64::from(under.iter().sum::<i32>()) / under.len() as f64;
                    prop_assert_eq!(mean[index], limit(exact.round() as i32));
                    index += 1;
                }
            }
        }
    }
}
