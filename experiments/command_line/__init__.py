"""What a person types and is answered: flags, flag files, their conflicts, help and lists."""
