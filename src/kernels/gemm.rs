//! Products of f32 matrices through the gemm crate, behind safe slices.

use ::gemm::Parallelism;

/// A matrix in a slice: element (i, j) stands at `start + i * row + j * column`.
#[derive(Clone, Copy)]
pub(super) struct View {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) start: usize,
    pub(super) row: usize,
    pub(super) column: usize,
}

impl View {
    /// A whole row-major matrix.
    pub(super) fn rows(rows: usize, columns: usize) -> Self {
        View { rows, columns, start: 0, row: columns, column: 1 }
    }

    /// The transposed matrix, in the same memory.
    pub(super) fn t(self) -> Self {
        View { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    fn fits(&self, length: usize) -> bool {
        self.rows == 0
            || self.columns == 0
            || self.start + (self.rows - 1) * self.row + (self.columns - 1) * self.column < length
    }
}

/// Whether a product adds to what is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Replace,
    Add,
}

/// On how many threads a product runs; the bits do not depend on it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    One,
    All,
}

/// `out = scale * a b`, or `out += scale * a b`.
///
/// # Panics
/// Views that do not fit their slices or each other: a defect of the caller.
pub(super) fn product(
    (out, out_view): (&mut [f32], View),
    (a, a_view): (&[f32], View),
    (b, b_view): (&[f32], View),
    scale: f32,
    write: Write,
    threads: Threads,
) {
    assert!(out_view.fits(out.len()) && a_view.fits(a.len()) && b_view.fits(b.len()), "a matrix exceeds its slice");
    assert!(
        a_view.columns == b_view.rows && out_view.rows == a_view.rows && out_view.columns == b_view.columns,
        "matrices do not fit each other"
    );
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: every element of the three views lies in its slice (checked above), and `out` is borrowed mutably, so it
    // overlaps neither `a` nor `b`.
    unsafe {
        ::gemm::gemm(
            out_view.rows,
            out_view.columns,
            a_view.columns,
            out.as_mut_ptr().add(out_view.start),
            out_view.column as isize,
            out_view.row as isize,
            write == Write::Add,
            a.as_ptr().add(a_view.start),
            a_view.column as isize,
            a_view.row as isize,
            b.as_ptr().add(b_view.start),
            b_view.column as isize,
            b_view.row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
