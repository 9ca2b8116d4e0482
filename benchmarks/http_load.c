/* The load of the HTTP benchmark: TLS 1.3 with a client certificate, from one thread.
 *
 *     http_load PART PORT CONNECTIONS SECONDS CA CERTIFICATE KEY AUTHORIZATION SMALL LARGE
 *
 * Each connection does one operation after the other: a request and its whole answer, a frame and its echo, or, in
 * `connect`, a full handshake, a request and the end. After one of them each it prints `ready` and waits for a line;
 * after SECONDS, when what was begun is finished, it prints its figures as JSON and waits for the end of its input,
 * so that whoever watches the server's CPU sees the load and nothing else. Every byte of every answer is compared
 * (http_backend.c says what it has to be); at the first that is wrong it says so and exits with 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

#define PERIOD 26
#define CHUNK (64 * 1024)
#define HEAD_LIMIT 8192
#define SLACK_SECONDS 60
/* The key of RFC 6455, 1.3, and what a server has to make of it. */
#define WEBSOCKET_KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define WEBSOCKET_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

struct plan {
    const char *name, *request;
    uint64_t sent, received; /* payload of one operation */
    bool large, websocket, reconnects;
};

enum state { OPENING, UPGRADING, SENDING, HEAD, PAYLOAD, DONE };

struct connection {
    int fd;
    SSL *tls;
    enum state state;
    bool upgraded, waits_to_write;
    uint64_t sent, received;
    size_t head_length;
    char head[HEAD_LIMIT + 1];
    double began;
};

static struct plan plan;
static struct sockaddr_in server;
static SSL_CTX *context;
static int poller;
static double until;
static uint64_t operations;
static float *latencies;

static char pattern[CHUNK + PERIOD];
static char upgrade_text[1024];
static char outgoing[CHUNK];   /* what an operation sends, and after it `bulk` bytes of the pattern */
static size_t outgoing_length;
static uint64_t bulk;
static char fixed[CHUNK];      /* what it receives; if empty, the pattern */
static size_t fixed_length;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s, operation %llu: ", plan.name, (unsigned long long)operations + 1);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void watch(struct connection *c, bool writing) {
    if (c->waits_to_write != writing) {
        struct epoll_event event = {.events = writing ? EPOLLOUT : EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
        c->waits_to_write = writing;
    }
}

/* After a call of OpenSSL that could not go on: wait for what it needs. */
static void block(struct connection *c, int result) {
    int error = SSL_get_error(c->tls, result);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
        fail("TLS error %d, errno %d (%s), after %.60s", error, errno, strerror(errno), c->head);
    watch(c, error == SSL_ERROR_WANT_WRITE);
}

