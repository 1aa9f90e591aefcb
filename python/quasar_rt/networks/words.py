"""Classes in words: the text tower of a CLIP or SigLIP folder gives each its vector. Needs the ``[text]`` extra."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..arguments import shown
from ..errors import InvalidValueError
from .hugging_face import folder_document, folder_weights
from .vit import NetworkError, require

__all__ = ["MOST_WORDS", "Words", "checked_words", "encode_words"]

#: Classes, at most: their head is read for every picture, and a board's memory is slow.
MOST_WORDS = 10_000
#: Bytes of the names in a subnet's configuration, at most; all of it has 1 MiB.
MOST_NAME_BYTES = 900_000
#: The sentences that the models' authors use.
TEMPLATES = {"clip": ("a photo of a {}.",), "siglip": ("This is a photo of {}.",)}
#: Files of which a tokenizer has one.
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
#: Texts at once.
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Words:
    """Classes in words, and what a model makes of them; `encode_words` makes it."""

    names: list[str]
    vectors: NDArray[np.float64]
    """Of length 1, float64 [classes, shared size]."""
    projection: NDArray[np.float64] | None
    """From the image tower's features to the shared space, float64 [shared size, embed]; None where they are in it."""
    scale: float
    """Of the cosine in a logit."""
    bias: float | None
    """Added to it, where a class's probability is the sigmoid of its logit (SigLIP); None for a softmax (CLIP)."""
    record: dict[str, Any]
    """For the subnet's provenance: the folder, a digest of its text tower's end, the templates."""
    notices: list[str] = field(default_factory=list)

    @property
    def rows(self) -> NDArray[np.float64]:
        """The vectors as rows that read the image tower's features: float64 [classes, embed]."""
        return self.vectors if self.projection is None else self.vectors @ self.projection

    def logits(self, features: ArrayLike) -> NDArray[np.float32]:
        """Returns the model's logits, float32 [images, classes], transformers' ``logits_per_image``.

        Args:
            features: float [images, shared size], which the network of `quasar_rt.networks.load_network` gives.
        """
        found = np.asarray(features, np.float64)
        lengths = np.linalg.norm(found, axis=-1, keepdims=True)
        cosines = found @ self.vectors.T / np.maximum(lengths, 1e-30)
        logits: NDArray[np.float32] = (self.scale * cosines + (self.bias or 0.0)).astype(np.float32)
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
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidValueError(f"two classes have one text: {shown(name)}")
        if len(name) > 1000 or any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in name):
            raise InvalidValueError(
                f"the class {shown(name[:80])} has a control character or more than 1,000 characters"
            )
        seen.add(name)
    size = len(json.dumps(names))
    if size > MOST_NAME_BYTES:
        raise InvalidValueError(
            f"the classes' names take {size:,} bytes as JSON; at most {MOST_NAME_BYTES:,} fit a subnet"
        )
    return names


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
    require(
        kind in TEMPLATES,
        folder,
        "classes in words need a folder of a whole CLIP or SigLIP (model_type clip or siglip); "
        + (f"its model_type is '{kind}'" if document else "it has no config.json"),
    )
    sentences = list(TEMPLATES[kind] if templates is None else templates)
    if not sentences or (wrong := next((one for one in sentences if "{}" not in one), None)) is not None:
        raise InvalidValueError(f"a template needs {{}} in the class's place: {shown(wrong or '')}")
    require(
        any((folder / name).is_file() for name in _TOKENIZERS),
        folder,
        f"it has no tokenizer (none of {', '.join(_TOKENIZERS)})",
    )
    weights = {key: value.float() for key, value in folder_weights(folder).items()}
    text = {key: value for key, value in weights.items() if key.startswith("text_")}
    ends = {
        "clip": ("text_projection.weight", "visual_projection.weight"),
        "siglip": ("text_model.head.weight",),
    }
    for key in (*ends[kind], "text_model.embeddings.token_embedding.weight", "logit_scale"):
        require(key in weights, folder, f"its weights have no text tower that this model needs: no '{key}'")
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"classes in words need the text extra ({error}): pip install 'quasar-rt[text]'"
        ) from error
    with _quiet(transformers):
        try:
            model = _model(transformers, kind, document, text)
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            texts = [one.replace("{}", name) for name in names for one in sentences]
            tokens, notices = _tokens(
                tokenizer, texts, model.config.text_config.max_position_embeddings, kind
            )
            ids = tokens["input_ids"]
        except NetworkError:
            raise
        # transformers raises nearly anything of a folder that is not what it writes.
        except Exception as error:
            problem = " ".join(str(error).split())[:300]
            raise NetworkError(
                f"the text tower or the tokenizer of '{folder}' cannot be loaded: {problem}"
            ) from error
        most, vocabulary = int(ids.max()), len(text["text_model.embeddings.token_embedding.weight"])
        require(
            most < vocabulary,
            folder,
            f"its tokenizer gives token {most}, its text tower has {vocabulary} tokens",
        )
        _check_differ(names, ids.reshape(len(names), -1).tolist())
        vectors = _vectors(model, tokens, names, len(sentences), progress)
    digest = hashlib.sha256()
    for key in (*ends[kind], "logit_scale"):
        digest.update(weights[key].numpy().tobytes())
    siglip, projection = kind == "siglip", weights.get("visual_projection.weight")
    return Words(
        names=names,
        vectors=vectors,
        projection=None if siglip or projection is None else projection.double().numpy(),
        scale=float(weights["logit_scale"].double().exp()),
        bias=float(weights.get("logit_bias", torch.zeros(1))) if siglip else None,
        record={"model": os.fspath(folder), "text": digest.hexdigest(), "templates": sentences},
        notices=notices,
    )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _model(transformers: Any, kind: str, document: dict[str, Any], text: dict[str, Any]) -> Any:
    """Returns the model with the folder's text tower and an image tower without blocks."""
    family = {"clip": "CLIP", "siglip": "Siglip"}[kind]
    document = {**document, "vision_config": {**document.get("vision_config", {}), "num_hidden_layers": 0}}
    model = getattr(transformers, f"{family}Model")(
        getattr(transformers, f"{family}Config").from_dict(document)
    ).float()
    missing = [
        key for key in model.load_state_dict(text, strict=False).missing_keys if key.startswith("text_")
    ]
    if missing := [key for key in missing if not key.endswith("position_ids")]:
        raise NetworkError(f"the text tower lacks tensors: {', '.join(missing[:4])}")
    return model.eval()


