//! Tile products with AVX-512: f32, and bf16 with `avx512bf16`.
//!
//! A block of 8 rows by 2 tiles of columns is held in 16 registers while the depth runs by; the columns' tiles of one stretch of the
//! depth stay in the first-level cache while all rows pass over them.

use std::arch::x86_64::*;

use crate::kernels::tiles::{DEPTH, Element, Product, SIDE, Write};

/// Rows of a register block.
const ROWS: usize = 8;
/// Bytes of the two columns' tiles of one stretch: half of a first-level cache of 32 KB, so that the next ones come in beside them.
const STRETCH: usize = 16 << 10;

/// `out (+)= a b` in f32.
pub(super) fn product_f32(product: &Product<'_>, out: &mut [f32], element: Element) {
    debug_assert!(matches!(element, Element::F32 | Element::RoundedF32));
    // SAFETY: this table is only chosen where avx512f was detected; sizes were checked by `Kernels::product`.
    unsafe { blocks(product, out.as_mut_ptr(), SIDE * DEPTH * 4, block_f32) }
}

/// `out (+)= a b` in bf16, one part a value.
pub(super) fn product_bf16(product: &Product<'_>, out: &mut [f32], element: Element) {
    debug_assert!(element == Element::Bf16(1));
    // SAFETY: this table is only chosen where avx512f and avx512bf16 were detected; sizes were checked by `Kernels::product`.
    unsafe { blocks(product, out.as_mut_ptr(), SIDE * DEPTH * 2, block_bf16) }
}

