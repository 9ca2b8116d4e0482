"""Sharing one view of a database with a partner: what is made in the database for it, and the proof that it is tight.

`share` has the values and the record that the database keeps, `names` how all of it is spelled. `statements` has the
SQL, and `provision` runs it as an `administrator`. `catalog`, `reach` and `probes` look for whatever lets the partner
do more.
"""
