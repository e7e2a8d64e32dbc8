//! Packing with AVX-512: the same tiles as `pack` writes, one register at a time.
//!
//! Rows and columns behind the edge of the matrix are read as zeros through masked loads, so ragged tiles take the same path.

use std::arch::x86_64::*;

use crate::kernels::tiles::pack::Source;
use crate::kernels::tiles::{DEPTH, Element, Line, Pack, SIDE};

/// Packs f32 tiles, perhaps rounded to bf16.
pub(super) fn pack_f32(how: Pack, source: Source<'_>, lines: &mut [Line], element: Element) {
    check(how, &source, lines, element);
    // SAFETY: this table is only chosen where avx512f was detected, and the sizes were checked.
    unsafe {
        if element == Element::RoundedF32 {
            f32_tiles::<true>(how, source, lines)
        } else {
            f32_tiles::<false>(how, source, lines)
        }
    }
}

/// Packs bf16 tiles of one, two or three parts.
pub(super) fn pack_bf16(how: Pack, source: Source<'_>, lines: &mut [Line], element: Element) {
    check(how, &source, lines, element);
    // SAFETY: this table is only chosen where avx512f, avx512bw and avx512bf16 were detected, and the sizes were checked.
    unsafe {
        match element {
            Element::Bf16(1) => bf16_tiles::<1>(how, source, lines),
            Element::Bf16(2) => bf16_tiles::<2>(how, source, lines),
            _ => bf16_tiles::<3>(how, source, lines),
        }
    }
}

fn check(how: Pack, source: &Source<'_>, lines: &[Line], element: Element) {
    let (side, depth) = source.side_and_depth(how);
    assert!(source.fits(), "the matrix exceeds its slice");
    assert!(
        lines.len() >= side.div_ceil(SIDE) * depth.div_ceil(DEPTH) * element.tile_lines(),
        "the operand is too small"
    );
}

/// Sixteen numbers of a row from `column` on; zeros outside the matrix.
///
/// # Safety
/// The matrix lies in its slice.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(source: &Source<'_>, row: usize, column: usize) -> __m512 {
    if row >= source.rows || column >= source.columns {
        return _mm512_setzero_ps();
    }
    let left = source.columns - column;
    let mask = if left >= 16 { 0xffff } else { (1u16 << left) - 1 };
    // SAFETY: the numbers that the mask lets through lie in the matrix.
    unsafe { _mm512_maskz_loadu_ps(mask, source.values.as_ptr().add(row * source.row_length + column)) }
}

/// Rounds to the nearest bf16, halves to even; NaN stays NaN.
#[target_feature(enable = "avx512f")]
#[inline]
fn rounded(x: __m512) -> __m512 {
    let bits = _mm512_castps_si512(x);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    let cut = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
    _mm512_mask_mov_ps(cut, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), x)
}

