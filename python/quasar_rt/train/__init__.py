"""Training on the host: a small ViT, quantization-aware training and export (needs the ``[host]`` extra).

`recipe` reads the TOML file, `model` is the network, `quantizers` its fake quantizers, `widths` picks the 8-bit rows,
`loop` trains in stages and `report` evaluates, exports and writes the model card. ``tools/train.py`` runs them.
"""
