"""From reports as JSON to pages for people: one run's, and several side by side."""
