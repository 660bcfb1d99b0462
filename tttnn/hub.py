"""What of the Hugging Face hub is on this machine."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def cached_folder(name: str, revision: str = "main") -> Path | None:
    """Find a hub model's folder in the local cache.

    Parameters
    ----------
    name : str
        Hub name; anything else is in no cache.
    revision : str
        Branch, tag or ``refs/pr/<n>``.

    Returns
    -------
    Path or None
        The folder with its config and safetensors, or None if one of them is not there.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config, *weights = (
            try_to_load_from_cache(name, file, revision=revision) for file in ("config.json", *WEIGHTS)
        )
    except HFValidationError:
        return None
    complete = isinstance(config, str) and any(isinstance(found, str) for found in weights)
    return Path(config).parent if complete else None
