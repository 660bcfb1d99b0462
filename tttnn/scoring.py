"""Rolling log-likelihood of a text, and the three metrics of the report.

Windows and formulas are lm-evaluation-harness's: the text is cut into windows of at most `context` tokens,
every token is predicted once, the first one from a prefix, and the last window reaches back so that it is as long
as the others. The prefix is the beginning-of-text token where a tokenizer has one, else the end-of-text token. Corpus
values are sums over sums, never means of per-document values. A special token quoted inside a text is text here and is
scored byte for byte; the harness takes it for the token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby, islice

import torch
from torch import Tensor

from tttnn import operations
from tttnn.errors import DocumentError, ParameterError, TTTNNError
from tttnn.models import LanguageModel, token_nats
from tttnn.parameters import number

WINDOWS_AT_ONCE = 8  # bounds the memory of one forward pass
ROUNDED = 1e-3  # nats that rounding may put a sure token below 0


class IllegalScore(TTTNNError):
    """A score that breaks the rules: not one probability for each token, or not the bytes of the text."""


@dataclass(frozen=True)
class Score:
    """Negative log-likelihood of one text or, after adding, of several.

    Attributes
    ----------
    nats : float
        Total negative log-likelihood.
    bytes : int
        UTF-8 bytes.
    words : int
        Pieces between white space, counted as the harness does (so an empty piece at an end counts).
    tokens : int
        Tokens predicted.
    """

    nats: float
    bytes: int
    words: int
    tokens: int

    def __add__(self, other: Score) -> Score:
        sums = (mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))
        return Score(*sums)

    @property
    def bits_per_byte(self) -> float:
        """Bits each byte of text costs: nats / bytes / ln 2."""
        return self.nats / self.bytes / math.log(2)

    @property
    def byte_perplexity(self) -> float:
        """exp(nats / bytes), that is 2 to the power of bits per byte."""
        return _exp(self.nats / self.bytes)

    @property
    def word_perplexity(self) -> float:
        """exp(nats / words)."""
        return _exp(self.nats / self.words)


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf


@dataclass(frozen=True)
class Window:
    """Token ids of one forward pass: the last `len(targets)` outputs for `inputs` predict `targets`."""

    inputs: list[int]
    targets: list[int]


def rolling_windows(tokens: list[int], prefix_id: int, context: int) -> Iterator[Window]:
    """Cut a text's tokens into windows that together predict each token once.

    Parameters
    ----------
    tokens : list of int
        The text; may be empty.
    prefix_id : int
        Id that stands before the first token.
    context : int
        Most tokens a window may hold.

    Yields
    ------
    Window
        All windows of a text longer than `context` have exactly `context` inputs.
    """
    shifted = [prefix_id, *tokens]
    for start in range(0, len(tokens), context):
        end = min(start + context, len(tokens))
        yield Window(shifted[max(0, end - context) : end], tokens[start:end])


class Scorer:
    """Scores one text, as often as asked, under whatever weights the model has at the time.

    Parameters
    ----------
    lm : LanguageModel
    text : str
        At least one token long.
    context : int, optional
        Tokens of evaluation context; default: the model's setting.
    vocabulary : int, optional
        Score over the first so many entries only, as the report's code did with Qwen. For showing the effect.
    prefix_id : int, optional
        Token before the text; default: the model's.

    Attributes
    ----------
    tokens : list of int
        Of the text.
    context, prefix_id : int
        As it is scored with.

    Raises
    ------
    ParameterError
        If the context is longer than the model's, or no number.
    DocumentError
        If the text is empty, or holds half a character or a token that a cut vocabulary cannot score.
    """

    def __init__(
        self,
        lm: LanguageModel,
        text: str,
        context: int | None = None,
        vocabulary: int | None = None,
        prefix_id: int | None = None,
    ) -> None:
        self.context = lm.settings.context if context is None else number("context", context, least=1, whole=True)
        if self.context > lm.positions:
            raise ParameterError(f"context={self.context}: {lm.name} takes at most {lm.positions} tokens")
        self._bytes = _size(text)
        self.tokens = lm.encode(text)
        if not self.tokens:
            raise DocumentError("cannot score an empty text: bits per byte need at least one token")
        if vocabulary is not None and max(self.tokens) >= vocabulary:
            raise DocumentError(f"token id {max(self.tokens)} cannot be scored over the first {vocabulary} entries")
        self.prefix_id = lm.prefix_id if prefix_id is None else prefix_id
        self._lm = lm
        self._vocabulary = vocabulary
        self._windows = list(rolling_windows(self.tokens, self.prefix_id, self.context))
        self._words = len(re.split(r"\s+", text))

    @property
    def windows(self) -> list[Window]:
        """What the text is cut into."""
        return self._windows

    @property
    def work(self) -> tuple[int, int]:
        """Forward passes that one score takes, and tokens they put through the model (windows may overlap)."""
        return len(list(_equally_long(self._windows))), sum(len(window.inputs) for window in self._windows)

    def __call__(self, windows: Sequence[Window] | None = None) -> Score:
        """Score the text with the model's present weights.

        Parameters
        ----------
        windows : sequence of Window, optional
            Others than those of :func:`rolling_windows`, which must predict each token of the text once, in order.
        """
        return self.total(self.token_nats(windows))

    def operations(self, windows: Sequence[Window] | None = None) -> float:
        """Floating-point operations of one score with these windows; see `tttnn.operations`."""
        tokens = sum(len(window.inputs) for window in windows or self._windows)
        return operations.forward(self._lm.parameters, tokens)

    def total(self, nats: Tensor) -> Score:
        """Score of the text whose tokens have these nats, shape (tokens,).

        Raises
        ------
        IllegalScore
            If there is not one for each token, or one of them is of a probability above 1.
        """
        if nats.shape != (len(self.tokens),):
            raise IllegalScore(
                f"scores of shape {tuple(nats.shape)} for {len(self.tokens)} tokens: give each token one"
            )
        if nats.min() < -ROUNDED:
            raise IllegalScore(f"a token has {nats.min():.3g} nats, so a probability above 1: normalise them")
        return Score(nats.sum(dtype=torch.float64).item(), self._bytes, self._words, len(self.tokens))

    @torch.no_grad()
    def token_nats(self, windows: Sequence[Window] | None = None) -> Tensor:
        """Negative log-likelihood of each token that the windows predict, in order: float32, shape (tokens,), nats."""
        training = self._lm.model.training
        self._lm.model.eval()
        try:
            return torch.cat(
                [self._nats(self._states(batch), batch) for batch in _equally_long(windows or self._windows)]
            )
        finally:
            self._lm.model.train(training)

    @torch.no_grad()
    def states(self, windows: Sequence[Window] | None = None) -> Tensor:
        """What the output layer takes to predict each token of the text, or of windows: float32, (tokens, width)."""
        return torch.cat([self._states(batch) for batch in _equally_long(windows or self._windows)])

    @torch.no_grad()
    def states_and_nats(self) -> tuple[Tensor, Tensor]:
        """Return `states` and, computed from them in the same pass, `token_nats`."""
        batches = list(_equally_long(self._windows))
        states = [self._states(batch) for batch in batches]
        nats = [self._nats(each, batch) for each, batch in zip(states, batches, strict=True)]
        return torch.cat(states), torch.cat(nats)

    def _states(self, windows: list[Window]) -> Tensor:
        """Windows of one batch are equally long, so that it needs no padding."""
        inputs = torch.tensor([window.inputs for window in windows], device=self._lm.device)  # (windows, length)
        hidden = self._lm.hidden(inputs)  # (windows, length, width)
        pairs = zip(hidden, windows, strict=True)
        return torch.cat([states[-len(window.targets) :] for states, window in pairs])  # (tokens, width)

    def _nats(self, kept: Tensor, windows: list[Window]) -> Tensor:
        targets = torch.tensor([t for window in windows for t in window.targets], device=kept.device)  # (tokens,)
        weight, bias = self._lm.head
        cut = slice(self._vocabulary)
        return token_nats(kept, weight[cut], None if bias is None else bias[cut], targets)  # (tokens,)


def _size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        message = f"character {error.start} of the text is a lone surrogate, which is no character"
        raise DocumentError(message) from error


def _equally_long(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Neighbouring windows of equal length, some at a time."""
    for _, equal in groupby(windows, key=lambda window: len(window.inputs)):
        while batch := list(islice(equal, WINDOWS_AT_ONCE)):
            yield batch


def score(
    lm: LanguageModel,
    text: str,
    context: int | None = None,
    vocabulary: int | None = None,
    prefix_id: int | None = None,
) -> Score:
    """Score a text once; see :class:`Scorer` for the parameters and errors."""
    return Scorer(lm, text, context, vocabulary, prefix_id)()