static void open_connection(struct connection *c) {
    int one = 1;
    memset(c, 0, sizeof *c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    c->waits_to_write = true;
    c->tls = SSL_new(context);
    SSL_set_fd(c->tls, c->fd);
    SSL_set_connect_state(c->tls);
}

static void close_connection(struct connection *c) {
    SSL_shutdown(c->tls);
    SSL_free(c->tls);
    close(c->fd);
    c->tls = NULL;
}

static void send_more(struct connection *c) {
    while (c->sent < outgoing_length + bulk) {
        uint64_t done = c->sent < outgoing_length ? 0 : c->sent - outgoing_length, left = bulk - done;
        const char *from = c->sent < outgoing_length ? outgoing + c->sent : pattern + done % PERIOD;
        uint64_t size = c->sent < outgoing_length ? outgoing_length - c->sent : left < CHUNK ? left : CHUNK;
        int n = SSL_write(c->tls, from, (int)size);
        if (n <= 0) {
            block(c, n);
            return;
        }
        c->sent += (uint64_t)n;
    }
    c->state = plan.websocket ? PAYLOAD : HEAD;
    watch(c, false);
}

static void begin(struct connection *c) {
    double started = now();
    if (!c->tls) {
        open_connection(c);
        c->began = started;
        return;
    }
    c->began = started;
    c->sent = c->received = c->head_length = 0;
    c->state = SENDING;
    send_more(c);
}

static void handshake(struct connection *c) {
    int n = SSL_do_handshake(c->tls);
    if (n != 1) {
        block(c, n);
        return;
    }
    if (!plan.websocket) {
        c->state = SENDING;
        send_more(c);
        return;
    }
    c->state = UPGRADING;
    watch(c, false);
    if (SSL_write(c->tls, upgrade_text, (int)strlen(upgrade_text)) <= 0)
        fail("no room for the upgrade request");
}

static void take_payload(struct connection *c, const char *data, size_t length) {
    uint64_t wanted = fixed_length ? fixed_length : plan.received;
    const char *expected = fixed_length ? fixed + c->received : pattern + c->received % PERIOD;
    if (c->received + length > wanted || memcmp(data, expected, length))
        fail("wrong payload at byte %llu: %.*s", (unsigned long long)c->received, (int)(length < 80 ? length : 80), data);
    c->received += length;
    if (c->received == wanted)
        c->state = DONE;
}

static void check_head(struct connection *c) {
    if (c->state == UPGRADING) {
        if (strncmp(c->head, "HTTP/1.1 101 ", 13) || !strstr(c->head, WEBSOCKET_ACCEPT))
            fail("not upgraded: %.300s", c->head);
        c->upgraded = true;
        return;
    }
    const char *length = strcasestr(c->head, "\r\nContent-Length:");
    uint64_t wanted = fixed_length ? fixed_length : plan.received;
    if (strncmp(c->head, "HTTP/1.1 200 ", 13) || !length || strtoull(length + 17, NULL, 10) != wanted)
        fail("unexpected answer: %.300s", c->head);
    c->state = PAYLOAD;
}

static void take(struct connection *c, const char *data, size_t length) {
    if (c->state == PAYLOAD) {
        take_payload(c, data, length);
        return;
    }
    if (c->state == SENDING)
        fail("answered before the request was sent: %.*s", (int)(length < 300 ? length : 300), data);
    size_t before = c->head_length, room = HEAD_LIMIT - before, kept = length < room ? length : room;
    memcpy(c->head + before, data, kept);
    c->head_length += kept;
    c->head[c->head_length] = '\0';
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        if (kept == room)
            fail("endless head");
        return;
    }
    size_t used = (size_t)(end + 4 - c->head) - before;
    end[2] = '\0';
    check_head(c);
    if (c->upgraded) {
        if (used < length)
            fail("a frame that nobody asked for");
        c->head_length = 0;
        c->state = SENDING;
        send_more(c);
    } else if (used < length)
        take_payload(c, data + used, length - used);
}

static void receive(struct connection *c) {
    static char data[CHUNK];
    do {
        int n = SSL_read(c->tls, data, sizeof data);
        if (n <= 0) {
            block(c, n);
            return;
        }
        take(c, data, (size_t)n);
    } while (c->state != DONE && SSL_has_pending(c->tls));
}

static void serve(struct connection *c) {
    if (c->state == OPENING)
        handshake(c);
    else if (c->state == SENDING && c->waits_to_write)
        send_more(c);
    else
        receive(c);
}

/* One operation each, and more until the time is over. */
static void run(struct connection *connections, int count, double seconds) {
    struct epoll_event events[256];
    int active = count;
    until = now() + seconds;
    alarm((unsigned)seconds + SLACK_SECONDS);
    for (int i = 0; i < count; i++)
        begin(&connections[i]);
    while (active) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            serve(c);
            if (c->state != DONE)
                continue;
            double then = now();
            if (operations < MAX_LATENCIES)
                latencies[operations] = (float)(then - c->began);
            operations++;
            c->state = HEAD;
            if (plan.reconnects)
                close_connection(c);
            if (then < until)
                begin(c);
            else
                active--;
        }
    }
    alarm(0);
}

