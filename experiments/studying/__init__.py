"""Studies: grids of runs that answer a question, what is kept of each run, and what they say."""
