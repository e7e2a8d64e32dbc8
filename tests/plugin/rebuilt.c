/* A head that is built in many ways: the same one, better ones, and broken ones, chosen by -D.
 *
 * One label a row; logits depend on how many forwards there were in training, so that what the head remembers shows in the weights.
 * It repeats hello.c of `plugins/`, which is to be read without switches. */
#include "retune_plugin.h"

#include <stdlib.h>
#include <string.h>

#ifndef HEAD_NAME
#define HEAD_NAME "rebuilt"
#endif
#ifndef SCALE
#define SCALE 1.0
#endif
#ifndef VERSION
#define VERSION "0.1.0"
#endif
#ifndef MAJOR
#define MAJOR RETUNE_ABI_MAJOR
#endif
#ifndef LABELS
#define LABELS(n) (n)
#endif

typedef struct {
    size_t hidden;
    size_t labels;
    uint64_t trained;
} rebuilt;

static size_t count_of(retune_str json, const char *key) {
    size_t len = strlen(key), at;
    for (at = 0; at + len + 3 < json.len; at++) {
        if (json.ptr[at] == '"' && memcmp(json.ptr + at + 1, key, len) == 0 && json.ptr[at + 1 + len] == '"') {
            return (size_t)strtoull(json.ptr + at + len + 3, NULL, 10);
        }
    }
    return 0;
}

static retune_tensor weight(const rebuilt *self, const retune_host *host) {
    size_t dims[2];
    retune_init init = {RETUNE_INIT_MODEL, 0, 0.0};
    dims[0] = LABELS(self->labels);
    dims[1] = self->hidden;
    return host->param(RETUNE_STR("scorer.weight"), dims, 2, init);
}

__attribute__((unused)) static retune_tensor vector(const rebuilt *self, const retune_host *host, retune_str name) {
    size_t dims[1];
    retune_init init = {RETUNE_INIT_ZEROS, 0, 0.0};
    dims[0] = LABELS(self->labels);
    return host->param(name, dims, 1, init);
}

static retune_status create(const retune_host *host, void **head) {
    rebuilt *self = (rebuilt *)calloc(1, sizeof(rebuilt));
    retune_str config = host->text(RETUNE_STR("config"));
    if (self == NULL || config.ptr == NULL) {
        free(self);
        return RETUNE_ERROR;
    }
    self->hidden = count_of(config, "hidden_size");
    self->labels = count_of(config, "num_labels");
    weight(self, host);
#ifndef NO_BIAS
    vector(self, host, RETUNE_STR("scorer.bias"));
#endif
#ifdef EXTRA
    vector(self, host, RETUNE_STR("extra.weight"));
#endif
#ifdef IDLE
    vector(self, host, RETUNE_STR("idle.weight"));
#endif
    *head = self;
    return RETUNE_OK;
}

static void destroy(void *head) { free(head); }

static retune_status forward(void *head, const retune_host *host) {
    rebuilt *self = (rebuilt *)head;
    retune_tensor operands[2], logits;
    double factors[2] = {1.0, 0.0};
    if (host->is_training()) {
        self->trained += 1; /* safe, because the head is serial */
    }
    factors[0] = 1.0 + 0.01 * (double)(self->trained % 97);
#ifdef FAILS_AFTER
    if (self->trained > FAILS_AFTER) {
        host->set_error(RETUNE_STR("this build fails on purpose"));
        return RETUNE_ERROR;
    }
#endif
#ifdef ABORTS
    abort();
#endif
    operands[0] = retune_op1(host, RETUNE_ROW_MEAN, host->input(RETUNE_STR("hidden")));
#ifdef CUT
    operands[0] = retune_op1(host, RETUNE_DETACH, operands[0]);
#endif
    operands[1] = weight(self, host);
    logits = host->op(RETUNE_LINEAR, operands, 2, NULL, 0, NULL, 0);
#ifndef NO_BIAS
    logits = retune_op2(host, RETUNE_ADD, logits, vector(self, host, RETUNE_STR("scorer.bias")));
#endif
#ifdef EXTRA
    logits = retune_op2(host, RETUNE_ADD, logits, vector(self, host, RETUNE_STR("extra.weight")));
#endif
    logits = host->op(RETUNE_AFFINE, &logits, 1, NULL, 0, factors, 2);
    return host->output(RETUNE_STR("logits"), logits);
}

static retune_status loss(void *head, const retune_host *host) {
    rebuilt *self = (rebuilt *)head;
    retune_tensor logits = host->input(RETUNE_STR("logits")), labels = host->input(RETUNE_STR("labels"));
    retune_tensor loss = retune_op2(host, RETUNE_CROSS_ENTROPY, logits, labels);
    double factors[2] = {SCALE, 0.0};
    (void)self;
#ifdef SWITCHES_AFTER
    factors[0] = self->trained > SWITCHES_AFTER ? SWITCHED_SCALE : SCALE;
#endif
#ifdef NOT_A_NUMBER
    factors[0] = 0.0 / (double)(self->hidden - self->hidden);
#endif
    return host->output(RETUNE_STR("loss"), host->op(RETUNE_AFFINE, &loss, 1, NULL, 0, factors, 2));
}

static retune_status save_state(void *head, const retune_host *host) {
    retune_str state;
    state.ptr = (const char *)&((rebuilt *)head)->trained;
    state.len = sizeof(uint64_t);
    return host->result(state);
}

static retune_status load_state(void *head, const retune_host *host) {
    retune_str state = host->text(RETUNE_STR("state"));
    if (state.len != sizeof(uint64_t)) {
        host->set_error(RETUNE_STR("the state has eight bytes"));
        return RETUNE_ERROR;
    }
    memcpy(&((rebuilt *)head)->trained, state.ptr, sizeof(uint64_t));
    return RETUNE_OK;
}

static const retune_head REBUILT = {
    sizeof(retune_head), RETUNE_SERIAL, {HEAD_NAME, sizeof(HEAD_NAME) - 1}, {"{}", 2}, create, destroy, forward, loss,
    NULL, NULL, NULL, save_state, load_state, NULL, NULL, NULL, NULL,
};
static const retune_head *const HEADS[] = {&REBUILT};

#ifdef NO_ENTRY
RETUNE_EXPORT const retune_plugin another_name = {
#else
RETUNE_EXPORT const retune_plugin retune_plugin_entry = {
#endif
    RETUNE_MAGIC, MAJOR, RETUNE_ABI_MINOR, sizeof(retune_plugin), 1, {"rebuilt", 7}, {VERSION, sizeof(VERSION) - 1}, HEADS,
};
