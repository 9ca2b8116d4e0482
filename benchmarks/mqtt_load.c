/* The load of the MQTT benchmark: MQTT 3.1.1 over TLS 1.3 with a client certificate, from one thread.
 *
 *     mqtt_load PART PORT CONNECTIONS SECONDS CA CERTIFICATE KEY THING PASSWORD PAYLOAD RATE
 *
 * It connects CONNECTIONS clients (but in `connect`), does a little of PART, prints `ready` and waits for a line. Then
 * it does PART for SECONDS and goes on until everything is acknowledged: what was sent at QoS 0 is followed by a
 * message at QoS 1 on the same connection, so that the server has read all before the figures are printed, as JSON. It
 * then waits for the end of its input, so that whoever watches the server's CPU sees the load and nothing else. Each
 * message has a number and a known payload, which every subscriber compares; at the first wrong one, at any refusal
 * and at a connection lost it says so and exits with 1. Messages that a subscriber missed are counted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
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

#define BUFFER (24 * 1024)
#define RECORD 16384   /* RFC 8446, 5.1: what one record holds at most */
#define MAX_PAYLOAD 1000
#define MAX_PACKET (MAX_PAYLOAD * 3 / 2 + 100)
#define TOPICS 10      /* of a mixed flood */
#define WINDOW 20      /* messages at QoS 1 that wait for their PUBACK */
#define BURST 500      /* messages of a fan-out at once, before every subscriber has to have the last */
#define RING 4096      /* how many messages' times are remembered */
#define AT_ONCE 32     /* connections that are being opened */
#define KEEP_ALIVE 600 /* seconds: longer than any run */
#define OPEN_SECONDS 120  /* for all connections */
#define SETTLE_SECONDS 30 /* for what is still unanswered in the end */
#define CHANNEL "channels/3f0c5a52-7f3e-4d8e-9a52-0d6f1c1b6a11/messages"

/* MQTT 3.1.1, 2.2.1: the first byte of each packet that is used here. */
enum packet {
    CONNECT = 0x10, CONNACK = 0x20, PUBLISH = 0x30, PUBACK = 0x40, SUBSCRIBE = 0x82, SUBACK = 0x90,
    PINGREQ = 0xC0, PINGRESP = 0xD0, DISCONNECT = 0xE0
};

enum state { OPENING, GREETED, READY, GONE };

struct connection {
    int fd, number;
    char topic[80];
    SSL *tls;
    enum state state;
    bool subscriber, waits_to_write;
    uint16_t packet; /* the identifier last used */
    int unanswered;  /* PUBLISH at QoS 1 */
    uint64_t last;   /* the number of the message last received */
    double began, sent_at[WINDOW];
    size_t in_length, out_begin, out_end;
    unsigned char in[BUFFER], out[BUFFER];
};

static const char *part, *thing, *password;
static size_t payload_size;
static double rate, until, deadline;
static bool together; /* whether packets share a TLS record and a system call, or each has its own */
static bool mixed;    /* whether topics take turns, and payloads have from a half to one and a half of their size */
static struct sockaddr_in server;
static SSL_CTX *context;
static int poller, count, opened, serial;
static struct connection *connections;
static unsigned char pattern[MAX_PACKET];

static int ready, answered; /* connections; of those that were asked (a last message, PINGREQ) */
static uint64_t operations, published, received;
static double published_at[RING];
static float *latencies;
static size_t measured;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s, after %llu: ", part, (unsigned long long)operations);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    ERR_print_errors_fp(stderr);
    exit(1);
}

static void measure(double began) {
    if (measured < MAX_LATENCIES)
        latencies[measured++] = (float)(now() - began);
}

/* --- packets out ------------------------------------------------------------------------------------------------- */

/* The length of a whole packet's fixed header, and by it that of its rest; 0 if there is not all of the header yet. */
static size_t fixed_header(const unsigned char *data, size_t length, size_t *rest) {
    *rest = 0;
    for (size_t i = 1; i < length && i <= 4; i++) {
        *rest |= (size_t)(data[i] & 127) << 7 * (i - 1);
        if (!(data[i] & 128))
            return i + 1;
    }
    if (length > 4)
        fail("a remaining length of more than four bytes");
    return 0;
}

static void put(struct connection *c, const void *data, size_t length) {
    if (c->out_end + length > BUFFER)
        fail("more is waiting to be sent than there is room for");
    memcpy(c->out + c->out_end, data, length);
    c->out_end += length;
}

static void put_byte(struct connection *c, unsigned value) {
    unsigned char byte = (unsigned char)value;
    put(c, &byte, 1);
}

static void put_number(struct connection *c, unsigned value) {
    put_byte(c, value >> 8);
    put_byte(c, value & 255);
}

static void put_text(struct connection *c, const char *text) {
    put_number(c, (unsigned)strlen(text));
    put(c, text, strlen(text));
}

