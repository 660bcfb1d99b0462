"""GPT-Neo's attention on a CPU: transformers writes it out as products, a mask and a softmax of the whole square."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import _get_current_function_mode
from transformers import PreTrainedModel
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

from tttnn.models.attention import causal_attention
from tttnn.models.layers import FastLayers
from tttnn.models.products import on_cpu


def replace_attention(model: PreTrainedModel) -> None:
    """Let a GPT-Neo compute its attention as `FastLayers` has it while that is entered, and as before elsewhere."""
    for module in model.modules():
        if type(module) is GPTNeoSelfAttention:
            module.__class__ = FastAttention


class FastAttention(GPTNeoSelfAttention):  # type: ignore[misc]
    """Of texts without padding, as they are while `FastLayers` is entered."""

    def _attn(self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None) -> Any:
        drops = self.training and self.attn_dropout.p > 0
        if drops or not isinstance(_get_current_function_mode(), FastLayers) or not on_cpu(query, key, value):
            return super()._attn(query, key, value, attention_mask)
        window = self.config.window_size
        if self.attention_type == "local" and query.shape[2] > window:
            return causal_attention(query, key, value, 1.0, window), None
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0), None
