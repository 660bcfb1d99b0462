"""The real models are those that were pinned, and score and embed as the harness and the library of embedders do.

Nothing is downloaded for a test: where the weights are not fetched and prepared, these are skipped.
"""

import copy

import numpy as np
import pytest
import torch
from test_scoring import harness_log_likelihoods

from tttnn.embedding import load_embedder
from tttnn.fetch import PACKAGED, fetched
from tttnn.files import home
from tttnn.models import load_model
from tttnn.models.gguf import ROOM
from tttnn.models.products import FAST_LAYERS_VARIABLE
from tttnn.scoring import score

LM, EMBEDDER = "smollm2-135m", "all-minilm-l6-v2"
PROSE = (
    "The ferry left an hour late, and nobody on the quay seemed to mind. Marta counted her coins twice; seven crowns "
    "and a button would buy a roll, but no coffee."
)
CODE = 'def mean(values):\n    """Durchschnitt, 平均."""\n    return sum(values) / len(values)  # 0 → error\n'


def needed(name, there):
    return pytest.mark.skipif(not there, reason=f"{name} is not on this machine: python -m tttnn fetch {name}")


[FILE] = PACKAGED[LM].files
with_lm = needed(LM, fetched(LM) and (home() / ROOM / FILE.sha256).is_dir())
with_embedder = needed(EMBEDDER, fetched(EMBEDDER))


@pytest.fixture(scope="module")
def lm():
    return load_model(LM)


@with_lm
def test_the_weights_are_those_that_archived_rows_were_computed_with(lm):
    assert lm.weight_hash() == "20e54846f2370f5c085af243b55348a4db3156e5795fa4bb8c7693a14f0a2775"


def exact_nats(lm, text):
    """The same scores with the layers in float64."""
    ids = torch.tensor([[lm.prefix_id, *lm.tokenizer(text, add_special_tokens=False)["input_ids"]]])  # (1, tokens + 1)
    with torch.no_grad():
        logits = copy.deepcopy(lm.model).double()(ids[:, :-1]).logits[0]  # (tokens, vocabulary)
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()


@with_lm
def test_its_scores_are_the_harness_s(lm, monkeypatch):
    """To 1e-6 a byte through torch's own layers; ours add in another order, and are as near to exact scores."""
    texts = [PROSE, CODE]
    for text, loglikelihood in zip(texts, harness_log_likelihoods(lm, texts), strict=True):
        monkeypatch.setenv(FAST_LAYERS_VARIABLE, "0")
        theirs = score(lm, text)
        assert theirs.bytes == len(text.encode()) and abs(theirs.nats + loglikelihood) / theirs.bytes < 1e-6
        monkeypatch.setenv(FAST_LAYERS_VARIABLE, "1")
        ours, exact = score(lm, text), exact_nats(lm, text)
        assert abs(ours.nats - exact) / ours.bytes < abs(-loglikelihood - exact) / ours.bytes + 1e-6


@with_embedder
def test_its_vectors_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    library, embedder = SentenceTransformer(str(fetched(EMBEDDER)), device="cpu"), load_embedder(EMBEDDER)
    texts = [PROSE, CODE, "a", PROSE * 8]
    lengths = [len(ids) for ids in library.tokenizer(texts)["input_ids"]]
    assert max(lengths) > embedder.max_length == library.max_seq_length == 256
    np.testing.assert_allclose(embedder.embed(texts), library.encode(texts), atol=1e-5)
