"""Generates images with and without the adapter."""
