"""Folders of CLIP and SigLIP with both towers and a tokenizer, made by transformers from random numbers."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

KINDS = ("clip", "siglip")
#: Sizes of a tower: width, hidden values, blocks, heads.
VISION, TEXT = (40, 72, 2, 4), (24, 56, 3, 3)


def tower(sizes):
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return dict(zip(names, sizes, strict=True))


def tokenizer(lowercase=False):
    """Returns a tokenizer of bytes, so that it has a token for every script."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    if lowercase:
        made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=["<pad>", "<eos>", "<bos>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        vocab_size=300,
        show_progress=False,
    )
    made.train_from_iterator(["a photo of a cat.", "This is a photo of dogs."], trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def write(folder, kind, lowercase=False, seed=7):
    """Writes a folder, and returns transformers' model and tokenizer."""
    torch.manual_seed(seed)
    words = tokenizer(lowercase)
    text = tower(TEXT) | {"vocab_size": len(words), "max_position_embeddings": 41}
    text |= {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    vision = tower(VISION) | {"image_size": 30, "patch_size": 6}
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=29)
        model = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(
            text_config=text | {"projection_size": VISION[0]}, vision_config=vision
        )
        model = transformers.SiglipModel(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1:
                value.copy_(torch.randn_like(value) / value[0].numel() ** 0.5)
            elif not name.endswith("weight"):
                value.copy_(torch.randn_like(value) * 0.3)
        model.logit_scale.fill_(2.3)
        if kind == "siglip":
            model.logit_bias.fill_(-1.5)
    model.eval().save_pretrained(folder)
    words.save_pretrained(folder)
    mean = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.25, 0.2], "resample": 3}
    size = {"size": {"height": 30, "width": 30}, "do_resize": True, "do_rescale": True, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(mean | size))
    return model, words
