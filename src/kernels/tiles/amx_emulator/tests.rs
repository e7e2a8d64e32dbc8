//! The emulated instructions one by one: how they are decoded, what they compute, and what they refuse.

use std::arch::asm;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use super::*;
use crate::kernels::tiles::amx;

/// Bytes of an assembler beside what they mean, where register `n` holds `1000 * n` and the instruction stands at 0x10000.
#[test]
fn instructions_in_all_forms_of_their_operands() {
    let place = |start: u64, index: u64| Place { start, index };
    let check = |bytes: &[u8], expected: Instruction| {
        let found = decode(|at| bytes[at as usize], |number| 1000 * u64::from(number), 0x10000);
        assert_eq!(found, Ok((expected, bytes.len() as u64)), "{bytes:x?}");
    };
    use Instruction::*;
    // tileloadd tmm3, [rdi + rsi*1]; tmm0, [r12 + r13*8 + 0x12]; tmm7, [rbp + rax*2 - 0x100]; tmm1, [r13 + r12*4]
    check(&[0xc4, 0xe2, 0x7b, 0x4b, 0x1c, 0x37], Load(3, place(7000, 6000)));
    check(&[0xc4, 0x82, 0x7b, 0x4b, 0x44, 0xec, 0x12], Load(0, place(12018, 104_000)));
    check(&[0xc4, 0xe2, 0x7b, 0x4b, 0xbc, 0x45, 0x00, 0xff, 0xff, 0xff], Load(7, place(4744, 0)));
    check(&[0xc4, 0x82, 0x7b, 0x4b, 0x4c, 0xa5, 0x00], Load(1, place(13000, 48_000)));
    // tileloadd tmm2, [rsp]: no index; tmm2, [r9*2 + 0x40]: no base
    check(&[0xc4, 0xe2, 0x7b, 0x4b, 0x14, 0x24], Load(2, place(4000, 0)));
    check(&[0xc4, 0xa2, 0x7b, 0x4b, 0x14, 0x4d, 0x40, 0, 0, 0], Load(2, place(64, 18_000)));
    // tilestored [r8 + r15*1 - 8], tmm6
    check(&[0xc4, 0x82, 0x7a, 0x4b, 0x74, 0x38, 0xf8], Store(place(7992, 15_000), 6));
    // ldtilecfg [rcx]; [r10 + 0x100]; [rip + 0x20]; [rax + rdx*8]
    check(&[0xc4, 0xe2, 0x78, 0x49, 0x01], Configure(place(1000, 0)));
    check(&[0xc4, 0xc2, 0x78, 0x49, 0x82, 0, 1, 0, 0], Configure(place(10_256, 0)));
    check(&[0xc4, 0xe2, 0x78, 0x49, 0x05, 0x20, 0, 0, 0], Configure(place(0x10029, 0)));
    check(&[0xc4, 0xe2, 0x78, 0x49, 0x04, 0xd0], Configure(place(0, 16_000)));
    // tilerelease; tilezero tmm5; tdpbf16ps tmm1, tmm2, tmm7
    check(&[0xc4, 0xe2, 0x78, 0x49, 0xc0], Release);
    check(&[0xc4, 0xe2, 0x7b, 0x49, 0xe8], Zero(5));
    check(&[0xc4, 0xe2, 0x42, 0x5c, 0xca], Multiply { sum: 1, left: 2, right: 7 });

    let refused = |bytes: &[u8]| decode(|at| bytes[at as usize], |_| 0, 0).unwrap_err();
    // ud2; sttilecfg [rcx]; tileloaddt1 tmm0, [rax + rcx*1]; tdpbssd tmm0, tmm1, tmm2; another map
    for bytes in [
        &[0x0f, 0x0b][..],
        &[0xc4, 0xe2, 0x79, 0x49, 0x01],
        &[0xc4, 0xe2, 0x79, 0x4b, 0x04, 0x08],
        &[0xc4, 0xe2, 0x6b, 0x5e, 0xc1],
        &[0xc4, 0xe1, 0x42, 0x5c, 0xca],
    ] {
        assert_eq!(refused(bytes), Refusal::Unknown, "{bytes:x?}");
    }
    // tileloadd without SIB; with W; with L; with vvvv
    for bytes in [
        &[0xc4, 0xe2, 0x7b, 0x4b, 0x00][..],
        &[0xc4, 0xe2, 0xfb, 0x4b, 0x04, 0x08],
        &[0xc4, 0xe2, 0x7f, 0x4b, 0x04, 0x08],
        &[0xc4, 0xe2, 0x73, 0x4b, 0x04, 0x08],
    ] {
        assert!(matches!(refused(bytes), Refusal::Fault(_)), "{bytes:x?}");
    }
}

/// A configuration of tiles `(rows, bytes a row)`.
fn configuration(tiles: &[(u8, u16)]) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for (tile, (rows, row_bytes)) in tiles.iter().enumerate() {
        bytes[16 + 2 * tile..][..2].copy_from_slice(&row_bytes.to_le_bytes());
        bytes[48 + tile] = *rows;
    }
    bytes
}

