//! The kernels over DSP instructions, emulated, against their portable twins.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::requantise::{Requantise, all_saturate};
use super::rescale::Rescale;
use super::{
    add, add_dsp, conv, conv_in_place, depthwise, depthwise_dsp, packed, packed_dsp, pool, pool_dsp,
};
use crate::model::layout::ChannelRecord;
use crate::model::{Add, Clamp, Conv, Depthwise, Pool, Scratch, Tensor, Weights, Window};

fn tensor(height: usize, width: usize, channels: usize, zero_point: i8) -> Tensor {
    Tensor { offset: 0, height, width, channels, zero_point, scale: 1.0 }
}

/// Elements, or their limits only.
fn elements(len: usize) -> impl Strategy<Value = Vec<i8>> {
    (any::<u64>(), 0..6).prop_map(move |(seed, kind)| {
        let mut state = seed | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as i8
        };
        let element = |_| match kind {
            0 => [-128, -127, 127][random() as usize % 3],
            1 => -128,
            _ => random(),
        };
        (0..len).map(element).collect()
    })
}

fn clamp() -> impl Strategy<Value = Clamp> {
    prop_oneof![
        3 => Just(Clamp { min: -128, max: 127 }),
        1 => any::<[i8; 2]>().prop_map(|[a, b]| Clamp { min: a.min(b), max: a.max(b) }),
    ]
}

/// Bias, multiplier and shift: mostly as in real models, otherwise anything that a model may hold.
fn channel() -> impl Strategy<Value = ChannelRecord> {
    let usual = (-200_000i32..200_000, (1i32 << 30)..=i32::MAX, -15i32..0);
    let extreme = prop_oneof![
        Just(i32::MIN),
        Just(i32::MAX),
        Just(1 << 30),
        Just(-(1 << 30)),
        Just((1 << 30) - 1),
        any::<i32>()
    ];
    let normalised = (extreme.clone(), (1i32 << 30)..=i32::MAX, -22i32..1);
    let any = (extreme.clone(), 0i32..=i32::MAX, -31i32..=30);
    let tiny = (extreme, 0i32..2000, -3i32..1);
    // Powers of two make ties.
    let ties = (-200_000i32..200_000, Just(1i32 << 30), -15i32..0);
    prop_oneof![8 => usual, 2 => normalised, 1 => any, 1 => tiny, 2 => ties]
        .prop_map(|(bias, multiplier, shift)| ChannelRecord::new(bias, multiplier, shift, 0))
}

fn channels(count: usize) -> impl Strategy<Value = Vec<ChannelRecord>> {
    let usual = (-200_000i32..200_000, (1i32 << 30)..=i32::MAX, -15i32..0)
        .prop_map(|(bias, multiplier, shift)| ChannelRecord::new(bias, multiplier, shift, 0));
    prop_oneof![
        2 => prop::collection::vec(usual, count),
        1 => prop::collection::vec(channel(), count),
    ]
}

/// Size, kernel, stride, padding before and how much of the possible output is computed.
fn axis(kernels: usize) -> impl Strategy<Value = [usize; 5]> {
    (1usize..12, 1..=kernels, 1usize..4, 0usize..4).prop_flat_map(|(size, kernel, stride, pad)| {
        let pad = pad.min(kernel - 1);
        let most = (size + pad - 1) / stride + 1;
        (1..=most).prop_map(move |outputs| [size, kernel, stride, pad, outputs])
    })
}

/// An operator with a window: input, output, window.
fn windowed(
    kernels: usize,
    depth: impl Strategy<Value = (usize, usize)>,
) -> impl Strategy<Value = (Tensor, Tensor, Window)> {
    // Anything; outputs as large as inputs; pointwise.
    let shape = prop_oneof![
        3 => (axis(kernels), axis(kernels)),
        1 => (same(kernels), same(kernels)),
        1 => (same(1), same(1)),
    ];
    (shape, depth, any::<[i8; 2]>()).prop_map(|((v, h), depth, zero)| {
        (
            tensor(v[0], h[0], depth.0, zero[0]),
            tensor(v[4], h[4], depth.1, zero[1]),
            Window { kernel: [v[1], h[1]], stride: [v[2], h[2]], pad: [v[3], h[3]] },
        )
    })
}

