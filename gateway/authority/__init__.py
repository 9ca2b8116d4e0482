"""A certificate authority in a folder: files and arithmetic, no network, no clock of its own.

How a certificate comes to be: `names` says what may stand in it (and `requests` reads what somebody asks for),
`certificates` makes it, `index` remembers it, and `folder` puts all of the files that belong together there at once.
`authority` is the order of these things; `keys` are private keys, `sealing` is how that of the CA is kept.

Refuses to sign anything that the strict readers of RFC 5280 would turn away, and anything that only a request asks for.
"""
