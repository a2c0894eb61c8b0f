"""Reads and cleans the prompts of images."""
