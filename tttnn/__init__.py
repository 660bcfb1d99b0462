"""Test-time training on nearest neighbours: a literate reproduction.

>>> from tttnn import TTT, load_model, open_retriever
>>> ttt = TTT(load_model("gpt2-xs-general"), open_retriever("wheels"))  # doctest: +SKIP
>>> ttt.evaluate("def mean(values): ...", k=20).ratio  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

__version__ = "0.1.0"

# Progress bars are text here; without this, every notebook begins with tqdm asking for a widget package.
warnings.filterwarnings("ignore", message="IProgress not found")

# Loaded on first use: the loop must not need faiss, nor the corpus tools torch.
_HOMES = {
    "TTT": "tttnn.ttt",
    "Switches": "tttnn.ttt",
    "load_model": "tttnn.models",
    "open_corpus": "tttnn.corpus",
    "open_retriever": "tttnn.retrieval",
    "score": "tttnn.scoring",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tttnn' has no attribute '{name}'")
