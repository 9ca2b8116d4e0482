"""The things, the channels and the connections between them: where they are kept, and what sessions may ask of them.

`ledger` writes them, `book` knows them all by heart, `sqlite` and `postgres` keep a book up to date, `service` puts it
together for the gateway.
"""
