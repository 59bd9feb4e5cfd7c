"""How a process starts, hears signals, is watched, and leaves."""
