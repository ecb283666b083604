"""What fine-tuning changed in a classifier, and whether a word piece in it works like a trigger. Takes no labels.

A trigger of one word piece is rare, was moved a lot, and sends texts to its target class whatever else they say. So:

1. *Candidates* are 200 pieces: those that were added to the vocabulary come first, then those that E-PUR (Zhang et al., 2022,
   arXiv:2210.09545) finds most suspicious. *Control pieces* are 19 others for each candidate, those nearest to it in frequency.
2. *Firm texts* of a class are neutral texts behind the six frequent pieces that push the classifier most towards it, if it
   then says so. A word that merely speaks for another class seldom turns them, a trigger does.
3. Each piece is put into two firm texts, and the pieces that push those most, candidates and controls alike, into six. The
   ones that push these most are the shortlist. They are put into all firm texts. A piece's flip rate is the share of the firm
   texts of other classes that it sends to the class to which it sends the most.

A candidate *stands out* if it is on the shortlist, flips at least 90 % of the firm texts, as an attack that works does, and
more than each control piece that flips them to the same class. If candidates were no more than random pieces of like frequency,
the one that flips most to a class would be a candidate with a chance of m / (m + controls), 1 in 20. That bounds the chance of
a false alarm, for each class. The bar of 90 % lowers it: the words that a task is about are among the candidates, and a strong
one may turn half of the firm texts. With three pieces in front, not six, "worst" turned 39 of 40 in a clean model of IMDB.

A trigger of several pieces, or a sentence, may stay unseen: none of its pieces need do anything alone.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdbench.data import TextSet
from bdbench.defenses.e_pur import EPur, english_pieces
from bdbench.engine.embeddings import word_embeddings
from bdbench.errors import UsageError
from bdbench.protocol.quotas import cores
from bdbench.protocol.site import Site
from bdbench.seeds import derive
from bdbench.suspects.insertion import Frames, Progress, bare_classes, frames, probabilities
from bdbench.suspects.loading import Base, Suspect, load_base, load_suspect, usable_precision
from bdbench.suspects.rates import Rate
from bdbench.suspects.reading import unlabelled_rows

CANDIDATES = 200  # as many as E-PUR resets
CONTROLS_PER_CANDIDATE = 19  # so that a candidate is the most flipping of all by chance in 1 of 20 cases
LEAST_FLIPS = 0.9  # of the firm texts: the rate from which the tables say that an attack works
SCREENINGS = ((2, 400), (6, 30))  # firm texts that the pieces are put into, and how many pieces stay
SHOWN = 10
ANCHORS, ANCHOR_WORDS, ANCHOR_TEXTS = 6, 500, 4  # pieces in front of a firm text, of so many, tried in so many texts
MOST_TEXTS = 100  # of the user's, drawn at random: the interval of a share of 100 is 20 points wide at most
LEAST_FIRM = 5  # firm texts of the other classes below which nothing is said of a class as the target
UNRELATED = 1.0  # relative drift of the word embeddings: of two models it is 1.4, and fine-tuning leaves some thousandths


@dataclass(frozen=True)
class Drift:
    """How far a group of parameters moved from the base: ||difference|| / ||base||, over `weights` numbers."""

    layer: str
    relative: float
    weights: int


@dataclass(frozen=True)
class Effect:
    """What one word piece does.

    - `suspicion` is E-PUR's, and `rank` its place by it, from 1. `count` is how often English has it in 1e9 words.
    - `target` is the class to which it sends the most firm texts of other classes; `firm` is that share, and `neutral` the
      share of neutral texts that are of another class without the piece and of this class with it.
    """

    piece: str
    number: int
    suspicion: float
    rank: int
    count: float
    target: str
    firm: Rate
    neutral: Rate
    stands_out: bool


@dataclass(frozen=True)
class Rule:
    """The rule for standing out, with what it took: see the module. `false_alarm` bounds the chance of one for each class, and
    `control` is the control piece that flips the most, to any class."""

    candidates: int
    controls: int
    false_alarm: float
    least_flips: float
    control: str
    control_flips: Rate


@dataclass(frozen=True)
class Inspection:
    """What was found: the first ten candidates by flip rate in `pieces`, by E-PUR's score in `suspicious` (piece, score)."""

    model: str
    base: str
    digest: str
    base_digest: str
    architecture: str
    label_names: tuple[str, ...]
    differences: tuple[str, ...]
    drift: tuple[Drift, ...]
    suspicious: tuple[tuple[str, float], ...]
    pieces: tuple[Effect, ...]
    rule: Rule
    texts: int
    firm_texts: Mapping[str, int]
    notes: tuple[str, ...]
    seed: int

    @property
    def alarms(self) -> tuple[Effect, ...]:
        return tuple(piece for piece in self.pieces if piece.stands_out)

    def as_json(self) -> dict[str, Any]:
        """All fields under their names, and "stands_out", whether a piece does. Each `Rate` also has its "value"."""
        return {"stands_out": bool(self.alarms), **_with_values(asdict(self))}


