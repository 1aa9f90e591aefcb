"""Classes in words: the text tower of a CLIP or SigLIP folder gives each its vector. Needs the ``[text]`` extra."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import normalize

from ..arguments import shown
from ..errors import InvalidValueError
from .hugging_face import folder_document, folder_weights
from .vit import NetworkError, require

__all__ = ["MOST_WORDS", "Words", "checked_words", "encode_words"]

#: Classes, at most: a head is read for every picture, and a board's memory is slow.
MOST_WORDS = 10_000
#: Bytes of the names in a subnet's configuration, at most; all of it has 1 MiB.
MOST_NAME_BYTES = 900_000
#: The sentences that the models' authors use, and where a text's vector ends.
TEMPLATES = {"clip": ("a photo of a {}.",), "siglip": ("This is a photo of {}.",)}
_ENDS = {
    "clip": ("text_projection.weight", "visual_projection.weight"),
    "siglip": ("text_model.head.weight",),
}
_TOKENS = "text_model.embeddings.token_embedding.weight"
#: Files of which a tokenizer has one.
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
#: Texts at once.
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Words:
    """Holds classes in words.

    `vectors` are of length 1, float64 [classes, shared]. `projection`, float64 [shared, embed], brings the image
    tower's features into their space; None where they are in it. A logit is `scale` times the cosine; SigLIP adds
    `bias`, and its sigmoid is the probability. With None it is a softmax (CLIP). `record` is for the subnet's
    provenance, `notices` are for the user.
    """

    names: list[str]
    vectors: NDArray[np.float64]
    projection: NDArray[np.float64] | None
    scale: float
    bias: float | None
    record: dict[str, Any]
    notices: list[str]

    @property
    def rows(self) -> NDArray[np.float64]:
        """Returns the vectors as rows that read the image tower's features, float64 [classes, embed]."""
        return self.vectors if self.projection is None else self.vectors @ self.projection

    def logits(self, features: ArrayLike) -> NDArray[np.float32]:
        """Returns transformers' ``logits_per_image``, float32 [images, classes].

        Args:
            features: float [images, shared], which the network of `quasar_rt.networks.load_network` gives.
        """
        units = normalize(torch.from_numpy(np.asarray(features, np.float64)), dim=-1, eps=1e-30).numpy()
        logits: NDArray[np.float32] = (self.scale * units @ self.vectors.T + (self.bias or 0)).astype(
            np.float32
        )
        return logits


def checked_words(words: Iterable[str]) -> list[str]:
    """Returns the names of classes without space around them and without empty ones.

    Raises:
        quasar_rt.InvalidValueError: there are none or too many, two are equal, or a subnet cannot hold one.
    """
    if isinstance(words, str):
        raise InvalidValueError(f"words is {shown(words)}; it must be a list of class names")
    names = [name for name in (str(word).strip() for word in words) if name]
    if not 1 <= len(names) <= MOST_WORDS:
        raise InvalidValueError(
            f"{len(names):,} classes in words were given; 1 to {MOST_WORDS:,} are possible"
        )
    for name in names:
        if len(name) > 1000 or any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in name):
            problem = "has a control character or more than 1,000 characters"
            raise InvalidValueError(f"the class {shown(name[:80])} {problem}")
    _check_differ(names, names)
    if (size := len(json.dumps(names))) > MOST_NAME_BYTES:
        raise InvalidValueError(
            f"the classes' names take {size:,} bytes as JSON; at most {MOST_NAME_BYTES:,} fit"
        )
    return names


def _check_differ(names: Sequence[str], texts: Iterable[Any]) -> None:
    first: dict[Any, str] = {}
    for name, text in zip(names, texts, strict=True):
        if text in first:
            other = first[text]
            same = "" if other == name else f" and {shown(name)} are the same to the model's tokenizer"
            raise InvalidValueError(f"two classes have one text: {shown(other)}{same}")
        first[text] = name


