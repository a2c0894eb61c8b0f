"""Sources of sentences without images: one module each, named as in `sentences.sources` of params.yaml. The contract is in base.py."""
