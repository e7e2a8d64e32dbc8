//! Tile products in plain Rust: the emulation of every kernel, and what runs where a machine has none of them.

use crate::kernels::math::simd;
use crate::kernels::tiles::pack::{part, place, planes};
use crate::kernels::tiles::{DEPTH, Element, Line, Pack, Product, SIDE, Write};

/// The pairs of parts (left, right) that a product of values with this many parts sums up, the smallest first.
pub(super) fn pairs(planes: usize) -> &'static [(usize, usize)] {
    match planes {
        1 => &[(0, 0)],
        2 => &[(1, 0), (0, 1), (0, 0)],
        _ => &[(0, 2), (2, 0), (1, 1), (0, 1), (1, 0), (0, 0)],
    }
}

/// Numbers of a tile's plane.
const NUMBERS: usize = SIDE * DEPTH;

/// All tiles in f32, plane by plane: those of a left operand `[16][32]`, those of a right one `[32][16]`.
fn in_f32(lines: &[Line], how: Pack, element: Element) -> Vec<f32> {
    let n_planes = planes(element);
    let at = |side: usize, depth: usize| if how == Pack::A { side * DEPTH + depth } else { depth * SIDE + side };
    let mut places = [0; NUMBERS];
    for side in 0..SIDE {
        for depth in 0..DEPTH {
            places[at(side, depth)] = place(how, element, side, depth);
        }
    }
    let mut all = Vec::with_capacity(lines.len() / element.tile_lines() * n_planes * NUMBERS);
    for tile in lines.chunks_exact(element.tile_lines()) {
        for plane in 0..n_planes {
            all.extend(places.iter().map(|place| part(tile, element, plane, *place)));
        }
    }
    all
}

/// `out (+)= a b`, one tile of the depth after the other.
pub(super) fn product(product: &Product<'_>, out: &mut [f32], element: Element) {
    let (n_planes, row_tiles, depths) = (planes(element), product.rows.div_ceil(SIDE), product.depths);
    let lines = |tiles: usize| tiles * depths * element.tile_lines();
    let left = in_f32(&product.a[..lines(row_tiles)], Pack::A, element);
    let right = in_f32(&product.b[..lines(product.column_tiles)], Pack::B, element);
    for row_tile in 0..row_tiles {
        let rows = SIDE.min(product.rows - row_tile * SIDE);
        for column_tile in 0..product.column_tiles {
            let mut sums = [0.0f32; SIDE * SIDE];
            if product.write == Write::Add {
                for row in 0..rows {
                    let at = (row_tile * SIDE + row) * product.row_length + column_tile * SIDE;
                    sums[row * SIDE..][..SIDE].copy_from_slice(&out[at..at + SIDE]);
                }
            }
            for depth in 0..depths {
                let left = &left[(row_tile * depths + depth) * n_planes * NUMBERS..];
                let right = &right[(column_tile * depths + depth) * n_planes * NUMBERS..];
                for &(l, r) in pairs(n_planes) {
                    multiply(&left[l * NUMBERS..], &right[r * NUMBERS..], &mut sums, rows);
                }
            }
            for row in 0..rows {
                let at = (row_tile * SIDE + row) * product.row_length + column_tile * SIDE;
                out[at..at + SIDE].copy_from_slice(&sums[row * SIDE..][..SIDE]);
            }
        }
    }
}

simd! {
    fn multiply(left: &[f32], right: &[f32], sums: &mut [f32], rows: usize) {
        let (right, _) = right.as_chunks::<SIDE>();
        let strips = left.as_chunks::<DEPTH>().0.iter().zip(sums.as_chunks_mut::<SIDE>().0);
        for (left, sums) in strips.take(rows) {
            // In registers while the depth runs by.
            let mut own = *sums;
            for (value, right) in left.iter().zip(right) {
                for (sum, right) in own.iter_mut().zip(right) {
                    *sum += value * right;
                }
            }
            *sums = own;
        }
    }
}
