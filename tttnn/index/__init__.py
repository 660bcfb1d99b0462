"""The index: vectors -> ids of the nearest, by Faiss, on disk as a folder of shards with one manifest.

The published index is Faiss's exact ``IndexFlatL2`` over all vectors (Hardt and Sun 2024, section 3). Kinds
"flat" and "flat-mapped" give its results by Faiss's own exact search (``faiss.knn``), over raw vectors in a
``.npy`` that serves the re-ranking of the other kinds, too. The others search compressed vectors for candidates
and rank these by the exact ones, which lie on disk (see `tttnn.index.kinds.KINDS`).

An index folder::

    manifest.json            what belongs to the index: dimension, count, embedder, shards, hashes
    shard-00000/
        shard.json           the shard's own entry of the manifest
        vectors.npy          float32, as they were given; vectors.faiss if Faiss's flat index was imported
        structure.faiss      compressed kinds: what Faiss searches
    build.json, lock         a build that is under way, and who may write

Nothing counts that the manifest does not list, and it is replaced in one step, last of all. So an interrupted
build never shows, and never harms the index that was there.
"""

from tttnn.index.build import BuildOptions, add_shard, build_index
from tttnn.index.imported import import_flat
from tttnn.index.kinds import KINDS, default_kind
from tttnn.index.manifest import DamagedIndex, IndexExists, IndexMismatch, NoIndex
from tttnn.index.search import Answer, Index
from tttnn.index.shard import SearchSettings, merge, search_shard
from tttnn.index.verify import verify

__all__ = [
    "KINDS",
    "Answer",
    "BuildOptions",
    "DamagedIndex",
    "Index",
    "IndexExists",
    "IndexMismatch",
    "NoIndex",
    "SearchSettings",
    "add_shard",
    "build_index",
    "default_kind",
    "import_flat",
    "merge",
    "search_shard",
    "verify",
]
