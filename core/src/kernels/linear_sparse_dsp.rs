//! Linear operator over the nonzero weights, over DSP instructions. For blocks of two and four the
//! inputs are widened once, to two bytes each; those of four in the order 0, 2, 1, 3.
#![cfg_attr(not(any(niwaki_dsp, test)), allow(dead_code))]
#![allow(unsafe_code)]

use super::dsp::{pkhbt, pkhtb, smlabb, smlabt, smlad, sxtb16, sxtb16_ror8};
use super::requantise::Requantise;
use super::sparse::{Counts, LinearStream};
use crate::model::Conv;
use crate::model::layout::ALIGNMENT;

pub(super) fn linear<const BLOCK: usize>(
    op: &Conv<'_>,
    stream: &LinearStream<'_>,
    x: &[i8],
    y: &mut [i8],
    scratch: &mut [i8],
) {
    let requantise = Requantise::new(op.output.zero_point, op.clamp);
    let sound = stream.block().len() == BLOCK
        && x.len() >= stream.inputs
        && scratch.len() >= stream.scratch_len()
        && (BLOCK == 1 || scratch.as_ptr().align_offset(ALIGNMENT) == 0)
        && op.channels.len() == stream.outputs;
    if !sound {
        return;
    }
    let inputs: *const u8 = match BLOCK {
        1 => x.as_ptr().cast(),
        _ => {
            widen::<BLOCK>(x, scratch);
            scratch.as_ptr().cast()
        }
    };
    let (mut count, count_step) = match &stream.counts {
        Counts::Same(count) => (&raw const *count, 0),
        Counts::Each(counts) => (counts.as_ptr(), 1),
    };
    let mut groups = stream.groups.as_ptr().cast::<u32>();
    for (y, channel) in y.iter_mut().zip(op.channels) {
        // SAFETY: `LinearStream::verify` has walked the stream: there are as many counts as outputs (of
        // which `op.channels` has one each), as many groups as they say, and every block lies within
        // the inputs, of which there are enough.
        unsafe {
            let n = usize::from(u16::from_le_bytes(*count));
            count = count.add(count_step);
            let bias = channel.bias.get();
            let (sum, behind) = match BLOCK {
                1 => sum_1(groups, n, inputs, bias),
                2 => sum_2(groups, n, inputs, bias),
                _ => sum_4(groups, n, inputs, bias),
            };
            groups = behind;
            *y = requantise.one(channel, sum);
        }
    }
}

/// Writes the inputs in two bytes each.
fn widen<const BLOCK: usize>(x: &[i8], wide: &mut [i8]) {
    let word = |bytes: [i8; 4]| u32::from_le_bytes(bytes.map(|byte| byte as u8));
    let bytes = |word: u32| word.to_le_bytes().map(|byte| byte as i8);
    let (fours, rest) = x.as_chunks::<4>();
    let (slots, slots_left) = wide.as_chunks_mut::<4>().0.as_chunks_mut::<2>();
    let (slots, slots_left) = match slots.split_at_mut_checked(fours.len()) {
        Some((slots, behind)) => (slots, behind.as_flattened_mut().first_mut().or(slots_left.first_mut())),
        None => return,
    };
    for (&x, slots) in fours.iter().zip(slots) {
        let (even, odd) = (sxtb16(word(x)), sxtb16_ror8(word(x)));
        *slots = match BLOCK {
            2 => [bytes(pkhbt(even, odd)), bytes(pkhtb(even, odd))],
            _ => [bytes(even), bytes(odd)],
        };
    }
    // Blocks of two may leave two.
    if let ([a, b], Some(slot)) = (rest, slots_left) {
        *slot = bytes(pkhbt(*a as u32, *b as u32));
    }
}

/// Steps per pass of a loop.
macro_rules! unrolled {
    ($count:expr, $times:literal, $step:block, $steps:block) => {
        for _ in 0..$count / $times {
            $steps
        }
        for _ in 0..$count % $times {
            $step
        }
    };
}

