//! Large pages for large buffers: the first write to a page costs a fault of the kernel, which for pages of 4 KiB is a good part
//! of a run's first step.

/// What a large page has on x86-64.
#[cfg(target_os = "linux")]
const PAGE: usize = 2 << 20;

/// Asks the kernel to back the whole large pages within `room` by such, before anything is written there. For what is written
/// everywhere: a page is there as a whole or not at all.
pub fn prefer_large<T>(room: &[T]) {
    #[cfg(target_os = "linux")]
    {
        let range = room.as_ptr_range();
        let (start, end) = ((range.start as usize).next_multiple_of(PAGE), range.end as usize / PAGE * PAGE);
        if end > start {
            // SAFETY: the pages lie within the buffer, and advice about pages changes nothing that the program could see; where it
            // is refused, pages stay small.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = room;
}

/// Makes a vector at least `n` long, in large pages where that is much: what stands in it stays. Fresh memory is not written where
/// there was none.
pub fn grow(values: &mut Vec<f32>, n: usize) {
    if values.is_empty() {
        *values = vec![0.0; n];
        prefer_large(values);
    } else if values.len() < n {
        values.reserve_exact(n - values.len());
        prefer_large(values.spare_capacity_mut());
        values.resize(n, 0.0);
    }
}

/// `n` zeros, in large pages where they are many. Fresh memory is not written for it.
pub fn zeros(n: usize) -> Vec<f32> {
    let mut values = Vec::new();
    grow(&mut values, n);
    values
}
