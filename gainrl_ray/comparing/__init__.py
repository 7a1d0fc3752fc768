"""Parts of the verb compare: the grid of runs, their curves, the table."""
