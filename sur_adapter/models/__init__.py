"""The frozen models: Stable Diffusion, CLIP, LLM, captioner."""
