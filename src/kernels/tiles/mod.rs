//! Matrix products over operands that are stored in tiles, the format of the fused encoder.
//!
//! Matrices of f32 flow in and are packed once into [`Operand`]s; [`Kernels::product`] multiplies them into f32. A tile holds
//! 16 rows (or columns) by 32 of the depth, so that one format serves AMX tiles, AVX-512 registers and plain loops alike:
//!
//! - left operand `A`, `(rows, depth)`: tiles `[rows / 16][depth / 32]`, each `[16][32]`
//! - right operand `B`, `(depth, columns)`: tiles `[columns / 16][depth / 32]`, each `[32][16]` for f32, and
//!   `[16 pairs][16][2]` for bf16
//!
//! In bf16 a value may be the sum of several parts (planes): one, two (error 4.5e-6) or three (as accurate as f32); the
//! planes of a tile follow each other. What stands behind the last row, column or depth is zero.
//!
//! A table of functions, [`Kernels`], is chosen once. Every table has a portable twin.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod amx_emulator;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod choice;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx512;
mod portable;

use crate::kernels::pages;
use crate::kernels::profile::{self, Part};
use rayon::prelude::*;

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
use choice::exact_numbers;
pub(super) use choice::is_native;
pub use choice::{Precision, available, complaint, kernels, kernels_of};
pub use pack::Source;

/// Rows of a left tile, columns of a right one.
pub const SIDE: usize = 16;
/// Depth of a tile.
pub const DEPTH: usize = 32;

/// A cache line: what tiles are made of.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

/// What the numbers of a tile are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// f32.
    F32,
    /// f32 rounded to bf16: bf16's results where the machine multiplies f32 alone.
    RoundedF32,
    /// The sum of this many bf16 parts.
    Bf16(usize),
}

impl Element {
    /// Lines of a tile.
    pub fn tile_lines(self) -> usize {
        match self {
            Element::F32 | Element::RoundedF32 => SIDE * DEPTH * 4 / 64,
            Element::Bf16(planes) => planes * SIDE * DEPTH * 2 / 64,
        }
    }
}

/// The four ways from an f32 matrix to tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pack {
    /// A left operand from its rows: the source is `(side, depth)`.
    A,
    /// A left operand from its transpose: the source is `(depth, side)`.
    TransposedA,
    /// A right operand from its rows: the source is `(depth, side)`.
    B,
    /// A right operand from its transpose: the source is `(side, depth)`.
    TransposedB,
}

/// Whether a product adds to what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The old values do not matter.
    Replace,
    /// The product is added to them.
    Add,
}

/// A packed matrix: `sides` tiles of rows or columns by the tiles of `depth` numbers.
#[derive(Clone, Debug, Default)]
pub struct Operand {
    /// More than are used where it was larger before.
    lines: Vec<Line>,
    n_lines: usize,
    sides: usize,
    depth: usize,
}

/// Part of a product's operand: tiles of `sides` rows or columns, each with all its depth.
#[derive(Clone, Copy, Debug)]
pub struct Tiles<'a> {
    lines: &'a [Line],
    sides: usize,
    depth: usize,
}

/// The functions of one path and one kind of element.
#[derive(Debug)]
pub struct Kernels {
    /// What it is called in messages and benchmarks.
    pub name: &'static str,
    /// What the tiles hold.
    pub element: Element,
    pack: fn(Pack, Source<'_>, &mut [Line], Element),
    product: fn(&Product<'_>, &mut [f32], Element),
}

/// The sizes of a product. All tiles lie in their slices, and every block of `rows` (up to 16) and 16 columns in the output.
struct Product<'a> {
    a: &'a [Line],
    b: &'a [Line],
    rows: usize,
    column_tiles: usize,
    /// Tiles of depth, and the numbers in them that are not filling.
    depths: usize,
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "the portable kernels multiply the filling too")
    )]
    depth: usize,
    row_length: usize,
    write: Write,
    /// The operands of the product that follows this one, if any: a kernel may fetch them early.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "the portable kernels fetch nothing early"))]
    next: [Tiles<'a>; 2],
}

