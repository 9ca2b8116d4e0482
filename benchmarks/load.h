/* What the loads share: clocks, the client's side of TLS, and how to give up. Each is one program from one .c file. */
#ifndef LOAD_H
#define LOAD_H

#include <openssl/ssl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#define LOAD_READ_BUFFER (128 * 1024)
#define MAX_LATENCIES (4 * 1000 * 1000)

/* Says what was being done and what went wrong, and exits with 1. Each program has its own. */
__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double own_cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static SSL_CTX *client_context(const char *ca, const char *certificate, const char *key) {
    SSL_CTX *made = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION);
    SSL_CTX_set_verify(made, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(made, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(made, 1); /* one system call for several records */
    SSL_CTX_set_default_read_buffer_len(made, LOAD_READ_BUFFER);
    if (SSL_CTX_load_verify_locations(made, ca, NULL) != 1 ||
        SSL_CTX_use_certificate_chain_file(made, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(made, key, SSL_FILETYPE_PEM) != 1)
        fail("certificates");
    return made;
}

static int ascending(const void *a, const void *b) {
    float left = *(const float *)a, right = *(const float *)b;
    return (left > right) - (left < right);
}

#endif
