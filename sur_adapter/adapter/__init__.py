"""The adapter network, its settings, and conversion of published checkpoints."""
