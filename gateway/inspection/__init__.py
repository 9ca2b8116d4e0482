"""What a configuration would do, without doing it: who is let in and why, and what is wrong before it hurts.

Owns no decision of its own: it asks the sessions, the rules and the contexts that the gateway itself has.
"""
