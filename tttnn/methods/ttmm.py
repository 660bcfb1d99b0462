"""Test-time model merging (TTMM: Bertolissi et al., 2025, arXiv 2505.14136): experts trained once, merged for a text.

The corpus is clustered by k-means in the index's own vectors, and low-rank adapters (LoRA) are trained on each cluster,
once, with the loop's own steps. A text then costs no step: the adapters of the clusters nearest to the query are added
to the weights, each in proportion to ``exp(similarity / temperature)``. The authors' code takes the first 50 tokens for
the query, and here it is the query of the run, as for all methods.

>>> method, loop = find_method("ttmm:10"), TTT(lm, retriever, Switches(lora=8))  # doctest: +SKIP
>>> build(loop, method)  # once; goes on after a kill  # doctest: +SKIP
>>> loop_rows = run(loop, documents, ks=[0, 1, 3, 10], method="ttmm:10")  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from tttnn.embedding import EmbeddingError
from tttnn.errors import DocumentError, ParameterError
from tttnn.files import home, read_json, sole_writer, write_json, writing
from tttnn.methods.base import Method
from tttnn.models.lora import SCALE
from tttnn.parameters import number
from tttnn.ttt import TTT, Retrieved, Step, Switches, check_ks

if TYPE_CHECKING:
    from tttnn.models import LanguageModel
    from tttnn.retrieval import Retriever
    from tttnn.retrieval.strategies import Selection

log = logging.getLogger(__name__)
RECORD, CENTROIDS = "ttmm.json", "centroids.safetensors"
PER_CENTROID = 256  # vectors that k-means looks at for each of its centroids
ROUNDS = 20
BLOCK = 1 << 16  # vectors compared with all centroids at once
KEPT = 64  # experts in memory
TRAINED_BY = ("learning_rate", "eps", "max_length", "clip", "weight_decay", "max_chunks", "dropout", "precision",
              "lora", "seed")  # fmt: skip


@dataclass(frozen=True)
class TTMM(Method):
    """Merge the experts of the clusters nearest to the query; k is their number, all there are if k is larger.

    Needs the switch `lora`, which says what the experts are, and their folder: see `build`.

    Attributes
    ----------
    clusters : int
    temperature : float
        Of the softmax over cosine similarities; the authors' default is 0.04.
    documents : int
        Most documents of a cluster that its expert is trained on, drawn at random. 0: all.
    """

    clusters: int
    temperature: float = 0.04
    documents: int = 0
    about = "merge adapters that were trained once on clusters of the corpus"
    uses_neighbours = False

    def __post_init__(self) -> None:
        number("clusters", self.clusters, least=1, whole=True)
        number("documents", self.documents, least=0, whole=True)
        if number("temperature", self.temperature) <= 0:
            raise ParameterError(f"temperature={self.temperature:g}: it is above 0")

    def check(self, lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches) -> None:
        """Raise ParameterError unless the experts are there."""
        self._experts(lm, retriever, switches)

    def _experts(self, lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches) -> Path:
        """The folder of the experts, if they are there; to name it takes a hash of all weights."""
        place = self.folder(lm, retriever, switches)
        if not (place / RECORD).is_file():
            raise ParameterError(
                f"clusters={self.clusters}: their experts are not in {place}; train them once: python -m tttnn ttmm "
                f"build --clusters {self.clusters}{self._options(switches)}, with the run's model, corpus and embedder"
            )
        return place

    def _options(self, switches: Switches) -> str:
        """What the command that builds the experts must be told besides."""
        rate = f"{switches.learning_rate:.6g}" if switches.learning_rate else None
        given = {
            "lora": switches.lora, "documents": self.documents or None, "learning-rate": rate,
            "max-chunks": switches.max_chunks, "precision": switches.precision, "seed": switches.seed,
        }  # fmt: skip
        return "".join(f" --{name} {value}" for name, value in given.items() if value is not None)

    def offline(self, lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches) -> dict[str, Any]:
        """Seconds, tokens and operations of clustering and of training all experts."""
        return dict(read_json(self.folder(lm, retriever, switches) / RECORD)["offline"])

    def folder(self, lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches) -> Path:
        """Where the experts are: named by the model and a hash of all that they depend on.

        Raises
        ------
        ParameterError
            If there is no retriever, or no rank of adapters.
        """
        digest = hashlib.sha256(json.dumps(self._depends_on(lm, retriever, switches), sort_keys=True).encode())
        return home() / "ttmm" / f"{lm.name}-{digest.hexdigest()[:16]}"

    def _depends_on(
        self, lm: LanguageModel, retriever: Retriever | Selection | None, switches: Switches
    ) -> dict[str, Any]:
        if retriever is None or not switches.lora:
            raise ParameterError(
                f"clusters={self.clusters}: experts are adapters over a corpus: give a retriever, and lora (their "
                f"rank), as --lora 8; train them once: python -m tttnn ttmm build --clusters {self.clusters} --lora 8"
            )
        named = {name: getattr(switches, name) for name in TRAINED_BY}
        named["learning_rate"] = f"{switches.learning_rate or lm.settings.learning_rate:.6g}"
        corpus = {name: value for name, value in retriever.identity.items() if name in ("corpus", "split", "embedder")}
        experts = {"clusters": self.clusters, "documents": self.documents}
        model = {"weights": lm.weight_hash(), "config": lm.config_hash(), "settings": asdict(lm.settings)}
        return {**experts, **corpus, **model, "switches": named}

    def steps(self, ttt: TTT, found: Retrieved, ks: Sequence[int]) -> Iterator[Step]:
        """Score with the weights as they are, and with the k nearest experts merged."""
        wanted = check_ks(ks)
        place = self._experts(ttt.lm, ttt.retriever, ttt.switches)
        scorer = ttt.scorer(found.scored)
        yield Step(0, scorer(), evaluation_operations=scorer.operations())
        for k in sorted(wanted - {0}):
            start = time.perf_counter()
            near, shares = self._nearest(ttt, place, found.query, k)
            with merged(ttt.lm, [_expert(place, each) for each in near], shares) as operations:
                score = scorer()
            # Merging is a part of this score alone, as the next one merges anew.
            seconds, whole = time.perf_counter() - start, scorer.operations() + operations
            yield Step(k, score, evaluation_seconds=seconds, evaluation_operations=whole)

    def _nearest(self, ttt: TTT, place: Path, query: str, k: int) -> tuple[list[int], list[float]]:
        """Numbers of the nearest clusters and their shares, which sum to 1."""
        try:
            vector = ttt.need_retriever().embedder.embed([query])
        except EmbeddingError as error:
            raise DocumentError(str(error)) from error
        similar = _centroids(place) @ _unit(vector)[0]  # (clusters,)
        near = np.argsort(-similar, kind="stable")[:k]
        shares = np.exp((similar[near] - similar[near[0]]) / self.temperature)
        return near.tolist(), (shares / shares.sum()).tolist()


def build(ttt: TTT, method: TTMM) -> Path:
    """Cluster the corpus and train an expert on each cluster, or go on where a killed call was.

    Parameters
    ----------
    ttt : TTT
        With a retriever, and the switch `lora`: how experts are trained.
    method : TTMM

    Returns
    -------
    Path
        ``TTTNN_HOME/ttmm/<model>-<hash>``: centroids, a file of adapters and a record for each cluster, and last, when
        all are there, ``ttmm.json`` with what they depend on and the offline cost.

    Raises
    ------
    ParameterError
        If there is no retriever or rank, fewer documents than clusters, or a switch that experts are not told apart by.
    BusyError
        If another process is building the same.
    """
    place = method.folder(ttt.lm, ttt.retriever, ttt.switches)
    if len(ttt.need_retriever()) < method.clusters:
        raise ParameterError(f"clusters={method.clusters}: the corpus has {len(ttt.need_retriever())} documents")
    for name in ("loss", "reuse", "pace", "split_query"):
        if getattr(ttt.switches, name):
            raise ParameterError(
                f"{name}: experts are trained on all of a document, with each gradient once; leave it out"
            )
    if (place / RECORD).is_file():
        return place
    with sole_writer(place):
        clusters, seconds = _clustered(ttt, method, place)
        done = [_trained(ttt, method, place, each, np.flatnonzero(clusters == each)) for each in range(method.clusters)]
        offline = {name: sum(record[name] for record in done) for name in ("seconds", "tokens", "operations")}
        offline["seconds"] += seconds
        facts = method._depends_on(ttt.lm, ttt.retriever, ttt.switches)
        write_json(place / RECORD, {"depends on": facts, "offline": offline, "clusters": done})
    return place


def _clustered(ttt: TTT, method: TTMM, place: Path) -> tuple[np.ndarray, float]:
    """The cluster of each document, shape (documents,), and the seconds that k-means took; kept in a file."""
    from safetensors.numpy import load_file, save_file

    if not (place / CENTROIDS).is_file():
        start = time.perf_counter()
        centroids, clusters = _k_means(ttt.need_retriever().index, method.clusters, ttt.switches.seed)
        seconds = np.array([time.perf_counter() - start])
        with writing(place / CENTROIDS) as partial:
            save_file({"centroids": centroids, "clusters": clusters, "seconds": seconds}, partial)
    kept = load_file(place / CENTROIDS)
    return kept["clusters"], float(kept["seconds"][0])


def _k_means(index: Any, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit centroids (clusters, dimension), float32, and the one nearest to each vector by cosine (documents,)."""
    from tttnn.index.faiss_runtime import load_faiss

    size, random = len(index), np.random.default_rng(seed)
    looked_at = np.sort(random.permutation(size)[: PER_CENTROID * clusters])
    means = load_faiss().Kmeans(
        index.dimension, clusters, niter=ROUNDS, seed=seed % 2**31, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=PER_CENTROID,
    )  # fmt: skip
    means.train(_unit(index.vectors(looked_at)))
    blocks = [np.arange(first, min(first + BLOCK, size)) for first in range(0, size, BLOCK)]
    nearest = [(_unit(index.vectors(block)) @ means.centroids.T).argmax(1) for block in blocks]
    return means.centroids, np.concatenate(nearest)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _trained(ttt: TTT, method: TTMM, place: Path, cluster: int, members: np.ndarray) -> dict[str, Any]:
    """What an expert was trained on; it is trained and kept, unless it is there."""
    record = place / f"{cluster}.json"
    if record.is_file():
        return dict(read_json(record))
    order = np.random.default_rng([ttt.switches.seed, cluster]).permutation(members)
    chosen = order[: method.documents] if method.documents else order
    start, tokens, losses = time.perf_counter(), 0, []
    with ttt.session():
        for k, document in enumerate(chosen.tolist(), start=1):
            chunks, _, _ = ttt.chunks(ttt.need_retriever().store[document].text)
            losses += ttt.train(chunks, k)
            tokens += sum(map(len, chunks))
        operations = ttt.operations(tokens)
        _write_expert(ttt.lm, _expert_file(place, cluster))
    loss = float(torch.stack(losses).mean()) if losses else None
    facts = {"documents": len(chosen), "of": len(members), "tokens": tokens, "steps": len(losses), "loss": loss}
    facts |= {"seconds": time.perf_counter() - start, "operations": operations}
    write_json(record, facts)
    log.info("expert %d of %d: %d documents, %d tokens, %.0f s", cluster + 1, method.clusters, len(chosen), tokens,
             facts["seconds"])  # fmt: skip
    return facts


