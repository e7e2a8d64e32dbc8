//! Tile products in plain Rust: the emulation of every kernel, and what runs where a machine has none of them.

use crate::kernels::math::simd;
use crate::kernels::tiles::pack::{part, place, planes};
use crate::kernels::tiles::{DEPTH, Element, Pack, Product, SIDE, Write};

/// The pairs of parts (left, right) that a product of values with this many parts sums up, the smallest first.
pub(super) fn pairs(planes: usize) -> &'static [(usize, usize)] {
    match planes {
        1 => &[(0, 0)],
        2 => &[(1, 0), (0, 1), (0, 0)],
        _ => &[(0, 2), (2, 0), (1, 1), (0, 1), (1, 0), (0, 0)],
    }
}

/// `out (+)= a b`, one tile of the depth after the other.
pub(super) fn product(product: &Product<'_>, out: &mut [f32], element: Element) {
    let each = element.tile_lines();
    let n_planes = planes(element);
    // One plane of a tile in f32: left `[16][32]`, right `[32][16]`.
    let unpack = |lines: &[crate::kernels::tiles::Line], how: Pack, plane: usize, values: &mut [f32]| {
        for side in 0..SIDE {
            for depth in 0..DEPTH {
                let at = if how == Pack::A { side * DEPTH + depth } else { depth * SIDE + side };
                values[at] = part(lines, element, plane, place(how, element, side, depth));
            }
        }
    };
    let (mut left, mut right) = ([0.0f32; 3 * SIDE * DEPTH], [0.0f32; 3 * SIDE * DEPTH]);
    for row_tile in 0..product.rows.div_ceil(SIDE) {
        let rows = SIDE.min(product.rows - row_tile * SIDE);
        for column_tile in 0..product.column_tiles {
            let mut sums = [0.0f32; SIDE * SIDE];
            if product.write == Write::Add {
                for row in 0..rows {
                    let at = (row_tile * SIDE + row) * product.row_length + column_tile * SIDE;
                    sums[row * SIDE..][..SIDE].copy_from_slice(&out[at..at + SIDE]);
                }
            }
            for depth in 0..product.depths {
                let (a, b) = (row_tile * product.depths + depth, column_tile * product.depths + depth);
                for plane in 0..n_planes {
                    let range = plane * SIDE * DEPTH..(plane + 1) * SIDE * DEPTH;
                    unpack(&product.a[a * each..][..each], Pack::A, plane, &mut left[range.clone()]);
                    unpack(&product.b[b * each..][..each], Pack::B, plane, &mut right[range]);
                }
                for &(l, r) in pairs(n_planes) {
                    multiply(&left[l * SIDE * DEPTH..], &right[r * SIDE * DEPTH..], &mut sums, rows);
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
        for (row, sums) in sums.chunks_exact_mut(SIDE).take(rows).enumerate() {
            for depth in 0..DEPTH {
                let value = left[row * DEPTH + depth];
                for (sum, right) in sums.iter_mut().zip(&right[depth * SIDE..][..SIDE]) {
                    *sum += value * right;
                }
            }
        }
    }
}
