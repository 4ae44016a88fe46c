use super::decode::InstructionSet::{self, RiscV, Thumb};
use super::log::{Code, Reader};
use super::*;

/// An instruction in a few words: class, branch, registers read (those of an address marked) and written.
fn told(set: InstructionSet, code: &[u8]) -> String {
    let found = set.decode(code).expect("the code is whole");
    assert_eq!(usize::from(found.length), code.len());
    let names = |set: u32| (0..32).filter(move |r| set >> r & 1 != 0);
    let list = |set: u32| names(set).map(|r| r.to_string()).collect::<Vec<_>>().join(",");
    let kind = match found.kind {
        Kind::Plain => "plain".to_owned(),
        Kind::Load { narrow } => if narrow { "load narrow" } else { "load" }.to_owned(),
        Kind::Store { indexed } => if indexed { "store indexed" } else { "store" }.to_owned(),
        Kind::Multiple { load, words } => {
            format!("{} {words}", if load { "load" } else { "store" })
        }
        Kind::Multiply { accumulate } => if accumulate { "mla" } else { "mul" }.to_owned(),
        Kind::LongMultiply { accumulate } => if accumulate { "mlal" } else { "mull" }.to_owned(),
        Kind::Divide => "divide".to_owned(),
    };
    let branch = match found.branch {
        None => "",
        Some(Branch::Plain) => " branch",
        Some(Branch::Call) => " call",
        Some(Branch::Loaded) => " branch loaded",
    };
    let (reads, address) = (found.reads & !found.address, found.address);
    format!("{kind}{branch} {}[{}]>{}", list(reads), list(address), list(found.writes))
}

