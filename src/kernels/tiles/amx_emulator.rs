//! AMX for the library's own tests, on machines without it: there each of its instructions raises SIGILL, and the handler of that
//! signal decodes and executes it.
//!
//! An instruction's bytes and the thread's registers flow in; the thread's tiles, and memory, change as Intel's manual says for
//! palette 1. What a processor would refuse ends the process, as it would there, with the reason on standard error. Only the six
//! instructions of `amx.rs` are known, in all forms of their operands; any other goes to whoever handled SIGILL before. A
//! thread's tiles lie in its static thread-local memory, so that nothing is allocated within the handler.

use std::cell::UnsafeCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_void, greg_t, siginfo_t};

/// What palette 1 has.
const TILES: usize = 8;
const ROWS: usize = 16;
const ROW_BYTES: usize = 64;

/// Four bytes each: an f32, or a pair of bf16.
type Tile = [[u32; ROW_BYTES / 4]; ROWS];

/// The registers of a thread.
struct State {
    is_configured: bool,
    rows: [u8; TILES],
    row_bytes: [u16; TILES],
    tiles: [Tile; TILES],
}

/// One of the six.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instruction {
    /// `ldtilecfg`
    Configure(Place),
    /// `tilerelease`
    Release,
    /// `tilezero`
    Zero(usize),
    /// `tileloadd`
    Load(usize, Place),
    /// `tilestored`
    Store(Place, usize),
    /// `tdpbf16ps`
    Multiply { sum: usize, left: usize, right: usize },
}

/// An operand in memory: the base and displacement of its address, and the scaled index, which is what lies between rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u64,
    index: u64,
}

/// Why an instruction is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is none of the six.
    Unknown,
    /// A processor raises an exception.
    Fault(&'static str),
}

thread_local! {
    static STATE: UnsafeCell<State> = const { UnsafeCell::new(State::RELEASED) };
}

/// Who handled SIGILL before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Instructions that were executed so far, by all threads.
static EXECUTED: AtomicU64 = AtomicU64::new(0);

/// Whether the instructions are emulated; false where the machine's own are used, and before anybody asked for AMX.
pub(super) fn is_installed() -> bool {
    PREVIOUS.get().is_some()
}

/// How many instructions were emulated so far.
pub(super) fn n_executed() -> u64 {
    EXECUTED.load(Ordering::Relaxed)
}

/// Handles SIGILL from now on; the second call changes nothing. Takes a machine with AVX-512.
pub(super) fn install() {
    PREVIOUS.get_or_init(|| {
        // SAFETY: a `sigaction` of zeros is one; the handler takes what SA_SIGINFO announces, and is a function forever.
        unsafe {
            let (mut previous, mut ours): (libc::sigaction, libc::sigaction) = std::mem::zeroed();
            assert_eq!(libc::sigaction(libc::SIGILL, std::ptr::null(), &raw mut previous), 0);
            ours.sa_sigaction = on_illegal_instruction as *const () as usize;
            ours.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const ours, std::ptr::null_mut()), 0);
            previous
        }
    });
}

extern "C" fn on_illegal_instruction(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the third argument is the interrupted thread's context, which is nobody else's while the handler
    // runs. The instruction came from the thread's own code, which answers for its operands as it does on a processor. The state
    // is the thread's, and no handler interrupts another's use of it: SIGILL is blocked meanwhile.
    let outcome = unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        STATE.with(|state| step(registers, &mut *state.get()))
    };
    if let Err(refusal) = outcome {
        if let Refusal::Fault(reason) = refusal {
            for text in ["the emulated AMX refuses an instruction: ", reason, "\n"] {
                // SAFETY: the bytes lie in a string. Where nobody reads standard error, nobody is told.
                unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
            }
        }
        pass_on(signal, info, context);
    }
}