impl Operand {
    /// Makes room for a matrix of `side` rows (or columns) by `depth`; what was there does not matter any more.
    pub fn reserve(&mut self, element: Element, side: usize, depth: usize) {
        (self.sides, self.depth) = (side.div_ceil(SIDE), depth);
        self.n_lines = self.sides * depth.div_ceil(DEPTH) * element.tile_lines();
        if self.lines.len() < self.n_lines {
            self.lines = Vec::with_capacity(self.n_lines);
            pages::prefer_large(self.lines.spare_capacity_mut());
            self.lines.resize(self.n_lines, Line([0; 64]));
        }
    }

    /// All tiles.
    pub fn tiles(&self) -> Tiles<'_> {
        Tiles { lines: &self.lines[..self.n_lines], sides: self.sides, depth: self.depth }
    }

    /// The number of tiles of rows or columns.
    pub fn sides(&self) -> usize {
        self.sides
    }
}

impl<'a> Tiles<'a> {
    /// No tiles at all.
    const NONE: Tiles<'static> = Tiles { lines: &[], sides: 0, depth: 0 };

    /// The tiles of rows (or columns) `first..first + count`, counted in tiles.
    pub fn part(self, first: usize, count: usize) -> Tiles<'a> {
        let each = self.lines.len() / self.sides.max(1);
        Tiles { lines: &self.lines[first * each..(first + count) * each], sides: count, depth: self.depth }
    }
}

impl Kernels {
    /// Packs `source` into a new place of `operand`.
    pub fn pack(&self, how: Pack, source: Source<'_>, operand: &mut Operand) {
        let _part = profile::begin(Part::Packing);
        let (side, depth) = source.side_and_depth(how);
        operand.reserve(self.element, side, depth);
        (self.pack)(how, source, &mut operand.lines[..operand.n_lines], self.element);
    }

    /// `out = a b` or `out += a b`: `out` has rows of `row_length` numbers. The first `rows` rows are written, in groups of
    /// eight or sixteen (so `out` has room for whole tiles), and 16 columns for each tile of `b`.
    ///
    /// # Panics
    /// Operands of different depth, or an output that is too small: a defect of the caller.
    pub fn product(&self, a: Tiles<'_>, b: Tiles<'_>, rows: usize, out: &mut [f32], row_length: usize, write: Write) {
        let _part = profile::begin(Part::Products);
        self.product_before([Tiles::NONE; 2], [a, b], rows, out, row_length, write);
    }

    /// `out = a b` for a few rows, as [`Kernels::product`] writes it and to the same bits: the columns are shared out over the
    /// threads, because reading `b` is most of the work. `finish` gets each stretch of a row with its first column.
    ///
    /// # Panics
    /// As [`Kernels::product`].
    pub fn product_of_few_rows(
        &self,
        a: Tiles<'_>,
        b: Tiles<'_>,
        rows: usize,
        out: &mut [f32],
        row_length: usize,
        finish: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        const COLUMNS: usize = 4;
        let own = |task: usize| {
            let part = b.part(task * COLUMNS, COLUMNS.min(b.sides - task * COLUMNS));
            let length = part.sides * SIDE;
            let mut values = vec![0.0; rows.next_multiple_of(SIDE) * length];
            self.product(a, part, rows, &mut values, length, Write::Replace);
            values.chunks_exact_mut(length).take(rows).for_each(|row| finish(task * COLUMNS * SIDE, row));
            (length, values)
        };
        let parts: Vec<_> = (0..b.sides.div_ceil(COLUMNS)).into_par_iter().with_max_len(1).map(own).collect();
        for (task, (length, values)) in parts.iter().enumerate() {
            for (out, values) in out.chunks_mut(row_length).zip(values.chunks(*length)).take(rows) {
                out[task * COLUMNS * SIDE..][..*length].copy_from_slice(values);
            }
        }
    }

