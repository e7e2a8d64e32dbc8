/* A head in C: one label a token, a linear layer and the cross entropy, and a count of its forwards that is saved with the model.
 *
 *     cc -shared -fPIC -O2 -I ../sdk/include -o libhello_c.so hello.c
 *     retune plugin check libhello_c.so
 *     retune plugin allow libhello_c.so
 *
 * It is `plugin:hello_c` then.
 */
#include "retune_plugin.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t hidden;
    size_t labels;
    uint64_t forwards;
} hello;

/* The number under a key of a JSON map of numbers and texts; C has no JSON, and this is enough for a configuration. */
static size_t count_of(retune_str json, const char *key) {
    size_t len = strlen(key), at;
    for (at = 0; at + len + 3 < json.len; at++) {
        if (json.ptr[at] == '"' && memcmp(json.ptr + at + 1, key, len) == 0 && json.ptr[at + 1 + len] == '"') {
            return (size_t)strtoull(json.ptr + at + len + 3, NULL, 10);
        }
    }
    return 0;
}

static retune_tensor parameter(const hello *self, const retune_host *host, int is_bias) {
    size_t dims[2];
    retune_init init = {RETUNE_INIT_MODEL, 0, 0.0};
    dims[0] = self->labels;
    dims[1] = self->hidden;
    if (is_bias) {
        init.kind = RETUNE_INIT_ZEROS;
    }
    return host->param(is_bias ? RETUNE_STR("classifier.bias") : RETUNE_STR("classifier.weight"), dims, is_bias ? 1 : 2, init);
}

static retune_status create(const retune_host *host, void **head) {
    hello *self = (hello *)calloc(1, sizeof(hello));
    retune_str config = host->text(RETUNE_STR("config"));
    if (self == NULL || config.ptr == NULL) {
        free(self);
        return RETUNE_ERROR;
    }
    self->hidden = count_of(config, "hidden_size");
    self->labels = count_of(config, "num_labels");
    parameter(self, host, 0);
    parameter(self, host, 1);
    *head = self;
    return RETUNE_OK;
}

static void destroy(void *head) { free(head); }

static retune_status forward(void *head, const retune_host *host) {
    hello *self = (hello *)head;
    retune_tensor operands[3];
    operands[0] = host->input(RETUNE_STR("hidden"));
    operands[1] = parameter(self, host, 0);
    operands[2] = parameter(self, host, 1);
    self->forwards += 1; /* safe, because the head is serial */
    return host->output(RETUNE_STR("logits"), host->op(RETUNE_LINEAR, operands, 3, NULL, 0, NULL, 0));
}

static retune_status loss(void *head, const retune_host *host) {
    retune_tensor logits = host->input(RETUNE_STR("logits")), labels = host->input(RETUNE_STR("labels"));
    (void)head;
    return host->output(RETUNE_STR("loss"), retune_op2(host, RETUNE_CROSS_ENTROPY, logits, labels));
}

static retune_status save_state(void *head, const retune_host *host) {
    retune_str state;
    state.ptr = (const char *)&((hello *)head)->forwards;
    state.len = sizeof(uint64_t);
    return host->result(state);
}

static retune_status load_state(void *head, const retune_host *host) {
    retune_str state = host->text(RETUNE_STR("state"));
    if (state.len != sizeof(uint64_t)) {
        host->set_error(RETUNE_STR("the state of `hello_c` has eight bytes"));
        return RETUNE_ERROR;
    }
    memcpy(&((hello *)head)->forwards, state.ptr, sizeof(uint64_t));
    return RETUNE_OK;
}

static const retune_head HELLO = {
    sizeof(retune_head), RETUNE_SERIAL, {"hello_c", 7}, {"{}", 2}, create, destroy,    forward,    loss,
    NULL,                NULL,          NULL,           save_state, load_state, NULL, NULL, NULL, NULL,
};
static const retune_head *const HEADS[] = {&HELLO};

RETUNE_EXPORT const retune_plugin retune_plugin_entry = {
    RETUNE_MAGIC, RETUNE_ABI_MAJOR, RETUNE_ABI_MINOR, sizeof(retune_plugin), 1, {"hello_c", 7}, {"0.1.0", 5}, HEADS,
};