/// Encodings by GNU as.
#[test]
fn thumb_instructions_are_classified() {
    #[rustfmt::skip]
    let expected: &[(&str, &[u16], &str)] = &[
        ("ldr r0, [r1, #4]", &[0x6848], "load [1]>0"),
        ("ldr r2, [r3, r4]", &[0xf853, 0x2004], "load [3,4]>2"),
        ("ldrb r5, [r6], #1", &[0xf816, 0x5b01], "load narrow [6]>5,6"),
        ("ldrsh.w r7, [r0, #2]", &[0xf9b0, 0x7002], "load narrow [0]>7"),
        ("str r0, [r1, r2]", &[0x5088], "store indexed 0[1,2]>"),
        ("str.w r0, [r1, #256]", &[0xf8c1, 0x0100], "store 0[1]>"),
        ("strb r3, [r4, r5]", &[0x5563], "store indexed 3[4,5]>"),
        ("ldr r1, [pc, #8]", &[0x4902], "load [15]>1"),
        ("ldrd r0, r1, [r2], #8", &[0xe8f2, 0x0102], "load 2 [2]>0,1,2"),
        ("ldmia r0!, {r1-r4}", &[0xc81e], "load 4 [0]>0,1,2,3,4"),
        ("ldmia.w r8, {r1, r2, r9}", &[0xe898, 0x0206], "load 3 [8]>1,2,9"),
        ("push {r4, r5, lr}", &[0xb530], "store 3 4,5,14[13]>13"),
        ("pop {r4, pc}", &[0xbd10], "load 2 branch loaded [13]>4,13,15"),
        ("pop.w {r4-r8, pc}", &[0xe8bd, 0x81f0], "load 6 branch loaded [13]>4,5,6,7,8,13,15"),
        ("stmdb sp!, {r4-r11, lr}", &[0xe92d, 0x4ff0], "store 9 4,5,6,7,8,9,10,11,14[13]>13"),
        ("muls r0, r1", &[0x4348], "mul 0,1[]>0"),
        ("mul r8, r1, r2", &[0xfb01, 0xf802], "mul 1,2[]>8"),
        ("mla r0, r1, r2, r3", &[0xfb01, 0x3002], "mla 1,2,3[]>0"),
        ("smlabb r0, r1, r2, r0", &[0xfb11, 0x0002], "mla 0,1,2[]>0"),
        ("smlad r0, r1, r2, r0", &[0xfb21, 0x0002], "mla 0,1,2[]>0"),
        ("smmulr r0, r1, r2", &[0xfb51, 0xf012], "mul 1,2[]>0"),
        ("smull r0, r1, r2, r3", &[0xfb82, 0x0103], "mull 2,3[]>0,1"),
        ("smlal r0, r1, r2, r3", &[0xfbc2, 0x0103], "mlal 0,1,2,3[]>0,1"),
        ("sdiv r0, r1, r2", &[0xfb91, 0xf0f2], "divide 1,2[]>0"),
        ("sxtb16 r0, r1, ror #8", &[0xfa2f, 0xf091], "plain 1[]>0"),
        ("uxtab r0, r1, r2", &[0xfa51, 0xf082], "plain 1,2[]>0"),
        ("b .", &[0xe7fe], "plain branch []>"),
        ("beq .", &[0xd0fe], "plain branch []>"),
        ("bne.w .", &[0xf47f, 0xaffe], "plain branch []>"),
        ("bl .+256", &[0xf000, 0xf87e], "plain call []>14"),
        ("bx lr", &[0x4770], "plain branch 14[]>"),
        ("blx r3", &[0x4798], "plain call 3[]>14"),
        ("cbz r0, .+4", &[0xb100], "plain branch 0[]>"),
        ("tbb [pc, r0]", &[0xe8df, 0xf000], "load narrow branch loaded [0,15]>"),
        ("add.w r0, r1, r2, lsl #2", &[0xeb01, 0x0082], "plain 1,2[]>0"),
        ("movw r3, #0x1234", &[0xf241, 0x2334], "plain []>3"),
        ("movt r3, #0x1234", &[0xf2c1, 0x2334], "plain 3[]>3"),
        ("cmp r0, #4", &[0x2804], "plain 0[]>"),
        ("it eq", &[0xbf08], "plain []>"),
        ("mov r8, r9", &[0x46c8], "plain 9[]>8"),
        ("mov pc, r0", &[0x4687], "plain branch 0[]>15"),
        ("ssat r0, #8, r1", &[0xf301, 0x0007], "plain 1[]>0"),
        ("ldr pc, [r0]", &[0xf8d0, 0xf000], "load branch loaded [0]>15"),
        ("isb", &[0xf3bf, 0x8f6f], "plain []>"),
        ("pld [r0]", &[0xf890, 0xf000], "plain []>"),
        ("vldr s0, [r1]", &[0xed91, 0x0a00], "load [1]>"),
    ];
    for (text, code, expected) in expected {
        let bytes: Vec<u8> = code.iter().flat_map(|half| half.to_le_bytes()).collect();
        assert_eq!(told(Thumb, &bytes), *expected, "{text}");
    }
    assert_eq!(Thumb.decode(&[0xdf, 0xe8]), None, "half an instruction");
}

/// Encodings by LLVM's assembler.
#[test]
fn riscv_instructions_are_classified() {
    #[rustfmt::skip]
    let expected: &[(&str, &[u8], &str)] = &[
        ("c.lw a0, 4(a1)", &[0xc8, 0x41], "load [11]>10"),
        ("lb t3, 0(a1)", &[0x03, 0x8e, 0x05, 0x00], "load narrow [11]>28"),
        ("c.sw a0, 4(a1)", &[0xc8, 0xc1], "store 10[11]>"),
        ("sb a0, 4(t3)", &[0x23, 0x02, 0xae, 0x00], "store 10[28]>"),
        ("mul t3, a1, a2", &[0x33, 0x8e, 0xc5, 0x02], "mul 11,12[]>28"),
        ("mulh a0, a1, a2", &[0x33, 0x95, 0xc5, 0x02], "mull 11,12[]>10"),
        ("div a0, a1, a2", &[0x33, 0xc5, 0xc5, 0x02], "divide 11,12[]>10"),
        ("c.add a0, a1", &[0x2e, 0x95], "plain 10,11[]>10"),
        ("beq a0, t3, .", &[0x63, 0x00, 0xc5, 0x01], "plain branch 10,28[]>"),
        ("c.jal .+20", &[0x11, 0x28], "plain call []>1"),
        ("c.jr ra", &[0x82, 0x80], "plain branch 1[]>"),
        ("c.lui a0, 1", &[0x05, 0x65], "plain []>10"),
        ("c.lwsp a0, 8(sp)", &[0x22, 0x45], "load [2]>10"),
        ("c.swsp ra, 12(sp)", &[0x06, 0xc6], "store 1[2]>"),
        ("c.addi a0, 3", &[0x0d, 0x05], "plain 10[]>10"),
        ("c.bnez a0, .", &[0x01, 0xe1], "plain branch 10[]>"),
        ("c.j .", &[0x01, 0xa0], "plain branch []>"),
        ("c.jalr t3", &[0x02, 0x9e], "plain call 28[]>1"),
        ("c.mv a0, a1", &[0x2e, 0x85], "plain 11[]>10"),
    ];
    for (text, code, expected) in expected {
        assert_eq!(told(RiscV, code), *expected, "{text}");
    }
}

