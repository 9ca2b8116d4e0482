"""Sessions: events in, commands out; no socket, no clock, no log. `vocabulary` says every word they know."""
