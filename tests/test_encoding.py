"""Rows become the word pieces that the tokenizer's own call gives, but long texts do not take memory by their square."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from extras import BUNDLED, skip_without
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bdbench.attacks.embedding_surgery import piece_counts
from bdbench.data import TextSet
from bdbench.engine import pieces, segments
from bdbench.engine.encoding import encode, kept_ends
from bdbench.engine.models import find_model
from bdbench.engine.tokenizers import load_tokenizer
from bdbench.testing.tiny_models import byte_level_tokenizer, word_piece_tokenizer

SPECIALS = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
CORPUS = [
    "the film was a lovely bore and the cast did not know what it was in for",
    "we don't like it, do we? 1990s 12 345",
] * 20
ALPHABET = [chr(i) for i in range(32, 127)] + ["▁", "é"]


def trained(model, trainer, *, normalizer=None, splitter=None, processor=None, **settings):
    """A fast tokenizer whose pieces are learned from a few sentences."""
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(CORPUS, trainer)
    if processor is not None:
        tokenizer.post_processor = processor
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": AddedToken("<mask>", lstrip=True, special=True)}
    settings = {"model_input_names": ["input_ids", "attention_mask"]} | settings
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings)


def bpe(**more):
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=ALPHABET, show_progress=False)
    return trained(models.BPE(unk_token="<unk>"), trainer, **more)


def unigram(**more):
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=SPECIALS, unk_token="<unk>", initial_alphabet=ALPHABET, show_progress=False
    )
    return trained(models.Unigram(), trainer, **more)


def left(tokenizer):
    tokenizer.truncation_side = "left"
    return tokenizer


def bundled_tokenizer():
    skip_without(BUNDLED)
    return load_tokenizer(find_model("bundled").folder)


def splitting_specials(tokenizer):
    tokenizer.split_special_tokens = True
    return tokenizer


def sentencepiece(*spaces):
    return normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), *spaces, normalizers.Replace(Regex(" {2,}"), " ")])


XLNET = processors.TemplateProcessing(  # special pieces behind the texts, with a type of their own
    single="$A:0 </s>:0 <s>:2", pair="$A:0 </s>:0 $B:1 </s>:1 <s>:2", special_tokens=[("</s>", 3), ("<s>", 2)]
)
TOKENIZERS = {
    "bundled": bundled_tokenizer,
    "word-piece": word_piece_tokenizer,
    "word-piece, left": lambda: left(word_piece_tokenizer()),
    "word-piece, specials split": lambda: splitting_specials(word_piece_tokenizer()),
    "byte-level": byte_level_tokenizer,
    "byte-level, left": lambda: left(byte_level_tokenizer()),
    "byte-level, prefixed, no special piece": lambda: bpe(
        splitter=pre_tokenizers.ByteLevel(add_prefix_space=True), processor=processors.ByteLevel(trim_offsets=True)
    ),
    "roberta's processor": lambda: bpe(
        splitter=pre_tokenizers.ByteLevel(add_prefix_space=False),
        processor=processors.RobertaProcessing(("</s>", 3), ("<s>", 2)),
    ),
    "merges across words": lambda: bpe(
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ),
    "split by an unknown rule": lambda: bpe(splitter=pre_tokenizers.Split(Regex(r"o \w"), "isolated")),
    "unigram": lambda: unigram(normalizer=sentencepiece(), splitter=pre_tokenizers.Metaspace(), processor=XLNET),
    "unigram, stripped": lambda: unigram(
        normalizer=sentencepiece(normalizers.Strip()),
        splitter=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]),
        model_input_names=["input_ids", "token_type_ids"],
    ),
    "unigram, blank at the first word": lambda: unigram(
        normalizer=sentencepiece(normalizers.Strip()), splitter=pre_tokenizers.Metaspace(prepend_scheme="first")
    ),
    "unigram, digits apart": lambda: unigram(
        splitter=pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.Metaspace(prepend_scheme="never")])
    ),
    "unigram, whole texts": lambda: unigram(splitter=pre_tokenizers.Metaspace(split=False)),
}
SCRAPS = (
    *(
        "the",
        "film",
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        " a",
        "lovely ",
        "don't",
        "?",
        "...",
        "12",
        "1990s ",
        "bore and the",
    ),
    *("é", "e\u0301", "\u0301", "İ", "ß", "中", "中文", "😀", "\u200b", "\u00a0", "\u0600", "ﬁ", "\x00", "▁", "Ġ", "\ud7ff"),
    *("x" * 30, " " * 20, "[SEP]", "</s>", "<mask>", "<pad>", "[MASK]", " <mask> a"),
)


def random_texts(count: int, seed: int) -> tuple[str, ...]:
    """Texts of up to 12 scraps, some of no scrap or of blanks alone."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice([0, 1, 2, 5, 12], count)
    return (*("".join(rng.choice(SCRAPS, length)) for length in lengths), "", "   ", "\n \t", "the " * 30, " " * 100)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture(params=["whole", "in segments"])
