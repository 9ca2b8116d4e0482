/* The upstream of the HTTP benchmark: one process, plain HTTP/1.1 with keep-alive, and a WebSocket echo.
 *
 *     http_backend PORT AUTHORIZATION SMALL LARGE
 *
 * GET /small and /large are answered with so many bytes of the pattern, a POST with the number of bytes it brought, and
 * an Upgrade with 101 and then each frame's own payload. It answers 401 to whoever does not show AUTHORIZATION, so that
 * no proxy is quick by leaving that out, and hangs up on anything else that it does not expect.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PERIOD 26
#define CHUNK (256 * 1024)
#define INPUT (256 * 1024)
#define OUTPUT (128 * 1024)
/* RFC 6455, 1.3: what the server appends to the client's key. */
#define WEBSOCKET_GUID "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

enum state { HEAD, BODY, FRAMES };

struct connection {
    int fd;
    enum state state;
    bool waits_to_write;
    uint64_t body, body_left; /* of the request */
    uint64_t bulk, bulk_left; /* of the answer, after what is in `output` */
    size_t input_length, output_length, output_sent;
    char input[INPUT + 1];
    char output[OUTPUT];
};

static char pattern[CHUNK + PERIOD];
static const char *authorization;
static uint64_t small, large;
static int poller;

static void hang_up(struct connection *c) {
    close(c->fd);
    free(c);
}

static bool field(const char *head, const char *name, char *value, size_t room) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':') {
            const char *from = line + 3 + length;
            from += strspn(from, " \t");
            snprintf(value, room, "%.*s", (int)strcspn(from, "\r\n"), from);
            return true;
        }
    return false;
}

static void say(struct connection *c, const char *text, size_t length) {
    memcpy(c->output + c->output_length, text, length);
    c->output_length += length;
}

static void answer(struct connection *c, const char *status, const char *body, uint64_t bulk) {
    char text[512];
    int length = snprintf(text, sizeof text,
                          "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %llu\r\n\r\n%s", status,
                          (unsigned long long)(strlen(body) + bulk), body);
    c->bulk = c->bulk_left = bulk;
    say(c, text, (size_t)length);
    if (bulk && bulk <= OUTPUT - c->output_length) { /* in one write with the head */
        say(c, pattern, bulk);
        c->bulk_left = 0;
    }
}

static void answer_count(struct connection *c) {
    char body[32];
    snprintf(body, sizeof body, "%llu", (unsigned long long)c->body);
    c->state = HEAD;
    answer(c, "200 OK", body, 0);
}

static void upgrade(struct connection *c, const char *key) {
    char text[512], joined[256];
    unsigned char digest[SHA_DIGEST_LENGTH], encoded[64];
    int length = snprintf(joined, sizeof joined, "%s" WEBSOCKET_GUID, key);
    EVP_Digest(joined, (size_t)length, digest, NULL, EVP_sha1(), NULL);
    EVP_EncodeBlock(encoded, digest, sizeof digest);
    length = snprintf(text, sizeof text,
                      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Accept: %s\r\n\r\n",
                      encoded);
    c->state = FRAMES;
    say(c, text, (size_t)length);
}

static bool begin_request(struct connection *c, const char *head) {
    char value[128];
    if (!field(head, "Authorization", value, sizeof value) || strcmp(value, authorization))
        answer(c, "401 Unauthorized", "", 0);
    else if (field(head, "Upgrade", value, sizeof value) && field(head, "Sec-WebSocket-Key", value, sizeof value))
        upgrade(c, value);
    else if (!strncmp(head, "GET /small ", 11))
        answer(c, "200 OK", "", small);
    else if (!strncmp(head, "GET /large ", 11))
        answer(c, "200 OK", "", large);
    else if (!strncmp(head, "POST ", 5) && field(head, "Content-Length", value, sizeof value)) {
        c->body = c->body_left = strtoull(value, NULL, 10);
        c->state = BODY;
    } else
        return false;
    return true;
}

