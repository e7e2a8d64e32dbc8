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

/// Whether this machine has AMX with bf16 and the system lets this process use it. The library's own tests have an emulator where
/// the machine has none.
pub(super) fn is_available() -> bool {
    // Leaf 7: bit 22 of edx is AMX-BF16, bit 24 AMX-TILE.
    let leaf = __cpuid_count(7, 0);
    let has = leaf.edx & (1 << 22) != 0 && leaf.edx & (1 << 24) != 0;
    let packs = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
    #[cfg(test)]
    if packs && !has {
        super::amx_emulator::install();
        return true;
    }
    has && packs && ask()
}

/// Asks the system for the tile registers: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
/// It grants only what it has enabled in XCR0, so that nobody has to look there; before Linux 5.16 it does not know the request.
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

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::kernels::Path;
    use crate::kernels::tiles::{Kernels, Operand, Pack, Precision, Source, amx_emulator, exact_numbers, kernels_of};
    use crate::tensor::rng::Rng;

    /// Each AMX table with its twin in plain Rust; none where the machine has no AVX-512 to emulate AMX with.
    fn tables() -> Vec<[&'static Kernels; 2]> {
        let of = |precision| Some([kernels_of(Path::Amx, precision)?, kernels_of(Path::Emulated, precision)?]);
        let tables: Vec<_> =
            [Precision::Highest, Precision::High, Precision::Bf16].into_iter().filter_map(of).collect();
        assert!(tables.len() == 3 || !is_available(), "the check at the start refuses the AMX tables");
        let name = match (tables.is_empty(), amx_emulator::is_installed()) {
            (true, _) => "skipped: AMX, and its emulation takes `avx512bf16`",
            (false, true) => "AMX: emulated",
            (false, false) => "AMX: the machine's own",
        };
        static SAID: std::sync::Once = std::sync::Once::new();
        // Written past the test harness, which shows what a test prints only where it fails.
        SAID.call_once(|| drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{name}\n").as_bytes())));
        tables
    }

    const SHAPES: [(usize, usize, usize); 12] = [
        (1, 1, 1),
        (1, 16, 33),
        (16, 16, 32),
        (17, 33, 31),
        (33, 17, 64),
        (40, 48, 129),
        (5, 80, 193),
        (48, 8, 385),
        (70, 100, 200),
        (96, 32, 96),
        (25, 112, 500),
        (16, 49, 790),
    ];

    fn packed(
        kernels: &Kernels,
        [left, right]: [&[f32]; 2],
        (rows, columns, depth): (usize, usize, usize),
    ) -> [Operand; 2] {
        let [mut a, mut b] = [Operand::default(), Operand::default()];
        kernels.pack(Pack::A, Source::rows(left, rows, depth), &mut a);
        kernels.pack(Pack::TransposedB, Source::rows(right, columns, depth), &mut b);
        [a, b]
    }

    /// The product written and then added, in rows with room behind them: only the rows that were asked for.
    fn product_and_sum(kernels: &Kernels, values: [&[f32]; 2], shape: (usize, usize, usize)) -> [Vec<f32>; 2] {
        let (rows, columns, _) = shape;
        let [a, b] = packed(kernels, values, shape);
        let row_length = columns.next_multiple_of(SIDE) + 5;
        let mut out = vec![0.25f32; rows.next_multiple_of(SIDE) * row_length];
        [Write::Replace, Write::Add].map(|write| {
            kernels.product(a.tiles(), b.tiles(), rows, &mut out, row_length, write);
            out[..rows * row_length].to_vec()
        })
    }

    /// Of numbers whose products and sums are exact, in every part, each path makes the same to the bit, in whatever order it adds.
    #[test]
    fn exact_products_are_those_of_the_twin() {
        for [kernels, twin] in tables() {
            for shape in SHAPES {
                let (rows, columns, depth) = shape;
                let (left, right) = (exact_numbers(rows * depth, 1), exact_numbers(columns * depth, 2));
                let [ours, plain] = [kernels, twin].map(|table| product_and_sum(table, [&left, &right], shape));
                assert!(ours == plain, "{} {shape:?}", kernels.name);
            }
        }
        let was_emulated = amx_emulator::is_installed();
        assert_eq!(amx_emulator::n_executed() > 0, was_emulated, "what runs is what was said");
    }

    /// Of any numbers both make the same but for the order of their sums, by which each may be off by 1e-6.
    #[test]
    fn products_are_those_of_the_twin_but_for_rounding() {
        for [kernels, twin] in tables() {
            for shape in SHAPES {
                let (rows, columns, depth) = shape;
                let rng = Rng::new(3, "twin", 0);
                let numbers = |n: usize, first: u64| -> Vec<f32> {
                    (first..first + n as u64).map(|index| rng.normal(index) as f32).collect()
                };
                let (left, right) = (numbers(rows * depth, 0), numbers(columns * depth, 1 << 32));
                let [ours, plain] = [kernels, twin].map(|table| product_and_sum(table, [&left, &right], shape));
                let [ours, plain] = [ours.concat(), plain.concat()];
                let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
                let error = square(&mut ours.iter().zip(&plain).map(|(ours, plain)| ours - plain));
                let relative = (error / square(&mut plain.iter().copied())).sqrt();
                assert!(relative < 2e-6, "{} {shape:?}: {relative:e}", kernels.name);
            }
        }
    }

    /// Tiles and their configuration belong to a thread: products of two at once do not see each other.
    #[test]
    fn threads_multiply_at_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let meeting = std::sync::Barrier::new(2);
        for [kernels, twin] in tables() {
            let shapes = [(33, 40, 200), (70, 17, 97)];
            let values = shapes
                .map(|(rows, columns, depth)| [exact_numbers(rows * depth, 3), exact_numbers(columns * depth, 4)]);
            let of = |table: &Kernels, which: usize| {
                let [left, right] = &values[which];
                product_and_sum(table, [left, right], shapes[which])
            };
            let expected = [of(twin, 0), of(twin, 1)];
            pool.install(|| {
                (0..2).into_par_iter().with_max_len(1).for_each(|which| {
                    // Both threads are here before either goes on, so that they run side by side.
                    meeting.wait();
                    for _ in 0..10 {
                        assert!(of(kernels, which) == expected[which], "{} {:?}", kernels.name, shapes[which]);
                    }
                });
            });
        }
    }
}
