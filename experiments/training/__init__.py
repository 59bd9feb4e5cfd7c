"""A run between its first step and its last: feeding it, the loop, what it tells, how it ends."""
