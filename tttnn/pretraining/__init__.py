"""Pre-training: one settings file per model, one command, a checkpoint with a model card.

    python -m tttnn pretrain gpt2-xs-pile --data ROOT --out FOLDER

`ROOT` holds the text that the settings name; a settings file is given by its path or, if it ships here in
``settings/``, by its name. The finished model is ``FOLDER/model``. An interrupted run goes on where it was
when the same command is given again. The training process needs torch, transformers, tokenizers, safetensors,
numpy and tqdm, so it also runs on a machine that has a GPU and little else.
"""

from tttnn.pretraining.data import HeldOutError
from tttnn.pretraining.settings import Settings, SettingsError, load_settings
from tttnn.pretraining.train import pretrain
from tttnn.pretraining.validation import validate

__all__ = [
    "HeldOutError",
    "Settings",
    "SettingsError",
    "load_settings",
    "pretrain",
    "validate",
]