/// # Safety
///
/// `count` groups can be read, and the input of each of their blocks.
#[inline(always)]
unsafe fn sum_1(
    mut groups: *const u32,
    count: usize,
    mut x: *const u8,
    mut sum: i32,
) -> (i32, *const u32) {
    // SAFETY: the caller's promise.
    unsafe {
        macro_rules! step {
            () => {{
                let (distances, weights) =
                    (u32::from_le(groups.read()), u32::from_le(groups.add(1).read()));
                groups = groups.add(2);
                let (even, odd) = (sxtb16(weights), sxtb16_ror8(weights));
                x = x.add((distances & 0xff) as usize);
                sum = smlabb(sum, i32::from(x.cast::<i8>().read()) as u32, even);
                x = x.add((distances >> 8 & 0xff) as usize);
                sum = smlabb(sum, i32::from(x.cast::<i8>().read()) as u32, odd);
                x = x.add((distances >> 16 & 0xff) as usize);
                sum = smlabt(sum, i32::from(x.cast::<i8>().read()) as u32, even);
                x = x.add((distances >> 24) as usize);
                sum = smlabt(sum, i32::from(x.cast::<i8>().read()) as u32, odd);
            }};
        }
        unrolled!(count, 4, { step!() }, {
            step!();
            step!();
            step!();
            step!();
        });
    }
    (sum, groups)
}

/// # Safety
///
/// `count` groups can be read, and the widened inputs of each of their blocks.
#[inline(always)]
unsafe fn sum_2(
    mut groups: *const u32,
    count: usize,
    x: *const u8,
    mut sum: i32,
) -> (i32, *const u32) {
    let x = x.cast::<u32>();
    let mut block = 0usize;
    // SAFETY: the caller's promise.
    unsafe {
        for _ in 0..count {
            let distances = u32::from_le(groups.read());
            let (first, second) =
                (u32::from_le(groups.add(1).read()), u32::from_le(groups.add(2).read()));
            groups = groups.add(3);
            block = block.wrapping_add((distances & 0xff) as usize);
            sum = smlad(sum, u32::from_le(x.add(block).read()), sxtb16(first));
            block = block.wrapping_add((distances >> 8 & 0xff) as usize);
            sum = smlad(sum, u32::from_le(x.add(block).read()), sxtb16_ror8(first));
            block = block.wrapping_add((distances >> 16 & 0xff) as usize);
            sum = smlad(sum, u32::from_le(x.add(block).read()), sxtb16(second));
            block = block.wrapping_add((distances >> 24) as usize);
            sum = smlad(sum, u32::from_le(x.add(block).read()), sxtb16_ror8(second));
        }
    }
    (sum, groups)
}

/// # Safety
///
/// `count` groups can be read, and the widened inputs of each of their blocks.
#[inline(always)]
unsafe fn sum_4(
    mut groups: *const u32,
    count: usize,
    x: *const u8,
    mut sum: i32,
) -> (i32, *const u32) {
    let x = x.cast::<[u32; 2]>();
    let mut block = 0usize;
    // SAFETY: the caller's promise.
    unsafe {
        for _ in 0..count {
            let distances = u32::from_le(groups.read());
            macro_rules! step {
                ($index:literal, $distance:expr) => {
                    let weights = u32::from_le(groups.add(1 + $index).read());
                    block = block.wrapping_add($distance as usize);
                    let [even, odd] = x.add(block).read();
                    sum = smlad(sum, u32::from_le(even), sxtb16(weights));
                    sum = smlad(sum, u32::from_le(odd), sxtb16_ror8(weights));
                };
            }
            step!(0, distances & 0xff);
            step!(1, distances >> 8 & 0xff);
            step!(2, distances >> 16 & 0xff);
            step!(3, distances >> 24);
            groups = groups.add(5);
        }
    }
    (sum, groups)
}
