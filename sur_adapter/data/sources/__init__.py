"""Sources of images with keyword prompts: one module each, named as in `sources` of params.yaml. The contract is in base.py."""