/// Executes the instruction that a thread stands at, and moves the thread behind it.
///
/// # Safety
/// As for [`execute`].
unsafe fn step(registers: &mut [greg_t], state: &mut State) -> Result<(), Refusal> {
    // Registers in the order of their numbers in machine code.
    const NUMBERED: [c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    let rip = registers[libc::REG_RIP as usize] as u64;
    // SAFETY: the processor stopped at these bytes; no more are asked for than the instruction has.
    let byte = |place: u64| unsafe { ((rip + place) as *const u8).read() };
    let register = |number: u8| registers[NUMBERED[usize::from(number)] as usize] as u64;
    let (instruction, length) = decode(byte, register, rip)?;
    // SAFETY: as the caller says.
    unsafe { execute(instruction, state) }.map_err(Refusal::Fault)?;
    registers[libc::REG_RIP as usize] += length as greg_t;
    EXECUTED.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// The instruction at `rip`, and its length. Its bytes are asked for one after the other, by their place.
fn decode(bytes: impl Fn(u64) -> u8, register: impl Fn(u8) -> u64, rip: u64) -> Result<(Instruction, u64), Refusal> {
    let mut length = 0;
    let mut byte = || {
        length += 1;
        bytes(length - 1)
    };
    // The three bytes of VEX; R, X, B and vvvv are stored inverted.
    if byte() != 0xc4 {
        return Err(Refusal::Unknown);
    }
    let (first, second, opcode) = (byte(), byte(), byte());
    let extension = |bit: u8| (!first >> bit & 1) << 3;
    let (r, x, b) = (extension(7), extension(6), extension(5));
    let (vector, prefix) = (!second >> 3 & 15, second & 3);
    if first & 31 != 2 || !matches!(opcode, 0x49 | 0x4b | 0x5c) {
        return Err(Refusal::Unknown);
    }
    let modrm = byte();
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    const F3: u8 = 2;
    const F2: u8 = 3;
    let is_known = match (opcode, prefix, mode == 3) {
        (0x49, 0, _) => reg == 0 && (mode != 3 || rm == 0),
        (0x49, F2, true) => rm == 0,
        (0x4b, F2 | F3, false) | (0x5c, F3, true) => true,
        _ => false,
    };
    if !is_known {
        return Err(Refusal::Unknown);
    }
    if second & 0x84 != 0 {
        return Err(Refusal::Fault("W or L of its prefix is set"));
    }
    if opcode != 0x5c && vector != 0 {
        return Err(Refusal::Fault("its prefix names a register that it does not have"));
    }
    let place = if mode == 3 {
        Place { start: 0, index: 0 }
    } else {
        if opcode == 0x4b && rm != 4 {
            return Err(Refusal::Fault("its address has no SIB byte"));
        }
        let sib = if rm == 4 { Some(byte()) } else { None };
        let index = sib.map(|sib| (sib >> 6, sib >> 3 & 7 | x)).filter(|(_, index)| *index != 4);
        let index = index.map_or(0, |(scale, index)| register(index) << scale);
        let base = sib.map_or(rm, |sib| sib & 7);
        let has_no_base = mode == 0 && base == 5;
        let displacement = if has_no_base || mode == 2 {
            i64::from(i32::from_le_bytes([byte(), byte(), byte(), byte()]))
        } else if mode == 1 {
            i64::from(byte() as i8)
        } else {
            0
        };
        let base = match (has_no_base, sib) {
            (false, _) => register(base | b),
            (true, Some(_)) => 0,
            (true, None) => rip + length,
        };
        Place { start: base.wrapping_add_signed(displacement), index }
    };
    let (reg, rm, vector) = (usize::from(reg | r), usize::from(rm | b), usize::from(vector));
    let instruction = match (opcode, prefix) {
        (0x49, 0) if mode == 3 => Instruction::Release,
        (0x49, 0) => Instruction::Configure(place),
        (0x49, _) => Instruction::Zero(reg),
        (0x4b, F2) => Instruction::Load(reg, place),
        (0x4b, _) => Instruction::Store(place, reg),
        (_, _) => Instruction::Multiply { sum: reg, left: rm, right: vector },
    };
    Ok((instruction, length))
}

/// # Safety
/// The rows that a tile has by its configuration may be read at the instruction's place, or written where it stores.
unsafe fn execute(instruction: Instruction, state: &mut State) -> Result<(), &'static str> {
    match instruction {
        Instruction::Configure(place) => {
            let at = place.start.wrapping_add(place.index) as *const [u8; 64];
            // SAFETY: as the caller says.
            let bytes = unsafe { at.read() };
            state.configure(&bytes)?;
        }
        Instruction::Release => *state = State::RELEASED,
        Instruction::Zero(tile) => {
            state.size(tile)?;
            state.tiles[tile] = State::ZEROS;
        }
        Instruction::Load(tile, place) => {
            let (rows, row_bytes) = state.size(tile)?;
            state.tiles[tile] = State::ZEROS;
            for (row, values) in state.tiles[tile].iter_mut().enumerate().take(rows) {
                // SAFETY: as the caller says; a tile's row has room for the most that a configuration allows.
                unsafe { std::ptr::copy(place.row(row), values.as_mut_ptr().cast(), row_bytes) };
            }
        }
        Instruction::Store(place, tile) => {
            let (rows, row_bytes) = state.size(tile)?;
            for (row, values) in state.tiles[tile].iter().enumerate().take(rows) {
                // SAFETY: as above.
                unsafe { std::ptr::copy(values.as_ptr().cast(), place.row(row), row_bytes) };
            }
        }
        Instruction::Multiply { sum, left, right } => state.multiply(sum, left, right)?,
    }
    Ok(())
}

impl Place {
    fn row(self, row: usize) -> *mut u8 {
        self.start.wrapping_add(self.index.wrapping_mul(row as u64)) as *mut u8
    }
}

impl State {
    const ZEROS: Tile = [[0; ROW_BYTES / 4]; ROWS];

    const RELEASED: State =
        State { is_configured: false, rows: [0; TILES], row_bytes: [0; TILES], tiles: [Self::ZEROS; TILES] };

    fn configure(&mut self, bytes: &[u8; 64]) -> Result<(), &'static str> {
        let mut new = State { is_configured: true, ..State::RELEASED };
        match bytes[0] {
            0 => new.is_configured = false,
            1 => {
                if [&bytes[2..16], &bytes[32..48], &bytes[56..]].into_iter().flatten().any(|byte| *byte != 0) {
                    return Err("a reserved byte of the configuration is not zero");
                }
                if bytes[1] != 0 {
                    return Err("the configuration has a first row, which is for systems that go on after a fault");
                }
                for tile in 0..TILES {
                    let (rows, low, high) = (bytes[48 + tile], bytes[16 + 2 * tile], bytes[17 + 2 * tile]);
                    let row_bytes = u16::from_le_bytes([low, high]);
                    if usize::from(rows) > ROWS || usize::from(row_bytes) > ROW_BYTES {
                        return Err("the configuration has a tile of more than 16 rows or 64 bytes a row");
                    }
                    if (rows == 0) != (row_bytes == 0) {
                        return Err("the configuration has a tile of rows without bytes, or of bytes without rows");
                    }
                    (new.rows[tile], new.row_bytes[tile]) = (rows, row_bytes);
                }
            }
            _ => return Err("the configuration has a palette that is not known"),
        }
        *self = new;
        Ok(())
    }

    /// Rows and bytes a row of a tile.
    fn size(&self, tile: usize) -> Result<(usize, usize), &'static str> {
        if !self.is_configured {
            return Err("the tiles are not configured");
        }
        match self.rows.get(tile) {
            None => Err("a tile with a number of 8 or more"),
            Some(0) => Err("a tile that the configuration leaves out"),
            Some(rows) => Ok((usize::from(*rows), usize::from(self.row_bytes[tile]))),
        }
    }

    fn multiply(&mut self, sum: usize, left: usize, right: usize) -> Result<(), &'static str> {
        let [(m, n), (left_rows, k), (right_rows, right_bytes)] =
            [self.size(sum)?, self.size(left)?, self.size(right)?];
        if sum == left || sum == right || left == right {
            return Err("two of a product's tiles are the same");
        }
        if [n, k, right_bytes].into_iter().any(|bytes| bytes % 4 != 0) {
            return Err("a product's tile whose rows are not whole numbers");
        }
        if m != left_rows || k / 4 != right_rows || n != right_bytes {
            return Err("the sizes of a product's tiles do not fit");
        }
        let (a, b) = (self.tiles[left], self.tiles[right]);
        // SAFETY: `install` was called on a machine with AVX-512, as its description demands.
        unsafe { multiply(&a, &b, &mut self.tiles[sum], [m, n / 4, k / 4]) };
        Ok(())
    }
}

