"""Builds the data set: crawl, read prompts, score, filter."""