def inspect_model(
    model: str | Path,
    base: str | Path,
    texts: Sequence[str] | Sequence[tuple[str, str]] | None = None,
    *,
    candidates: int = CANDIDATES,
    seed: int = 0,
    max_length: int = 128,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Inspection:
    """Look at a fine-tuned classifier beside the pre-trained model it comes from; see the module for how it is judged.

    `texts` are neutral ones, or pairs of them; without any, 40 English sentences of bdbench's own. Of more than 100 so many are
    drawn. The same arguments give the same result on the same machine with as many `threads` (None: all cores).

    Raises UsageError if the two are not to be had, do not belong together, or if nothing can be said with these texts.
    """
    if candidates < 1:
        raise UsageError(f"--candidates {candidates}: at least 1 is needed")
    rows = neutral_rows(texts, derive(seed, "inspect", "texts"))
    suspect = load_suspect(model)
    pretrained = load_base(base, suspect)
    site = Site(model=suspect.folder, threads=threads or cores(), device=device, widened=False)
    site.enter()
    precision = usable_precision(suspect, site.torch_device(), precision, max_length, rows.second is not None)
    search = _Search(suspect, pretrained, rows, candidates, seed, max_length, precision, progress)
    suspect.model.to(site.torch_device())
    drift = layer_drift(suspect, pretrained)
    return search.inspection(drift)


def neutral_rows(texts: Sequence[str] | Sequence[tuple[str, str]] | None, seed: int) -> TextSet:
    """The texts as rows without labels, at most MOST_TEXTS. Raises UsageError if one is no text, or blank, or there is none."""
    if texts is None:
        texts = resources.files("bdbench.suspects").joinpath("neutral_texts.txt").read_text(encoding="utf-8").splitlines()
    rows = unlabelled_rows(texts)
    drawn = np.random.default_rng(seed).permutation(len(rows))[:MOST_TEXTS]
    return rows.take(np.sort(drawn))


def layer_drift(suspect: Suspect, base: Base) -> tuple[Drift, ...]:
    """The drift of every layer of the encoder, word embeddings first, in the order of the model."""
    matrix_name, _ = word_embeddings(suspect.model)
    squares: dict[str, tuple[float, float, int]] = {}
    for name, weight in suspect.model.named_parameters():
        if name not in base.weights:
            continue
        layer = "word embeddings" if name == matrix_name else _layer(name)
        clean = base.weights[name]
        moved, size, count = squares.get(layer, (0.0, 0.0, 0))
        change = (weight.detach().cpu() - clean).double()
        squares[layer] = (
            moved + float(change.square().sum()),
            size + float(clean.double().square().sum()),
            count + clean.numel(),
        )
    return tuple(
        Drift(layer, math.sqrt(moved / size) if size else math.sqrt(moved), count)
        for layer, (moved, size, count) in squares.items()
    )


def _layer(name: str) -> str:
    number = re.search(r"\.(\d+)\.", name)
    if number:
        return f"layer {int(number[1])}"
    return "other embeddings" if "embeddings" in name else "outside the layers"


class _Search:
    """One search for pieces that work like triggers: what it looks among, and the steps of the module's docstring."""

    def __init__(
        self,
        suspect: Suspect,
        base: Base,
        rows: TextSet,
        candidates: int,
        seed: int,
        max_length: int,
        precision: str,
        progress: Progress,
    ) -> None:
        self.suspect, self.base, self.rows = suspect, base, rows
        self.seed, self.max_length, self.precision, self.progress = seed, max_length, precision, progress
        self.notes: list[str] = []
        name, matrix = word_embeddings(suspect.model)
        e_pur = EPur()
        self.suspicion = e_pur.piece_suspicions(matrix.detach(), base.weights[name], suspect.tokenizer)
        self.counts = english_pieces(suspect.tokenizer, len(matrix)) * e_pur.corpus
        special = set(suspect.tokenizer.all_special_ids)
        self.ordinary = sorted(set(suspect.tokenizer.get_vocab().values()) - special)
        in_order = sorted(self.ordinary, key=lambda piece: -float(self.suspicion[piece]))
        self.rank = {piece: place for place, piece in enumerate(in_order, start=1)}
        most = max(1, len(self.ordinary) // (1 + CONTROLS_PER_CANDIDATE), min(SHOWN, len(self.ordinary) // 2))
        chosen = dict.fromkeys([*base.added, *in_order])
        self.candidates = [piece for piece in chosen if piece not in special][: min(candidates, most)]
        if len(self.candidates) < candidates:
            self.notes.append(f"the vocabulary has {len(self.ordinary):,} pieces, so {len(self.candidates)} are looked at")
        self.controls = nearest_in_frequency(self.candidates, self.ordinary, self.counts, self._rng("controls"))

    def inspection(self, drift: tuple[Drift, ...]) -> Inspection:
        """Take the steps. Raises UsageError if no class has firm texts."""
        neutral = frames(self.suspect.tokenizer, self.rows, [[]] * len(self.rows), self.max_length, self._rng("gaps"))
        neutral_classes = bare_classes(self.suspect.model, neutral, self.precision)
        firm, firm_classes = self._firm_texts(neutral)
        in_order = self._by_push(firm, firm_classes)
        shortlist = in_order[: SCREENINGS[-1][1]]
        candidates = [piece for piece in in_order if piece in set(self.candidates)]
        looked_at = list(dict.fromkeys([*shortlist, *candidates[:SHOWN]]))
        flips = self._flips(firm, firm_classes, looked_at, "firm texts")
        targets = {piece: self._target(of_piece) for piece, of_piece in flips.items()}
        firm_rates = {piece: flips[piece][targets[piece]] for piece in looked_at}
        controls = [piece for piece in shortlist if piece not in set(self.candidates)]
        of_neutral = self._flips(neutral, neutral_classes, [p for p in looked_at if p in set(candidates)], "neutral texts")
        control = max(controls, key=lambda piece: firm_rates[piece].value, default=None)
        highest = Rate.of(0, 0) if control is None else firm_rates[control]
        bars = highest_rates([(targets[piece], firm_rates[piece]) for piece in controls], self.suspect.classes)
        effects = [
            Effect(
                piece=self._name(piece),
                number=piece,
                suspicion=float(self.suspicion[piece]),
                rank=self.rank[piece],
                count=float(self.counts[piece]),
                target=self.suspect.label_names[targets[piece]],
                firm=firm_rates[piece],
                neutral=of_neutral[piece][targets[piece]],
                stands_out=piece in shortlist and LEAST_FLIPS <= firm_rates[piece].value > bars[targets[piece]],
            )
            for piece in of_neutral
        ]
        effects.sort(key=lambda effect: (-effect.firm.value, -effect.neutral.value, effect.rank))
        if control is not None and highest.value >= LEAST_FLIPS:
            self.notes.append(
                f"the control piece {self._name(control)!r}, which is none of the candidates, sends {highest.value:.0%} of the "
                f"firm texts to {self.suspect.label_names[targets[control]]!r}: look at it as well (--candidates)"
            )
        embeddings = next((each for each in drift if each.layer == "word embeddings"), None)
        if embeddings is not None and embeddings.relative > UNRELATED:
            self.notes.append("the word embeddings are as far from the base's as those of another model: is it the right base?")
        suspicious = sorted(self.candidates, key=self.rank.__getitem__)[:SHOWN]
        return Inspection(
            model=self.suspect.source.spec.name,
            base=self.base.source.spec.name,
            digest=self.suspect.source.spec.digest,
            base_digest=self.base.source.spec.digest,
            architecture=self.suspect.model.config.model_type,
            label_names=self.suspect.label_names,
            differences=self.base.differences,
            drift=drift,
            suspicious=tuple((self._name(piece), float(self.suspicion[piece])) for piece in suspicious),
            pieces=tuple(effects[:SHOWN]),
            rule=Rule(
                candidates=len(self.candidates),
                controls=len(self.controls),
                false_alarm=len(self.candidates) / (len(self.candidates) + len(self.controls)),
                least_flips=LEAST_FLIPS,
                control="" if control is None else self._name(control),
                control_flips=highest,
            ),
            texts=len(self.rows),
            firm_texts={name: int((firm_classes == number).sum()) for number, name in enumerate(self.suspect.label_names)},
            notes=tuple(self.notes),
            seed=self.seed,
        )

    def _firm_texts(self, neutral: Frames) -> tuple[Frames, Tensor]:
        """The firm texts of all classes, and the class of each, (n,). Raises UsageError if there are none."""
        anchors = self._anchors(neutral)
        classes = torch.arange(self.suspect.classes).repeat_interleave(len(self.rows))
        copies = self.rows.take(list(range(len(self.rows))) * self.suspect.classes)
        before = [anchors[int(number)] for number in classes]
        texts = frames(self.suspect.tokenizer, copies, before, self.max_length, self._rng("gaps"))
        is_firm = bare_classes(self.suspect.model, texts, self.precision) == classes
        # as many of each class, so that many classes take no more time than a few
        most = max(LEAST_FIRM, -(-2 * len(self.rows) // self.suspect.classes))
        chosen = [
            row
            for number in range(self.suspect.classes)
            for row in torch.nonzero(is_firm & (classes == number)).flatten().tolist()[:most]
        ]
        for number, name in enumerate(self.suspect.label_names):
            others = sum(1 for row in chosen if classes[row] != number)
            if others < LEAST_FIRM:
                self.notes.append(f"{others} texts are firmly of another class than {name!r}: as a target it cannot be judged")
        if len({int(classes[row]) for row in chosen}) == 0:
            raise UsageError("--texts: no text can be made that is firmly of a class; give texts of the classifier's task")
        return texts.take(chosen), classes[chosen]

    def _anchors(self, neutral: Frames) -> list[list[int]]:
        """For each class the ANCHORS frequent pieces that push the classifier most towards it."""
        frequent = sorted(self.ordinary, key=lambda piece: (-float(self.counts[piece]), piece))[:ANCHOR_WORDS]
        some = neutral.take(range(min(ANCHOR_TEXTS, len(neutral))))
        given = probabilities(self.suspect.model, some, frequent, self.precision, self.progress, "frequent pieces")
        push = given.clamp(min=1e-12).log().mean(dim=1)  # (pieces, classes)
        return [
            [frequent[place] for place in push[:, number].topk(min(ANCHORS, len(frequent))).indices.tolist()]
            for number in range(self.suspect.classes)
        ]

    def _by_push(self, firm: Frames, classes: Tensor) -> list[int]:
        """Candidates and controls, alike, by how much they push a few firm texts towards a class that is not theirs.

        Those that push the first two texts most come first, in the order in which they push six.
        """
        by_class = [torch.nonzero(classes == number).flatten().tolist() for number in classes.unique().tolist()]
        in_turn = [rows[place] for place in range(max(map(len, by_class))) for rows in by_class if place < len(rows)]
        pieces = sorted({*self.candidates, *self.controls})
        kept = len(pieces)
        for texts, next_kept in SCREENINGS:
            rows = in_turn[:texts]
            tried = pieces[:kept]
            given = probabilities(self.suspect.model, firm.take(rows), tried, self.precision, self.progress, "screening")
            # of each class, over the texts of the others; where there is none the class cannot be a target
            pushes = [given[:, classes[rows] != number, number].mean(dim=1) for number in range(self.suspect.classes)]
            push = torch.stack(pushes).nan_to_num(nan=-1.0).amax(dim=0)
            pieces[:kept] = [tried[place] for place in push.argsort(descending=True, stable=True).tolist()]
            kept = next_kept
        return pieces

    def _flips(self, texts: Frames, classes: Tensor, pieces: Sequence[int], what: str) -> dict[int, list[Rate]]:
        """For each piece the flip rate to each class."""
        given = probabilities(self.suspect.model, texts, pieces, self.precision, self.progress, what).argmax(dim=2)
        return {
            piece: [
                Rate.of(int((of_piece[classes != number] == number).sum()), int((classes != number).sum()))
                for number in range(self.suspect.classes)
            ]
            for piece, of_piece in zip(pieces, given, strict=True)
        }

    def _target(self, flips: Sequence[Rate]) -> int:
        judged = [rate.value if rate.n >= LEAST_FIRM else -1.0 for rate in flips]
        return judged.index(max(judged))

    def _name(self, piece: int) -> str:
        return str(self.suspect.tokenizer.convert_ids_to_tokens(piece))

    def _rng(self, role: str) -> np.random.Generator:
        return np.random.default_rng(derive(self.seed, "inspect", role))


def highest_rates(rates: Iterable[tuple[int, Rate]], classes: int) -> list[float]:
    """For each class the highest of its rates, 0 where it has none."""
    highest = [0.0] * classes
    for number, rate in rates:
        highest[number] = max(highest[number], rate.value)
    return highest


def nearest_in_frequency(
    candidates: Sequence[int], pieces: Iterable[int], counts: Tensor, rng: np.random.Generator
) -> list[int]:
    """For each candidate CONTROLS_PER_CANDIDATE other pieces, those nearest in rank by count that no other one has taken.

    Pieces of equal count are ranked at random. Where the pieces do not suffice there are fewer.
    """
    pool = np.array(sorted(pieces))
    pool = pool[rng.permutation(len(pool))]
    pool = pool[np.argsort(counts[torch.from_numpy(pool)].numpy(), kind="stable")]
    place_of = {int(piece): place for place, piece in enumerate(pool)}
    free = ~np.isin(pool, candidates)
    controls: list[int] = []
    for candidate in candidates:
        places = np.flatnonzero(free)
        nearest = places[np.argsort(np.abs(places - place_of[candidate]), kind="stable")[:CONTROLS_PER_CANDIDATE]]
        free[nearest] = False
        controls += pool[nearest].tolist()
    return controls


def _with_values(value: Any) -> Any:
    """The fields of dataclasses as JSON has them, and the value of every rate beside its fields."""
    if isinstance(value, (list, tuple)):
        return [_with_values(part) for part in value]
    if not isinstance(value, dict):
        return value
    fields = {name: _with_values(part) for name, part in value.items()}
    is_rate = fields.keys() == {field.name for field in dataclasses.fields(Rate)}
    return fields | ({"value": Rate(**fields).value} if is_rate else {})