/// Transposes sixteen rows of sixteen numbers of 32 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(rows: &mut [__m512i; 16]) {
    let mut pairs = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // quads[4 g + c] holds, in its lane l, column 4 l + c of the rows 4 g to 4 g + 3.
    let mut quads = [_mm512_setzero_si512(); 16];
    for g in 0..4 {
        let [a, b, c, d] = [pairs[4 * g], pairs[4 * g + 1], pairs[4 * g + 2], pairs[4 * g + 3]];
        quads[4 * g] = _mm512_unpacklo_epi64(a, c);
        quads[4 * g + 1] = _mm512_unpackhi_epi64(a, c);
        quads[4 * g + 2] = _mm512_unpacklo_epi64(b, d);
        quads[4 * g + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for c in 0..4 {
        let [a, b, x, y] = [quads[c], quads[4 + c], quads[8 + c], quads[12 + c]];
        let even_low = _mm512_shuffle_i32x4::<0x88>(a, b);
        let odd_low = _mm512_shuffle_i32x4::<0xdd>(a, b);
        let even_high = _mm512_shuffle_i32x4::<0x88>(x, y);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(x, y);
        rows[c] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        rows[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
        rows[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        rows[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
}

/// # Safety
/// What [`check`] checks.
#[target_feature(enable = "avx512f")]
unsafe fn f32_tiles<const ROUND: bool>(how: Pack, source: Source<'_>, lines: &mut [Line]) {
    let (side, depth) = source.side_and_depth(how);
    let depths = depth.div_ceil(DEPTH);
    let each = Element::F32.tile_lines();
    // SAFETY: as the caller guarantees.
    let get = |row: usize, column: usize| unsafe {
        let x = load(&source, row, column);
        if ROUND { rounded(x) } else { x }
    };
    for (tile, lines) in lines.chunks_exact_mut(each).take(side.div_ceil(SIDE) * depths).enumerate() {
        let (s, d) = (tile / depths * SIDE, tile % depths * DEPTH);
        let out = lines.as_mut_ptr().cast::<f32>();
        // SAFETY: a tile is 512 numbers, and lines are aligned to 64 bytes.
        let put = |number: usize, x: __m512| unsafe { _mm512_store_ps(out.add(number), x) };
        match how {
            Pack::A => {
                for i in 0..SIDE {
                    put(i * DEPTH, get(s + i, d));
                    put(i * DEPTH + 16, get(s + i, d + 16));
                }
            }
            Pack::B => {
                for i in 0..DEPTH {
                    put(i * SIDE, get(d + i, s));
                }
            }
            Pack::TransposedA | Pack::TransposedB => {
                for half in [0, 16] {
                    let mut rows = [_mm512_setzero_si512(); 16];
                    for (i, row) in rows.iter_mut().enumerate() {
                        let x = if how == Pack::TransposedA { get(d + half + i, s) } else { get(s + i, d + half) };
                        *row = _mm512_castps_si512(x);
                    }
                    transpose(&mut rows);
                    for (i, row) in rows.iter().enumerate() {
                        let number = if how == Pack::TransposedA { i * DEPTH + half } else { (half + i) * SIDE };
                        put(number, _mm512_castsi512_ps(*row));
                    }
                }
            }
        }
    }
}

/// Two times sixteen numbers as 32 bf16, and what rounding took away.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn row_part(low: __m512, high: __m512) -> (__m512i, __m512, __m512) {
    // SAFETY: both types are 512 bits.
    let part = unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) };
    let widen = |half: __m256i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    let rest_low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(part)));
    let rest_high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64::<1>(part)));
    (part, rest_low, rest_high)
}

/// Two rows of sixteen numbers as sixteen pairs of bf16, and what rounding took away.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
fn pair_part(first: __m512, second: __m512) -> (__m512i, __m512, __m512) {
    let round = |x: __m512| {
        // SAFETY: both types are 256 bits.
        let half = unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) };
        _mm512_cvtepu16_epi32(half)
    };
    let (a, b) = (round(first), round(second));
    let b_high = _mm512_slli_epi32::<16>(b);
    let rest_first = _mm512_sub_ps(first, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(a)));
    let rest_second = _mm512_sub_ps(second, _mm512_castsi512_ps(b_high));
    (_mm512_or_si512(a, b_high), rest_first, rest_second)
}

/// # Safety
/// What [`check`] checks.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn bf16_tiles<const PLANES: usize>(how: Pack, source: Source<'_>, lines: &mut [Line]) {
    let (side, depth) = source.side_and_depth(how);
    let depths = depth.div_ceil(DEPTH);
    let each = Element::Bf16(PLANES).tile_lines();
    // SAFETY: as the caller guarantees.
    let get = |row: usize, column: usize| unsafe { load(&source, row, column) };
    let straight = matches!(how, Pack::A | Pack::TransposedB);
    for (tile, lines) in lines.chunks_exact_mut(each).take(side.div_ceil(SIDE) * depths).enumerate() {
        let (s, d) = (tile / depths * SIDE, tile % depths * DEPTH);
        let out = lines.as_mut_ptr().cast::<__m512i>();
        // SAFETY: a plane is sixteen lines, and lines are aligned to 64 bytes.
        let put =
            |plane: usize, line: usize, x: __m512i| unsafe { _mm512_store_si512(out.add(plane * SIDE + line), x) };
        // One line for each row of the side, or for each pair of the depth.
        let mut planes = [[_mm512_setzero_si512(); SIDE]; PLANES];
        for i in 0..SIDE {
            let (mut x, mut y) =
                if straight { (get(s + i, d), get(s + i, d + 16)) } else { (get(d + 2 * i, s), get(d + 2 * i + 1, s)) };
            for plane in &mut planes {
                (plane[i], x, y) = if straight { row_part(x, y) } else { pair_part(x, y) };
            }
        }
        for (plane, rows) in planes.iter_mut().enumerate() {
            if matches!(how, Pack::TransposedA | Pack::TransposedB) {
                transpose(rows);
            }
            for (line, row) in rows.iter().enumerate() {
                put(plane, line, *row);
            }
        }
    }
}
