"""The command `sur-adapter` and its Gradio demo."""
