"""Selects sentences to train on: no duplicates, none near a held-out prompt, and a split for each."""
