"""Flag files, found by name: `--flagfile=digits.flags`. Each repeats one experiment."""