/// Asks for a cache line.
#[inline(always)]
fn fetch(at: *const u8) {
    // SAFETY: fetching ahead reads nothing that the program could see, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// A register block: `depth` numbers of a left tile's rows times one or two column tiles, into `out`.
type Block = unsafe fn(
    depth: usize,
    a: *const u8,
    b: [*const u8; 2],
    columns: usize,
    out: *mut f32,
    row_length: usize,
    add: bool,
);

/// Goes over all register blocks.
///
/// # Safety
/// The operands hold whole tiles of `tile` bytes, and `out` has room for whole tiles: what `Kernels::product` checks.
unsafe fn blocks(product: &Product<'_>, out: *mut f32, tile: usize, block: Block) {
    let (a, b) = (product.a.as_ptr().cast::<u8>(), product.b.as_ptr().cast::<u8>());
    let (depths, stretch) = (product.depths, STRETCH / (2 * tile));
    let row_blocks = product.rows.div_ceil(ROWS);
    // The left operand of the next product is fetched while this one is multiplied, a share of it with each block.
    let [next_a, next_b] = product.next.map(|tiles| tiles.lines.as_ptr().cast::<u8>());
    let n_blocks = depths.div_ceil(stretch) * product.column_tiles.div_ceil(2) * row_blocks;
    let share_a = product.next[0].lines.len().div_ceil(n_blocks) * 64;
    let mut ahead_a = next_a;
    let mut first = 0;
    while first < depths {
        let count = stretch.min(depths - first);
        let depth = (count * DEPTH).min(product.depth - first * DEPTH);
        let add = first > 0 || product.write == Write::Add;
        for column_tile in (0..product.column_tiles).step_by(2) {
            let columns = (product.column_tiles - column_tile).min(2);
            // SAFETY: tile (side, depth) begins at (side * depths + depth) * tile bytes, inside its operand.
            let at = |side: usize, first: usize| unsafe { b.add((side * depths + first) * tile) };
            let ahead = if column_tile + 2 < product.column_tiles {
                [2, 3].map(|further| at((column_tile + further).min(product.column_tiles - 1), first))
            } else if first + count < depths {
                [0, 1].map(|side| at(side.min(product.column_tiles - 1), first + count))
            } else {
                [next_b, next_b.wrapping_add(product.next[1].depth.div_ceil(DEPTH) * tile)]
            };
            let is_last = column_tile + 2 >= product.column_tiles && first + count >= depths;
            let n_fetched = if is_last && product.next[1].lines.is_empty() { 0 } else { count * tile };
            let b = [at(column_tile, first), at(column_tile + columns - 1, first)];
            let share = n_fetched.div_ceil(row_blocks).next_multiple_of(64);
            for row_block in 0..row_blocks {
                // The next columns are fetched while these are multiplied, a share of them with each block of rows.
                let fetched = (row_block * share).min(n_fetched)..((row_block + 1) * share).min(n_fetched);
                for offset in fetched.step_by(64) {
                    fetch(ahead[0].wrapping_add(offset));
                    fetch(ahead[1].wrapping_add(offset));
                }
                (0..share_a).step_by(64).for_each(|offset| fetch(ahead_a.wrapping_add(offset)));
                ahead_a = ahead_a.wrapping_add(share_a);
                let (row_tile, half) = (row_block * ROWS / SIDE, row_block * ROWS % SIDE);
                // SAFETY: as above; a block's rows are half a tile, and `out` has room for whole tiles.
                unsafe {
                    let a = a.add((row_tile * depths + first) * tile + half * tile / SIDE);
                    let out = out.add(row_block * ROWS * product.row_length + column_tile * SIDE);
                    block(depth, a, b, columns, out, product.row_length, add);
                }
            }
        }
        first += count;
    }
}

macro_rules! block {
    ($name:ident, $features:literal, $each:expr, $broadcast:expr, $load:expr, $multiply:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(
            depth: usize,
            a: *const u8,
            b: [*const u8; 2],
            columns: usize,
            out: *mut f32,
            row_length: usize,
            add: bool,
        ) {
            // Numbers of the depth that one step multiplies, the steps of a tile, and the bytes of a left tile's row.
            const EACH: usize = $each;
            const STEPS: usize = DEPTH / EACH;
            const ROW: usize = STEPS * 4;
            // SAFETY: the caller gives whole tiles and an output with room for them.
            unsafe {
                if columns == 2 {
                    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
                    if add {
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let out = out.add(row * row_length);
                            *sums = [_mm512_loadu_ps(out), _mm512_loadu_ps(out.add(SIDE))];
                        }
                    }
                    for tile in 0..depth.div_ceil(DEPTH) {
                        let offset = tile * ROW * SIDE;
                        let (a, b0, b1) = (a.add(offset), b[0].add(offset), b[1].add(offset));
                        let steps = STEPS.min((depth - tile * DEPTH).div_ceil(EACH));
                        for step in 0..steps {
                            let right = [$load(b0.add(step * 64)), $load(b1.add(step * 64))];
                            for (row, sums) in sums.iter_mut().enumerate() {
                                let left = $broadcast(a.add(row * ROW + step * 4));
                                sums[0] = $multiply(sums[0], left, right[0]);
                                sums[1] = $multiply(sums[1], left, right[1]);
                            }
                        }
                    }
                    for (row, sums) in sums.iter().enumerate() {
                        let out = out.add(row * row_length);
                        _mm512_storeu_ps(out, sums[0]);
                        _mm512_storeu_ps(out.add(SIDE), sums[1]);
                    }
                } else {
                    let mut sums = [_mm512_setzero_ps(); ROWS];
                    if add {
                        for (row, sum) in sums.iter_mut().enumerate() {
                            *sum = _mm512_loadu_ps(out.add(row * row_length));
                        }
                    }
                    for tile in 0..depth.div_ceil(DEPTH) {
                        let offset = tile * ROW * SIDE;
                        let (a, b) = (a.add(offset), b[0].add(offset));
                        let steps = STEPS.min((depth - tile * DEPTH).div_ceil(EACH));
                        for step in 0..steps {
                            let right = $load(b.add(step * 64));
                            for (row, sum) in sums.iter_mut().enumerate() {
                                *sum = $multiply(*sum, $broadcast(a.add(row * ROW + step * 4)), right);
                            }
                        }
                    }
                    for (row, sum) in sums.iter().enumerate() {
                        _mm512_storeu_ps(out.add(row * row_length), *sum);
                    }
                }
            }
        }
    };
}

block!(
    block_f32,
    "avx512f",
    1,
    |at: *const u8| _mm512_set1_ps(at.cast::<f32>().read()),
    |at: *const u8| _mm512_load_ps(at.cast()),
    |sum, left, right| _mm512_fmadd_ps(left, right, sum)
);
block!(
    block_bf16,
    "avx512f,avx512bf16",
    2,
    |at: *const u8| std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(at.cast::<i32>().read())),
    |at: *const u8| std::mem::transmute::<__m512i, __m512bh>(_mm512_load_si512(at.cast())),
    |sum, left, right| _mm512_dpbf16_ps(sum, left, right)
);
