"""Sessions: events in, commands out; no socket, no waiting, no log. `vocabulary` says every word they know."""
