/* One plugin with one fault, chosen by -DFAULT_...; without any it is sound. */
#include "retune_plugin.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef FAULT_LIBRARY_DIES
__attribute__((constructor)) static void dies(void) { abort(); }
#endif
#ifdef FAULT_LIBRARY_EXITS
__attribute__((constructor)) static void leaves(void) { _exit(0); }
#endif

#define UNUSED_HERE __attribute__((unused))

UNUSED_HERE static void fault(void) {
#if defined(FAULT_ABORT)
    abort();
#elif defined(FAULT_ENDLESS)
    for (;;) {
        sleep(1);
    }
#elif defined(FAULT_SEGFAULT)
    *(volatile int *)8 = 1;
#elif defined(FAULT_DIVISION)
    raise(SIGFPE);
#elif defined(FAULT_EXIT)
    _exit(0);
#endif
}

#ifdef FAULT_LEAK
static void *volatile leaked; /* so that the compiler does not see that nobody reads it */
#endif

static retune_tensor parameter(const retune_host *host) {
    size_t dims[1] = {1};
    return host->param(RETUNE_STR("fault.scale"), dims, 1, (retune_init){RETUNE_INIT_ONES, 0, 0.0});
}

static retune_status create(const retune_host *host, void **head) {
    *head = NULL;
    parameter(host);
#ifdef IN_CREATE
    fault();
#endif
    return RETUNE_OK;
}

static void destroy(void *head) { (void)head; }

static retune_status forward(void *head, const retune_host *host) {
    retune_tensor hidden = host->input(RETUNE_STR("hidden"));
    (void)head;
#ifdef IN_FORWARD
    fault();
#endif
#ifdef IN_TRAINING
    if (host->is_training() && access("fail-now", F_OK) == 0) {
        static int steps;
        if (++steps == 3) {
            fault();
        }
    }
#endif
#ifdef FAULT_LEAK
    leaked = malloc(1 << 17);
    if (leaked != NULL) {
        memset((void *)leaked, 1, 1 << 17);
    }
#endif
#ifdef FAULT_CUT
    hidden = retune_op1(host, RETUNE_DETACH, hidden);
#endif
    return host->output(RETUNE_STR("logits"), retune_op2(host, RETUNE_MUL, hidden, parameter(host)));
}

#ifdef FAULT_GRADIENT
static retune_status square(void *user, const retune_buffer *in, size_t n, retune_buffer *out) {
    size_t i;
    (void)user; (void)n;
    for (i = 0; i < out->len; i++) {
        out->data[i] = in[0].data[i] * in[0].data[i];
    }
    return RETUNE_OK;
}
static retune_status slope(void *user, const retune_buffer *in, size_t n, const retune_buffer *out, const retune_buffer *g, retune_buffer *grads) {
    size_t i;
    (void)user; (void)n; (void)out;
    for (i = 0; i < in[0].len; i++) {
        grads[0].data[i] = g->data[i] * in[0].data[i]; /* the factor 2 is missing */
    }
    return RETUNE_OK;
}
#endif

UNUSED_HERE static retune_status loss(void *head, const retune_host *host) {
    retune_tensor logits = host->input(RETUNE_STR("logits"));
    (void)head;
#ifdef FAULT_GRADIENT
    {
        retune_custom own = {sizeof(retune_custom), 0, NULL, square, slope, NULL};
        size_t dims[2];
        host->dims(logits, dims, 2);
        logits = host->custom(&own, &logits, 1, dims, 2);
    }
#endif
    return host->output(RETUNE_STR("loss"), retune_op1(host, RETUNE_MEAN, logits));
}

#ifndef HEAD_SIZE
#define HEAD_SIZE sizeof(retune_head)
#endif
#ifndef HEAD_NAME
#define HEAD_NAME "fault"
#endif
#ifndef OPTIONS
#define OPTIONS "{}"
#endif
#ifdef NO_LOSS
#define LOSS NULL
#else
#define LOSS loss
#endif
#ifdef ONLY_SAVE
#define SAVE forward
#else
#define SAVE NULL
#endif
UNUSED_HERE static const retune_head HEAD = {
    HEAD_SIZE, 0, {HEAD_NAME, sizeof(HEAD_NAME) - 1}, {OPTIONS, sizeof(OPTIONS) - 1}, create, destroy, forward, LOSS, 0, 0, 0, SAVE, 0, 0, 0, 0, 0,
};
#ifdef NULL_HEAD
UNUSED_HERE static const retune_head *const HEADS[] = {NULL};
#elif defined(SAME_HEADS)
UNUSED_HERE static const retune_head *const HEADS[] = {&HEAD, &HEAD};
#else
UNUSED_HERE static const retune_head *const HEADS[] = {&HEAD};
#endif

#ifndef MAGIC
#define MAGIC RETUNE_MAGIC
#endif
#ifndef MAJOR
#define MAJOR RETUNE_ABI_MAJOR
#endif
#ifndef MINOR
#define MINOR RETUNE_ABI_MINOR
#endif
#ifndef SIZE
#define SIZE sizeof(retune_plugin)
#endif
#ifndef N_HEADS
#define N_HEADS (sizeof(HEADS) / sizeof(HEADS[0]))
#endif
#ifdef NULL_HEADS
#define LIST NULL
#else
#define LIST HEADS
#endif
#ifndef NAME
#define NAME "fault"
#endif
#ifdef NO_ENTRY
RETUNE_EXPORT const retune_plugin another_name = {
#else
RETUNE_EXPORT const retune_plugin retune_plugin_entry = {
#endif
    MAGIC, MAJOR, MINOR, SIZE, N_HEADS, {NAME, sizeof(NAME) - 1}, {"0.1.0", 5}, LIST,
};