def encode_words(
    folder: str | os.PathLike[str],
    words: Iterable[str],
    templates: Sequence[str] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Words:
    """Runs the text tower of a folder of CLIP or SigLIP on classes in words.

    Args:
        folder: as transformers writes it: ``config.json``, weights of both towers, a tokenizer.
        words: the classes' names; empty ones are left out.
        templates: sentences with ``{}`` for the name; the vectors of several are averaged on the sphere. By default
            the one that the model's authors use.
        progress: gets ``texts``, how many are done, and their total.

    Raises:
        quasar_rt.InvalidValueError: names or templates that cannot be used, such as two of the same tokens.
        NetworkError: the folder has no text tower or no tokenizer, or they do not fit.
        ImportError: the ``[text]`` extra is missing.
    """
    names, folder = checked_words(words), Path(folder)
    document = (folder_document(folder / "config.json") or {}) if folder.is_dir() else {}
    kind = str(document.get("model_type"))
    own = f"its model_type is '{kind}'" if document else "it has no config.json"
    require(kind in TEMPLATES, folder, f"words need both towers of a CLIP or SigLIP (clip, siglip); {own}")
    sentences = list(TEMPLATES[kind] if templates is None else templates)
    if wrong := [one for one in sentences or [""] if "{}" not in one]:
        raise InvalidValueError(f"a template needs {{}} in the class's place: {shown(wrong[0])}")
    is_there = any((folder / name).is_file() for name in _TOKENIZERS)
    require(is_there, folder, f"it has no tokenizer (none of {', '.join(_TOKENIZERS)})")
    weights = {key: value.float() for key, value in folder_weights(folder).items()}
    for key in (*_ENDS[kind], _TOKENS, "logit_scale"):
        require(key in weights, folder, f"its weights have no text tower that this model needs: no '{key}'")
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"words need the text extra ({error}): pip install 'quasar-rt[text]'") from error
    texts = [one.replace("{}", name) for name in names for one in sentences]
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        model, tokens, notices = _loaded(transformers, folder, kind, document, weights, texts)
    # transformers raises nearly anything of a folder that is not what it writes.
    except Exception as error:
        problem = " ".join(str(error).split())[:300]
        raise NetworkError(
            f"the text tower or tokenizer of '{folder}' cannot be loaded: {problem}"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    most, known = int(tokens["input_ids"].max()), len(weights[_TOKENS])
    require(most < known, folder, f"its tokenizer gives token {most}, its text tower has {known} tokens")
    _check_differ(names, map(tuple, tokens["input_ids"].reshape(len(names), -1).tolist()))
    found = list[Tensor]()
    for first in range(0, len(texts), _BATCH):
        with torch.no_grad():
            piece = {key: value[first : first + _BATCH] for key, value in tokens.items()}
            features = model.get_text_features(**piece)
        found.append(getattr(features, "pooler_output", features).double())
        if progress is not None:
            progress("texts", min(first + _BATCH, len(texts)), len(texts))
    units = normalize(torch.cat(found), dim=1).unflatten(0, (len(names), -1))
    vectors = normalize(units.mean(dim=1), dim=1)
    wrong = [name for name, one in zip(names, vectors, strict=True) if not abs(float(one.norm()) - 1) < 1e-6]
    require(not wrong, folder, f"its text tower gives no direction for {', '.join(map(shown, wrong[:3]))}")
    end = b"".join(weights[key].numpy().tobytes() for key in (*_ENDS[kind], "logit_scale"))
    digest = hashlib.sha256(end).hexdigest()
    return Words(
        names=names,
        vectors=vectors.numpy(),
        projection=weights["visual_projection.weight"].double().numpy() if kind == "clip" else None,
        scale=float(weights["logit_scale"].double().exp()),
        bias=float(weights.get("logit_bias", torch.zeros(1))) if kind == "siglip" else None,
        record={"model": os.fspath(folder), "text": digest, "templates": sentences},
        notices=notices,
    )


def _loaded(
    transformers: Any,
    folder: Path,
    kind: str,
    document: dict[str, Any],
    weights: dict[str, Tensor],
    texts: list[str],
) -> tuple[Any, dict[str, Tensor], list[str]]:
    """Returns a model with the text tower, what it reads of texts, int64 [texts, tokens] each, and notices."""
    family = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    # The image tower of this model is not used: it gets no blocks.
    document = {**document, "vision_config": {**document.get("vision_config", {}), "num_hidden_layers": 0}}
    config = getattr(transformers, f"{family}Config").from_dict(document)
    model = getattr(transformers, f"{family}Model")(config).float().eval()
    text = {key: value for key, value in weights.items() if key.startswith("text_")}
    missing = [
        key for key in model.load_state_dict(text, strict=False).missing_keys if key.startswith("text_")
    ]
    if missing := [key for key in missing if not key.endswith("position_ids")]:
        raise ValueError(f"it lacks {', '.join(missing[:4])}")
    options = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
    # SigLIP was trained on texts of its full length.
    most, padding = config.text_config.max_position_embeddings, "max_length" if kind == "siglip" else True
    found = tokenizer(texts, padding=padding, truncation=True, max_length=most, return_tensors="pt")
    tokens = {key: found[key] for key in ("input_ids", "attention_mask") if key in found}
    cut = [text for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True) if len(ids) > most]
    notices = [f"{len(cut)} texts are cut to {most} tokens, such as {shown(cut[0][:80])}"] if cut else []
    return model, tokens, notices
