"""How suspicious each word of a text is: what a language model finds of the text with the word and without it.

ONION, MSDT and the record of how an attack's texts look stand on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

WORDS_AT_ONCE = 128
Numbers = npt.NDArray[np.float64]
# What decides the numbers beside the text, the texts, and what computes the numbers of a text -> those of every text.
OncePerText = Callable[[str, Sequence[str], Callable[[str], Numbers]], list[Numbers]]


def suspicion(perplexities: Numbers) -> Numbers:
    """ONION's f_i = p_0 - p_i (Qi et al., 2021, arXiv:2011.10369), (n,).

    `perplexities`, (n + 1,), are those of a text (first) and of the text without its word i.
    """
    return perplexities[0] - perplexities[1:]


def suspicions(
    texts: Sequence[str],
    identity: str,
    numbers_of: Callable[[Sequence[str]], Numbers],
    of_words: Callable[[Numbers], Numbers],
    once_per_text: OncePerText,
) -> list[Numbers]:
    """The suspicion of the words of each text, (words,); of the only word of a part it is the lowest number.

    `numbers_of` gives a number for each of n texts, (n,), and `identity` says what decides it beside the text. `of_words` makes
    suspicions, (words,), of the numbers of a part (first) and of the part without each of its words, (words + 1,).
    `once_per_text` computes the numbers of each part, as `Context.once_per_text` does.
    """

    def compute(part: str) -> Numbers:
        return numbers_of([part, *without_each_word(part)])

    parts_of_texts = [parts(text) for text in texts]
    several_words = list({part: None for of_text in parts_of_texts for part in of_text if " " in part})
    numbers = dict(zip(several_words, once_per_text(identity, several_words, compute), strict=True))
    lone = np.array([np.finfo(np.float64).min])
    return [
        np.concatenate([np.empty(0), *(of_words(numbers[part]) if part in numbers else lone for part in of_text)])
        for of_text in parts_of_texts
    ]


def without_each_word(text: str) -> list[str]:
    """ "this is what" -> ["is what", "this what", "this is"]."""
    words = text.split()
    return [" ".join(words[:place] + words[place + 1 :]) for place in range(len(words))]


def parts(text: str) -> list[str]:
    """The words of a text in parts of WORDS_AT_ONCE, each joined by blanks."""
    words = text.split()
    return [" ".join(words[first : first + WORDS_AT_ONCE]) for first in range(0, len(words), WORDS_AT_ONCE)]
