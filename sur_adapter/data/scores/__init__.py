"""Scores: one module per score; its file name is its name in section `scores` of params.yaml. base.py has the contract."""
