//! What stands between the C functions of the ABI and a [`TaskHead`]: guards, texts in and out, and the entry.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::abi::{self, Head, HeadFunction, Host, Status, Str};
use crate::context::Cx;
use crate::head::{Function, TaskHead};
use crate::{Error, Result};

thread_local! {
    /// How many guarded calls are running on this thread.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// What the panic that is being caught said, and where.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Within a guarded call a panic is kept for the error instead of being printed.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if DEPTH.get() == 0 {
                return usual(info);
            }
            let place = info.location().map(|place| format!(" at {place}")).unwrap_or_default();
            PANIC.with(|kept| *kept.borrow_mut() = Some(format!("{}{place}", said(info.payload()))));
        }));
    });
}

fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}

/// Calls a function of the plugin: its error goes to the host, and so does its panic.
pub(crate) fn guarded<'c>(cx: Option<Cx<'c>>, function: impl FnOnce(Cx<'c>) -> Result<()>) -> Status {
    let Some(cx) = cx else { return abi::ERROR };
    keep_panics();
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(|| function(cx)));
    let status = match result {
        Ok(Ok(())) => abi::OK,
        Ok(Err(error)) => {
            cx.fail(&error);
            abi::ERROR
        }
        Err(payload) => {
            let text = PANIC.with(|kept| kept.borrow_mut().take()).unwrap_or_else(|| said(&*payload).to_string());
            cx.fail(&Error::new(format!("it panicked: {text}")));
            // What a panic carries may panic once more when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            abi::PANIC
        }
    };
    DEPTH.set(DEPTH.get() - 1);
    status
}

