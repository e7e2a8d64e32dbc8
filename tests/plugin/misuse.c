/* Heads that misuse the table in `forward`, each in a way of its own. The program must give an error that names it. */
#include "retune_plugin.h"

#include <pthread.h>

static retune_tensor hidden(const retune_host *host) { return host->input(RETUNE_STR("hidden")); }

static retune_status give(const retune_host *host, retune_tensor tensor) {
    /* A head that never looks: it always says that all is well. */
    host->output(RETUNE_STR("logits"), tensor);
    return RETUNE_OK;
}

#define MISUSE(name) static retune_status name(void *head, const retune_host *host)
#define UNUSED (void)head

MISUSE(null_tensors) { UNUSED; return give(host, host->op(RETUNE_ADD, NULL, 2, NULL, 0, NULL, 0)); }
MISUSE(null_ints) { UNUSED; retune_tensor x = hidden(host); return give(host, host->op(RETUNE_SOFTMAX, &x, 1, NULL, 1, NULL, 0)); }
MISUSE(null_floats) { UNUSED; retune_tensor x = hidden(host); return give(host, host->op(RETUNE_POW, &x, 1, NULL, 0, NULL, 1)); }
MISUSE(misaligned) {
    int64_t ints[2] = {0, 0};
    retune_tensor x = hidden(host);
    UNUSED;
    return give(host, host->op(RETUNE_SOFTMAX, &x, 1, (const int64_t *)((const char *)ints + 1), 1, NULL, 0));
}
MISUSE(too_many) { UNUSED; retune_tensor x = hidden(host); return give(host, host->op(RETUNE_CAT, &x, SIZE_MAX / 4, NULL, 0, NULL, 0)); }
MISUSE(unknown_opcode) { UNUSED; return give(host, retune_op1(host, 9999, hidden(host))); }
MISUSE(known_opcode) { UNUSED; return host->has_op(RETUNE_ADD) && !host->has_op(9999) ? give(host, retune_op1(host, 9999, 1)) : RETUNE_OK; }
MISUSE(too_few) { UNUSED; return give(host, retune_op1(host, RETUNE_ADD, hidden(host))); }
MISUSE(zero) { UNUSED; return give(host, retune_op1(host, RETUNE_TANH, 0)); }
MISUSE(made_up) { UNUSED; return give(host, retune_op1(host, RETUNE_TANH, hidden(host) + 17)); }
MISUSE(random_handle) { UNUSED; return give(host, retune_op1(host, RETUNE_TANH, 0xdeadbeefcafef00du)); }

static retune_tensor kept;
MISUSE(stale) {
    retune_tensor before = kept;
    UNUSED;
    kept = hidden(host);
    return give(host, before ? retune_op1(host, RETUNE_TANH, before) : kept);
}

static const retune_host *shared;
static retune_tensor shared_tensor;
static void *elsewhere(void *nothing) {
    size_t dims[1] = {1};
    float one = 1.0f, out[64];
    (void)nothing;
    shared->set_error(RETUNE_STR("never heard"));
    shared->log(RETUNE_LOG_WARNING, RETUNE_STR("never heard"));
    if (shared->tensor(RETUNE_F32, &one, dims, 1) != 0 || shared->read(shared_tensor, RETUNE_F32, out, 64) != -1 ||
        shared->dims(shared_tensor, dims, 1) != -1 || shared->text(RETUNE_STR("config")).ptr != NULL || !shared->failed() ||
        shared->is_training() || shared->input(RETUNE_STR("hidden")) != 0 || shared->dtype(shared_tensor) != -1 ||
        shared->output(RETUNE_STR("logits"), shared_tensor) == RETUNE_OK || shared->result(RETUNE_STR("[]")) == RETUNE_OK ||
        shared->custom(NULL, NULL, 0, NULL, 0) != 0 || shared->call(RETUNE_STR("len"), RETUNE_STR("[]")).ptr != NULL) {
        return (void *)1; /* something answered */
    }
    shared_tensor = retune_op1(shared, RETUNE_TANH, shared_tensor);
    return NULL;
}
MISUSE(foreign_thread) {
    pthread_t thread;
    void *answered = NULL;
    UNUSED;
    shared = host;
    shared_tensor = hidden(host);
    if (pthread_create(&thread, NULL, elsewhere, NULL) != 0 || pthread_join(thread, &answered) != 0) {
        host->set_error(RETUNE_STR("no thread"));
        return RETUNE_ERROR;
    }
    if (answered != NULL || host->failed()) {
        host->set_error(RETUNE_STR("the table answered on another thread"));
        return RETUNE_ERROR;
    }
    return give(host, shared_tensor);
}

