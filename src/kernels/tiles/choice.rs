//! Which tile kernels run: by precision, by what the machine has, and by `RETUNE_KERNELS`.

use std::sync::OnceLock;

use crate::kernels::tiles::{Element, Kernels, pack, portable};
use crate::kernels::{Path, path};

/// How exact products are: PyTorch's words of `float32_matmul_precision`, and `bf16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As accurate as f32.
    #[default]
    Highest,
    /// Errors up to 1e-5: three products of bf16 parts where AMX is, else f32.
    High,
    /// One product of bf16 where the machine has one that is faster than f32.
    Medium,
    /// bf16 with f32 sums.
    Bf16,
}

macro_rules! table {
    ($name:ident, $title:literal, $element:expr, $pack:path, $product:path) => {
        static $name: Kernels = Kernels { name: $title, element: $element, pack: $pack, product: $product };
    };
}

table!(EMULATED_F32, "emulated f32", Element::F32, pack::pack, portable::product);
table!(EMULATED_ROUNDED, "emulated f32 of bf16", Element::RoundedF32, pack::pack, portable::product);
table!(EMULATED_1, "emulated bf16", Element::Bf16(1), pack::pack, portable::product);
table!(EMULATED_2, "emulated three bf16 products", Element::Bf16(2), pack::pack, portable::product);
table!(EMULATED_3, "emulated six bf16 products", Element::Bf16(3), pack::pack, portable::product);

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::*;
    use crate::kernels::tiles::{avx512, pack_avx512};

    table!(F32, "avx512 f32", Element::F32, pack_avx512::pack_f32, avx512::product_f32);
    table!(ROUNDED, "avx512 f32 of bf16", Element::RoundedF32, pack_avx512::pack_f32, avx512::product_f32);
    table!(BF16, "avx512 bf16", Element::Bf16(1), pack_avx512::pack_bf16, avx512::product_bf16);

    /// f32 of rounded numbers: what machines without `avx512bf16` run for bf16.
    pub(super) fn rounded() -> &'static Kernels {
        &ROUNDED
    }

    pub(super) fn of(precision: Precision) -> Option<&'static Kernels> {
        if !is_x86_feature_detected!("avx512f") {
            return None;
        }
        let has_bf16 = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
        Some(match precision {
            Precision::Highest | Precision::High => &F32,
            Precision::Medium | Precision::Bf16 if has_bf16 => &BF16,
            Precision::Medium => &F32,
            Precision::Bf16 => &ROUNDED,
        })
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiled {
    use super::*;
    use crate::kernels::tiles::{Operand, Pack, Source, Write, amx, pack_avx512};

    table!(ONE, "amx bf16", Element::Bf16(1), pack_avx512::pack_bf16, amx::product);
    table!(THREE, "amx three bf16 products", Element::Bf16(2), pack_avx512::pack_bf16, amx::product);
    table!(SIX, "amx six bf16 products", Element::Bf16(3), pack_avx512::pack_bf16, amx::product);

    /// Whether the machine has AMX, and whether it computes what it should; asked once.
    pub(super) fn state() -> (bool, bool) {
        static STATE: OnceLock<(bool, bool)> = OnceLock::new();
        *STATE.get_or_init(|| {
            let has = amx::is_available();
            (has, has && [&ONE, &THREE, &SIX].into_iter().all(is_right))
        })
    }

    pub(super) fn of(precision: Precision) -> Option<&'static Kernels> {
        let (_, works) = state();
        works.then_some(match precision {
            Precision::Highest => &SIX,
            Precision::High => &THREE,
            Precision::Medium | Precision::Bf16 => &ONE,
        })
    }

    /// A product beside its emulation, to the bit: the instructions are assembly, and a wrong number must never train a model. Its
    /// depth is longer than the longest stretch, and its numbers of tiles are odd.
    pub(super) fn is_right(kernels: &Kernels) -> bool {
        const SIZE: (usize, usize, usize) = (40, 48, 391);
        let (rows, columns, depth) = SIZE;
        let (left, right) = (exact_numbers(rows * depth, 1), exact_numbers(columns * depth, 2));
        let result = |product: fn(&crate::kernels::tiles::Product<'_>, &mut [f32], Element)| {
            let table = Kernels { name: "", element: kernels.element, pack: pack::pack, product };
            let (mut a, mut b) = (Operand::default(), Operand::default());
            table.pack(Pack::A, Source::rows(&left, rows, depth), &mut a);
            table.pack(Pack::TransposedB, Source::rows(&right, columns, depth), &mut b);
            let mut out = vec![0.0; 48 * 48];
            table.product(a.tiles(), b.tiles(), rows, &mut out, 48, Write::Replace);
            out
        };
        let (ours, plain) = (result(kernels.product), result(portable::product));
        ours[..rows * 48] == plain[..rows * 48]
    }
}

/// `n` numbers of up to three bf16 parts: 0, or ±1 with 2^-9 and then 2^-18 behind it. What a product of parts sums up are multiples
/// of 2^-18, and few enough are not zero that a sum of some hundred is exact in f32: the order of adding does not matter, a
/// missing part does.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) fn exact_numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let sign = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0][(state >> 29) as usize];
        sign * [1.0, 1.0, 1.0 + 1.0 / 512.0, 1.0 + 1.0 / 512.0 + 1.0 / 262_144.0][(state >> 27 & 3) as usize]
    };
    (0..n).map(|_| draw()).collect()
}

