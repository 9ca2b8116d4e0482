"""Sharing one view of a database with a partner: what is made in the database for it, and the proof that it is tight.

`share` has the values and the record that the database keeps, `names` how all of it is spelled. `statements` has the
SQL, and `provision` runs it as an `administrator`, whose way there is `conninfo`; `lines` has what people add to files.
`proof` is the whole proof: `catalog`, `definition` and `survey` ask the database, `listeners` and `reach` the rules of
the INI, `probes` try it as the partner, who gets in by `entrance`, and `bypass` past it. `tried` is one row of it.
"""