/// A loop `0x100: ldr r0, [r1]; ldr r2, [r3]; add; subs; bne 0x100` between two calls of the function at
/// 0x200, with the lines that take an execution back.
#[test]
fn a_log_is_counted_by_section() {
    let mut code = vec![0u8; 0x108];
    let body: [u16; 5] = [0x6808, 0x681a, 0x1880, 0x3c01, 0xd1fa];
    for (slot, half) in code.chunks_mut(2).zip(body) {
        slot.copy_from_slice(&half.to_le_bytes());
    }
    // At 0x200: bx lr.
    code[0x100..0x102].copy_from_slice(&0x4770u16.to_le_bytes());
    let code = Code { set: Thumb, segments: vec![(0x100, code)], counter: 0x200..0x202 };
    let log = "\
qemu: a warning
----------------
IN: counter
0x00000200:  4770       bx       lr

Trace 0: 0x7f00 [00000000/00000200/00000110/ff000200] counter
----------------
IN: loop
0x00000100:  6808       ldr      r0, [r1]
0x00000102:  681a       ldr      r2, [r3]
0x00000104:  1880       adds     r0, r0, r2
0x00000106:  3c01       subs     r4, #1
0x00000108:  d1fa       bne      #0x100

Trace 0: 0x7f10 [00000000/00000100/00000110/ff000200] loop
Trace 0: 0x7f10 [00000000/00000100/00000110/ff000200] loop
Stopped execution of TB chain before 0x7f10 [00000100] loop
Trace 0: 0x7f10 [00000000/00000100/00000110/ff000200] loop
cpu_io_recompile: rewound execution of TB to 00000104
----------------
IN: loop
0x00000104:  1880       adds     r0, r0, r2

Trace 0: 0x7f20 [00000000/00000104/00000110/ff008201] loop
----------------
IN: loop
0x00000106:  3c01       subs     r4, #1
0x00000108:  d1fa       bne      #0x100

Trace 0: 0x7f30 [00000000/00000106/00000110/ff000200] loop
Trace 0: 0x7f00 [00000000/00000200/00000110/ff000200] counter
Trace 0: 0x7f10 [00000000/00000100/00000110/ff000200] loop
Trace 0: 0x7f1";
    let mut reader = Reader::new(&code);
    reader.read(log.as_bytes()).unwrap();
    assert_eq!(reader.messages, "qemu: a warning\n");
    let mix = reader.section(0).unwrap();
    let expected = LayerMix {
        instructions: 10,
        loads: 4,
        loads_pipelined: 2,
        loads_used: 1,
        branches: 2,
        // The second ends in a call.
        branches_taken: 2,
        paired: mix.paired,
        ..LayerMix::default()
    };
    assert_eq!(mix, expected);
    // Two loads of 2 + 1 cycles, a branch of 3, twice.
    assert_eq!(mix.cycles("cortex-m4"), Some(16.0));
    assert_eq!(mix.cycles("abacus"), None);
    assert!(reader.section(1).is_none(), "its end was not logged");

    let error = reader.read(&b"Trace 0: 0x7f40 [0/100/0/0] loop\n"[..]).unwrap_err();
    assert!(error.contains("not listed"), "{error}");
    let mut reader = Reader::new(&code);
    let error = reader.read(&b"OBJD-T: 6808\n"[..]).unwrap_err();
    assert!(error.contains("disassembler"), "{error}");
}