def _tokens(tokenizer: Any, texts: list[str], most: int, kind: str) -> tuple[dict[str, Tensor], list[str]]:
    """Returns what the text tower reads of texts, int64 [texts, tokens] each, and a notice of those that were cut."""
    # SigLIP was trained on texts of its full length.
    padding = "max_length" if kind == "siglip" else True
    found = tokenizer(texts, padding=padding, truncation=True, max_length=most, return_tensors="pt")
    read = {key: found[key] for key in ("input_ids", "attention_mask") if key in found}
    cut = [text for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True) if len(ids) > most]
    return read, [f"{len(cut)} texts are cut to {most} tokens, such as {shown(cut[0][:80])}"] if cut else []


def _check_differ(names: list[str], tokens: list[list[int]]) -> None:
    first: dict[tuple[int, ...], str] = {}
    for name, ids in zip(names, tokens, strict=True):
        other = first.setdefault(tuple(ids), name)
        if other != name:
            raise InvalidValueError(
                f"two classes have one text: {shown(other)} and {shown(name)} are the same to the model's tokenizer"
            )


def _vectors(
    model: Any,
    tokens: dict[str, Tensor],
    names: list[str],
    templates: int,
    progress: Callable[[str, int, int], object] | None,
) -> NDArray[np.float64]:
    found, count = list[Tensor](), len(tokens["input_ids"])
    for first in range(0, count, _BATCH):
        with torch.no_grad():
            piece = {key: value[first : first + _BATCH] for key, value in tokens.items()}
            features = model.get_text_features(**piece)
        found.append(getattr(features, "pooler_output", features).double())
        if progress is not None:
            progress("texts", sum(map(len, found)), count)
    units = torch.nn.functional.normalize(torch.cat(found), dim=1).unflatten(0, (-1, templates))
    vectors: NDArray[np.float64] = torch.nn.functional.normalize(units.mean(dim=1), dim=1).numpy()
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1) < 1e-6).all():
        wrong = names[int(np.argmax(~(np.abs(lengths - 1) < 1e-6)))]
        raise NetworkError(f"the text tower gives no direction for {shown(wrong)}: zero, or no finite number")
    return vectors
