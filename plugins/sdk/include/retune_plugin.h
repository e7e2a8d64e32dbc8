/* retune_plugin.h: task heads in native code for retune. C99 and C++; needs no library.
 *
 * A plugin is a shared library that exports one constant, `retune_plugin_entry`. It says which version of this header it was
 * built with and lists its heads. A head turns a model's hidden states into outputs, outputs into a loss, and, where it has the
 * functions, rows into features and outputs into what people want to read.
 *
 * What a head computes with tensors goes through operations of the program (`retune_host.op`), which therefore sees the whole
 * graph: gradients come by themselves, and the plugin never learns on which device the numbers are.
 *
 * Who calls, and when. The program calls the functions of a head; the plugin calls the functions of `retune_host`, during such a
 * call and on the same thread. On another thread, or when no call is running, every function of the host gives 0, null or -1
 * and does nothing else. `create` comes first and `destroy` last, each once for a head and never beside another function of
 * it; so does `load_state`, which follows `create`. All others may be called on any thread, and on several at once, unless the
 * head has the flag RETUNE_SERIAL.
 *
 * Who owns. What the host returns (texts, tensors) lives until the call ends, and is not freed by the plugin. What the plugin
 * passes (names, numbers, shapes) is copied before the function of the host returns. The table `retune_host`, the entry, the
 * heads and their names live as long as the process; the library is never unloaded.
 *
 * What failure looks like. The first thing that fails in a call makes the whole call fail: the functions of the host then give
 * 0, null or -1 and do nothing, so a head may go on to its end and return without checking each step. The error that people see
 * names the operation and the shapes. A head that fails by itself says why with `set_error` and returns RETUNE_ERROR. Nothing
 * may be thrown across this interface: a C++ plugin catches its exceptions (and is built with -fno-gnu-unique).
 *
 * Stability. Within a major version nothing is changed or removed, and structs grow at their end alone; `struct_size` says how
 * much of them there is. A program loads plugins of its own minor version and of all before it.
 */
#ifndef RETUNE_PLUGIN_H
#define RETUNE_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RETUNE_MAGIC 0x4E555452u /* "RTUN" */
#define RETUNE_ABI_MAJOR 1
#define RETUNE_ABI_MINOR 1

#if defined(_WIN32)
#define RETUNE_EXPORT __declspec(dllexport)
#else
#define RETUNE_EXPORT __attribute__((visibility("default")))
#endif

/* A tensor of the current call. 0 is what a failed operation gives. Handles of earlier calls are refused. */
typedef uint64_t retune_tensor;

/* How a call ended. */
typedef int32_t retune_status;
enum { RETUNE_OK = 0, RETUNE_ERROR = -1, RETUNE_PANIC = -2 };

/* What numbers are. */
enum { RETUNE_F32 = 1, RETUNE_F64 = 2, RETUNE_I64 = 3 };

/* UTF-8 text (bytes where it is said), not ended by a zero. `ptr` may be null where `len` is 0. */
typedef struct retune_str {
    const char *ptr;
    size_t len;
} retune_str;

/* The numbers of a tensor in a custom operation: contiguous, row by row. They belong to the program. */
typedef struct retune_buffer {
    float *data;
    const size_t *dims;
    size_t rank;
    size_t len;
} retune_buffer;

/* How a new parameter is filled: as the model's own layers are, with zeros, with ones, or with normal numbers. */
enum { RETUNE_INIT_MODEL = 0, RETUNE_INIT_ZEROS = 1, RETUNE_INIT_ONES = 2, RETUNE_INIT_NORMAL = 3 };
typedef struct retune_init {
    uint32_t kind;
    uint32_t reserved;
    double std; /* of RETUNE_INIT_NORMAL */
} retune_init;

/* An operation of the plugin's own on raw numbers, with a gradient of its own.
 *
 * `forward` runs at once, `backward` when the program computes gradients, which is after the call has ended and may be on
 * another thread. Both fill what they are given: `output`, or one buffer of `gradients` for each input, all zeros before. Within
 * them the host knows `set_error` and `log` alone. `drop` is called once, when neither can be called again; `user` lives until
 * then. */