/// The tile kernels of a path, if this machine has them; those of candle and gemm have none.
pub fn kernels_of(path: Path, precision: Precision) -> Option<&'static Kernels> {
    match path {
        Path::Reference | Path::Gemm => None,
        Path::Emulated => Some(match precision {
            Precision::Highest => &EMULATED_3,
            Precision::High => &EMULATED_2,
            Precision::Medium | Precision::Bf16 => &EMULATED_1,
        }),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => wide::of(precision),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Path::Amx => tiled::of(precision),
        #[allow(unreachable_patterns, reason = "which arms stand above depends on the machine")]
        _ => None,
    }
}

/// Whether this machine itself has the tile kernels of a path: those of AMX may be emulated in the library's own tests.
pub(in crate::kernels) fn is_native(path: Path) -> bool {
    let has = kernels_of(path, Precision::Highest).is_some();
    #[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
    let has = has && !(path == Path::Amx && crate::kernels::tiles::amx_emulator::is_installed());
    has
}

/// What users should know about the kernels of this machine: that some were found to be wrong and are not used.
pub fn complaint() -> Option<&'static str> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return complaint_about(tiled::state());
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    None
}

/// The complaint about a machine that has AMX or not, and computes what it should or not.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn complaint_about((has, works): (bool, bool)) -> Option<&'static str> {
    (has && !works).then_some("the AMX kernels give wrong numbers on this machine and are not used; please report it")
}

/// The tile kernels of this process.
pub fn kernels(precision: Precision) -> Option<&'static Kernels> {
    kernels_of(path(), precision)
}

/// Every table that this machine can run, with its portable twin.
pub fn available() -> Vec<(&'static Kernels, &'static Kernels)> {
    let mut all = Vec::new();
    for path in [Path::Amx, Path::Avx512] {
        for precision in [Precision::Highest, Precision::High, Precision::Bf16] {
            let Some(kernels) = kernels_of(path, precision) else { continue };
            let twin = match kernels.element {
                Element::F32 => &EMULATED_F32,
                Element::RoundedF32 => &EMULATED_ROUNDED,
                Element::Bf16(1) => &EMULATED_1,
                Element::Bf16(2) => &EMULATED_2,
                Element::Bf16(_) => &EMULATED_3,
            };
            if !all.iter().any(|(known, _): &(&Kernels, _)| known.name == kernels.name) {
                all.push((kernels, twin));
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        all.push((wide::rounded(), &EMULATED_ROUNDED));
    }
    all
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests {
    use super::*;
    use crate::kernels::fastest;
    use crate::kernels::tiles::{Line, Product, amx_emulator};

    /// Calls the plain product with zeros in place of those lines of the left operand that `is_lost` tells, by depth and plane.
    fn without(product: &Product<'_>, out: &mut [f32], element: Element, is_lost: fn(usize, usize) -> bool) {
        let mut a = product.a.to_vec();
        for (number, lines) in a.chunks_exact_mut(16).enumerate() {
            let planes = pack::planes(element);
            if is_lost(number / planes % product.depths, number % planes) {
                lines.fill(Line([0; 64]));
            }
        }
        portable::product(&Product { a: &a, ..*product }, out, element);
    }

    fn without_the_smallest_part(product: &Product<'_>, out: &mut [f32], element: Element) {
        without(product, out, element, |_, plane| plane == 2);
    }

    fn without_the_first_stretch(product: &Product<'_>, out: &mut [f32], element: Element) {
        without(product, out, element, |depth, _| depth < 12);
    }

    fn off_by_one_unit(product: &Product<'_>, out: &mut [f32], element: Element) {
        portable::product(product, out, element);
        out[product.row_length + 1] = out[product.row_length + 1].next_up();
    }

    /// The check at the start finds right products right and wrong ones wrong, and users are told of those.
    #[test]
    fn wrong_products_are_noticed() {
        table!(PLAIN, "plain", Element::Bf16(3), pack::pack, portable::product);
        table!(SMALLEST, "no smallest part", Element::Bf16(3), pack::pack, without_the_smallest_part);
        table!(FIRST, "no first stretch", Element::Bf16(1), pack::pack, without_the_first_stretch);
        table!(UNIT, "one unit off", Element::Bf16(2), pack::pack, off_by_one_unit);
        assert!(tiled::is_right(&PLAIN));
        for wrong in [&SMALLEST, &FIRST, &UNIT] {
            assert!(!tiled::is_right(wrong), "{}", wrong.name);
        }
        assert!(complaint_about((true, false)).is_some_and(|complaint| complaint.contains("wrong numbers")));
        assert_eq!((complaint_about((true, true)), complaint_about((false, false))), (None, None));
        assert_eq!(complaint(), None, "AMX, emulated or not, is right");
    }

    /// Emulated AMX is there for those who ask for it, and never what runs by default.
    #[test]
    fn emulated_instructions_are_not_the_default() {
        let names = available().into_iter().map(|(kernels, _)| kernels.name).filter(|name| name.starts_with("amx"));
        let expected = if tiled::state().0 { 3 } else { 0 };
        assert_eq!(names.count(), expected);
        assert_eq!(fastest() == Path::Amx, expected == 3 && !amx_emulator::is_installed());
    }
}
