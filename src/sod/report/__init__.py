"""What a run looks like: step lines, curves, trackers, and the table of metrics they read. No torch here."""