typedef struct retune_custom {
    uint32_t struct_size;
    uint32_t reserved;
    void *user;
    retune_status (*forward)(void *user, const retune_buffer *inputs, size_t n_inputs, retune_buffer *output);
    retune_status (*backward)(void *user, const retune_buffer *inputs, size_t n_inputs, const retune_buffer *output,
                              const retune_buffer *gradient, retune_buffer *gradients); /* may be null: no gradient passes */
    void (*drop)(void *user);                                                         /* may be null */
} retune_custom;

enum { RETUNE_LOG_DEBUG = 0, RETUNE_LOG_INFO = 1, RETUNE_LOG_WARNING = 2 };

/* What the program does for a plugin. */
typedef struct retune_host {
    uint32_t struct_size;
    uint16_t abi_major;
    uint16_t abi_minor;

    /* Applies an operation (the enumeration below) to tensors, whole numbers and floats. */
    retune_tensor (*op)(uint32_t opcode, const retune_tensor *tensors, size_t n_tensors, const int64_t *ints, size_t n_ints,
                        const double *floats, size_t n_floats);
    /* 1 where the program knows the operation. */
    int32_t (*has_op)(uint32_t opcode);

    /* The parameter `name`. In `create` it is made: from the checkpoint where it has it, else filled as `init` says. Elsewhere
     * it is looked up, and `init` does not matter. Parameters belong to the program, which trains, saves and loads them by
     * their names; they outlive the head where a new version of the plugin takes its place. */
    retune_tensor (*param)(retune_str name, const size_t *dims, size_t rank, retune_init init);

    /* An input by name. Everywhere but in `create`, `encode`, `merge` and `metrics`, the batch: "input_ids", "token_type_ids",
     * "position_ids" (tokens), "lengths", "starts" (rows), "label_smoothing" (a number), "class_weights" (labels) where the
     * recipe gave them, and the columns of the rows, such as "labels". In `forward` "hidden" (tokens, hidden size) too. In
     * `loss`, `decode` and `reduce`, first of all, what `forward` has given. All rows of a batch stand one after the other. */
    retune_tensor (*input)(retune_str name);
    int32_t (*has_input)(retune_str name);

    /* A constant of numbers of a type, row by row. */
    retune_tensor (*tensor)(uint32_t dtype, const void *data, const size_t *dims, size_t rank);
    /* Copies numbers into `out`, which has room for `capacity` of them, as `dtype`; gives how many there are, or -1. Where
     * there is not enough room nothing is copied. */
    int64_t (*read)(retune_tensor tensor, uint32_t dtype, void *out, size_t capacity);
    /* The same for the size of each dimension. */
    int32_t (*dims)(retune_tensor tensor, size_t *out, size_t capacity);

    /* Applies an operation of the plugin's own to one to three tensors; its output has the shape `dims`. */
    retune_tensor (*custom)(const retune_custom *op, const retune_tensor *tensors, size_t n_tensors, const size_t *dims,
                            size_t rank);

    /* Gives a tensor back: from `forward` under names of the head's choice ("logits" where it is one), from `loss` "loss". */
    retune_status (*output)(retune_str name, retune_tensor tensor);

    /* A text by name. In `create` "config", the keys of the model's config.json and what follows from them. In `encode` "row"
     * and "options"; in `collate`, `decode` and `reduce` "batch" and "options"; in `merge` "results", "row" and "options";
     * in `metrics` "predictions", "references" and "options"; all JSON. In `load_state` "state", bytes. */
    retune_str (*text)(retune_str name);
    /* Gives a text back. `encode`: a map of features, or a list of such maps. `decode`, `reduce`: a list with one value for
     * each row. `merge`, `metrics`: a value; all JSON. `save_state`: bytes. */
    retune_status (*result)(retune_str text);

    /* Calls a function that scripts have (docs/reference.md), with a JSON list of arguments; a method's object comes first, and
     * `.name` reads a property. What JSON cannot hold is written as a map: {"$tensor": handle}, {"$batch": true},
     * {"$tokenizer": true} where the call has one, and {"$object": n} for what such a function has returned. */
    retune_str (*call)(retune_str function, retune_str arguments);

    /* 1 while the batch is for training. */
    int32_t (*is_training)(void);
    /* 1 when something in this call has failed. */
    int32_t (*failed)(void);
    /* Says why the call fails; the first text counts. */
    void (*set_error)(retune_str text);
    /* Says something to people. */
    void (*log)(uint32_t level, retune_str text);
    /* Functions beside this table, by id; null where the program does not have them. */
    const void *(*get_extension)(retune_str id);

    /* Since 1.1: RETUNE_I64 for whole numbers, RETUNE_F64 or RETUNE_F32 for others, or -1. */
    int32_t (*dtype)(retune_tensor tensor);
} retune_host;