/// `sum += left right` of `[rows, columns, pairs]`: for each number the first halves of all pairs are summed up, the second ones
/// beside them, then both sums are added up and this to what was there. Each step is rounded to the nearest, ties to even, and
/// numbers below the smallest normal one are zeros, before and after. (The sliver of half a unit beneath that one, which a processor
/// flushes before it rounds it up, is not.)
#[target_feature(enable = "avx512f")]
fn multiply(left: &Tile, right: &Tile, sum: &mut Tile, [rows, columns, pairs]: [usize; 3]) {
    for (left, sum) in left.iter().zip(sum.iter_mut()).take(rows) {
        let mut sums = [[0.0f32; ROW_BYTES / 4]; 2];
        for (left, right) in left.iter().zip(right).take(pairs) {
            let [first, second] = halves(*left);
            for (column, right) in right.iter().enumerate() {
                let right = halves(*right);
                sums[0][column] = flushed(first.mul_add(right[0], sums[0][column]));
                sums[1][column] = flushed(second.mul_add(right[1], sums[1][column]));
            }
        }
        for (column, sum) in sum.iter_mut().enumerate() {
            let both = flushed(sums[0][column] + sums[1][column]);
            *sum = flushed(flushed(f32::from_bits(*sum)) + both).to_bits();
        }
        sum[columns..].fill(0);
    }
    sum[rows..].fill([0; ROW_BYTES / 4]);
}

/// The numbers of a pair of bf16: the first stands in the lower half.
fn halves(pair: u32) -> [f32; 2] {
    [flushed(f32::from_bits(pair << 16)), flushed(f32::from_bits(pair & 0xffff_0000))]
}

fn flushed(value: f32) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// Lets the handler before this one have the signal; where there was none, the instruction ends the process when it comes again.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(previous) = PREVIOUS.get() else { return };
    // SAFETY: the handler was installed for these arguments, which the flag tells; restoring one is what `sigaction` is for.
    unsafe {
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                libc::sigaction(libc::SIGILL, &raw const *previous, std::ptr::null_mut());
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => std::mem::transmute::<usize, extern "C" fn(c_int)>(handler)(signal),
        }
    }
}

#[cfg(test)]
mod tests;