static void put_header(struct connection *c, enum packet kind, unsigned flags, size_t rest) {
    put_byte(c, kind | flags);
    do {
        put_byte(c, (unsigned)(rest & 127) | (rest > 127 ? 128 : 0));
        rest >>= 7;
    } while (rest);
}

static void put_connect(struct connection *c) {
    char client[100];
    snprintf(client, sizeof client, "%.64s-%d-%d", thing, (int)getpid(), serial++);
    put_header(c, CONNECT, 0, 10 + 2 + strlen(client) + 2 + strlen(thing) + 2 + strlen(password));
    put_text(c, "MQTT");
    put_byte(c, 4);
    put_byte(c, 0xC2); /* a user name, a password and a clean session */
    put_number(c, KEEP_ALIVE);
    put_text(c, client);
    put_text(c, thing);
    put_text(c, password);
}

static void put_subscribe(struct connection *c) {
    put_header(c, SUBSCRIBE, 0, 2 + 2 + strlen(CHANNEL) + 1);
    put_number(c, 1);
    put_text(c, CHANNEL);
    put_byte(c, 1); /* up to QoS 1, for the last message */
}

static void put_message(struct connection *c, unsigned qos) {
    uint64_t number = ++published;
    size_t size = mixed ? payload_size / 2 + number * 37 % payload_size : payload_size;
    char topic[sizeof c->topic + 2];
    snprintf(topic, sizeof topic, mixed ? "%s/%d" : "%s", c->topic, (int)(number % TOPICS));
    published_at[number % RING] = now();
    put_header(c, PUBLISH, qos << 1, 2 + strlen(topic) + (qos ? 2 : 0) + size);
    put_text(c, topic);
    if (qos) {
        c->packet = c->packet == UINT16_MAX ? 1 : c->packet + 1;
        c->sent_at[c->packet % WINDOW] = published_at[number % RING];
        c->unanswered++;
        put_number(c, c->packet);
    }
    put(c, &number, sizeof number);
    put(c, pattern + sizeof number, size - sizeof number);
}

/* --- bytes ------------------------------------------------------------------------------------------------------- */

static void watch(struct connection *c, bool writing) {
    if (c->waits_to_write != writing) {
        struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
        c->waits_to_write = writing;
    }
}

/* After a call of OpenSSL that could not go on: wait for what it needs. */
static void block(struct connection *c, int result) {
    int error = SSL_get_error(c->tls, result);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
        fail("connection %d lost in state %d: TLS error %d, errno %d (%s)", c->number, c->state, error, errno,
             strerror(errno));
    watch(c, error == SSL_ERROR_WANT_WRITE);
}

static void flush(struct connection *c) {
    while (c->out_begin < c->out_end) {
        size_t length = c->out_end - c->out_begin, rest;
        if (!together)
            length = fixed_header(c->out + c->out_begin, length, &rest) + rest;
        int n = SSL_write(c->tls, c->out + c->out_begin, (int)length);
        if (n <= 0) {
            block(c, n);
            return;
        }
        c->out_begin += (size_t)n;
    }
    c->out_begin = c->out_end = 0;
    watch(c, false);
}

static void open_connection(struct connection *c) {
    int one = 1;
    opened++;
    c->state = OPENING;
    c->in_length = c->out_begin = c->out_end = 0;
    c->began = now();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    c->waits_to_write = true;
    c->tls = SSL_new(context);
    SSL_set_fd(c->tls, c->fd);
    SSL_set_connect_state(c->tls);
    put_connect(c);
}

static void close_connection(struct connection *c) {
    put_header(c, DISCONNECT, 0, 0);
    flush(c);
    SSL_shutdown(c->tls);
    SSL_free(c->tls);
    close(c->fd);
    c->state = GONE;
}

/* --- packets in -------------------------------------------------------------------------------------------------- */

static void get_message(struct connection *c, const unsigned char *body, size_t length, unsigned qos) {
    size_t topic = strlen(CHANNEL), head = 2 + topic + (qos ? 2 : 0);
    uint64_t number;
    if (!c->subscriber || length != head + payload_size || memcmp(body + 2, CHANNEL, topic))
        fail("a message that nobody sent");
    memcpy(&number, body + head, sizeof number);
    if (number <= c->last || number > published ||
        memcmp(body + head + sizeof number, pattern + sizeof number, payload_size - sizeof number))
        fail("message %llu after %llu, or another payload", (unsigned long long)number, (unsigned long long)c->last);
    c->last = number;
    received++;
    measure(published_at[number % RING]);
    if (qos) {
        answered++;
        put_header(c, PUBACK, 0, 2);
        put(c, body + 2 + topic, 2);
    }
}

