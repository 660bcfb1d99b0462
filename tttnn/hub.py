"""What of the Hugging Face hub is on this machine, and which files of a folder in its format hold the weights."""

from __future__ import annotations

from pathlib import Path

from tttnn.files import read_json

WHOLE, INDEX = WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
POINTER, LARGEST_POINTER = b"version https://git-lfs", 1024  # bytes
# Names of tensors that older checkpoints hold beside the weights: causal masks, positions, rotary frequencies.
BUFFERS = r"(\.(attn|attention)\.(masked_)?bias|\.inv_freq|position_ids)$"


def weight_files(folder: str | Path) -> list[Path]:
    """Return the files that a model in a folder is loaded from; others may hold the same weights in another form.

    Raises
    ------
    ValueError
        If the folder's index is no index of shards.
    """
    folder = Path(folder)
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        return []
    index = read_json(folder / INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{folder / INDEX}: no index of shards; copy it again")
    for name in shards.values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{folder / INDEX}: names {name!r}, which is not in that folder; copy it again")
    return [folder / name for name in sorted(set(shards.values()))]


def left_as_pointer(folder: str | Path) -> Path | None:
    """Return a file of a model that is only Git LFS's pointer to it, as a clone without git-lfs leaves it, if any."""
    for path in sorted(Path(folder).iterdir()):
        small = path.suffix in (".json", ".safetensors") and path.is_file() and path.stat().st_size < LARGEST_POINTER
        if small and path.read_bytes().startswith(POINTER):
            return path
    return None


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
        config, *weights = (try_to_load_from_cache(name, file, revision=revision) for file in ("config.json", *WEIGHTS))
    except HFValidationError:
        return None
    if not isinstance(config, str) or not any(isinstance(found, str) for found in weights):
        return None
    return Path(config).parent