#[test]
fn configurations_that_a_processor_refuses() {
    let check = |change: &dyn Fn(&mut [u8; 64]), expected: Option<&str>| {
        let mut bytes = configuration(&[(16, 64); TILES]);
        change(&mut bytes);
        let mut state = State::RELEASED;
        let found = state.configure(&bytes);
        assert_eq!(found.is_err(), expected.is_some(), "{expected:?}");
        assert!(found.err().is_none_or(|reason| reason.contains(expected.unwrap())), "{found:?}, not {expected:?}");
    };
    check(&|_| (), None);
    check(&|bytes| bytes[0] = 2, Some("palette"));
    check(&|bytes| bytes[1] = 1, Some("first row"));
    for place in [2, 15, 32, 47, 56, 63] {
        check(&|bytes| bytes[place] = 1, Some("reserved"));
    }
    check(&|bytes| bytes[55] = 17, Some("more than 16"));
    check(&|bytes| bytes[30] = 65, Some("more than 16"));
    check(&|bytes| bytes[31] = 1, Some("more than 16"));
    check(&|bytes| bytes[48] = 0, Some("bytes without rows"));
    check(&|bytes| bytes[16] = 0, Some("rows without bytes"));
    check(&|bytes| (bytes[16], bytes[48]) = (0, 0), None);
}

#[test]
fn tiles_that_a_processor_refuses() {
    let check = |tiles: &[(u8, u16)], instruction: Instruction, expected: Option<&str>| {
        let mut state = State::RELEASED;
        if !tiles.is_empty() {
            state.configure(&configuration(tiles)).unwrap();
        }
        // SAFETY: only instructions without memory are given.
        let found = unsafe { execute(instruction, &mut state) };
        assert_eq!(found.is_err(), expected.is_some(), "{tiles:?} {expected:?}");
        assert!(found.err().is_none_or(|reason| reason.contains(expected.unwrap())), "{found:?}, not {expected:?}");
    };
    let product = |sum, left, right| Instruction::Multiply { sum, left, right };
    check(&[(1, 4)], Instruction::Zero(0), None);
    check(&[], Instruction::Zero(0), Some("not configured"));
    check(&[(1, 4)], Instruction::Zero(1), Some("leaves out"));
    check(&[(1, 4)], Instruction::Zero(8), Some("8 or more"));
    check(&[], Instruction::Release, None);
    check(&[], product(0, 1, 2), Some("not configured"));
    if std::arch::is_x86_feature_detected!("avx512f") {
        check(&[(3, 16), (3, 8), (2, 16)], product(0, 1, 2), None);
    }
    check(&[(3, 16), (2, 8), (2, 16)], product(0, 1, 2), Some("do not fit"));
    check(&[(3, 16), (3, 12), (2, 16)], product(0, 1, 2), Some("do not fit"));
    check(&[(3, 16), (3, 8), (2, 12)], product(0, 1, 2), Some("do not fit"));
    check(&[(3, 16), (3, 10), (2, 16)], product(0, 1, 2), Some("whole numbers"));
    check(&[(2, 8), (2, 8), (2, 8)], product(0, 0, 2), Some("the same"));
    check(&[(2, 8), (2, 8), (2, 8)], product(0, 1, 0), Some("the same"));
    check(&[(2, 8), (2, 8), (2, 8)], product(0, 1, 1), Some("the same"));
}

/// Small tiles through memory: rows apart by the index, nothing behind a tile's rows and bytes, and zeros in the rest of it.
#[test]
fn tiles_go_through_memory_by_their_configured_size() {
    if !amx::is_available() {
        return;
    }
    let values: [u8; 64] = std::array::from_fn(|place| place as u8 + 1);
    let (mut out, mut wide) = ([0xffu8; 64], [0xffu8; 256]);
    let (small, large) = (configuration(&[(3, 5), (4, 8)]), configuration(&[(16, 64)]));
    // SAFETY: three rows of five bytes, 16 and 20 apart, and four of eight lie in their arrays; the tiles are configured.
    unsafe {
        asm!(
            "ldtilecfg [{small}]",
            "tileloadd tmm0, [{values} + {stride}*4]",
            "tilestored [{out} + {stride}*4 + 2], tmm0",
            "tilezero tmm1",
            "tilestored [{wide} + {stride}*8], tmm1",
            "tilerelease",
            small = in(reg) &raw const small, values = in(reg) &raw const values, out = in(reg) &raw mut out,
            wide = in(reg) &raw mut wide, stride = in(reg) 4usize, options(nostack)
        );
        asm!("ldtilecfg [{}]", "tilerelease", in(reg) &raw const large, options(nostack));
    }
    for (place, found) in out.iter().enumerate() {
        let (row, byte) = (place.wrapping_sub(2) / 16, place.wrapping_sub(2) % 16);
        let expected = if place >= 2 && row < 3 && byte < 5 { values[row * 16 + byte] } else { 0xff };
        assert_eq!(*found, expected, "{place}");
    }
    let zeros =
        wide.iter().enumerate().all(|(place, found)| *found == if place / 32 < 4 && place % 32 < 8 { 0 } else { 0xff });
    assert!(zeros, "{wide:?}");
}