/* MQTT 3.1.1, 3.4 and 4.6: acknowledged in the order in which they were sent. */
static void get_puback(struct connection *c, unsigned packet) {
    if (!c->unanswered || (uint16_t)(c->packet - packet) >= WINDOW + 1)
        fail("a PUBACK for %u after %u", packet, c->packet);
    c->unanswered--;
    if (!strcmp(part, "qos1")) {
        measure(c->sent_at[packet % WINDOW]);
        operations++;
    }
}

static void get_packet(struct connection *c, unsigned kind, const unsigned char *body, size_t length) {
    if (kind >> 4 == PUBLISH >> 4)
        get_message(c, body, length, kind >> 1 & 3);
    else if (kind == CONNACK && c->state == OPENING && length == 2 && !body[1]) {
        c->state = c->subscriber ? GREETED : READY;
        if (c->subscriber)
            put_subscribe(c);
        else
            ready++;
    } else if (kind == SUBACK && c->state == GREETED && length == 3 && body[2] == 1) {
        c->state = READY;
        ready++;
    } else if (kind == PUBACK && length == 2)
        get_puback(c, (unsigned)body[0] << 8 | body[1]);
    else if (kind == PINGRESP && !length)
        answered++;
    else
        fail("packet %02x of %zu bytes in state %d: %02x %02x", kind, length, c->state, length ? body[0] : 0,
             length > 1 ? body[1] : 0);
}

static void take(struct connection *c) {
    size_t at = 0, head, rest;
    while ((head = fixed_header(c->in + at, c->in_length - at, &rest)) && head + rest <= c->in_length - at) {
        get_packet(c, c->in[at], c->in + at + head, rest);
        at += head + rest;
    }
    memmove(c->in, c->in + at, c->in_length -= at);
}

static void receive(struct connection *c) {
    do {
        int n = SSL_read(c->tls, c->in + c->in_length, (int)(BUFFER - c->in_length));
        if (n <= 0) {
            if (SSL_get_error(c->tls, n) != SSL_ERROR_WANT_READ)
                block(c, n);
            return;
        }
        c->in_length += (size_t)n;
        take(c);
    } while (SSL_has_pending(c->tls));
}

/* Until something happens, at most so many seconds. `then`: what a connection does after what it received. */
static void turn(double seconds, void (*then)(struct connection *)) {
    struct epoll_event events[256];
    if (now() > deadline)
        fail("%d of %d connections open, %d answers, %llu of %llu messages received: no more came in time", ready, count,
             answered, (unsigned long long)received, (unsigned long long)published);
    int n = epoll_wait(poller, events, 256, seconds > 0 ? (int)(seconds * 1e3) + 1 : 0);
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            receive(c);
        if (then)
            then(c);
        if (c->state != GONE && (c->out_begin < c->out_end || c->waits_to_write))
            flush(c);
    }
}

/* --- parts ------------------------------------------------------------------------------------------------------- */

static void open_all(void) {
    while (ready < count) {
        while (opened < count && opened - ready < AT_ONCE)
            open_connection(&connections[opened]);
        turn(1, NULL);
    }
}

static void send_all(struct connection *c) {
    flush(c);
    while (c->out_begin < c->out_end)
        turn(1, NULL);
}

/* What comes before the PUBACK on this connection has been read. */
static void settle(struct connection *c) {
    while (c->unanswered || c->out_begin < c->out_end)
        turn(1, NULL);
}

/* As fast as the connection takes them, as many together as one TLS record holds. */
static void flood(void) {
    struct connection *c = connections;
    do {
        while (c->out_end <= RECORD - MAX_PACKET)
            put_message(c, 0);
        send_all(c);
    } while (now() < until);
    put_message(c, 1);
    flush(c);
    settle(c);
    operations = published;
}

static void fill_window(struct connection *c) {
    while (c->unanswered < WINDOW && now() < until)
        put_message(c, 1);
}

static void windows(void) {
    for (int i = 0; i < count; i++) {
        put_message(&connections[i], 1);
        flush(&connections[i]);
    }
    do
        turn(0.01, fill_window);
    while (now() < until);
    for (int i = 0; i < count; i++)
        settle(&connections[i]);
}

/* Ends when the publisher and every subscriber have seen the same message at QoS 1. */
static void see_the_last(void) {
    answered = 0;
    put_message(connections, 1);
    flush(connections);
    while (answered < count - 1)
        turn(1, NULL);
    settle(connections);
    for (int i = 1; i < count; i++)
        settle(&connections[i]);
    operations = received;
}

static void bursts(void) {
    do {
        for (int i = 1; i < BURST; i++) {
            put_message(connections, 0);
            if (connections->out_end > RECORD - MAX_PACKET || i == BURST - 1)
                send_all(connections);
        }
        see_the_last();
    } while (now() < until);
}

