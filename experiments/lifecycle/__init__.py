"""How a process starts, is stopped, gets stuck and ends."""