/// An axis with step 1 and as many outputs as inputs.
fn same(kernels: usize) -> impl Strategy<Value = [usize; 5]> {
    (1usize..12, 1..=kernels).prop_map(|(size, kernel)| [size, kernel, 1, kernel / 2, size])
}

/// Working memory with every byte set, so that nothing relies on zeros.
fn dirty(len: usize) -> Vec<u32> {
    vec![0xa5a5_5a5a; len.div_ceil(4)]
}

fn bytes(words: &mut [u32], len: usize) -> &mut [i8] {
    use zerocopy::{FromBytes, IntoBytes};
    <[i8]>::mut_from_bytes(&mut words.as_mut_bytes()[..len]).unwrap()
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig::with_cases(if cfg!(miri) { 8 } else { count })
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn packed_convolutions_are_equal(
        (input, output, window, x, weights, channels, clamp) in
            windowed(4, (prop_oneof![1usize..6, Just(8), Just(12)], 1usize..8)).prop_flat_map(|(i, o, w)| {
                let count = w.kernel[0] * w.kernel[1] * i.channels * o.channels;
                let rest = (elements(i.len()), elements(count), channels(o.channels), clamp());
                rest.prop_map(move |(x, weights, channels, clamp)| (i, o, w, x, weights, channels, clamp))
            }),
    ) {
        // The layout cannot hold -128 everywhere.
        let weights: Vec<i8> = weights.into_iter().map(|w| w.max(-127)).collect();
        let mut op = Conv {
            input, output, window, groups: 1, clamp,
            channels: &channels,
            weights: Weights::Dense(&weights),
            scratch: Scratch::default(),
        };
        let mut expected = vec![0; output.len()];
        conv(&op, &x, &mut expected, &mut []);

        let per_channel = op.weights_per_channel();
        let mut words = vec![0; packed::packed_len(output.channels, per_channel).unwrap()];
        packed::pack(output.channels, per_channel, |o, k| weights[o * per_channel + k], &mut words)
            .unwrap();
        op.weights = Weights::Packed(&words);
        let len = packed::conv_scratch_len(input.channels, per_channel);
        for kernel in [packed::conv_portable, packed_dsp::conv] {
            let (mut y, mut scratch) = (vec![55; output.len()], dirty(len));
            kernel(&op, &words, Some(&x), &mut y, bytes(&mut scratch, len));
            prop_assert_eq!(&y, &expected);
            if conv_in_place(&input, &output, &window) {
                let mut y = x.clone();
                kernel(&op, &words, None, &mut y, bytes(&mut scratch, len));
                prop_assert_eq!(&y[..output.len()], &expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn packed_linear_operators_are_equal(
        (inputs, x, weights, channels, clamp, zero) in
            (prop_oneof![3 => 1usize..40, 1 => 480usize..1100], 1usize..11).prop_flat_map(|(i, o)| {
                (Just(i), elements(i), elements(i * o), channels(o), clamp(), any::<i8>())
            }),
    ) {
        let outputs = channels.len();
        let weights: Vec<i8> = weights.into_iter().map(|w| w.max(-127)).collect();
        let mut op = Conv {
            input: tensor(1, 1, inputs, 3),
            output: tensor(1, 1, outputs, zero),
            window: Window { kernel: [1, 1], stride: [1, 1], pad: [0, 0] },
            groups: 1,
            clamp,
            channels: &channels,
            weights: Weights::Dense(&weights),
            scratch: Scratch::default(),
        };
        let mut expected = vec![0; outputs];
        conv(&op, &x, &mut expected, &mut []);
        let mut words = vec![0; packed::packed_len(outputs, inputs).unwrap()];
        packed::pack(outputs, inputs, |o, k| weights[o * inputs + k], &mut words).unwrap();
        op.weights = Weights::Packed(&words);
        let len = packed::linear_scratch_len(inputs);
        for kernel in [packed::linear_portable, packed_dsp::linear] {
            let (mut y, mut scratch) = (vec![55; outputs], dirty(len));
            kernel(&op, &words, Some(&x), &mut y, bytes(&mut scratch, len));
            prop_assert_eq!(&y, &expected);
            let scratch = bytes(&mut scratch, len);
            scratch[len - inputs..].copy_from_slice(&x);
            let mut y = vec![55; outputs];
            kernel(&op, &words, None, &mut y, scratch);
            prop_assert_eq!(&y, &expected);
        }
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn planar_depthwise_convolutions_are_equal(
        (input, output, window, x, weights, channels, clamp) in
            windowed(6, prop_oneof![Just((4, 4)), Just((8, 8)), Just((12, 12))]).prop_flat_map(|(i, o, w)| {
                let count = w.kernel[0] * w.kernel[1] * o.channels;
                let rest = (elements(i.len()), elements(count), channels(o.channels), clamp());
                rest.prop_map(move |(x, weights, channels, clamp)| (i, o, w, x, weights, channels, clamp))
            }),
        ring: bool,
        large: bool,
    ) {
        let op = Depthwise {
            input, output, window, clamp,
            channels: &channels,
            weights: &weights,
            scratch: Scratch::default(),
            large,
        };
        // Where no window is large, either kernel serves.
        let small = window.kernel.iter().all(|&taps| taps <= 3);
        let planar = if small && ring { depthwise_dsp::planar::<1> } else { depthwise_dsp::planar::<4> };
        let mut expected = vec![0; output.len()];
        depthwise::portable(&op, &x, &mut expected);
        let Some(planes) = depthwise::Planes::new(&input, &output, &window, large) else {
            prop_assert!(window.stride[1] == 3 || window.kernel.contains(&6) || !(large || small));
            return Ok(());
        };
        let least = planes.ring();
        let whole = planes.whole(output.height).unwrap_or(least);
        prop_assert!(whole >= least);
        let len = if ring { least } else { whole };
        prop_assert!([whole, least].contains(&depthwise::scratch_len(&input, &output, &window, large)));
        let (mut y, mut scratch) = (vec![55; output.len()], dirty(len));
        planar(&op, Some(&x), &mut y, bytes(&mut scratch, len)).unwrap();
        prop_assert_eq!(&y, &expected);
        let mut scratch = dirty(whole);
        let short = &mut bytes(&mut scratch, whole)[..least - 4];
        let none = planar(&op, Some(&x), &mut y, short);
        prop_assert!(none.is_none());
        if let Some(len) = depthwise::in_place_scratch_len(&input, &output, &window, large) {
            let mut y = x.clone();
            planar(&op, None, &mut y, bytes(&mut scratch, len)).unwrap();
            prop_assert_eq!(&y, &expected);
            let mut y = x.clone();
            depthwise::portable_in_place(&op, &mut y, bytes(&mut scratch, len));
            prop_assert_eq!(&y, &expected);
        }
    }
}

/// A multiplier and shift as additions have them.
fn summand() -> impl Strategy<Value = (i32, i32)> {
    prop_oneof![
        3 => Just((1 << 30, 0)),
        3 => ((1i32 << 30)..=i32::MAX, -6i32..0),
        1 => (Just(1 << 30), -6i32..0),
        1 => (0i32..=i32::MAX, -31i32..=0),
    ]
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn additions_are_equal(
        (a, b) in (1usize..40).prop_flat_map(|len| (elements(len), elements(len))),
        rescales in [summand(), summand()],
        sum in prop_oneof![
            4 => ((1i32 << 30)..=i32::MAX, -22i32..=0),
            2 => (Just(1 << 30), -22i32..-15),
            1 => (0i32..=i32::MAX, -31i32..=0),
        ],
        zero in any::<[i8; 3]>(),
        clamp in clamp(),
    ) {
        let rescale = |(multiplier, shift)| Rescale::new(multiplier, shift).unwrap();
        let op = Add {
            inputs: [tensor(1, 1, a.len(), zero[0]), tensor(1, 1, a.len(), zero[1])],
            output: tensor(1, 1, a.len(), zero[2]),
            input_rescale: rescales.map(rescale),
            output_rescale: rescale(sum),
            clamp,
        };
        let (mut expected, mut y) = (a.clone(), a.clone());
        add::portable(&op, &b, &mut expected);
        if add_dsp::add(&op, &b, &mut y).is_some() {
            prop_assert_eq!(y, expected);
        } else {
            prop_assert_eq!(y, a);
            let halves = rescales.iter().filter(|&&r| r == (1 << 30, 0)).count();
            let usual = rescales.iter().all(|&(m, s)| m >= 1 << 30 && (s < 0 || m == 1 << 30));
            prop_assert!(halves == 0 || !usual || sum.0 < 1 << 30 || !(-20..0).contains(&sum.1));
        }
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn pools_are_equal(
        (input, output, window, x, clamp) in
            windowed(6, prop_oneof![Just((4, 4)), Just((12, 12))]).prop_flat_map(|(i, o, w)| {
                (Just(i), Just(o), Just(w), elements(i.len()), clamp())
            }),
    ) {
        let op = Pool { input, output, window, clamp };
        let (mut y, mut expected) = (vec![0; output.len()], vec![1; output.len()]);
        pool::max_pool_portable(&op, &x, &mut expected);
        pool_dsp::max_pool(&op, &x, &mut y).unwrap();
        prop_assert_eq!(&y, &expected);
        pool::avg_pool_portable(&op, &x, &mut expected);
        pool_dsp::avg_pool(&op, &x, &mut y).unwrap();
        prop_assert_eq!(&y, &expected);
    }
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn requantisation_is_equal(
        channel in channel(),
        zero: i8,
        near in -70_000i32..70_000,
        // A row's sums are small, its bias is not.
        sums in prop::collection::vec(-150_000i32..150_000, 1..20),
    ) {
        let whole = Clamp { min: -128, max: 127 };
        let requantise = Requantise::new(zero, whole);
        let saturating = all_saturate(core::slice::from_ref(&channel));
        let expected = |sum: i32| {
            let sum = channel.bias.get().wrapping_add(sum);
            super::conv::rescale(&channel).requantise(sum, zero, whole)
        };
        // Sums at which outputs change.
        let boundary = f64::from(near) / 256.0 * f64::from(-channel.shift()).exp2();
        let boundary = boundary * 2_147_483_648.0 / f64::from(channel.multiplier.get().max(1));
        let boundary = (boundary as i32).wrapping_sub(channel.bias.get());
        let boundary = boundary.clamp(-1_000_000_000, 1_000_000_000);
        let sums = [sums, vec![boundary - 1, boundary, boundary + 1]].concat();
        let mut y = vec![0; sums.len() * 3];
        // SAFETY: `y` has room for outputs three apart.
        unsafe { requantise.row(saturating, &channel, &sums, y.as_mut_ptr(), 3) };
        for (index, &sum) in sums.iter().enumerate() {
            prop_assert_eq!(y[index * 3], expected(sum), "{}", sum);
        }
    }
}

#[test]
fn sums_of_large_windows_do_not_overflow() {
    for (height, element) in [(15, -128), (15, 127), (16, -128)] {
        let window = Window { kernel: [height, 17], stride: [1, 1], pad: [0, 0] };
        let (input, output) = (tensor(height, 17, 4, 0), tensor(1, 1, 4, 0));
        let clamp = Clamp { min: -128, max: 127 };
        let mut y = [0; 4];
        let x = vec![element; input.len()];
        let served = pool_dsp::avg_pool(&Pool { input, output, window, clamp }, &x, &mut y);
        assert_eq!(served.is_some(), height == 15);
        assert_eq!(y, [if height == 15 { element } else { 0 }; 4]);
    }
}

#[test]
fn packing_names_what_it_cannot_hold() {
    let mut words = [0; 2];
    // Low -1 beside high -128.
    assert_eq!(packed::pack(2, 1, |o, _| if o == 0 { -1 } else { -128 }, &mut words), None);
    assert_eq!(packed::pack(2, 1, |o, _| if o == 0 { -128 } else { -127 }, &mut words), Some(()));
    assert_eq!(packed::pack(2, 1, |o, _| if o == 0 { 0 } else { -128 }, &mut words), Some(()));
    assert_eq!(packed::pack(3, 1, |_, _| 0, &mut words), None);
    assert_eq!(packed::packed_len(3, 9), Some(2 * 6));
    assert_eq!(packed::packed_len(usize::MAX, 9), None);
}
