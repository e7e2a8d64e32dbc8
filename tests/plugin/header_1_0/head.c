/* A head as it was written with version 1.0 of the header: it must load and train for as long as there is version 1. */
#include "retune_plugin.h"

static retune_tensor weight(const retune_host *host, int is_bias) {
    static const size_t dims[2] = {3, 8};
    retune_init init = {RETUNE_INIT_MODEL, 0, 0.0};
    return host->param(is_bias ? RETUNE_STR("old.bias") : RETUNE_STR("old.weight"), dims, is_bias ? 1 : 2, init);
}

static retune_status create(const retune_host *host, void **head) {
    *head = 0;
    if (host->abi_major != RETUNE_ABI_MAJOR || host->struct_size < sizeof(retune_host)) {
        return RETUNE_ERROR;
    }
    weight(host, 0);
    weight(host, 1);
    return RETUNE_OK;
}

static void destroy(void *head) { (void)head; }

static retune_status forward(void *head, const retune_host *host) {
    retune_tensor operands[3], hidden = host->input(RETUNE_STR("hidden"));
    size_t dims[2];
    (void)head;
    operands[0] = host->op(RETUNE_FIRST, &hidden, 1, 0, 0, 0, 0);
    operands[1] = weight(host, 0);
    operands[2] = weight(host, 1);
    if (host->dims(hidden, dims, 2) == 2 && dims[1] == 12) {
        /* The canary tries two widths; this head has one. */
        int64_t cut[3] = {1, 0, 8};
        operands[0] = host->op(RETUNE_NARROW, operands, 1, cut, 3, 0, 0);
    }
    return host->output(RETUNE_STR("logits"), host->op(RETUNE_LINEAR, operands, 3, 0, 0, 0, 0));
}

static retune_status loss(void *head, const retune_host *host) {
    retune_tensor operands[2];
    (void)head;
    operands[0] = host->input(RETUNE_STR("logits"));
    operands[1] = host->input(RETUNE_STR("labels"));
    return host->output(RETUNE_STR("loss"), host->op(RETUNE_CROSS_ENTROPY, operands, 2, 0, 0, 0, 0));
}

/* What stands behind a head of version 1.0 is none of its fields. */
static const struct {
    retune_head head;
    void *not_a_function[3];
} HEAD = {
    {sizeof(retune_head), 0, {"old", 3}, {"", 0}, create, destroy, forward, loss, 0, 0, 0, 0, 0, 0},
    {(void *)1, (void *)1, (void *)1},
};
static const retune_head *const HEADS[] = {&HEAD.head};

RETUNE_EXPORT const retune_plugin retune_plugin_entry = {
    RETUNE_MAGIC, RETUNE_ABI_MAJOR, RETUNE_ABI_MINOR, sizeof(retune_plugin), 1, {"old", 3}, {"1.0.0", 5}, HEADS,
};
