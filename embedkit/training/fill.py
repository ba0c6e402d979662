"""Words for the masked places of a text, most likely first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from embedkit.encoders import ModelFolder
from embedkit.encoders.torch_encoder import resolve_device, takes_types
from embedkit.errors import ModelError, UsageError
from embedkit.runtime.tokens import Tokenizer
from embedkit.training.mlm import mask_tokens, open_masked, open_tokenizer
from embedkit.training.rows import padded_inputs

MASKS = ("[MASK]", "<mask>")  # how models write it; each is taken for either


class Guess(NamedTuple):
    """A word for a masked place.

    Attributes
    ----------
    word : str
        As it is read; what goes on with the word before begins as the vocabulary writes that (``##``).
    probability : float
    """

    word: str
    probability: float


class MaskFiller:
    """A model that guesses masked words.

    Parameters
    ----------
    folder : ModelFolder
    tokenizer : Tokenizer
    device : str
        As in `embedkit.encoders.EncoderSettings`.

    Raises
    ------
    ModelError
        The weights have no head that guesses masked words, or the vocabulary no mask token.
    """

    def __init__(self, folder: ModelFolder, tokenizer: Tokenizer, device: str) -> None:
        opened = open_masked(folder, seed=0)
        if opened.fresh:
            raise ModelError(
                f"{folder.resolved.name} has no head that guesses masked words: its weights lack "
                f"{', '.join(opened.lacking[:3])}; embedkit adapt trains one"
            )
        self.mask, vocabulary = mask_tokens(folder, tokenizer)
        self._mask_id, self._tokenizer = vocabulary.mask_id, tokenizer
        self._device = resolve_device(device)
        self._model = opened.model.to(self._device).eval()
        self._theirs = open_tokenizer(folder)

    def fill(self, text: str, top: int) -> list[list[Guess]]:
        """Return the likeliest words of each masked place, in the order of the text.

        Parameters
        ----------
        text : str
            With the mask token of the model, or one of `MASKS`, in one place or more.
        top : int
            Words of each.

        Raises
        ------
        UsageError
            There is no mask in the text, or one is beyond the greatest length.
        """
        for mask in MASKS:
            text = text.replace(mask, self.mask)
        asked = text.count(self.mask)
        if not asked:
            raise UsageError(f"the text has no {self.mask}; put one where a word is to be guessed")
        tokens = self._tokenizer.encode([text])
        places = np.flatnonzero(tokens.ids == self._mask_id)
        if len(places) < asked:
            raise UsageError(
                f"only {len(places)} of {asked} masks are within the first {self._tokenizer.max_length} tokens "
                "that the model reads; shorten the text"
            )
        given = padded_inputs(tokens, np.array([0]), self._tokenizer.pad_id, types=takes_types(self._model.config))
        inputs = {name: torch.from_numpy(array).to(self._device) for name, array in given.items()}
        with torch.inference_mode():
            logits = self._model(**inputs).logits[0, torch.from_numpy(places).to(self._device)]
            chances, words = logits.double().softmax(-1).topk(min(top, logits.shape[-1]))
        return [
            [Guess(self._word(token), chance) for token, chance in zip(found, chance_of, strict=True)]
            for found, chance_of in zip(words.tolist(), chances.tolist(), strict=True)
        ]

    def _word(self, token: int) -> str:
        """Return a token as it is read: blanks and the marks of blanks gone."""
        read = str(self._theirs.decode([token], clean_up_tokenization_spaces=False)).strip()
        return read or self._tokenizer.name(token)
