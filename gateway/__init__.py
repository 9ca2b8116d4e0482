"""securegw. The journey of a byte, and the modules in the order in which it meets them:

`net.listener` accepts a connection and hands it to `net.connections`, which counts it and gives it a `net.driver`.
The driver owns two `net.transport`s, one for each side, whose sockets are watched by `net.poller` and read and
written by `net.stream`; TLS contexts come from `certs`. What arrives becomes an event for a session
(`session.postgres`, `session.http`, `session.mqtt`, `session.tunnel`), which parses it with a grammar (`wire.postgres`,
`wire.http1`, `wire.mqtt`), turns a token (`tokens`) or a certificate into an `identity`, asks the rules (`policy`, or
`routes` and `admission`), and answers with commands (`session.vocabulary`): dial an upstream, log in there, send,
splice. After a splice `net.relay` moves bytes both ways and nothing parses them any more; an HTTP session goes on
parsing, and leaves its upstream's connection in `net.pool` for the next request. An MQTT session goes on parsing, too:
it asks the `registry` (or `topic_rules`) what its thing may do, and hands messages to the `hub`, or packets to a
broker. At the end `audit` writes what happened.

`app` makes all of this from the `config`, with `doors`, once at the start and again at each reload.
"""
