//! Memory that was given back: whether the process keeps it for what comes next.
//!
//! A recipe that runs again makes the same weights, moments and buffers as the run before it. Pages that went back to the system are
//! faulted in one by one, zeroed each time, which takes longer than the first step itself.

/// Keeps memory that is given back from now on, where the system's allocator can: for a process that runs recipes one after the
/// other. Without it the process shrinks after each. To be called before the process has other threads.
pub fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the allocator takes any values of these settings, and nothing of what it has given changes; the caller sees to it that
    // no other thread is at work yet, which is what the call asks for.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
