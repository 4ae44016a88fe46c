//! How much stack a call takes: the free stack is painted before it, and looked over after it.

use core::arch::asm;

const PAINT: u32 = 0xC5C5_C5C5;

/// Runs `call` and returns, with its result, the bytes of stack that it took, down to the deepest
/// frame, those of interrupts in the meantime included.
///
/// The linker script's `_stack_end` is the lowest address of the stack.
#[inline(never)]
pub(crate) fn measure<R>(call: impl FnOnce() -> R) -> (R, usize) {
    unsafe extern "C" {
        static mut _stack_end: u32;
    }
    let end = &raw mut _stack_end;
    let top = stack_pointer() & !3;
    let words = top.saturating_sub(end.addr()) / size_of::<u32>();
    for word in 0..words {
        // SAFETY: the words from `_stack_end` up to the stack pointer are the free part of the stack:
        // nothing that lives is in them, and an interrupt that uses them is over when this goes on.
        unsafe { end.add(word).write_volatile(PAINT) }
    }
    let result = call();
    let untouched = (0..words)
        // SAFETY: as above; the words were written before.
        .take_while(|word| unsafe { end.add(*word).read_volatile() } == PAINT)
        .count();
    (result, (words - untouched) * size_of::<u32>())
}

#[inline(always)]
fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: copies a register and does nothing else.
    #[cfg(target_arch = "arm")]
    unsafe {
        asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags));
    }
    // SAFETY: copies a register and does nothing else.
    #[cfg(any(target_arch = "riscv32", target_arch = "riscv64"))]
    unsafe {
        asm!("mv {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags));
    }
    pointer
}
