"""Decides which pairs are kept, groups near-duplicates, assigns splits."""
