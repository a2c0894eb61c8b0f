"""Draws images with and without the adapter."""
