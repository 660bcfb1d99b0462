"""Text to training windows: which files may be trained on, tokenizer, token cache, order of the windows."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from tttnn.corpus import Document, read_jsonl
from tttnn.errors import ParameterError, TTTNNError
from tttnn.files import read_json, sha256_file, write_json, writing
from tttnn.models.model_registry import CHECKPOINTS
from tttnn.pretraining.settings import Settings, SettingsError, Source, TokenizerSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HELD_OUT = ("val", "test")
PROBE = "a dög 海\n"  # a byte-level token has as many characters as it has bytes


class HeldOutError(TTTNNError):
    """Validation or test text was about to be trained on."""


def split_of(path: Path) -> str:
    """Split of a corpus file by its name: "train", "val", "test", or "" if the name does not say.

    Both layouts are understood: ``<domain>.<split>[.<part>].jsonl[.gz|.zst]`` and the Pile's own
    ``train/<part>.jsonl.zst``, ``val.jsonl.zst``, ``test.jsonl.zst``.
    """
    parts = [path.parent.name, *path.name.split(".")]
    found = [split for split in ("train", *HELD_OUT) if split in parts]
    return found[0] if len(found) == 1 else ""


def find_files(patterns: Iterable[str], data: Path) -> list[Path]:
    """Expand globs relative to the folder `data`, in order, sorted within a pattern.

    Raises
    ------
    ParameterError
        If a pattern leads out of `data`, or is none: a settings file must mean the same on every machine.
    FileNotFoundError
        If a pattern matches nothing.
    """
    files = []
    for pattern in patterns:
        _check_inside(pattern)
        try:
            found = sorted(data.glob(pattern))
        except ValueError as error:
            raise ParameterError(f"{pattern!r} is no pattern of files: {error}") from error
        if not found:
            raise FileNotFoundError(f"no file matches {pattern!r} under {data}: check --data and the settings")
        files += found
    return files


def locate(path: str, data: Path) -> Path:
    """Find a checkpoint's file or folder: under `data`, or among the checkpoints that ship with the package.

    Raises
    ------
    ParameterError
        If the path leads out of these.
    FileNotFoundError
        If it is in neither.
    """
    _check_inside(path)
    places = [data / path, CHECKPOINTS / path]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{path!r} is neither under {data} nor a checkpoint of the package: check --data")


def _check_inside(path: str) -> None:
    if not path or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ParameterError(f"{path!r}: paths in settings are relative to --data and stay below it")


def training_files(patterns: Iterable[str], data: Path) -> list[Path]:
    """Expand globs like `find_files` and refuse every file that is not a train split by its name.

    Raises
    ------
    HeldOutError
        If a file's name does not say "train"; the message names the file.
    """
    files = find_files(patterns, data)
    for path in files:
        if split_of(path) != "train":
            raise HeldOutError(f"{path}: not a train split by its name (<domain>.train.jsonl.gz)")
    return files


def held_out_files(data: Path) -> list[Path]:
    """Every validation and test file anywhere under the folder `data`."""
    walk = os.walk(data, followlinks=True)  # Path.rglob would pass over a linked corpus
    found = (Path(folder) / name for folder, _, names in walk for name in names if ".jsonl" in name and name[0] != ".")
    return sorted(path for path in found if split_of(path) in HELD_OUT)


def texts(files: Iterable[Path]) -> Iterator[str]:
    """The texts of JSON Lines files, one after the other."""
    return (document.text for path in files for document in read_jsonl(path))


def _refuse_known(train: Iterable[str], hashes: set[bytes], file: Path) -> None:
    for text in train:
        if _hash(text) in hashes:
            raise HeldOutError(f"{file}: this training text is in a validation or test file; remove it: {text[:80]!r}")


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def make_tokenizer(settings: TokenizerSettings, train: list[Source], data: Path, path: Path) -> Tokenizer:
    """Return the run's byte-level BPE, kept in `path`; copied or trained there if it is not there yet.

    Raises
    ------
    HeldOutError, FileNotFoundError
        If a file to learn from is not a train split, or is missing.
    SettingsError
        If the settings' file is of a tokenizer that is not byte-level: its tokens do not tell how many bytes they are.
    """
    if not path.exists():
        if settings.file:
            tokenizer = read_tokenizer(locate(settings.file, data))
            if sum(map(len, tokenizer.encode(PROBE, add_special_tokens=False).tokens)) != len(PROBE.encode()):
                raise SettingsError(
                    f"tokenizer.file: {settings.file} is not byte-level, as GPT-2's and Llama 3's are; leave it out, "
                    "and one is trained"
                )
        else:
            patterns = [pattern for source in train for pattern in source.files] + settings.extra
            tokenizer = _train_bpe(texts(training_files(patterns, data)), settings)
        with writing(path) as partial:
            tokenizer.save(str(partial))
    return read_tokenizer(path)


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that neither cuts a text nor pads it, as files of finished models may say."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _train_bpe(sample: Iterable[str], settings: TokenizerSettings) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words]) if settings.single_digits else words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.entries,
        special_tokens=settings.special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # so that any UTF-8 text can be encoded
        show_progress=False,
    )
    some = (text for i, text in enumerate(sample) if i % settings.every == 0)
    tokenizer.train_from_iterator(tqdm(some, desc="tokenizer", unit="doc"), trainer)
    return tokenizer


def end_of_text(tokenizer: Tokenizer) -> int:
    """Id of the token that separates documents: the tokenizer's first special token."""
    special = [i for i, token in sorted(tokenizer.get_added_tokens_decoder().items()) if token.special]
    if not special:
        raise ValueError("the tokenizer has no special token to mark the end of a text")
    return special[0]


