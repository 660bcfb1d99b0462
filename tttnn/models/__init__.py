"""Language models: name -> causal LM, tokenizer, published test-time-training settings."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tttnn.models.model_registry import CHECKPOINTS, REGISTRY, ModelEntry, TTTSettings, find_entry

if TYPE_CHECKING:
    from tttnn.models.cross_entropy import mean_cross_entropy, token_nats
    from tttnn.models.language_model import LanguageModel, load_model
    from tttnn.models.loading import ModelError

# Loaded on first use: who only looks a name up must not wait for torch.
_HOMES = {
    "LanguageModel": "tttnn.models.language_model",
    "ModelError": "tttnn.models.loading",
    "load_model": "tttnn.models.language_model",
    "mean_cross_entropy": "tttnn.models.cross_entropy",
    "token_nats": "tttnn.models.cross_entropy",
}
__all__ = [
    "CHECKPOINTS", "REGISTRY", "LanguageModel", "ModelEntry", "ModelError", "TTTSettings",
    "find_entry", "load_model", "mean_cross_entropy", "token_nats",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tttnn.models' has no attribute '{name}'")