/// The first products of all pairs are summed up beside the second ones, each step rounded to even, and subnormals are zeros.
#[test]
fn products_are_rounded_in_the_order_of_the_manual() {
    if !amx::is_available() {
        return;
    }
    let one_of = |sum: f32, pairs: [[(f32, f32); 2]; 2]| -> f32 {
        let bf16 = |value: f32| value.to_bits() >> 16;
        let both = |[first, second]: [f32; 2]| bf16(first) | bf16(second) << 16;
        let left: [u32; 2] = pairs.map(|pair| both(pair.map(|(left, _)| left)));
        let right: [u32; 2] = pairs.map(|pair| both(pair.map(|(_, right)| right)));
        let (bytes, mut out) = (configuration(&[(1, 4), (1, 8), (2, 4)]), sum);
        // SAFETY: one number of the sum, a row of two pairs and two rows of one lie in their places; the tiles are configured.
        unsafe {
            asm!(
                "ldtilecfg [{bytes}]",
                "tileloadd tmm0, [{out} + {stride}*1]",
                "tileloadd tmm1, [{left} + {stride}*1]",
                "tileloadd tmm2, [{right} + {stride}*1]",
                "tdpbf16ps tmm0, tmm1, tmm2",
                "tilestored [{out} + {stride}*1], tmm0",
                "tilerelease",
                bytes = in(reg) &raw const bytes, out = in(reg) &raw mut out, left = in(reg) &raw const left,
                right = in(reg) &raw const right, stride = in(reg) 4usize, options(nostack)
            );
        }
        out
    };
    let zero = (0.0, 0.0);
    let (big, half) = ((4096.0, 4096.0), (0.5, 2.0));
    assert_eq!(one_of(3.0, [[(2.0, 5.0), (4.0, 7.0)], [(8.0, 1.0), (-1.0, 0.5)]]), 48.5);
    // 2^24 + 1 is a tie, to even: apart from it, two ones are added to each other first.
    assert_eq!(one_of(0.0, [[big, zero], [half, zero]]), 16_777_216.0);
    assert_eq!(one_of(0.0, [[big, half], [zero, half]]), 16_777_218.0);
    assert_eq!(one_of(16_777_216.0, [[half, zero], [half, zero]]), 16_777_218.0);
    assert_eq!(one_of(1.0, [[big, zero], [(-4096.0, 4096.0), zero]]), 1.0);
    assert_eq!(one_of(16_777_216.0, [[half, zero], [zero, zero]]), 16_777_216.0);
    // A product below the smallest normal number, a factor, and a sum.
    let smallest = f32::MIN_POSITIVE;
    assert_eq!(one_of(0.0, [[(smallest, 0.5), zero], [zero, zero]]), 0.0);
    assert_eq!(one_of(0.0, [[(smallest / 2.0, 2.0), zero], [zero, zero]]), 0.0);
    assert_eq!(one_of(smallest / 2.0, [[zero, zero], [zero, zero]]), 0.0);
    assert_eq!(one_of(smallest * 1.5, [[(smallest, -1.0), zero], [zero, zero]]), 0.0);
    assert_eq!(one_of(0.0, [[(smallest, 1.0), zero], [zero, zero]]), smallest);
}

/// The variable that tells a process of this test what to do.
const CASE: &str = "RETUNE_TEST_AMX_CASE";

extern "C" fn leave(_signal: c_int) {
    // SAFETY: ends the process and runs nothing else.
    unsafe { libc::_exit(42) }
}

/// What one process does that does not outlive it.
fn last_act(case: &str) {
    if case == "another handler" {
        // SAFETY: the handler only leaves.
        unsafe { libc::signal(libc::SIGILL, leave as *const () as usize) };
    }
    assert!(amx::is_available());
    // SAFETY: the process ends here, whatever the instructions do.
    unsafe {
        match case {
            "not configured" => asm!("tilezero tmm0"),
            _ => asm!("ud2"),
        }
    }
}

/// A refused instruction ends its process with the reason, one that is not known goes to the handler before.
#[test]
fn what_is_not_executed_is_no_secret() {
    if let Ok(case) = std::env::var(CASE) {
        return last_act(&case);
    }
    if !amx::is_available() {
        return;
    }
    let run = |case: &str| -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "kernels::tiles::amx_emulator::tests::what_is_not_executed_is_no_secret"]);
        command.arg("--nocapture").env(CASE, case).output().unwrap()
    };
    let refused = run("not configured");
    assert_eq!(refused.status.signal(), Some(libc::SIGILL), "{refused:?}");
    let reason = String::from_utf8_lossy(&refused.stderr).contains("the tiles are not configured");
    assert_eq!(reason, is_installed(), "{refused:?}");
    assert_eq!(run("ud2").status.signal(), Some(libc::SIGILL));
    assert_eq!(run("another handler").status.code(), Some(42));
}
