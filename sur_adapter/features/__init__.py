"""Stores the features of the frozen models and reads them back."""
