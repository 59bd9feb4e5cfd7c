"""Layers of the networks whose forward or backward pass XLA alone does slowly on a CPU."""
