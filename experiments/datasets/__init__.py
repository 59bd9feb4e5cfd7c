"""From the name of a data set to its batches: what is read, decoded, checked, kept or streamed."""