MISUSE(null_name) { UNUSED; retune_str name = {NULL, 5}; return give(host, host->input(name)); }
MISUSE(not_utf8) { UNUSED; return give(host, host->input(RETUNE_STR("\xff\xfe"))); }
MISUSE(no_such_input) { UNUSED; return give(host, host->input(RETUNE_STR("labells"))); }
MISUSE(nine_dimensions) {
    size_t dims[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    float one = 1.0f;
    UNUSED;
    return give(host, host->tensor(RETUNE_F32, &one, dims, 9));
}
MISUSE(overflow) {
    size_t dims[2] = {SIZE_MAX, 2};
    float one = 1.0f;
    UNUSED;
    return give(host, host->tensor(RETUNE_F32, &one, dims, 2));
}
MISUSE(large) {
    size_t dims[2] = {SIZE_MAX / 8, 4};
    UNUSED;
    return give(host, host->param(RETUNE_STR("large"), dims, 2, (retune_init){RETUNE_INIT_ZEROS, 0, 0.0}));
}
MISUSE(null_data) { UNUSED; size_t dims[1] = {3}; return give(host, host->tensor(RETUNE_F32, NULL, dims, 1)); }
MISUSE(null_dims) { UNUSED; float one = 1.0f; return give(host, host->tensor(RETUNE_F32, &one, NULL, 1)); }
MISUSE(no_such_type) { UNUSED; size_t dims[1] = {1}; float one = 1.0f; return give(host, host->tensor(77, &one, dims, 1)); }
MISUSE(read_nowhere) { UNUSED; retune_tensor x = hidden(host); host->read(x, RETUNE_F32, NULL, 1000); return give(host, x); }
MISUSE(read_type) { UNUSED; float out[64]; retune_tensor x = hidden(host); host->read(x, 0, out, 64); return give(host, x); }
MISUSE(shapes) { UNUSED; retune_tensor x = hidden(host); return give(host, retune_op2(host, RETUNE_MATMUL, x, x)); }
MISUSE(silent) { UNUSED; (void)host; return RETUNE_ERROR; }
MISUSE(odd_status) { UNUSED; (void)host; return 12345; }
MISUSE(own_text) { UNUSED; host->set_error(RETUNE_STR("the reason is here")); return RETUNE_OK; }
MISUSE(own_text_null) { UNUSED; retune_str text = {NULL, 9}; host->set_error(text); return RETUNE_ERROR; }
MISUSE(own_text_not_utf8) { UNUSED; host->set_error(RETUNE_STR("caf\xe9")); return RETUNE_ERROR; }
MISUSE(first_text) {
    UNUSED;
    host->set_error(RETUNE_STR("the first"));
    host->set_error(RETUNE_STR("the second"));
    return RETUNE_ERROR;
}
MISUSE(no_output) { UNUSED; (void)host; return RETUNE_OK; }
MISUSE(output_null_name) { UNUSED; retune_str name = {NULL, 3}; host->output(name, hidden(host)); return RETUNE_OK; }
MISUSE(param_late) {
    size_t dims[1] = {3};
    UNUSED;
    return give(host, host->param(RETUNE_STR("late"), dims, 1, (retune_init){RETUNE_INIT_ZEROS, 0, 0.0}));
}
MISUSE(param_shape) {
    size_t dims[2] = {3, 8};
    UNUSED;
    return give(host, host->param(RETUNE_STR("own"), dims, 2, (retune_init){RETUNE_INIT_ZEROS, 0, 0.0}));
}
MISUSE(param_init) {
    size_t dims[1] = {2};
    UNUSED;
    return give(host, host->param(RETUNE_STR("own"), dims, 1, (retune_init){99, 0, 0.0}));
}
MISUSE(no_such_text) { UNUSED; host->text(RETUNE_STR("config")); return give(host, hidden(host)); }
MISUSE(null_result) { UNUSED; retune_str text = {NULL, 4}; host->result(text); return give(host, hidden(host)); }
MISUSE(call_no_json) { UNUSED; host->call(RETUNE_STR("len"), RETUNE_STR("not json")); return give(host, hidden(host)); }
MISUSE(call_no_list) { UNUSED; host->call(RETUNE_STR("len"), RETUNE_STR("{}")); return give(host, hidden(host)); }
MISUSE(call_stale) { UNUSED; host->call(RETUNE_STR("len"), RETUNE_STR("[{\"$tensor\": 5}]")); return give(host, hidden(host)); }
MISUSE(call_object) { UNUSED; host->call(RETUNE_STR("len"), RETUNE_STR("[{\"$object\": 3}]")); return give(host, hidden(host)); }
MISUSE(call_word) { UNUSED; host->call(RETUNE_STR("len"), RETUNE_STR("[{\"$nonsense\": 3}]")); return give(host, hidden(host)); }
MISUSE(call_tokenizer) { UNUSED; host->call(RETUNE_STR("len"), RETUNE_STR("[{\"$tokenizer\": true}]")); return give(host, hidden(host)); }
MISUSE(extension) {
    UNUSED;
    if (host->get_extension(RETUNE_STR("retune.no-such-extension/1")) != NULL) {
        return RETUNE_OK;
    }
    host->set_error(RETUNE_STR("no extension, as it should be"));
    return RETUNE_ERROR;
}

static int dropped;
static void count(void *user) { (void)user; dropped += 1; }
static retune_status fine(void *user, const retune_buffer *in, size_t n, retune_buffer *out) {
    (void)user; (void)in; (void)n; (void)out;
    return RETUNE_OK;
}
static const retune_host *inside;
static retune_status with_reason(void *user, const retune_buffer *in, size_t n, retune_buffer *out) {
    (void)user; (void)in; (void)n; (void)out;
    inside->set_error(RETUNE_STR("its own reason"));
    return RETUNE_ERROR;
}
static retune_status with_ops(void *user, const retune_buffer *in, size_t n, retune_buffer *out) {
    (void)user; (void)in; (void)n; (void)out;
    inside->input(RETUNE_STR("hidden"));
    return RETUNE_OK;
}
static retune_tensor own(const retune_host *host, retune_custom op, size_t n) {
    retune_tensor inputs[4];
    size_t dims[1] = {2};
    inputs[0] = inputs[1] = inputs[2] = inputs[3] = hidden(host);
    inside = host;
    return host->custom(&op, inputs, n, dims, 1);
}
MISUSE(own_null) { UNUSED; retune_tensor x = hidden(host); size_t dims[1] = {2}; return give(host, host->custom(NULL, &x, 1, dims, 1)); }
MISUSE(own_short) { UNUSED; return give(host, own(host, (retune_custom){8, 0, NULL, fine, NULL, count}, 1)); }
MISUSE(own_no_forward) { UNUSED; return give(host, own(host, (retune_custom){sizeof(retune_custom), 0, NULL, NULL, NULL, count}, 1)); }
MISUSE(own_no_inputs) { UNUSED; return give(host, own(host, (retune_custom){sizeof(retune_custom), 0, NULL, fine, NULL, count}, 0)); }
MISUSE(own_four_inputs) { UNUSED; return give(host, own(host, (retune_custom){sizeof(retune_custom), 0, NULL, fine, NULL, count}, 4)); }
MISUSE(own_reason) { UNUSED; return give(host, own(host, (retune_custom){sizeof(retune_custom), 0, NULL, with_reason, NULL, count}, 1)); }
MISUSE(own_operations) { UNUSED; return give(host, own(host, (retune_custom){sizeof(retune_custom), 0, NULL, with_ops, NULL, count}, 1)); }
/* Five heads above gave an operation away, and each was asked twice: when its model was made and by the test. */
MISUSE(own_dropped) {
    UNUSED;
    host->set_error(dropped == 10 ? RETUNE_STR("each was dropped once") : RETUNE_STR("something was dropped twice or never"));
    return RETUNE_ERROR;
}
MISUSE(own_no_backward) { UNUSED; return give(host, own(host, (retune_custom){sizeof(retune_custom), 0, NULL, fine, NULL, NULL}, 1)); }

static retune_status create(const retune_host *host, void **head) {
    size_t dims[1] = {2};
    host->param(RETUNE_STR("own"), dims, 1, (retune_init){RETUNE_INIT_ONES, 0, 0.0});
    *head = NULL;
    return RETUNE_OK;
}
static retune_status create_twice(const retune_host *host, void **head) {
    create(host, head);
    return create(host, head);
}
static retune_status create_fails(const retune_host *host, void **head) {
    host->set_error(RETUNE_STR("not today"));
    *head = &dropped; /* made all the same: it has to be given back */
    return RETUNE_ERROR;
}
static int given_back;
static void destroy(void *head) { given_back += head == &dropped; }
static retune_status create_given_back(const retune_host *host, void **head) {
    *head = NULL;
    host->set_error(given_back == 1 ? RETUNE_STR("it was given back") : RETUNE_STR("it was not given back"));
    return RETUNE_ERROR;
}
static retune_status loss(void *head, const retune_host *host) {
    (void)head;
    return host->output(RETUNE_STR("loss"), retune_op1(host, RETUNE_MEAN, host->input(RETUNE_STR("logits"))));
}

#define HEAD_OF(name, make, run) {sizeof(retune_head), 0, {#name, sizeof(#name) - 1}, {NULL, 0}, make, destroy, run, loss, 0, 0, 0, 0, 0, 0, 0, 0, 0}
#define LIST(X)                                                                                                                 \
    X(null_tensors) X(null_ints) X(null_floats) X(misaligned) X(too_many) X(unknown_opcode) X(known_opcode) X(too_few) X(zero)  \
    X(made_up) X(random_handle) X(stale) X(foreign_thread) X(null_name) X(not_utf8) X(no_such_input) X(nine_dimensions)         \
    X(overflow) X(large) X(null_data) X(null_dims) X(no_such_type) X(read_nowhere) X(read_type) X(shapes) X(silent)             \
    X(odd_status) X(own_text) X(own_text_null) X(own_text_not_utf8) X(first_text) X(no_output) X(output_null_name)              \
    X(param_late) X(param_shape) X(param_init) X(no_such_text) X(null_result) X(call_no_json) X(call_no_list) X(call_stale)     \
    X(call_object) X(call_word) X(call_tokenizer) X(extension) X(own_null) X(own_short) X(own_no_forward) X(own_no_inputs)      \
    X(own_four_inputs) X(own_reason) X(own_operations) X(own_dropped) X(own_no_backward)
#define DECLARE(name) static const retune_head name##_head = HEAD_OF(name, create, name);
LIST(DECLARE)
static const retune_head create_twice_head = HEAD_OF(create_twice, create_twice, silent);
static const retune_head create_fails_head = HEAD_OF(create_fails, create_fails, silent);
static const retune_head create_given_back_head = HEAD_OF(create_given_back, create_given_back, silent);
#define POINT(name) &name##_head,
static const retune_head *const HEADS[] = {LIST(POINT) &create_twice_head, &create_fails_head, &create_given_back_head};

RETUNE_EXPORT const retune_plugin retune_plugin_entry = {
    RETUNE_MAGIC, RETUNE_ABI_MAJOR, RETUNE_ABI_MINOR, sizeof(retune_plugin), sizeof(HEADS) / sizeof(HEADS[0]),
    {"misuse", 6}, {"0.1.0", 5}, HEADS,
};
