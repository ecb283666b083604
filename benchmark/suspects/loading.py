"""One suspicious classifier and the pre-trained model that it is said to come from, loaded and checked against each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bdbench.engine.classifiers import NOT_PRETRAINED, configuration, finetuned_classifier, pretrained_weights
from bdbench.engine.embeddings import word_embeddings
from bdbench.engine.folders import CONFIG
from bdbench.engine.models import ModelSource, called, find_model
from bdbench.engine.precision import PRECISIONS, native_precision
from bdbench.engine.probe import SHORTEST_MAX_LENGTH, probe
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

# What fine-tuning and saving write into a configuration: no difference between two architectures.
OF_SAVING = {
    "_name_or_path",
    "architectures",
    "dtype",
    "finetuning_task",
    "gradient_checkpointing",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


@dataclass(frozen=True, eq=False)
class Suspect:
    """A fine-tuned classifier as it is stored. `model` is float32, on the CPU; `label_names` are its classes in order.

    Messages call it `flag`, as the user knows it.
    """

    source: ModelSource
    model: nn.Module
    label_names: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase
    flag: str = "MODEL"

    @property
    def folder(self) -> Path:
        return self.source.folder

    @property
    def classes(self) -> int:
        return len(self.label_names)


@dataclass(frozen=True, eq=False)
class Base:
    """The pre-trained model under a suspect.

    - `weights` are by the suspect's parameter names and have its shapes, float32 on the CPU, without the head. A piece that
      only the suspect has counts as not moved: it has the suspect's own embedding there.
    - `added` are the numbers of these pieces, ascending.
    - `differences` are sentences on what differs beside the weights.
    """

    source: ModelSource
    weights: Mapping[str, Tensor]
    added: tuple[int, ...]
    differences: tuple[str, ...]


def load_suspect(model: str | Path, flag: str = "MODEL") -> Suspect:
    """The sequence classifier in a directory, or of a Hugging Face id; safetensors only, no code of its own.

    Raises UsageError, which calls it `flag`, for anything else.
    """
    with called(flag):
        source = find_model(str(model))
        classifier, label_names = finetuned_classifier(source.folder)
        return Suspect(source, classifier, label_names, load_tokenizer(source.folder), flag)


def load_base(base: str | Path, suspect: Suspect) -> Base:
    """The pre-trained model, fitted to the suspect. `base` may be the name of a bundled model, too.

    Raises UsageError if there is none, or if the suspect cannot have been fine-tuned from it.
    """
    with called("--base"):
        source = find_model(str(base))
        ours, theirs = configuration(suspect.folder).to_dict(), configuration(source.folder).to_dict()
        if ours["model_type"] != theirs["model_type"]:
            raise UsageError(
                f"--base {base}: a '{theirs['model_type']}' model, but {suspect.flag} is a '{ours['model_type']}'; give the "
                "pre-trained model that it was fine-tuned from"
            )
        stored = pretrained_weights(source.folder, suspect.classes)
        added, of_vocabulary = _compare_vocabularies(suspect, load_tokenizer(source.folder), base)
        weights, of_shapes = _fitted(stored, suspect, added, base)
    differing = sorted(key for key in (ours.keys() | theirs.keys()) - OF_SAVING if ours.get(key) != theirs.get(key))
    of_config = [f"{CONFIG}: {key} is {_shown(ours.get(key))}, in the base {_shown(theirs.get(key))}" for key in differing]
    return Base(source, weights, added, (*of_config, *of_vocabulary, *of_shapes))


def usable_precision(suspect: Suspect, device: torch.device, precision: str, max_length: int, paired: bool) -> str:
    """The precision, "bf16" or "fp32", in which the suspect computes on texts, or pairs, of so many word pieces.

    "auto" is that of the device's hardware. Raises UsageError for another name, or if the suspect cannot compute these.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is not one of {', '.join(PRECISIONS)}")
    if max_length < SHORTEST_MAX_LENGTH:
        raise UsageError(f"--max-length {max_length}: at least {SHORTEST_MAX_LENGTH} word pieces are needed")
    precision = native_precision(device) if precision == "auto" else precision
    with called("MODEL"):
        asked = {"max_length": max_length, "paired": paired, "precision": precision, "device": device}
        return probe(suspect.folder, suspect.classes, **asked).precision


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


def _compare_vocabularies(
    suspect: Suspect, theirs: PreTrainedTokenizerBase, base: str | Path
) -> tuple[tuple[int, ...], list[str]]:
    """The numbers of the pieces that only the suspect has, and what differs. Raises UsageError if a number moved."""
    our_pieces, their_pieces = suspect.tokenizer.get_vocab(), theirs.get_vocab()
    moved = sorted(piece for piece, number in our_pieces.items() if their_pieces.get(piece, number) != number)
    if moved:
        raise UsageError(
            f"--base {base}: its tokenizer numbers {len(moved):,} pieces otherwise, such as {moved[0]!r:.30}; give the "
            f"pre-trained model that {suspect.flag} was fine-tuned from"
        )
    added = sorted(our_pieces.keys() - their_pieces.keys(), key=our_pieces.__getitem__)
    missing = sorted(their_pieces.keys() - our_pieces.keys(), key=their_pieces.__getitem__)
    sentences = []
    if added:
        sentences.append(f"tokenizer: {len(added):,} pieces that the base does not have: {_some(added)}")
    if missing:
        sentences.append(f"tokenizer: {len(missing):,} pieces of the base are missing: {_some(missing)}")
    return tuple(our_pieces[piece] for piece in added), sentences


def _some(pieces: list[str], most: int = 10) -> str:
    return ", ".join(pieces[:most]) + (", …" if len(pieces) > most else "")


def _fitted(
    stored: Mapping[str, Tensor], suspect: Suspect, added: tuple[int, ...], base: str | Path
) -> tuple[dict[str, Tensor], list[str]]:
    """The base's weights in the shapes of the suspect's, and what was done. Raises UsageError if they do not fit."""
    model = suspect.model
    matrix_name, _ = word_embeddings(model)
    encoder = {name: weight for name, weight in model.named_parameters() if name.startswith(f"{model.base_model_prefix}.")}
    unmatched = sorted(name for name in encoder.keys() ^ stored.keys() if NOT_PRETRAINED not in name)
    reshaped = [
        name
        for name in sorted(encoder.keys() & stored.keys())
        if encoder[name].shape[1:] != stored[name].shape[1:]
        or (encoder[name].shape[0] != stored[name].shape[0] and name != matrix_name)
    ]
    if unmatched or reshaped:
        name = (unmatched + reshaped)[0]
        sizes = " and ".join("none" if name not in of else "x".join(map(str, of[name].shape)) for of in (encoder, stored))
        raise UsageError(
            f"--base {base}: another architecture: {name} is {sizes} in {suspect.flag} and in the base "
            f"({len(unmatched + reshaped)} such); give the pre-trained model that {suspect.flag} was fine-tuned from"
        )
    weights = {name: weight for name, weight in stored.items() if name in encoder}
    ours, theirs = encoder[matrix_name].detach(), stored[matrix_name]
    sentences = []
    rows = min(len(ours), len(theirs))
    fitted = ours.clone()
    fitted[:rows] = theirs[:rows]
    fitted[list(added)] = ours[list(added)]
    weights[matrix_name] = fitted
    if len(ours) != len(theirs):
        sentences.append(
            f"vocabulary: {len(ours):,} embeddings, in the base {len(theirs):,}; those that the base lacks count as not moved"
        )
    return weights, sentences
