//! Tile products with AMX: bf16 with one, three or six products of parts.
//!
//! The intrinsics are not stable, so the instructions stand in assembly. The system has to be asked once for the tiles'
//! registers, before threads start; each product loads its configuration and releases it.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

use crate::kernels::tiles::{DEPTH, Element, Product, SIDE, Write};

/// Tiles of depth of one stretch, for one, two and three parts: the operands of a block of 2 x 2 tiles then fit the
/// first-level cache.
const STRETCH: [usize; 3] = [12, 6, 4];

/// The configuration of the tile registers, as `ldtilecfg` reads it.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// Whether this machine has AMX with bf16 and the system lets this process use it.
pub(super) fn is_available() -> bool {
    // Leaf 7: bit 22 of edx is AMX-BF16, bit 24 AMX-TILE.
    let leaf = __cpuid_count(7, 0);
    let has = leaf.edx & (1 << 22) != 0 && leaf.edx & (1 << 24) != 0;
    has && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw") && ask()
}

/// Asks the system for the tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
fn ask() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that reads no memory of ours; it changes rcx and r11, as every one does.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// `out (+)= a b` in bf16 of one, two or three parts.
pub(super) fn product(product: &Product<'_>, out: &mut [f32], element: Element) {
    let Element::Bf16(planes) = element else { return };
    let configuration = Configuration {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        bytes_per_row: std::array::from_fn(|tile| if tile < 8 { 64 } else { 0 }),
        rows: std::array::from_fn(|tile| if tile < 8 { 16 } else { 0 }),
    };
    // SAFETY: AMX was detected and permitted before this table is chosen. Sizes were checked by `Kernels::product`.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, readonly));
        blocks(product, out.as_mut_ptr(), planes);
        asm!("tilerelease", options(nostack, nomem));
    }
}

/// # Safety
/// The tiles are configured; operands hold whole tiles, and `out` has room for whole tiles.
unsafe fn blocks(product: &Product<'_>, out: *mut f32, planes: usize) {
    let tile = planes * SIDE * DEPTH * 2;
    let (a, b) = (product.a.as_ptr().cast::<u8>(), product.b.as_ptr().cast::<u8>());
    let (depths, row_tiles) = (product.depths, product.rows.div_ceil(SIDE));
    let stretch = STRETCH[planes - 1];
    let mut first = 0;
    while first < depths {
        let count = stretch.min(depths - first);
        let add = first > 0 || product.write == Write::Add;
        for row_tile in (0..row_tiles).step_by(2) {
            let second_row = (row_tile + 1).min(row_tiles - 1);
            for column_tile in (0..product.column_tiles).step_by(2) {
                let second_column = (column_tile + 1).min(product.column_tiles - 1);
                // Where the second row or column is missing, the first is computed and stored twice.
                // SAFETY: tile (side, depth) begins at (side * depths + depth) * tile bytes, inside its operand.
                unsafe {
                    let left = |side: usize| a.add((side * depths + first) * tile);
                    let right = |side: usize| b.add((side * depths + first) * tile);
                    let at = |row: usize, column: usize| out.add(row * SIDE * product.row_length + column * SIDE);
                    let block = Block {
                        a: [left(row_tile), left(second_row)],
                        b: [right(column_tile), right(second_column)],
                        out: [
                            at(row_tile, column_tile),
                            at(row_tile, second_column),
                            at(second_row, column_tile),
                            at(second_row, second_column),
                        ],
                    };
                    multiply(&block, count, tile, product.row_length * 4, planes, add);
                }
            }
        }
        first += count;
    }
}

/// Two left tiles times two right tiles.
struct Block {
    a: [*const u8; 2],
    b: [*const u8; 2],
    out: [*mut f32; 4],
}

/// # Safety
/// As for [`blocks`].
unsafe fn multiply(block: &Block, depths: usize, tile: usize, row_bytes: usize, planes: usize, add: bool) {
    // SAFETY: the tiles that are read and written lie in their operands and the output; lines of a tile are 64 bytes apart.
    unsafe {
        if add {
            asm!(
                "tileloadd tmm0, [{c0} + {s}*1]",
                "tileloadd tmm1, [{c1} + {s}*1]",
                "tileloadd tmm2, [{c2} + {s}*1]",
                "tileloadd tmm3, [{c3} + {s}*1]",
                c0 = in(reg) block.out[0], c1 = in(reg) block.out[1], c2 = in(reg) block.out[2], c3 = in(reg) block.out[3],
                s = in(reg) row_bytes, options(nostack, readonly)
            );
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
        for depth in 0..depths {
            let offset = depth * tile;
            for &(left, right) in super::portable::pairs(planes) {
                let (l, r) = (offset + left * SIDE * DEPTH * 2, offset + right * SIDE * DEPTH * 2);
                asm!(
                    "tileloadd tmm4, [{a0} + {s}*1]",
                    "tileloadd tmm6, [{b0} + {s}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b1} + {s}*1]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a1} + {s}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    a0 = in(reg) block.a[0].add(l), a1 = in(reg) block.a[1].add(l),
                    b0 = in(reg) block.b[0].add(r), b1 = in(reg) block.b[1].add(r),
                    s = in(reg) 64usize, options(nostack, readonly)
                );
            }
        }
        asm!(
            "tilestored [{c0} + {s}*1], tmm0",
            "tilestored [{c1} + {s}*1], tmm1",
            "tilestored [{c2} + {s}*1], tmm2",
            "tilestored [{c3} + {s}*1], tmm3",
            c0 = in(reg) block.out[0], c1 = in(reg) block.out[1], c2 = in(reg) block.out[2], c3 = in(reg) block.out[3],
            s = in(reg) row_bytes, options(nostack)
        );
    }
}