/* RFC 6455, 5.2. How much of the input one whole frame takes; 0: it is not whole; -1: not one of ours. */
static long echo(struct connection *c, const unsigned char *at, size_t available) {
    if (available < 2)
        return 0;
    size_t length = at[1] & 0x7f, header = length == 126 ? 4 : 2;
    if (!(at[1] & 0x80) || length == 127)
        return -1;
    if (available < header + 4)
        return 0;
    if (length == 126)
        length = at[2] << 8 | at[3];
    const unsigned char *mask = at + header, *payload = mask + 4;
    if (available < header + 4 + length)
        return 0;
    if (length + header > OUTPUT - c->output_length)
        return -1;
    unsigned char *out = (unsigned char *)c->output + c->output_length;
    memcpy(out, at, header);
    out[1] &= 0x7f;
    for (size_t i = 0; i < length; i++)
        out[header + i] = payload[i] ^ mask[i & 3];
    c->output_length += header + length;
    return (long)(header + 4 + length);
}

/* Takes what it can from the input while nothing waits to be sent. */
static bool digest(struct connection *c) {
    size_t at = 0;
    while (at < c->input_length && !c->output_length && !c->bulk_left) {
        char *from = c->input + at;
        size_t available = c->input_length - at;
        if (c->state == HEAD) {
            char *end = memmem(from, available, "\r\n\r\n", 4);
            if (!end)
                break;
            end[2] = '\0'; /* keeps the last field's line end, which field() looks for */
            if (!begin_request(c, from))
                return false;
            at += (size_t)(end + 4 - from);
        } else if (c->state == BODY) {
            size_t taken = available < c->body_left ? available : c->body_left;
            c->body_left -= taken;
            at += taken;
        } else {
            long taken = echo(c, (unsigned char *)from, available);
            if (taken < 0)
                return false;
            if (!taken)
                break;
            at += (size_t)taken;
        }
        if (c->state == BODY && !c->body_left)
            answer_count(c);
    }
    memmove(c->input, c->input + at, c->input_length - at);
    c->input_length -= at;
    return c->input_length < INPUT;
}

static void watch(struct connection *c, bool writing) {
    if (c->waits_to_write != writing) {
        struct epoll_event event = {.events = writing ? EPOLLOUT : EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
        c->waits_to_write = writing;
    }
}

/* False: the connection broke. Sets waits_to_write if the socket takes no more. */
static bool flush(struct connection *c) {
    while (c->output_length || c->bulk_left) {
        bool head = c->output_length;
        size_t chunk = c->bulk_left < CHUNK ? c->bulk_left : CHUNK;
        ssize_t n = head ? write(c->fd, c->output + c->output_sent, c->output_length - c->output_sent)
                         : write(c->fd, pattern + (c->bulk - c->bulk_left) % PERIOD, chunk);
        if (n < 0) {
            watch(c, true);
            return errno == EAGAIN;
        }
        if (!head)
            c->bulk_left -= (uint64_t)n;
        else if ((c->output_sent += (size_t)n) == c->output_length)
            c->output_length = c->output_sent = 0;
    }
    watch(c, false);
    return true;
}

static bool advance(struct connection *c) {
    for (;;) {
        size_t before = c->input_length;
        if (!digest(c) || !flush(c))
            return false;
        if (c->waits_to_write || c->input_length == before)
            return true;
    }
}

static bool serve(struct connection *c) {
    if (c->waits_to_write)
        return flush(c) && advance(c);
    ssize_t n = read(c->fd, c->input + c->input_length, INPUT - c->input_length);
    if (n < 0 && errno == EAGAIN)
        return true;
    if (n <= 0)
        return false;
    c->input_length += (size_t)n;
    return advance(c);
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1024)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int count, char **argument) {
    if (count != 5) {
        fprintf(stderr, "usage: %s PORT AUTHORIZATION SMALL LARGE\n", argument[0]);
        return 2;
    }
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)('a' + i % PERIOD);
    int listener = listen_on(atoi(argument[1]));
    authorization = argument[2];
    small = strtoull(argument[3], NULL, 10);
    large = strtoull(argument[4], NULL, 10);
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if (!serve(c))
                hang_up(c);
        }
    }
}
