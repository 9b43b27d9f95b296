"""The command line: one module per verb, and what the verbs share.

`main` has the exit codes and one-line errors, `parsing` the flags, `output` and
`terminal` what is printed. Imports anything of the package; nothing imports it.
"""
