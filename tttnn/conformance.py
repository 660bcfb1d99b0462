"""What a method must keep to for its scores to stand beside others': checks that its author can call in a test.

>>> from tttnn.conformance import check_method, check_part
>>> check_method("unigram:0.1")
>>> check_part("norms")

The rules: a token's score depends on no later token; each token has one probability, and those of all tokens that could
stand there sum to 1; the text is passed once, and what is learned from it is learned after its score stands; the same
seed gives the same scores; the model is afterwards what it was. A part of the weights, which the switch `train` names,
adds one: nothing else is changed in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tttnn.errors import ParameterError, TTTNNError, first_line
from tttnn.methods import find_method
from tttnn.models import LanguageModel
from tttnn.models.columns import Columns
from tttnn.models.lora import forked_rng
from tttnn.models.model_registry import TTTSettings
from tttnn.models.parts import select_part
from tttnn.retrieval import Neighbour
from tttnn.scoring import Score, Scorer
from tttnn.ttt import TTT, Retrieved, Switches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,\n01"
CONTEXT = 32
TEXT = "the fox returns to the dog, and the dog returns no values.\nthe end of 01"  # longer than two windows
NEIGHBOURS = ("the dog returns values to the fox.", "a list of values, 0 to 1", "nothing of the kind")
KS = (0, 1, 3)
CLOSE = 1e-4  # nats; what is computed in another order may differ by less
BEFORE = (0, 12)  # tokens before the place whose probabilities are summed
SHOWN = 3  # names of weights in a message
ASKED = 8  # times that a part is selected, as chance may choose the same twice


class ConformanceError(TTTNNError):
    """A method or a part of the weights breaks one of the rules; the message says which, and where."""


def tiny_loop(**switches: Any) -> TTT:
    """Make a loop on a tiny random model whose tokens are the characters of `ALPHABET`, a byte each.

    Parameters
    ----------
    **switches
        Fields of `tttnn.ttt.Switches`. Its vocabulary is the alphabet, so that the token before a text, which no text
        can hold, takes no probability.
    """
    from tokenizers import Tokenizer, models
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    spelt = Tokenizer(models.BPE({each: place for place, each in enumerate(ALPHABET)}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelt, eos_token="<|end|>")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2, bos_token_id=len(ALPHABET),
        eos_token_id=len(ALPHABET), initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng([]):
        torch.manual_seed(1216)
        model = GPT2LMHeadModel(config).eval()
    settings = TTTSettings(learning_rate=1e-2, eps=1e-8, max_length=16, context=CONTEXT)
    lm = LanguageModel("tiny", model, tokenizer, settings, prefix_id=len(ALPHABET))
    return TTT(lm, None, Switches(**{"vocabulary": len(ALPHABET), **switches}))


def check_method(name: str, ttt: TTT | None = None) -> None:
    """Check all the rules for one method.

    Parameters
    ----------
    name : str
        As `tttnn.methods.find_method` takes it.
    ttt : TTT, optional
        A `tiny_loop` with other switches, or with a retriever if the method needs one. Default: a plain one.

    Raises
    ------
    ConformanceError
        At the first rule that is broken.
    ParameterError
        If there is no such method.
    """
    ttt = ttt or tiny_loop()
    for check in (check_start, check_restored, check_causal, check_normalised, check_repeatable):
        check(name, ttt)


def check_start(name: str, ttt: TTT) -> None:
    """Raise ConformanceError unless its steps go up from k = 0, which is the model alone, to the last k.

    That may be 0, too: where nothing else is asked for, there is one step.
    """
    for asked in ((0,), KS):
        steps = list(find_method(name).steps(ttt, _found(TEXT), asked))
        ks = [step.k for step in steps]
        if ks != sorted(set(ks)) or ks[:1] != [0] or ks[-1] != max(asked):
            raise ConformanceError(f"{name}: steps of k={ks}: they go up from 0 to {max(asked)}, each k once")
    plain, first, last = ttt.scorer(TEXT)().nats, steps[0].score, steps[-1].score
    if first is None or last is None or abs(first.nats - plain) > CLOSE:
        raise ConformanceError(f"{name}: at k=0 it must score as the model alone does, and it must score at the last k")


def check_causal(name: str, ttt: TTT) -> None:
    """Raise ConformanceError if a changed byte changes the score of an earlier one; query and neighbours stay.

    That also finds what trains on a text before it has scored it.
    """
    plain = token_scores(name, ttt, TEXT)
    for place in (1, len(TEXT) // 3, len(TEXT) - 1):
        other = TEXT[:place] + ("a" if TEXT[place] != "a" else "b") + TEXT[place + 1 :]
        for k, nats in token_scores(name, ttt, other).items():
            moved = (nats[:place] - plain[k][:place]).abs()
            if moved.max() > CLOSE:
                first = int((moved > CLOSE).nonzero()[0, 0])
                raise ConformanceError(f"{name}: at k={k} a change of byte {place} changes the score of byte {first}")


def check_normalised(name: str, ttt: TTT) -> None:
    """Raise ConformanceError unless the probabilities of all tokens that can stand at a place sum to 1."""
    for before in BEFORE:
        found = [token_scores(name, ttt, TEXT[:before] + each, ks=(1,)) for each in ALPHABET]
        for k in found[0]:
            total = sum(float(torch.exp(-nats[k][-1])) for nats in found)
            if abs(total - 1) > CLOSE:
                raise ConformanceError(
                    f"{name}: at k={k}, after {before} tokens, all tokens' probabilities sum to {total:.4f}, not 1"
                )


def check_repeatable(name: str, ttt: TTT) -> None:
    """Raise ConformanceError unless the same seed gives the same scores and no other random numbers are drawn."""
    with forked_rng(ttt.lm.model):
        torch.manual_seed(0)
        first = token_scores(name, ttt, TEXT)
        torch.manual_seed(1)
        state = torch.get_rng_state()
        again = token_scores(name, ttt, TEXT)
        if any(not torch.equal(first[k], again[k]) for k in first):
            raise ConformanceError(f"{name}: twice the same seed gives other scores: seed it with ttt.switches.seed")
        if not torch.equal(state, torch.get_rng_state()):
            raise ConformanceError(f"{name}: it takes random numbers of the process; see tttnn.models.lora.forked_rng")


def check_restored(name: str, ttt: TTT) -> None:
    """Raise ConformanceError unless the model is what it was after the last step, and if closed after any of them."""
    before = _state(ttt.lm)
    for taken in range(len(KS) + 2):
        steps = find_method(name).steps(ttt, _found(TEXT), KS)
        for _ in zip(range(taken), steps, strict=False):
            pass
        getattr(steps, "close", list)()
        if _state(ttt.lm) != before:
            raise ConformanceError(f"{name}: closed after {taken} steps, the model is not what it was before them")


def token_scores(
    name: str, ttt: TTT, text: str, ks: Sequence[int] = KS, neighbours: Sequence[str] = NEIGHBOURS
) -> dict[int, Tensor]:  # fmt: skip
    """What a method gives each token of a text, for the same query whatever the text.

    Returns
    -------
    dict of Tensor
        Nats, float64, shape (tokens,), by k.

    Raises
    ------
    ConformanceError
        If a score does not come from ``ttt.scorer(found.scored).total``, which sees to bytes and tokens.
    """
    watched = _Watched(ttt)
    found = {}
    for step in find_method(name).steps(watched, _found(text, neighbours), ks):
        if step.score:
            kept = [nats for made, nats in watched.kept if made is step.score]
            if not kept:
                raise ConformanceError(f"{name}: its score at k={step.k} is not from ttt.scorer(found.scored).total")
            found[step.k] = kept[0]
    return found


def check_part(name: str, ttt: TTT | None = None) -> None:
    """Check a part of the weights, which the switch `train` names.

    - It selects weights of the model, the same ones each time, and selecting them changes nothing.
    - Steps change some of them, and no other weight.
    - The loop that trains it begins with the model as it is, its scores repeat, and afterwards the model is what it
      was, bit for bit.
    - A model without such weights is refused in a sentence, as it is where nothing is selected.

    Parameters
    ----------
    name : str
        As `tttnn.models.parts.find_part` takes it.
    ttt : TTT, optional
        A loop on a small model that has such weights, whose learning rate is high enough for a step to be seen.
        Default: a `tiny_loop`, whose model is a GPT-2 of two blocks.

    Raises
    ------
    ConformanceError
        At the first rule that is broken.
    ParameterError
        If there is no such part, or the model has none of its weights.
    """
    ttt = ttt or tiny_loop()
    check_selection(name, ttt)
    loop = TTT(ttt.lm, ttt.retriever, replace(ttt.switches, train=name))
    check_changes(name, loop)
    try:
        for check in (check_start, check_restored, check_repeatable):
            check("ttt", loop)
    except ConformanceError as error:
        raise ConformanceError(f"train={name!r}: {error}") from error
    check_refused(name)


def check_selection(name: str, ttt: TTT) -> None:
    """Raise ConformanceError unless a part selects the same weights each time, and leaves the model as it is."""
    before, model = _state(ttt.lm), ttt.lm.model
    with forked_rng(model):
        found = [_selected(model, name) for _ in range(ASKED)]
    if other := [each for each in found if each != found[0]]:
        raise ConformanceError(
            f"train={name!r}: it selects {_listed(found[0])}, and asked again {_listed(other[0])}: only the model and "
            "the number after the colon may decide that"
        )
    if _state(ttt.lm) != before:
        raise ConformanceError(f"train={name!r}: selecting its weights changes the model")


def check_changes(name: str, ttt: TTT) -> None:
    """Raise ConformanceError unless steps that train a part change some of its weights, and no others."""
    model, changed = ttt.lm.model, False
    kept = _selected(model, name)
    before = {each: parameter.detach().clone() for each, parameter in model.named_parameters()}
    for step in ttt.adapt(TEXT, NEIGHBOURS, KS):
        for each, parameter in model.named_parameters():
            moved = torch.atleast_1d(parameter.detach() != before[each])  # (..., columns)
            changed |= bool(moved.any())
            free = kept.get(each, 0) if step.k else 0  # columns that may change
            if moved[..., free:].any():
                raise ConformanceError(f"train={name!r}: after {step.k} neighbours, {each} has changed beyond the part")
    if not changed:
        raise ConformanceError(f"train={name!r}: no step changes {_listed(kept)}")


def check_refused(name: str) -> None:
    """Raise ConformanceError unless a part is refused with a ParameterError by a model that has no weights."""
    model = _without_weights(tiny_loop().lm.model)
    try:
        select_part(model, name)
    except ParameterError:
        return
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise ConformanceError(
            f"train={name!r}: on a model without such weights it fails ({said}): where there are none, select none, "
            "and the model is refused in a sentence"
        ) from error
    raise ConformanceError(f"train={name!r}: it selects weights of a model that has none")


def _selected(model: PreTrainedModel, name: str) -> dict[str, int]:
    """Names of a part's weights, and how many of their columns belong to it."""
    selected = select_part(model, name)
    names = {id(parameter): each for each, parameter in model.named_parameters()}
    return {
        names[id(weight.whole if isinstance(weight, Columns) else weight)]: torch.atleast_1d(weight).shape[-1]
        for weight in selected
    }