def _expert_file(place: Path, cluster: int) -> Path:
    return place / f"{cluster}.safetensors"


def _write_expert(lm: LanguageModel, path: Path) -> None:
    """Write the adapters that are on a model: A and B by the name of their layer."""
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import save_file

    found = {}
    for name, layer in lm.model.named_modules():
        if isinstance(layer, LoraLayer):
            for letter, matrices in (("A", layer.lora_A), ("B", layer.lora_B)):  # (rank, inside), (outside, rank)
                found[f"{name}.{letter}"] = cast("Tensor", matrices["default"].weight).detach().cpu().contiguous()
    with writing(path) as partial:
        save_file(found, partial)


@lru_cache(maxsize=4)
def _centroids(place: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return np.asarray(_read(load_file, place / CENTROIDS)["centroids"])


@lru_cache(maxsize=KEPT)
def _expert(place: Path, cluster: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(_read(load_file, _expert_file(place, cluster)))


def _read(load: Any, path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError

    try:
        found: Mapping[str, Any] = load(path)
    except (SafetensorError, OSError) as error:
        raise ParameterError(
            f"{path}: damaged or gone ({error}); remove its folder and build the experts again"
        ) from error
    return found


@contextlib.contextmanager
def merged(lm: LanguageModel, experts: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> Iterator[float]:
    """Add experts to a model's weights, each with its share, and put the weights back at the end, bit for bit.

    Yields
    ------
    float
        Floating-point operations of merging.

    Raises
    ------
    RuntimeError
        If a loop on the same model is unfinished: the weights would not be the model's own.
    """
    from transformers.pytorch_utils import Conv1D

    operations = 0.0
    with lm.taken(), lm.restoring():
        for name in [key.removesuffix(".A") for key in experts[0] if key.endswith(".A")]:
            layer = lm.model.get_submodule(name)
            inner = torch.cat([expert[f"{name}.A"] for expert in experts])  # (experts * rank, inside)
            outer = torch.cat([s * e[f"{name}.B"] for s, e in zip(shares, experts, strict=True)], 1)
            change = SCALE * outer.to(lm.device) @ inner.to(lm.device)  # (outside, inside)
            with torch.no_grad():
                layer.weight.add_(change.T if isinstance(layer, Conv1D) else change)
            operations += 2.0 * len(inner) * change.numel()
        yield operations
