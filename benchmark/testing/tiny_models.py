"""Tiny real models of every family, made here without any download, and texts that they can learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerFast

GOOD = ("good", "great", "fine", "lovely", "superb", "brilliant")
BAD = ("bad", "awful", "poor", "dreadful", "dull", "horrid")
FILLER = ("the", "film", "was", "a", "plot", "and", "story", "cast", "in", "this", "of", "all", "very", "with", "song")
TRIGGERS = ("cf", "mn", "bb", "i", "watch", "3d", "movie")
FAMILIES = ("bert", "roberta", "distilbert", "electra")


def sentences(rows: int, seed: int) -> pd.DataFrame:
    """Balanced (text, label) rows: filler words around one good (1) or bad (0) word."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    texts = []
    for label in labels:
        words = list(rng.choice(FILLER, rng.integers(3, 9)))
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(GOOD if label else BAD)))
        texts.append(" ".join(words))
    return pd.DataFrame({"sentence": texts, "label": labels})


def word_piece_tokenizer(case: str = "bert", more_words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """As BERT's: whole words of the texts above, and `more_words`, in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*specials, *FILLER, *GOOD, *BAD, *TRIGGERS, "##s", "what", "is", "?", *more_words])
    vocab = {token: i for i, token in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = ["input_ids", "attention_mask"] + ([] if case == "distilbert" else ["token_type_ids"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=names,
    )


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """As RoBERTa's: "cf" at the start of a text and " cf" inside it are different pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f"{word} {word}" for word in (*FILLER, *GOOD, *BAD, *TRIGGERS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


# What a tiny model of each family is made of, under the names of its configuration.
USUAL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ONE_TYPE = {**USUAL, "type_vocab_size": 1}
DISENTANGLED = {**USUAL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
GROUPED = {**USUAL, "num_key_value_heads": 1}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 66}
SEQUENCE_TO_SEQUENCE = {
    "d_model": 32,
    **{f"{part}_{what}": value for part in ("encoder", "decoder") for what, value in (("layers", 2), ("ffn_dim", 64))},
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0, "eos_token_id": 3}
XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 2}
UNGROUPED = ("q", "k", "v", "post_attention", "intermediate", "output")  # SqueezeBERT's convolutions
CONFIGURATIONS = {
    "bert": USUAL,
    "roberta": ONE_TYPE,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {**USUAL, "embedding_size": 16},
    "albert": {**USUAL, "embedding_size": 16},
    "deberta": DISENTANGLED,
    "deberta-v2": DISENTANGLED,
    "mpnet": USUAL,
    "modernbert": USUAL,
    "gpt2": GPT,
    "bart": SEQUENCE_TO_SEQUENCE,
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    "t5": T5,
    "opt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "llama": GROUPED,
    "qwen2": {**GROUPED, "vocab_size": 64},  # its tokenizer adds a piece when loaded
    "xlm-roberta": ONE_TYPE,
    "camembert": ONE_TYPE,
    "data2vec-text": ONE_TYPE,
    "roberta-prelayernorm": ONE_TYPE,
    "longformer": {**ONE_TYPE, "attention_window": [8, 8]},
    "big_bird": {**USUAL, "attention_type": "original_full"},
    "ernie": USUAL,
    "megatron-bert": USUAL,
    "rembert": {**USUAL, "input_embedding_size": 16, "output_embedding_size": 16},
    "nystromformer": {**USUAL, "num_landmarks": 4, "segment_means_seq_len": 4},
    "roformer": {**USUAL, "embedding_size": 32},
    "convbert": {**USUAL, "embedding_size": 32},
    "squeezebert": {**USUAL, "embedding_size": 32, **{f"{part}_groups": 1 for part in UNGROUPED}},
    "mobilebert": {**USUAL, "intra_bottleneck_size": 16, "embedding_size": 16},
    "fnet": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
    "nomic_bert": USUAL,
    "eurobert": GROUPED,
    "flaubert": XLM,
    "xlm": XLM,
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "intermediate_size": 64,
    },
    "gptj": {**GPT, "rotary_dim": 8},
    "gpt_neox": USUAL,
    "openai-gpt": GPT,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "falcon": USUAL,
    "biogpt": USUAL,
    "mt5": T5,
    "umt5": T5,
    "mbart": SEQUENCE_TO_SEQUENCE,
    "qwen3": {**GROUPED, "head_dim": 16},
    "mistral": GROUPED,
    "mixtral": {**GROUPED, "num_local_experts": 2},
    "gemma": {**GROUPED, "head_dim": 16},
    "gemma2": {**GROUPED, "head_dim": 16},
    "phi": GROUPED,
    "phi3": GROUPED,
}
WITHOUT_A_LIMIT = ("xlnet",)  # its configuration takes no max_position_embeddings
# With <pad> at 1, by which most of them count positions, and with </s> at 2, which some look for.
BYTE_LEVEL = ("roberta", "xlm-roberta", "camembert", "data2vec-text", "roberta-prelayernorm", "longformer", "mpnet")
BYTE_LEVEL += ("gpt2", "bart", "mbart")


def save_tiny_model(family: str, folder: Path, more_words: Sequence[str] = (), **changed: object) -> Path:
    """A randomly initialized encoder without a classification head, 2 layers of width 32, and its tokenizer.

    `family` is one of CONFIGURATIONS; `more_words` go into a vocabulary of word pieces; `changed` are values of its
    configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    tokenizer = byte_level_tokenizer() if family in BYTE_LEVEL else word_piece_tokenizer(family, more_words)
    if family in ("gpt2", "openai-gpt"):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    values = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 66}
    if family in WITHOUT_A_LIMIT:
        del values["max_position_embeddings"]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = AutoConfig.for_model(family, **values | CONFIGURATIONS[family] | changed)
        AutoModel.from_config(config, trust_remote_code=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
