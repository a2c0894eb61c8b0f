"""Commands beside the pipeline: export, verify, held-out prompts, planner."""