def _without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Put an identity in the place of each layer that has weights."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if next(child.parameters(recurse=False), None) is not None:
                setattr(module, name, nn.Identity())
    return model


def _listed(weights: dict[str, int]) -> str:
    first = [f"{name} ({columns} columns)" for name, columns in weights.items()][:SHOWN]
    return ", ".join([*first, *([f"... ({len(weights)} in all)"] if len(weights) > SHOWN else [])])


class _Watched(TTT):
    """A loop that keeps what its scorers are asked to total."""

    def __init__(self, ttt: TTT) -> None:
        super().__init__(ttt.lm, ttt.retriever, ttt.switches)
        self.kept: list[tuple[Score, Tensor]] = []

    def scorer(self, text: str) -> Scorer:
        scorer = super().scorer(text)
        plain = scorer.total

        def total(nats: Tensor) -> Score:
            made = plain(nats)
            self.kept.append((made, nats.detach().cpu().double()))
            return made

        scorer.total = total  # type: ignore[method-assign]  # of this scorer alone
        return scorer


def _found(text: str, neighbours: Sequence[str] = NEIGHBOURS) -> Retrieved:
    return Retrieved(TEXT, text, [Neighbour(place, float(place), each) for place, each in enumerate(neighbours)], 0.0)


def _state(lm: LanguageModel) -> tuple[Any, ...]:
    """All of a model that a method may have changed."""
    parameters = [(name, each.requires_grad) for name, each in lm.model.named_parameters()]
    return lm.weight_hash(), parameters, lm.model.training, lm.adapting
