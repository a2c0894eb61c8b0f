"""Trains the adapter from cached features."""
