"""How sure a number is: estimates, clusters of near duplicates, verdicts, correlation. Imports errors only, never data or training."""