/* A function of a head. `head` is what `create` has made. */
typedef retune_status (*retune_function)(void *head, const retune_host *host);

enum {
    RETUNE_PADS_ROWS = 1, /* the loss looks at padding: the rows of a batch are filled up to the longest */
    RETUNE_SERIAL = 2     /* no two functions of a head at once */
};

/* A head. Functions that it does not have are null; `create`, `destroy`, `forward` and `loss` it has. */
typedef struct retune_head {
    uint32_t struct_size;
    uint32_t flags;
    retune_str name;    /* "crf" for `plugin:crf` */
    retune_str options; /* the options of the functions from `encode` on with their defaults, a JSON map */

    /* Makes a head and its parameters. What it stores in `head` is passed to the other functions; it may be null. */
    retune_status (*create)(const retune_host *host, void **head);
    void (*destroy)(void *head);
    /* Hidden states to outputs: each has one entry a row or one a token in its first dimension. */
    retune_function forward;
    /* Outputs to a scalar: the mean over the batch's labels. */
    retune_function loss;
    /* A row to features: a map with `input_ids`, or several for windows of a long text. */
    retune_function encode;
    /* Outputs to what a pipeline returns, one value a row. */
    retune_function decode;
    /* Predictions and references of a data set to numbers by name. */
    retune_function metrics;
    /* What the head remembers beside its parameters, as bytes; it is saved with the model. */
    retune_function save_state;
    /* The same bytes again: in a head that was just made, or in one that was tried out meanwhile and is to go on as before. */
    retune_function load_state;
    const void *(*get_extension)(retune_str id);

    /* Since 1.1. Changes a batch before it is looked at, with the functions that change one (`call`). */
    retune_function collate;
    /* Since 1.1. What was decoded of a row's windows to what a pipeline returns for the row. */
    retune_function merge;
    /* Since 1.1. Outputs to the little that `metrics` needs of them, one value a row. */
    retune_function reduce;
} retune_head;

/* What a plugin exports, under the name `retune_plugin_entry`. */
typedef struct retune_plugin {
    uint32_t magic; /* RETUNE_MAGIC */
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t struct_size;
    uint32_t n_heads;
    retune_str name;
    retune_str version;
    const retune_head *const *heads;
} retune_plugin;

/* Text of a literal. */
#ifdef __cplusplus
#define RETUNE_STR(literal) (retune_str{(literal), sizeof(literal) - 1})
#else
#define RETUNE_STR(literal) ((retune_str){(literal), sizeof(literal) - 1})
#endif

/* Operations on one and on two tensors without numbers. */
static inline retune_tensor retune_op1(const retune_host *host, uint32_t opcode, retune_tensor x) {
    return host->op(opcode, &x, 1, NULL, 0, NULL, 0);
}
static inline retune_tensor retune_op2(const retune_host *host, uint32_t opcode, retune_tensor a, retune_tensor b) {
    retune_tensor tensors[2];
    tensors[0] = a;
    tensors[1] = b;
    return host->op(opcode, tensors, 2, NULL, 0, NULL, 0);
}

/* BEGIN GENERATED: everything from here to the end of the section follows from the SDK's tables. */

