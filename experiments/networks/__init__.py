"""The networks that `experiments.models` builds by name, one file for each kind."""
