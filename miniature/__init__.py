"""The miniature: a small world of pictograms with ground truth, and the small models brought up on it.

    scenes.py    what there is to see: things, colours, poses, and the scene a seed makes
    silhouettes.py   what each thing looks like
    words.py     what is said of a scene: keyword prompts, plain sentences, and how both are read back
    templates.py phrases.py   sentences with gaps; thousands more of them for what describes pictures
    judge.py     what a picture really shows
    gallery.py   a prompt gallery on loopback, with the faults of a real one
    pretrain/    how the models in models/miniature/ were trained, and the figures of their card

Everything but `pretrain` needs only Pillow, NumPy and SciPy.
"""
