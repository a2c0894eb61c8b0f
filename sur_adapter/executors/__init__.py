"""Runs the shards of a stage in one process, in several, or on a Ray cluster."""
