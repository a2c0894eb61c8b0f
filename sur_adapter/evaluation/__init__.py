"""Measures images and summarises arms with confidence intervals."""
