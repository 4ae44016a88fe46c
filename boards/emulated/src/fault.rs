//! Faults of the processor end the emulator.

#[cfg(target_arch = "arm")]
#[cortex_m_rt::exception]
unsafe fn HardFault(frame: &cortex_m_rt::ExceptionFrame) -> ! {
    defmt::error!("hard fault at {=u32:#010x}, called from {=u32:#010x}", frame.pc(), frame.lr());
    semihosting::process::exit(crate::EXIT_FAULT)
}

#[cfg(target_arch = "riscv32")]
// SAFETY: the runtime looks for a function of this name and passes it the saved registers.
#[unsafe(export_name = "ExceptionHandler")]
fn exception(frame: &riscv_rt::TrapFrame) -> ! {
    let (cause, at) = (riscv::register::mcause::read().bits(), riscv::register::mepc::read());
    defmt::error!(
        "exception {=usize} at {=usize:#010x}, called from {=usize:#010x}",
        cause,
        at,
        frame.ra
    );
    semihosting::process::exit(crate::EXIT_FAULT)
}
