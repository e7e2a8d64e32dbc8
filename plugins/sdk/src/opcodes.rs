//! The table of operations: the one place where an opcode is defined.
//!
//! The constants of [`op`], the enumeration in the header, the program's `has_op` and `docs/plugin_operations.md` all follow
//! from it. A number is never given to another operation.

/// An operation that the program applies to tensors, with a gradient where there is one.
#[derive(Clone, Copy, Debug)]
pub struct Opcode {
    /// Its number.
    pub code: u32,
    /// Its name, as in [`op`].
    pub name: &'static str,
    /// The tensors it takes; `[...]` may be left out.
    pub tensors: &'static str,
    /// The whole numbers it takes.
    pub ints: &'static str,
    /// The floats it takes.
    pub floats: &'static str,
    /// What it does.
    pub doc: &'static str,
}

macro_rules! opcodes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal ($tensors:literal, $ints:literal, $floats:literal);)*) => {
        /// The numbers of the operations.
        pub mod op {
            $($(#[doc = $doc])+ pub const $name: u32 = $code;)*
        }

        /// All operations, in the order of their numbers.
        pub const TABLE: &[Opcode] = &[$(Opcode {
            code: $code,
            name: stringify!($name),
            tensors: $tensors,
            ints: $ints,
            floats: $floats,
            doc: concat!($($doc),+),
        }),*];
    };
}

opcodes! {
    /// The sum; dimensions of 1 are repeated, as everywhere.
    ADD = 1 ("a, b", "", "");
    /// The difference.
    SUB = 2 ("a, b", "", "");
    /// The product, element by element.
    MUL = 3 ("a, b", "", "");
    /// The quotient.
    DIV = 4 ("a, b", "", "");
    /// The product of matrices: (..., n, k) and (..., k, m) to (..., n, m).
    MATMUL = 5 ("a, b", "", "");
    /// `x * mul + add`.
    AFFINE = 6 ("x", "", "mul, add");
    /// 1 where equal, else 0; whole numbers, which no gradient passes.
    EQ = 7 ("a, b", "", "");
    /// 1 where `a` is greater than `b`, else 0; no gradient.
    GT = 8 ("a, b", "", "");
    /// 1 where `a` is less than `b`, else 0; no gradient.
    LT = 9 ("a, b", "", "");

    /// GELU with the error function, Hugging Face's `gelu`.
    GELU = 10 ("x", "", "");
    /// The tanh form of GELU, Hugging Face's `gelu_new`.
    GELU_TANH = 11 ("x", "", "");
    /// max(x, 0).
    RELU = 12 ("x", "", "");
    /// x times its logistic function.
    SILU = 13 ("x", "", "");
    /// The hyperbolic tangent.
    TANH = 14 ("x", "", "");
    /// The logistic function.
    SIGMOID = 15 ("x", "", "");
    /// The exponential function.
    EXP = 16 ("x", "", "");
    /// The natural logarithm.
    LOG = 17 ("x", "", "");
    /// The square root.
    SQRT = 18 ("x", "", "");
    /// The absolute value.
    ABS = 19 ("x", "", "");
    /// `x` to the power `p`.
    POW = 20 ("x", "", "p");
    /// `x` cut to [low, high].
    CLAMP = 21 ("x", "", "low, high");

    /// Softmax over a dimension; -1 is the last one, as everywhere.
    SOFTMAX = 30 ("x", "dim", "");
    /// The logarithm of softmax over a dimension.
    LOG_SOFTMAX = 31 ("x", "dim", "");
    /// The sum over a dimension, or of all elements.
    SUM = 32 ("x", "[dim]", "");
    /// The mean over a dimension, or of all elements.
    MEAN = 33 ("x", "[dim]", "");
    /// The largest over a dimension, or of all elements.
    MAX = 34 ("x", "[dim]", "");
    /// The smallest over a dimension, or of all elements.
    MIN = 35 ("x", "[dim]", "");
    /// Where the largest stands; whole numbers, no gradient.
    ARGMAX = 36 ("x", "dim", "");

    /// The same numbers in another shape; one dimension may be -1.
    RESHAPE = 40 ("x", "dims...", "");
    /// Two dimensions exchanged.
    TRANSPOSE = 41 ("x", "dim, dim", "");
    /// `len` entries of a dimension from `start`.
    NARROW = 42 ("x", "dim, start, len", "");
    /// Without a dimension of 1.
    SQUEEZE = 43 ("x", "dim", "");
    /// With a dimension of 1 put in.
    UNSQUEEZE = 44 ("x", "dim", "");
    /// Repeated to a shape; -1 keeps a dimension.
    EXPAND = 45 ("x", "dims...", "");
    /// The entries of a dimension that ids (n) name.
    INDEX_SELECT = 46 ("x, ids", "dim", "");
    /// One entry of a dimension for each id.
    GATHER = 47 ("x, ids", "dim", "");
    /// Joined along a dimension.
    CAT = 48 ("x...", "dim", "");
    /// Put side by side along a new dimension.
    STACK = 49 ("x...", "dim", "");

    /// `x W^T + b`: x (..., in), W (out, in), b (out).
    LINEAR = 60 ("x, weight, [bias]", "", "");
    /// Layer normalisation over the last dimension.
    LAYER_NORM = 61 ("x, weight, bias", "", "eps");
    /// The vectors that ids of any shape name in a table (entries, size).
    EMBEDDING = 62 ("table, ids", "", "");
    /// While training, 0 with probability `p`, else divided by `1 - p`; the first dimension counts tokens or rows.
    DROPOUT = 63 ("x", "", "p");
    /// The same numbers as a constant.
    DETACH = 64 ("x", "", "");

    /// The mean cross entropy of logits (n, classes) against labels (n); -100 is ignored unless another is named.
    CROSS_ENTROPY = 70 ("logits, labels, [class weights]", "[ignore_index]", "[label_smoothing]");
    /// The mean squared error.
    MSE_LOSS = 71 ("predictions, targets", "", "");
    /// The mean binary cross entropy of logits.
    BCE_WITH_LOGITS = 72 ("logits, targets", "", "");

    /// The first token of each row: (tokens, ...) to (rows, ...).
    FIRST = 80 ("x", "", "");
    /// The last token of each row, passing over closing tokens whose id is `pad_token_id`.
    LAST = 81 ("x", "[pad_token_id]", "");
    /// The mean over each row's tokens.
    ROW_MEAN = 82 ("x", "", "");
    /// The largest values over each row's tokens.
    ROW_MAX = 83 ("x", "", "");
    /// The padded view: (tokens, ...) to (rows, longest, ...), zeros where a row has ended.
    PADDED = 84 ("x", "", "");
    /// What stands behind each token in its row; -100 where a row ends; no gradient.
    NEXT = 85 ("labels", "", "");
}

/// The operation with a number.
pub fn opcode(code: u32) -> Option<&'static Opcode> {
    TABLE.iter().find(|known| known.code == code)
}
