//! Speed of the engine on this machine, as ratios taken in one run: matrix rates by path.

use std::time::Instant;

use retune::kernels::tiles::{Kernels, Operand, Pack, Source, Write, available};

fn main() {
    for (kernels, _) in available() {
        rate(kernels, 256, 1536, 384);
        rate(kernels, 256, 384, 1536);
        rate(kernels, 256, 384, 384);
        rate(kernels, 32, 1536, 256);
    }
}

fn rate(kernels: &Kernels, rows: usize, columns: usize, depth: usize) {
    let values = |n: usize| -> Vec<f32> { (0..n).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect() };
    let (left, right) = (values(rows * depth), values(columns * depth));
    let (mut a, mut b) = (Operand::default(), Operand::default());
    kernels.pack(Pack::A, Source::rows(&left, rows, depth), &mut a);
    kernels.pack(Pack::TransposedB, Source::rows(&right, columns, depth), &mut b);
    let mut out = vec![0.0f32; rows * columns];
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        kernels.product(a.tiles(), b.tiles(), rows, &mut out, columns, Write::Replace);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let mut packs = Vec::new();
    for (how, source) in [
        (Pack::A, Source::rows(&left, rows, depth)),
        (Pack::TransposedA, Source::rows(&left, rows, depth)),
        (Pack::B, Source::rows(&left, rows, depth)),
        (Pack::TransposedB, Source::rows(&left, rows, depth)),
    ] {
        let mut operand = Operand::default();
        let mut best = f64::INFINITY;
        for _ in 0..20 {
            let start = Instant::now();
            kernels.pack(how, source, &mut operand);
            best = best.min(start.elapsed().as_secs_f64());
        }
        packs.push(format!("{:.2}", (rows * depth * 4) as f64 / best / 1e9));
    }
    let rate = 2.0 * (rows * columns * depth) as f64 / best / 1e9;
    println!(
        "{:<22} {rows:>5} x {columns:>5} x {depth:>5}  {rate:7.1} GFLOP/s   packing GB/s {}",
        kernels.name,
        packs.join(" ")
    );
}
