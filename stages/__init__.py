"""The stages of dvc.yaml, one module each. __main__.py says what a stage module contains."""