    /// `out = a1 b1 + a2 b2 + ...` over pairs of operands, in their order, as [`Kernels::product`] writes it.
    ///
    /// # Panics
    /// As [`Kernels::product`]; operands of the pairs that differ in their rows or columns.
    pub fn sum_of_products(&self, pairs: &[[Tiles<'_>; 2]], rows: usize, out: &mut [f32], row_length: usize) {
        // So many tiles of columns that their part of the output stays in the caches while all pairs add to it.
        const COLUMNS: usize = 8;
        let _part = profile::begin(Part::WeightGradients);
        let Some([_, first]) = pairs.first() else { return };
        let sides = first.sides;
        assert!(pairs.iter().all(|[_, b]| b.sides == sides), "right operands of a sum have the same columns");
        let part = |pair: usize, column: usize| {
            let [left, right] = pairs[pair];
            [left.part(0, rows.div_ceil(SIDE)), right.part(column, COLUMNS.min(sides - column))]
        };
        for column in (0..sides).step_by(COLUMNS) {
            for number in 0..pairs.len() {
                let next = if number + 1 < pairs.len() {
                    part(number + 1, column)
                } else if column + COLUMNS < sides {
                    part(0, column + COLUMNS)
                } else {
                    [Tiles::NONE; 2]
                };
                let write = if number == 0 { Write::Replace } else { Write::Add };
                self.product_before(next, part(number, column), rows, &mut out[column * SIDE..], row_length, write);
            }
        }
    }

    fn product_before(
        &self,
        next: [Tiles<'_>; 2],
        [a, b]: [Tiles<'_>; 2],
        rows: usize,
        out: &mut [f32],
        row_length: usize,
        write: Write,
    ) {
        if rows == 0 || b.sides == 0 {
            return;
        }
        assert_eq!(a.depth, b.depth, "operands of a product have the same depth");
        let (tile_rows, depths) = (rows.div_ceil(SIDE), a.depth.div_ceil(DEPTH));
        assert!(tile_rows <= a.sides, "the left operand has too few rows");
        assert!(b.sides * SIDE <= row_length, "the rows of the output are too short");
        assert!((tile_rows * SIDE - 1) * row_length + b.sides * SIDE <= out.len(), "the output is too small");
        let each = self.element.tile_lines();
        assert!(a.lines.len() >= tile_rows * depths * each && b.lines.len() >= b.sides * depths * each);
        let product = Product {
            a: a.lines,
            b: b.lines,
            rows,
            column_tiles: b.sides,
            depths,
            depth: a.depth,
            row_length,
            write,
            next,
        };
        (self.product)(&product, out, self.element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::rng::Rng;

    fn numbers(n: usize, stream: &str) -> Vec<f32> {
        let rng = Rng::new(11, stream, 0);
        (0..n as u64).map(|index| rng.normal(index) as f32).collect()
    }

    const SHAPES: [(usize, usize); 9] =
        [(1, 1), (16, 32), (17, 33), (3, 70), (40, 31), (48, 96), (129, 64), (16, 1), (1, 100)];
    const WAYS: [Pack; 4] = [Pack::A, Pack::TransposedA, Pack::B, Pack::TransposedB];

    /// Every way of packing puts element (side, depth) where the index formula of the module's head says, and zeros around.
    #[test]
    fn packed_elements_stand_where_the_formula_says() {
        for element in [Element::F32, Element::RoundedF32, Element::Bf16(1), Element::Bf16(2), Element::Bf16(3)] {
            // What is left of a number: f32 exact, bf16 8 bits a part.
            let tolerance = match element {
                Element::F32 => 0.0,
                Element::RoundedF32 | Element::Bf16(1) => 4e-3,
                Element::Bf16(2) => 1.6e-5,
                Element::Bf16(_) => 6e-8,
            };
            for (side, depth) in SHAPES {
                for how in WAYS {
                    let straight = matches!(how, Pack::A | Pack::TransposedB);
                    let (rows, columns) = if straight { (side, depth) } else { (depth, side) };
                    let row_length = columns + 3;
                    let values = numbers(rows * row_length, "values");
                    let source = Source { values: &values, row_length, rows, columns };
                    let mut lines =
                        vec![Line([0xff; 64]); side.div_ceil(SIDE) * depth.div_ceil(DEPTH) * element.tile_lines()];
                    pack::pack(how, source, &mut lines, element);
                    let (sides, depths) = (side.div_ceil(SIDE), depth.div_ceil(DEPTH));
                    for i in 0..sides * SIDE {
                        for j in 0..depths * DEPTH {
                            let tile = i / SIDE * depths + j / DEPTH;
                            let (s, d) = (i % SIDE, j % DEPTH);
                            let place = match (matches!(how, Pack::A | Pack::TransposedA), element) {
                                (true, _) => 32 * s + d,
                                (false, Element::F32 | Element::RoundedF32) => 16 * d + s,
                                (false, Element::Bf16(_)) => 32 * (d / 2) + 2 * s + d % 2,
                            };
                            let each = element.tile_lines();
                            let got = pack::read(&lines[tile * each..][..each], element, place);
                            let (row, column) = if straight { (i, j) } else { (j, i) };
                            let wanted = if i < side && j < depth { values[row * row_length + column] } else { 0.0 };
                            assert!(
                                (got - wanted).abs() <= tolerance * wanted.abs(),
                                "{element:?} {how:?} {side}x{depth} ({i}, {j})"
                            );
                        }
                    }
                }
            }
        }
    }

    /// Packing is a copy: fast ways give the very bytes of the plain one.
    #[test]
    fn fast_packing_gives_the_same_bytes() {
        for (kernels, twin) in available() {
            for (side, depth) in SHAPES {
                for how in WAYS {
                    let straight = matches!(how, Pack::A | Pack::TransposedB);
                    let (rows, columns) = if straight { (side, depth) } else { (depth, side) };
                    let values = numbers(rows * (columns + 2), "bytes");
                    let source = Source { values: &values, row_length: columns + 2, rows, columns };
                    let (mut ours, mut plain) = (Operand::default(), Operand::default());
                    kernels.pack(how, source, &mut ours);
                    twin.pack(how, source, &mut plain);
                    let (ours, plain) = (ours.tiles().lines, plain.tiles().lines);
                    let same = ours.iter().zip(plain).all(|(a, b)| a.0 == b.0);
                    assert!(same && ours.len() == plain.len(), "{} {how:?} {side}x{depth}", kernels.name);
                }
            }
        }
    }

    /// Columns shared out over threads are the columns of one product, bit by bit.
    #[test]
    fn products_of_few_rows_are_products() {
        for (kernels, twin) in available() {
            for kernels in [kernels, twin] {
                for (rows, columns, depth) in [(1, 16, 5), (22, 200, 96), (33, 64, 130), (40, 1152, 384)] {
                    let (left, right) = (numbers(rows * depth, "left"), numbers(columns * depth, "right"));
                    let (mut a, mut b) = (Operand::default(), Operand::default());
                    kernels.pack(Pack::A, Source::rows(&left, rows, depth), &mut a);
                    kernels.pack(Pack::TransposedB, Source::rows(&right, columns, depth), &mut b);
                    let row_length = columns.next_multiple_of(SIDE) + 16;
                    let (mut shared, mut single) = (vec![0.5f32; 48 * row_length], vec![0.5f32; 48 * row_length]);
                    let finish = |first: usize, row: &mut [f32]| {
                        row.iter_mut().enumerate().for_each(|(column, x)| *x += (first + column) as f32);
                    };
                    kernels.product_of_few_rows(a.tiles(), b.tiles(), rows, &mut shared, row_length, finish);
                    kernels.product(a.tiles(), b.tiles(), rows, &mut single, row_length, Write::Replace);
                    let width = columns.next_multiple_of(SIDE);
                    single.chunks_exact_mut(row_length).for_each(|row| finish(0, &mut row[..width]));
                    let n = rows * row_length;
                    assert_eq!(shared[..n], single[..n], "{} {rows} {columns} {depth}", kernels.name);
                }
            }
        }
    }

    /// A sum over pairs of any depth is the sum of their products, whatever the number of columns.
    #[test]
    fn sums_of_products_are_sums_of_single_products() {
        for (kernels, _) in available() {
            for columns in [16, 112, 128, 130, 272] {
                for depths in [&[7][..], &[33, 1], &[64, 100, 31]] {
                    let rows = 40;
                    let operands: Vec<[Operand; 2]> = depths
                        .iter()
                        .map(|&depth| {
                            let (left, right) = (numbers(rows * depth, "left"), numbers(columns * depth, "right"));
                            let mut pair = [Operand::default(), Operand::default()];
                            kernels.pack(Pack::A, Source::rows(&left, rows, depth), &mut pair[0]);
                            kernels.pack(Pack::TransposedB, Source::rows(&right, columns, depth), &mut pair[1]);
                            pair
                        })
                        .collect();
                    let row_length = columns.next_multiple_of(SIDE) + 16;
                    let (mut sum, mut single) = (vec![0.5f32; 48 * row_length], vec![0.5f32; 48 * row_length]);
                    let pairs: Vec<_> = operands.iter().map(|[a, b]| [a.tiles(), b.tiles()]).collect();
                    kernels.sum_of_products(&pairs, rows, &mut sum, row_length);
                    for (number, [a, b]) in pairs.iter().enumerate() {
                        let write = if number == 0 { Write::Replace } else { Write::Add };
                        kernels.product(*a, *b, rows, &mut single, row_length, write);
                    }
                    assert_eq!(sum, single, "{} {columns} {depths:?}", kernels.name);
                }
            }
        }
    }

    /// Products of every path against f64: the relative Frobenius errors that were measured for each kind of element.
    #[test]
    fn products_are_as_exact_as_their_elements() {
        let mut tables: Vec<&Kernels> = available().into_iter().flat_map(|(kernels, twin)| [kernels, twin]).collect();
        for precision in [Precision::Highest, Precision::High, Precision::Bf16] {
            tables.extend(kernels_of(crate::kernels::Path::Emulated, precision));
        }
        for kernels in tables {
            let tolerance = match kernels.element {
                Element::F32 | Element::Bf16(3) => 1e-6,
                Element::Bf16(2) => 1e-5,
                _ => 5e-3,
            };
            // Longer than 390 the sum that is doubled below would by itself take f32 beyond 1e-6.
            for (rows, columns, depth) in
                [(1, 1, 1), (8, 16, 32), (9, 17, 33), (25, 48, 64), (33, 40, 390), (70, 96, 130), (16, 16, 384)]
            {
                let (left, right) = (numbers(rows * depth, "left"), numbers(columns * depth, "right"));
                let (mut a, mut b) = (Operand::default(), Operand::default());
                kernels.pack(Pack::A, Source::rows(&left, rows, depth), &mut a);
                kernels.pack(Pack::TransposedB, Source::rows(&right, columns, depth), &mut b);
                let row_length = columns.div_ceil(SIDE) * SIDE + 16;
                let mut out = vec![0.5f32; rows.div_ceil(SIDE) * SIDE * row_length];
                kernels.product(a.tiles(), b.tiles(), rows, &mut out, row_length, Write::Replace);
                kernels.product(a.tiles(), b.tiles(), rows, &mut out, row_length, Write::Add);
                let (mut error, mut size) = (0.0, 0.0);
                for i in 0..rows {
                    for j in 0..columns {
                        let exact: f64 =
                            (0..depth).map(|k| f64::from(left[i * depth + k]) * f64::from(right[j * depth + k])).sum();
                        let got = f64::from(out[i * row_length + j]) / 2.0;
                        error += (got - exact).powi(2);
                        size += exact.powi(2);
                    }
                }
                let relative = (error / size).sqrt();
                assert!(relative < tolerance, "{} {rows}x{columns}x{depth}: {relative:e}", kernels.name);
                let untouched =
                    out.chunks(row_length).all(|row| row[columns.div_ceil(SIDE) * SIDE..].iter().all(|&x| x == 0.5));
                assert!(untouched, "{}: columns behind the tiles are left alone", kernels.name);
            }
        }
    }
}
