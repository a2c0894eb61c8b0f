"""How the models in models/miniature/ were brought up: one file for each stage of miniature/dvc.yaml.

world.py      draw the pictures once
vae.py        AutoencoderKL
clip.py       CLIPModel and its tokenizer, contrastive on both styles of prompt
diffusion.py  UNet2DConditionModel on keyword prompts alone, behind CLIP's frozen text tower
blip.py       BlipForConditionalGeneration on plain sentences
llama.py      LlamaForCausalLM on both styles and the facts that tie them
card.py       every figure of the model card, and its pictures

loop.py       the training loop they share: seeded, resumable, averaged
"""
