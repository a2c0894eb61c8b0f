"""The verbs of dvc.yaml, one file each. A verb takes its files by position and sections of params.yaml by name."""
