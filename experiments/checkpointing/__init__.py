"""The parts of `experiments.checkpoint`, each with one reason to be there."""