/* The operations: tensors; whole numbers; floats. What is in brackets may be left out. */
enum {
    RETUNE_ADD = 1, /* a, b: The sum; dimensions of 1 are repeated, as everywhere. */
    RETUNE_SUB = 2, /* a, b: The difference. */
    RETUNE_MUL = 3, /* a, b: The product, element by element. */
    RETUNE_DIV = 4, /* a, b: The quotient. */
    RETUNE_MATMUL = 5, /* a, b: The product of matrices: (..., n, k) and (..., k, m) to (..., n, m). */
    RETUNE_AFFINE = 6, /* x; ; mul, add: `x * mul + add`. */
    RETUNE_EQ = 7, /* a, b: 1 where equal, else 0; whole numbers, which no gradient passes. */
    RETUNE_GT = 8, /* a, b: 1 where `a` is greater than `b`, else 0; no gradient. */
    RETUNE_LT = 9, /* a, b: 1 where `a` is less than `b`, else 0; no gradient. */
    RETUNE_GELU = 10, /* x: GELU with the error function, Hugging Face's `gelu`. */
    RETUNE_GELU_TANH = 11, /* x: The tanh form of GELU, Hugging Face's `gelu_new`. */
    RETUNE_RELU = 12, /* x: max(x, 0). */
    RETUNE_SILU = 13, /* x: x times its logistic function. */
    RETUNE_TANH = 14, /* x: The hyperbolic tangent. */
    RETUNE_SIGMOID = 15, /* x: The logistic function. */
    RETUNE_EXP = 16, /* x: The exponential function. */
    RETUNE_LOG = 17, /* x: The natural logarithm. */
    RETUNE_SQRT = 18, /* x: The square root. */
    RETUNE_ABS = 19, /* x: The absolute value. */
    RETUNE_POW = 20, /* x; ; p: `x` to the power `p`. */
    RETUNE_CLAMP = 21, /* x; ; low, high: `x` cut to [low, high]. */
    RETUNE_SOFTMAX = 30, /* x; dim: Softmax over a dimension; -1 is the last one, as everywhere. */
    RETUNE_LOG_SOFTMAX = 31, /* x; dim: The logarithm of softmax over a dimension. */
    RETUNE_SUM = 32, /* x; [dim]: The sum over a dimension, or of all elements. */
    RETUNE_MEAN = 33, /* x; [dim]: The mean over a dimension, or of all elements. */
    RETUNE_MAX = 34, /* x; [dim]: The largest over a dimension, or of all elements. */
    RETUNE_MIN = 35, /* x; [dim]: The smallest over a dimension, or of all elements. */
    RETUNE_ARGMAX = 36, /* x; dim: Where the largest stands; whole numbers, no gradient. */
    RETUNE_RESHAPE = 40, /* x; dims...: The same numbers in another shape; one dimension may be -1. */
    RETUNE_TRANSPOSE = 41, /* x; dim, dim: Two dimensions exchanged. */
    RETUNE_NARROW = 42, /* x; dim, start, len: `len` entries of a dimension from `start`. */
    RETUNE_SQUEEZE = 43, /* x; dim: Without a dimension of 1. */
    RETUNE_UNSQUEEZE = 44, /* x; dim: With a dimension of 1 put in. */
    RETUNE_EXPAND = 45, /* x; dims...: Repeated to a shape; -1 keeps a dimension. */
    RETUNE_INDEX_SELECT = 46, /* x, ids; dim: The entries of a dimension that ids (n) name. */
    RETUNE_GATHER = 47, /* x, ids; dim: One entry of a dimension for each id. */
    RETUNE_CAT = 48, /* x...; dim: Joined along a dimension. */
    RETUNE_STACK = 49, /* x...; dim: Put side by side along a new dimension. */
    RETUNE_LINEAR = 60, /* x, weight, [bias]: `x W^T + b`: x (..., in), W (out, in), b (out). */
    RETUNE_LAYER_NORM = 61, /* x, weight, bias; ; eps: Layer normalisation over the last dimension. */
    RETUNE_EMBEDDING = 62, /* table, ids: The vectors that ids of any shape name in a table (entries, size). */
    RETUNE_DROPOUT = 63, /* x; ; p: While training, 0 with probability `p`, else divided by `1 - p`; the first dimension counts tokens or rows. */
    RETUNE_DETACH = 64, /* x: The same numbers as a constant. */
    RETUNE_CROSS_ENTROPY = 70, /* logits, labels, [class weights]; [ignore_index]; [label_smoothing]: The mean cross entropy of logits (n, classes) against labels (n); -100 is ignored unless another is named. */
    RETUNE_MSE_LOSS = 71, /* predictions, targets: The mean squared error. */
    RETUNE_BCE_WITH_LOGITS = 72, /* logits, targets: The mean binary cross entropy of logits. */
    RETUNE_FIRST = 80, /* x: The first token of each row: (tokens, ...) to (rows, ...). */
    RETUNE_LAST = 81, /* x; [pad_token_id]: The last token of each row, passing over closing tokens whose id is `pad_token_id`. */
    RETUNE_ROW_MEAN = 82, /* x: The mean over each row's tokens. */
    RETUNE_ROW_MAX = 83, /* x: The largest values over each row's tokens. */
    RETUNE_PADDED = 84, /* x: The padded view: (tokens, ...) to (rows, longest, ...), zeros where a row has ended. */
    RETUNE_NEXT = 85, /* labels: What stands behind each token in its row; -100 where a row ends; no gradient. */
};

