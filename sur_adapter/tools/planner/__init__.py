"""Estimates rows, disk, time and memory of every stage before a run."""