def cache_tokens(
    settings: Settings, data: Path, tokenizer: Tokenizer, tokenizer_file: Path, folder: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Tokenize the training text once; later calls map the same array into memory.

    Every document is preceded by the end-of-text id. The cache is made anew if a file or the tokenizer
    changed; before it is made, the text is compared with every held-out file under `data`, and with those that the
    settings name for validation.

    Returns
    -------
    tokens : np.memmap of uint16 or uint32, shape (n,)
    summary : dict
        Per domain documents, bytes, tokens and licences (as the documents name them); hashes of all files.

    Raises
    ------
    HeldOutError, FileNotFoundError
        If a file is not a train split, holds a held-out text, or is missing.
    """
    files = {source.domain: training_files(source.files, data) for source in settings.train}
    own = [path for source in settings.validation for path in find_files(source.files, data)]
    held_out = sorted({*held_out_files(data), *own})
    inputs = {
        "tokenizer": sha256_file(tokenizer_file),
        "files": {domain: _hashes(paths, data) for domain, paths in files.items()},
        "held_out": _hashes(held_out, data),
    }
    array, sidecar = folder / "tokens.npy", folder / "data.json"
    if not (array.exists() and sidecar.exists() and read_json(sidecar)["inputs"] == inputs):
        hashes = {_hash(text) for text in texts(held_out)}
        for path in (path for paths in files.values() for path in paths):
            _refuse_known(texts([path]), hashes, path)
        parts, domains = [], {}
        for domain, paths in files.items():
            ids, domains[domain] = _tokenize(domain, paths, tokenizer)
            parts.append(ids)
        sidecar.unlink(missing_ok=True)  # written last: it says that the array beside it is whole
        with writing(array) as partial, open(partial, "wb") as file:
            np.save(file, np.concatenate(parts))
        write_json(sidecar, {"inputs": inputs, "held_out_texts_compared": len(hashes), "domains": domains})
    return np.load(array, mmap_mode="r"), read_json(sidecar)


def _hashes(files: list[Path], data: Path) -> dict[str, str]:
    return {str(path.relative_to(data)): sha256_file(path) for path in files}


def _tokenize(domain: str, files: list[Path], tokenizer: Tokenizer) -> tuple[np.ndarray, dict[str, Any]]:
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    separator = end_of_text(tokenizer)
    licences: Counter[str] = Counter()
    parts, size = [], 0
    documents = (document for path in files for document in read_jsonl(path))
    for document in tqdm(documents, desc=f"tokens of {domain}", unit="doc"):
        encoding = tokenizer.encode(document.text, add_special_tokens=False)
        parts.append(np.array([separator, *encoding.ids], dtype=kind))
        licences[_licence(document)] += 1
        size += len(document.text.encode())
    if not parts:
        raise SettingsError(f"train: {', '.join(map(str, files))} hold no document; leave the domain {domain} out")
    ids = np.concatenate(parts)  # (tokens of the domain,)
    return ids, {
        "documents": len(parts),
        "bytes": size,
        "tokens": len(ids),
        "licences": dict(licences.most_common()),
    }


def _licence(document: Document) -> str:
    return str(document.meta.get("license", "not stated"))


class Windows:
    """The order of the training data, a function of seed and step alone.

    An epoch is a seeded permutation of disjoint windows of `context` tokens; each epoch shifts the grid of
    windows by a seeded offset, so that no token is always first.

    Parameters
    ----------
    tokens : np.ndarray of integers, shape (n,)
    context : int
        Tokens per window.
    batch : int
        Windows per step.
    seed : int

    Raises
    ------
    ValueError
        If there are fewer tokens than two windows.
    """

    def __init__(self, tokens: np.ndarray, context: int, batch: int, seed: int) -> None:
        self.tokens, self.context, self.batch, self.seed = tokens, context, batch, seed
        self.per_epoch = (len(tokens) - 1) // context - 1  # one window less: room for the offset
        if self.per_epoch < 1:
            raise ValueError(f"{len(tokens)} training tokens are fewer than two windows of {context}")
        self._epoch = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, step: int) -> np.ndarray:
        """Windows of a step with their next tokens: int64, shape (batch, context + 1)."""
        positions = range(step * self.batch, (step + 1) * self.batch)
        starts = [self._starts(position // self.per_epoch)[position % self.per_epoch] for position in positions]
        return np.stack([self.tokens[start : start + self.context + 1] for start in starts]).astype(np.int64)

    def _starts(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            offset = random.integers(self.context)
            self._epoch = (epoch, random.permutation(self.per_epoch) * self.context + offset)
        return self._epoch[1]
