//! Packing in plain Rust: what every other packing is tested against.

use half::bf16;

use crate::kernels::tiles::{DEPTH, Element, Line, Pack, SIDE};

/// A matrix of f32 in a slice: `rows` by `columns`, rows `row_length` apart.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The first element and all behind it.
    pub values: &'a [f32],
    /// Numbers from one row to the next.
    pub row_length: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

impl<'a> Source<'a> {
    /// A matrix whose rows follow each other.
    pub fn rows(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Source { values, row_length: columns, rows, columns }
    }

    /// (rows or columns of the operand, depth) when packed in this way.
    pub(super) fn side_and_depth(&self, how: Pack) -> (usize, usize) {
        match how {
            Pack::A | Pack::TransposedB => (self.rows, self.columns),
            Pack::B | Pack::TransposedA => (self.columns, self.rows),
        }
    }

    /// Whether all elements lie in the slice.
    pub(super) fn fits(&self) -> bool {
        self.rows == 0 || self.columns == 0 || (self.rows - 1) * self.row_length + self.columns <= self.values.len()
    }
}

/// The place of element (side, depth) of a tile among the tile's numbers, for one plane.
pub(super) fn place(how: Pack, element: Element, side: usize, depth: usize) -> usize {
    match (how, element) {
        (Pack::A | Pack::TransposedA, _) => side * DEPTH + depth,
        (_, Element::Bf16(_)) => (depth / 2 * SIDE + side) * 2 + depth % 2,
        (_, _) => depth * SIDE + side,
    }
}

/// Packs a whole matrix, element by element.
pub(super) fn pack(how: Pack, source: Source<'_>, lines: &mut [Line], element: Element) {
    assert!(source.fits(), "the matrix exceeds its slice");
    let (side, depth) = source.side_and_depth(how);
    let (sides, depths) = (side.div_ceil(SIDE), depth.div_ceil(DEPTH));
    let each = element.tile_lines();
    assert!(lines.len() >= sides * depths * each, "the operand is too small");
    let straight = matches!(how, Pack::A | Pack::TransposedB);
    for (tile, lines) in lines.chunks_exact_mut(each).take(sides * depths).enumerate() {
        let (first_side, first_depth) = (tile / depths * SIDE, tile % depths * DEPTH);
        for s in 0..SIDE {
            for d in 0..DEPTH {
                let (i, j) = (first_side + s, first_depth + d);
                let inside = i < side && j < depth;
                let (row, column) = if straight { (i, j) } else { (j, i) };
                let value = if inside { source.values[row * source.row_length + column] } else { 0.0 };
                write(lines, element, place(how, element, s, d), value);
            }
        }
    }
}

fn write(lines: &mut [Line], element: Element, place: usize, value: f32) {
    let mut put = |byte: usize, bytes: &[u8]| lines[byte / 64].0[byte % 64..][..bytes.len()].copy_from_slice(bytes);
    match element {
        Element::F32 => put(place * 4, &value.to_ne_bytes()),
        Element::RoundedF32 => put(place * 4, &bf16::from_f32(value).to_f32().to_ne_bytes()),
        Element::Bf16(planes) => {
            let mut rest = value;
            for plane in 0..planes {
                let part = bf16::from_f32(rest);
                rest -= part.to_f32();
                put((plane * SIDE * DEPTH + place) * 2, &part.to_bits().to_ne_bytes());
            }
        }
    }
}

/// The value at a place of a tile: the sum of its parts, smallest first.
#[cfg(test)]
pub(super) fn read(lines: &[Line], element: Element, place: usize) -> f32 {
    (0..planes(element)).rev().map(|plane| part(lines, element, plane, place)).sum()
}

/// The number of parts of a value.
pub(super) fn planes(element: Element) -> usize {
    match element {
        Element::F32 | Element::RoundedF32 => 1,
        Element::Bf16(planes) => planes,
    }
}

/// One part of a value.
pub(super) fn part(lines: &[Line], element: Element, plane: usize, place: usize) -> f32 {
    match element {
        Element::F32 | Element::RoundedF32 => {
            let bytes = &lines[place / 16].0[place % 16 * 4..][..4];
            f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        }
        Element::Bf16(_) => {
            let number = plane * SIDE * DEPTH + place;
            let bytes = &lines[number / 32].0[number % 32 * 2..][..2];
            bf16::from_bits(u16::from_ne_bytes([bytes[0], bytes[1]])).to_f32()
        }
    }
}
