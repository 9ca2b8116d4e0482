"""securegw. The journey of a byte, and the modules in the order in which it meets them:

`net.listener` accepts a connection and hands it to `net.connections`, which counts it and gives it a `net.driver`.
The driver owns two `net.transport`s, one for each side, whose sockets are watched by `net.poller` and read and
written by `net.stream`; TLS contexts come from `certs`. What arrives becomes an event for a session
(`session.postgres`), which parses it with a grammar (`wire.postgres`), verifies the token (`tokens`) into an
`identity`, asks the `policy`, and answers with commands (`session.vocabulary`): dial an upstream, log in there
(`session.postgres_upstream`), splice. From then on `net.relay` moves bytes both ways and nothing parses them any
more. At the end `audit` writes what happened.

`app` makes all of this from the `config`, once at the start and again at each reload.
"""