/* RATE messages a second in all, from one of the publishers after the other. */
static void paced(int publishers) {
    double due = now();
    for (int i = 0; due < until; i++, due += 1 / rate) {
        while (now() < due)
            turn(due - now(), NULL);
        put_message(&connections[i % publishers], 0);
        flush(&connections[i % publishers]);
    }
}

static void fan_out(void) {
    paced(1);
    see_the_last();
}

static void idle(void) {
    paced(count);
    put_message(connections, 1);
    flush(connections);
    settle(connections);
    operations = published;
}

static void again(struct connection *c) {
    if (c->state != READY)
        return;
    close_connection(c);
    measure(c->began);
    operations++;
    if (now() < until)
        open_connection(c);
}

static void reconnect(void) {
    for (int i = 0; i < count; i++)
        open_connection(&connections[i]);
    while (operations < (uint64_t)opened)
        turn(1, again);
}

static void ping(void) {
    answered = 0;
    for (int i = 0; i < count; i++) {
        put_header(&connections[i], PINGREQ, 0, 0);
        flush(&connections[i]);
    }
    while (answered < count)
        turn(1, NULL);
    operations = (uint64_t)answered;
}

static const struct plan {
    const char *name;
    void (*work)(void);
    bool together, mixed, subscribers;
} plans[] = {
    {.name = "flood", .work = flood, .together = true},
    {.name = "mixed", .work = flood, .together = true, .mixed = true},
    {.name = "single", .work = flood},
    {.name = "qos1", .work = windows},
    {.name = "fanout", .work = fan_out, .subscribers = true},
    {.name = "bursts", .work = bursts, .together = true, .subscribers = true},
    {.name = "idle", .work = idle},
    {.name = "connect", .work = reconnect},
    {.name = "hold", .work = ping},
};

static const struct plan *choose(const char *name) {
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
        if (!strcmp(plans[i].name, name))
            return &plans[i];
    return NULL;
}

static void run(const struct plan *plan, double seconds) {
    operations = published = received = 0;
    measured = 0;
    opened = 0;
    for (int i = 0; i < count; i++)
        connections[i].last = 0;
    until = now() + seconds;
    deadline = until + SETTLE_SECONDS;
    plan->work();
}

static void report(const struct plan *plan, double seconds, double cpu) {
    uint64_t wanted = plan->subscribers ? published * (uint64_t)(count - 1) : 0;
    qsort(latencies, measured, sizeof *latencies, ascending);
    printf("{\"ops\": %llu, \"seconds\": %.6f, \"cpu\": %.6f, \"lost\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
           (unsigned long long)operations, seconds, cpu, (unsigned long long)(wanted ? wanted - received : 0),
           measured ? latencies[measured / 2] * 1e6 : 0, measured ? latencies[measured * 99 / 100] * 1e6 : 0);
    fflush(stdout);
}

static void prepare(char **argument) {
    count = atoi(argument[3]);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argument[2]))};
    inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
    context = client_context(argument[5], argument[6], argument[7]);
    thing = argument[8];
    password = argument[9];
    payload_size = strtoul(argument[10], NULL, 10);
    rate = atof(argument[11]);
    if (count < 1 || payload_size < 2 * sizeof(uint64_t) || payload_size > MAX_PAYLOAD || rate <= 0)
        fail("arguments");
    memset(pattern, 'x', sizeof pattern);
    latencies = malloc(MAX_LATENCIES * sizeof *latencies);
    connections = calloc((size_t)count, sizeof *connections);
    poller = epoll_create1(0);
    signal(SIGPIPE, SIG_IGN);
}

int main(int arguments, char **argument) {
    const struct plan *plan = arguments == 12 ? choose(argument[1]) : NULL;
    if (!plan) {
        fprintf(stderr, "usage: %s PART PORT CONNECTIONS SECONDS CA CERTIFICATE KEY THING PASSWORD PAYLOAD RATE\n",
                argument[0]);
        return 2;
    }
    part = plan->name;
    together = plan->together;
    mixed = plan->mixed;
    prepare(argument);
    for (int i = 0; i < count; i++) {
        connections[i].number = i;
        /* Publishers beside each other have subtopics of their own. */
        snprintf(connections[i].topic, sizeof connections[i].topic, i ? CHANNEL "/%d" : CHANNEL, i);
        connections[i].subscriber = plan->subscribers && i;
    }
    deadline = now() + OPEN_SECONDS;
    if (plan->work != reconnect)
        open_all();
    if (plan->work != ping)
        run(plan, 0);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        return 0;
    double began = now(), cpu = own_cpu();
    run(plan, atof(argument[4]));
    report(plan, now() - began, own_cpu() - cpu);
    while (getchar() != EOF)
        continue;
    for (int i = 0; i < count; i++)
        if (connections[i].state == READY)
            close_connection(&connections[i]);
    return 0;
}
