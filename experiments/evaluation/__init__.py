"""What a robustness report is made of: one file a part, a context they share, and the runner."""