/// Calls a function of the head behind a pointer.
///
/// # Safety
/// `head` is what [`create`] has made, and `host` the program's table.
unsafe fn on<T: TaskHead>(
    head: *mut c_void,
    host: *const Host,
    function: impl FnOnce(&T, Cx<'_>) -> Result<()>,
) -> Status {
    // SAFETY: the caller's promise.
    let (cx, head) = unsafe { (Cx::from_host(host), head.cast::<T>().as_ref()) };
    guarded(cx, |cx| function(head.ok_or_else(|| Error::new("there is no head"))?, cx))
}

unsafe extern "C" fn create<T: TaskHead>(host: *const Host, head: *mut *mut c_void) -> Status {
    // SAFETY: the program's table, during a call of the program.
    guarded(unsafe { Cx::from_host(host) }, |cx| {
        let made = Box::new(T::create(cx, &cx.json("config")?)?);
        // SAFETY: the host passes a place for the pointer.
        unsafe { *head = Box::into_raw(made).cast() };
        Ok(())
    })
}

unsafe extern "C" fn destroy<T: TaskHead>(head: *mut c_void) {
    let free = || {
        if !head.is_null() {
            // SAFETY: what `create` has made; the host calls this once.
            drop(unsafe { Box::from_raw(head.cast::<T>()) });
        }
    };
    DEPTH.set(DEPTH.get() + 1);
    let _ = catch_unwind(AssertUnwindSafe(free));
    DEPTH.set(DEPTH.get() - 1);
}

macro_rules! functions {
    ($($name:ident |$head:ident, $cx:ident| $body:expr;)*) => {
        $(unsafe extern "C" fn $name<T: TaskHead>(head: *mut c_void, host: *const Host) -> Status {
            // SAFETY: the host calls with what `create` has made, and with its table.
            unsafe { on::<T>(head, host, |$head, $cx| $body) }
        })*
    };
}

fn give(cx: Cx<'_>, result: Result<crate::Json>) -> Result<()> {
    cx.result(result?.to_string().as_bytes());
    Ok(())
}

functions! {
    forward |head, cx| {
        let outputs = head.forward(cx, cx.input("hidden"))?;
        for (name, tensor) in outputs.tensors() {
            cx.output(name, tensor);
        }
        Ok(())
    };
    loss |head, cx| {
        let loss = head.loss(cx)?;
        cx.output("loss", loss);
        Ok(())
    };
    encode |head, cx| give(cx, head.encode(cx, &cx.json("row")?, &cx.json("options")?));
    collate |head, cx| head.collate(cx, &cx.json("options")?);
    decode |head, cx| give(cx, head.decode(cx, &cx.json("options")?));
    merge |head, cx| give(cx, head.merge(cx, &cx.json("results")?, &cx.json("row")?, &cx.json("options")?));
    reduce |head, cx| give(cx, head.reduce(cx, &cx.json("options")?));
    metrics |head, cx| {
        let (predictions, references) = (cx.json("predictions")?, cx.json("references")?);
        give(cx, head.metrics(cx, &predictions, &references, &cx.json("options")?))
    };
    save_state |head, cx| {
        cx.result(&head.save_state()?);
        Ok(())
    };
}

unsafe extern "C" fn load_state<T: TaskHead>(head: *mut c_void, host: *const Host) -> Status {
    // SAFETY: what `create` has made; the host lets no other function of the head run beside this one.
    let (cx, head) = unsafe { (Cx::from_host(host), head.cast::<T>().as_mut()) };
    guarded(cx, |cx| head.ok_or_else(|| Error::new("there is no head"))?.load_state(&cx.bytes("state")?))
}

const fn has<T: TaskHead>(wanted: Function) -> bool {
    let mut place = 0;
    while place < T::FUNCTIONS.len() {
        if T::FUNCTIONS[place] as u8 == wanted as u8 {
            return true;
        }
        place += 1;
    }
    false
}

const fn listed<T: TaskHead>(wanted: Function, function: HeadFunction) -> Option<HeadFunction> {
    if has::<T>(wanted) { Some(function) } else { None }
}

/// The C declaration of a head.
pub const fn head<T: TaskHead>() -> Head {
    Head {
        struct_size: std::mem::size_of::<Head>() as u32,
        flags: if T::PADS_ROWS { abi::PADS_ROWS } else { 0 },
        name: Str::of(T::NAME),
        options: Str::of(T::OPTIONS),
        create: Some(create::<T>),
        destroy: Some(destroy::<T>),
        forward: Some(forward::<T>),
        loss: Some(loss::<T>),
        encode: listed::<T>(Function::Encode, encode::<T>),
        decode: listed::<T>(Function::Decode, decode::<T>),
        metrics: listed::<T>(Function::Metrics, metrics::<T>),
        save_state: listed::<T>(Function::State, save_state::<T>),
        load_state: listed::<T>(Function::State, load_state::<T>),
        get_extension: None,
        collate: listed::<T>(Function::Collate, collate::<T>),
        merge: listed::<T>(Function::Merge, merge::<T>),
        reduce: listed::<T>(Function::Reduce, reduce::<T>),
    }
}

/// The declarations of a plugin's heads.
pub struct Heads<const N: usize>(pub [*const Head; N]);

// SAFETY: the pointers lead to constants.
unsafe impl<const N: usize> Sync for Heads<N> {}

/// Makes a plugin of heads: the constant `retune_plugin_entry` with the crate's name and version.
///
/// A shared library (`crate-type = ["cdylib", "rlib"]`) exports it; linked statically, it is `CRATE::retune_plugin_entry`.
#[macro_export]
macro_rules! export_heads {
    ($($head:ty),+ $(,)?) => {
        /// What retune reads when it loads this plugin.
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals)]
        pub static retune_plugin_entry: $crate::abi::Entry = {
            const N: usize = [$(stringify!($head)),+].len();
            static HEADS: $crate::export::Heads<N> = $crate::export::Heads([$({
                static HEAD: $crate::abi::Head = $crate::export::head::<$head>();
                &raw const HEAD
            }),+]);
            $crate::abi::Entry {
                magic: $crate::abi::MAGIC,
                abi_major: $crate::abi::ABI_MAJOR,
                abi_minor: $crate::abi::ABI_MINOR,
                struct_size: ::std::mem::size_of::<$crate::abi::Entry>() as u32,
                n_heads: N as u32,
                name: $crate::abi::Str::of(env!("CARGO_PKG_NAME")),
                version: $crate::abi::Str::of(env!("CARGO_PKG_VERSION")),
                heads: &raw const HEADS.0 as *const *const $crate::abi::Head,
            }
        };
    };
}