/* RFC 6455, 5.2: a whole binary message, masked by the client, bare from the server. */
static void frames(size_t payload) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t at = 0;
    outgoing[at++] = (char)0x82;
    outgoing[at++] = (char)(payload < 126 ? payload : 126);
    if (payload >= 126) {
        outgoing[at++] = (char)(payload >> 8);
        outgoing[at++] = (char)payload;
    }
    memcpy(fixed, outgoing, at);
    memcpy(fixed + at, pattern, payload);
    fixed_length = at + payload;
    outgoing[1] |= (char)0x80;
    memcpy(outgoing + at, mask, 4);
    for (size_t i = 0; i < payload; i++)
        outgoing[at + 4 + i] = (char)(pattern[i] ^ mask[i & 3]);
    outgoing_length = at + 4 + payload;
}

static void prepare(const char *authorization) {
    int length;
    if (plan.websocket) {
        snprintf(upgrade_text, sizeof upgrade_text,
                 "%s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: %s\r\n"
                 "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " WEBSOCKET_KEY "\r\n\r\n",
                 plan.request, authorization);
        frames(plan.sent);
        return;
    }
    length = snprintf(outgoing, sizeof outgoing,
                      "%s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: http_load\r\nAccept: */*\r\nAuthorization: %s\r\n%s",
                      plan.request, authorization, plan.reconnects ? "Connection: close\r\n" : "");
    outgoing_length = (size_t)length;
    if (plan.sent) {
        length = snprintf(outgoing + length, sizeof outgoing - (size_t)length,
                          "Content-Type: application/senml+json\r\nContent-Length: %llu\r\n",
                          (unsigned long long)plan.sent);
        outgoing_length += (size_t)length;
        fixed_length = (size_t)snprintf(fixed, sizeof fixed, "%llu", (unsigned long long)plan.sent);
    }
    memcpy(outgoing + outgoing_length, "\r\n", 2);
    outgoing_length += 2;
    if (plan.large)
        bulk = plan.sent;
    else { /* head and body in one record, as clients send them */
        memcpy(outgoing + outgoing_length, pattern, plan.sent);
        outgoing_length += plan.sent;
    }
}

static bool choose(const char *name, uint64_t small, uint64_t large) {
    const struct plan plans[] = {
        {.name = "get", .request = "GET /small", .received = small},
        {.name = "post", .request = "POST /messages", .sent = 500},
        {.name = "download", .request = "GET /large", .received = large, .large = true},
        {.name = "upload", .request = "POST /upload", .sent = large, .large = true},
        {.name = "ws64", .request = "GET /ws", .sent = 64, .received = 64, .websocket = true},
        {.name = "ws16k", .request = "GET /ws", .sent = 16384, .received = 16384, .websocket = true},
        {.name = "connect", .request = "GET /small", .received = small, .reconnects = true},
    };
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
        if (!strcmp(plans[i].name, name)) {
            plan = plans[i];
            return true;
        }
    return false;
}

static void report(double seconds, double cpu) {
    size_t kept = operations < MAX_LATENCIES ? operations : MAX_LATENCIES;
    qsort(latencies, kept, sizeof *latencies, ascending);
    printf("{\"ops\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"cpu\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           (unsigned long long)operations, (unsigned long long)(operations * (plan.sent + plan.received)), seconds, cpu,
           latencies[kept / 2] * 1e6, latencies[kept * 99 / 100] * 1e6);
    fflush(stdout);
}

int main(int count, char **argument) {
    if (count != 11 || !choose(argument[1], strtoull(argument[9], NULL, 10), strtoull(argument[10], NULL, 10))) {
        fprintf(stderr, "usage: %s PART PORT CONNECTIONS SECONDS CA CERTIFICATE KEY AUTHORIZATION SMALL LARGE\n",
                argument[0]);
        return 2;
    }
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)('a' + i % PERIOD);
    int connection_count = atoi(argument[3]);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument[2]))};
    inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
    prepare(argument[8]);
    context = client_context(argument[5], argument[6], argument[7]);
    poller = epoll_create1(0);
    latencies = malloc(MAX_LATENCIES * sizeof *latencies);
    struct connection *connections = calloc((size_t)connection_count, sizeof *connections);

    run(connections, connection_count, 0);
    operations = 0;
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        return 0;
    double began = now(), cpu = own_cpu();
    run(connections, connection_count, atof(argument[4]));
    report(now() - began, own_cpu() - cpu);
    while (getchar() != EOF)
        continue;
    return 0;
}