/* How structs lie in memory where pointers have 64 bits. */
#if UINTPTR_MAX == UINT64_MAX
#define RETUNE_LAYOUT(name, holds) typedef char retune_layout_##name[(holds) ? 1 : -1]
RETUNE_LAYOUT(retune_str, sizeof(retune_str) == 16);
RETUNE_LAYOUT(retune_str_ptr, offsetof(retune_str, ptr) == 0);
RETUNE_LAYOUT(retune_str_len, offsetof(retune_str, len) == 8);
RETUNE_LAYOUT(retune_buffer, sizeof(retune_buffer) == 32);
RETUNE_LAYOUT(retune_buffer_data, offsetof(retune_buffer, data) == 0);
RETUNE_LAYOUT(retune_buffer_dims, offsetof(retune_buffer, dims) == 8);
RETUNE_LAYOUT(retune_buffer_rank, offsetof(retune_buffer, rank) == 16);
RETUNE_LAYOUT(retune_buffer_len, offsetof(retune_buffer, len) == 24);
RETUNE_LAYOUT(retune_init, sizeof(retune_init) == 16);
RETUNE_LAYOUT(retune_init_kind, offsetof(retune_init, kind) == 0);
RETUNE_LAYOUT(retune_init_reserved, offsetof(retune_init, reserved) == 4);
RETUNE_LAYOUT(retune_init_std, offsetof(retune_init, std) == 8);
RETUNE_LAYOUT(retune_custom, sizeof(retune_custom) == 40);
RETUNE_LAYOUT(retune_custom_struct_size, offsetof(retune_custom, struct_size) == 0);
RETUNE_LAYOUT(retune_custom_reserved, offsetof(retune_custom, reserved) == 4);
RETUNE_LAYOUT(retune_custom_user, offsetof(retune_custom, user) == 8);
RETUNE_LAYOUT(retune_custom_forward, offsetof(retune_custom, forward) == 16);
RETUNE_LAYOUT(retune_custom_backward, offsetof(retune_custom, backward) == 24);
RETUNE_LAYOUT(retune_custom_drop, offsetof(retune_custom, drop) == 32);
RETUNE_LAYOUT(retune_host, sizeof(retune_host) == 160);
RETUNE_LAYOUT(retune_host_struct_size, offsetof(retune_host, struct_size) == 0);
RETUNE_LAYOUT(retune_host_abi_major, offsetof(retune_host, abi_major) == 4);
RETUNE_LAYOUT(retune_host_abi_minor, offsetof(retune_host, abi_minor) == 6);
RETUNE_LAYOUT(retune_host_op, offsetof(retune_host, op) == 8);
RETUNE_LAYOUT(retune_host_has_op, offsetof(retune_host, has_op) == 16);
RETUNE_LAYOUT(retune_host_param, offsetof(retune_host, param) == 24);
RETUNE_LAYOUT(retune_host_input, offsetof(retune_host, input) == 32);
RETUNE_LAYOUT(retune_host_has_input, offsetof(retune_host, has_input) == 40);
RETUNE_LAYOUT(retune_host_tensor, offsetof(retune_host, tensor) == 48);
RETUNE_LAYOUT(retune_host_read, offsetof(retune_host, read) == 56);
RETUNE_LAYOUT(retune_host_dims, offsetof(retune_host, dims) == 64);
RETUNE_LAYOUT(retune_host_custom, offsetof(retune_host, custom) == 72);
RETUNE_LAYOUT(retune_host_output, offsetof(retune_host, output) == 80);
RETUNE_LAYOUT(retune_host_text, offsetof(retune_host, text) == 88);
RETUNE_LAYOUT(retune_host_result, offsetof(retune_host, result) == 96);
RETUNE_LAYOUT(retune_host_call, offsetof(retune_host, call) == 104);
RETUNE_LAYOUT(retune_host_is_training, offsetof(retune_host, is_training) == 112);
RETUNE_LAYOUT(retune_host_failed, offsetof(retune_host, failed) == 120);
RETUNE_LAYOUT(retune_host_set_error, offsetof(retune_host, set_error) == 128);
RETUNE_LAYOUT(retune_host_log, offsetof(retune_host, log) == 136);
RETUNE_LAYOUT(retune_host_get_extension, offsetof(retune_host, get_extension) == 144);
RETUNE_LAYOUT(retune_host_dtype, offsetof(retune_host, dtype) == 152);
RETUNE_LAYOUT(retune_head, sizeof(retune_head) == 144);
RETUNE_LAYOUT(retune_head_struct_size, offsetof(retune_head, struct_size) == 0);
RETUNE_LAYOUT(retune_head_flags, offsetof(retune_head, flags) == 4);
RETUNE_LAYOUT(retune_head_name, offsetof(retune_head, name) == 8);
RETUNE_LAYOUT(retune_head_options, offsetof(retune_head, options) == 24);
RETUNE_LAYOUT(retune_head_create, offsetof(retune_head, create) == 40);
RETUNE_LAYOUT(retune_head_destroy, offsetof(retune_head, destroy) == 48);
RETUNE_LAYOUT(retune_head_forward, offsetof(retune_head, forward) == 56);
RETUNE_LAYOUT(retune_head_loss, offsetof(retune_head, loss) == 64);
RETUNE_LAYOUT(retune_head_encode, offsetof(retune_head, encode) == 72);
RETUNE_LAYOUT(retune_head_decode, offsetof(retune_head, decode) == 80);
RETUNE_LAYOUT(retune_head_metrics, offsetof(retune_head, metrics) == 88);
RETUNE_LAYOUT(retune_head_save_state, offsetof(retune_head, save_state) == 96);
RETUNE_LAYOUT(retune_head_load_state, offsetof(retune_head, load_state) == 104);
RETUNE_LAYOUT(retune_head_get_extension, offsetof(retune_head, get_extension) == 112);
RETUNE_LAYOUT(retune_head_collate, offsetof(retune_head, collate) == 120);
RETUNE_LAYOUT(retune_head_merge, offsetof(retune_head, merge) == 128);
RETUNE_LAYOUT(retune_head_reduce, offsetof(retune_head, reduce) == 136);
RETUNE_LAYOUT(retune_plugin, sizeof(retune_plugin) == 56);
RETUNE_LAYOUT(retune_plugin_magic, offsetof(retune_plugin, magic) == 0);
RETUNE_LAYOUT(retune_plugin_abi_major, offsetof(retune_plugin, abi_major) == 4);
RETUNE_LAYOUT(retune_plugin_abi_minor, offsetof(retune_plugin, abi_minor) == 6);
RETUNE_LAYOUT(retune_plugin_struct_size, offsetof(retune_plugin, struct_size) == 8);
RETUNE_LAYOUT(retune_plugin_n_heads, offsetof(retune_plugin, n_heads) == 12);
RETUNE_LAYOUT(retune_plugin_name, offsetof(retune_plugin, name) == 16);
RETUNE_LAYOUT(retune_plugin_version, offsetof(retune_plugin, version) == 32);
RETUNE_LAYOUT(retune_plugin_heads, offsetof(retune_plugin, heads) == 48);
#undef RETUNE_LAYOUT
#endif

/* END GENERATED */

#ifdef __cplusplus
}
#endif
#endif
