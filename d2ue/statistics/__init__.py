"""How sure a number is: estimates, clusters of near duplicates, verdicts, correlation.

Imports evaluation and errors, never data or training.
"""