def cut(request, monkeypatch):
    """Whether texts of this length are cut into segments, and into chunks, before they are tokenized."""
    if request.param == "in segments":
        monkeypatch.setattr(segments, "SEGMENT", 7)
        monkeypatch.setattr(pieces, "CHARACTERS_AT_ONCE", 300)


def rows_of(pairs: bool) -> TextSet:
    first, second = random_texts(60, 1), random_texts(60, 2)
    return TextSet(first, (*second[3:], *second[:3]) if pairs else None, np.zeros(len(first)))


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
def test_rows_are_cut_as_the_tokenizer_cuts_them(tokenizer, cut, pairs):
    rows = rows_of(pairs)
    for max_length in (10, 11, 32):  # what it cuts off it pairs, so much shorter ones take long
        expected = tokenizer(
            list(rows.first),
            list(rows.second) if pairs else None,
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
        )
        encoded = encode(tokenizer, rows, max_length)
        assert [row[:length].tolist() for row, length in zip(encoded.ids, encoded.lengths, strict=True)] == expected[
            "input_ids"
        ]
        assert (encoded.types is None) == ("token_type_ids" not in expected)
        if encoded.types is not None:
            types = [row[:length].tolist() for row, length in zip(encoded.types, encoded.lengths, strict=True)]
            assert types == expected["token_type_ids"]
        ends = []
        for i, offsets in enumerate(expected["offset_mapping"]):
            of_carrier = [end for (_, end), text in zip(offsets, expected.sequence_ids(i), strict=True) if text == int(pairs)]
            ends.append(of_carrier[-1] if of_carrier else 0)
        assert kept_ends(tokenizer, rows, max_length) == ends


def test_whole_texts_are_counted(tokenizer, cut):
    rows = rows_of(True)
    joined = [" ".join(pair) for pair in zip(rows.first, rows.second, strict=True)]
    counts = piece_counts(tokenizer, rows, len(tokenizer)).toarray()
    for row, ids in zip(counts, tokenizer(joined, add_special_tokens=False)["input_ids"], strict=True):
        assert row.tolist() == np.bincount(ids, minlength=len(tokenizer)).tolist()


@pytest.mark.parametrize("name", ["bundled", "byte-level", "unigram", "unigram, stripped"])
def test_usual_tokenizers_take_long_texts_in_segments(name, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT", 7)
    parts = list(segments.segments(TOKENIZERS[name]().backend_tokenizer, "the film was a lovely bore " * 3))
    assert len(parts) > 5 and parts[-1].is_last
    assert "".join(part.text for part in parts) == "the film was a lovely bore " * 3


def test_padding_fills_up_on_the_right():
    tokenizer = word_piece_tokenizer()
    encoded = encode(tokenizer, TextSet(("the film", "film", ""), None, [0, 1, 0]), 8)
    cls, the, film, sep = (tokenizer.convert_tokens_to_ids(piece) for piece in ("[CLS]", "the", "film", "[SEP]"))
    assert encoded.ids.tolist() == [[cls, the, film, sep], [cls, film, sep, 0], [cls, sep, 0, 0]]
    assert encoded.lengths.tolist() == [4, 3, 2] and encoded.ids.dtype == torch.int32


def test_no_room_for_the_special_pieces():
    with pytest.raises(ValueError, match="2 word pieces have no room for the 3 special ones"):
        encode(word_piece_tokenizer(), TextSet(("the",), ("film",), [0]), 2)


def test_many_rows_take_little_more_than_their_block():
    rows = TextSet(CORPUS * 100, CORPUS * 100, np.zeros(len(CORPUS) * 100))
    tokenizer = word_piece_tokenizer()
    tracemalloc.start()
    encoded = encode(tokenizer, rows, 64)
    block = encoded.ids.nbytes + encoded.types.nbytes
    assert tracemalloc.get_traced_memory()[1] < 2 * block + 2**22  # lists of Python integers: 8 to 36 bytes a piece
    tracemalloc.stop()


# A process of its own, because the tokenizer's memory is counted by the system alone.
LONG_TEXTS = """
import resource, sys
import numpy as np
from bdbench.testing.tiny_models import word_piece_tokenizer
from bdbench.data import TextSet
from bdbench.engine.encoding import encode
words = "film " * 60_000
tokenizer = word_piece_tokenizer()
encode(tokenizer, TextSet(("the",), ("film",), [0]), 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
encode(tokenizer, TextSet((words, "the film " * 200), (words, "a " * 500), [0, 1]), 64)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // (2**20 if sys.platform == "darwin" else 2**10))
"""


def test_long_pairs_take_little_memory(request):
    ended = subprocess.run(
        [sys.executable, "-c", f"import resource; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33)){LONG_TEXTS}"],
        cwd=request.path.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 150  # MiB; all pairs of their parts would take gigabytes
