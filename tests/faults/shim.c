/* Makes the k-th write, sync, rename and the like below a folder fail, or ends the process there.
 *
 * FAULT_UNDER   the folder; calls about other files are left alone
 * FAULT_AT      k, from 1; 0 counts alone
 * FAULT_KIND    eio: the call fails once. full: it and all later ones that need room fail. kill: the process ends before it.
 *               term: it gets SIGTERM before it
 * FAULT_COUNT   a file that gets the number of calls when the process ends
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int calls;

static int is_under(const char *path) {
    const char *under = getenv("FAULT_UNDER");
    return under && path && strncmp(path, under, strlen(under)) == 0;
}

static int is_fd_under(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_under(path);
}

/* Whether the call is to fail; `needs_room` says whether a full disk would make it. */
static int fails(int needs_room) {
    int at = getenv("FAULT_AT") ? atoi(getenv("FAULT_AT")) : 0;
    int call = atomic_fetch_add(&calls, 1) + 1;
    const char *kind = getenv("FAULT_KIND");
    if (!at || !kind || call < at) return 0;
    if (strcmp(kind, "kill") == 0) kill(getpid(), SIGKILL);
    /* In this thread, whose handler has run when this returns: another thread's may come after the last look. */
    if (strcmp(kind, "term") == 0 && call == at) raise(SIGTERM);
    if (strcmp(kind, "full") == 0 && needs_room) { errno = ENOSPC; return 1; }
    if (strcmp(kind, "eio") == 0 && call == at) { errno = EIO; return 1; }
    return 0;
}

__attribute__((destructor)) static void count(void) {
    const char *path = getenv("FAULT_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%d", atomic_load(&calls));
    fclose(file);
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *bytes, size_t n) {
    NEXT(write);
    if (is_fd_under(fd) && fails(1)) return -1;
    return next(fd, bytes, n);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    NEXT(writev);
    if (is_fd_under(fd) && fails(1)) return -1;
    return next(fd, parts, n);
}

int ftruncate64(int fd, off64_t n) {
    NEXT(ftruncate64);
    if (is_fd_under(fd) && fails(0)) return -1;
    return next(fd, n);
}

int fsync(int fd) {
    NEXT(fsync);
    if (is_fd_under(fd) && fails(0)) return -1;
    return next(fd);
}

int rename(const char *from, const char *to) {
    NEXT(rename);
    if (is_under(to) && fails(0)) return -1;
    return next(from, to);
}

int mkdir(const char *path, mode_t mode) {
    NEXT(mkdir);
    if (is_under(path) && fails(1)) return -1;
    return next(path, mode);
}

int open64(const char *path, int flags, ...) {
    NEXT(open64);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (flags & O_CREAT && is_under(path) && fails(1)) return -1;
    return next(path, flags, mode);
}

int unlink(const char *path) {
    NEXT(unlink);
    if (is_under(path) && fails(0)) return -1;
    return next(path);
}

int rmdir(const char *path) {
    NEXT(rmdir);
    if (is_under(path) && fails(0)) return -1;
    return next(path);
}
