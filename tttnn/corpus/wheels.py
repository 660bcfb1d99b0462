"""The embedded corpus: real text that ships inside the installed Python packages, and generated mathematics.

The lock fixes the packages, so every machine that installs from it builds the same documents without a
download. Every file read is recorded with its SHA-256 in ``manifest.json``.

The domains, and the parts of the Pile that they stand for: ``python`` (sources) and ``cpp`` (mostly headers)
for GitHub, ``docstrings`` for technical prose, ``catalogues`` (messages in some sixty languages, beside their
English) for EuroParl, ``readmes`` for web prose, ``mathematics`` for DM Mathematics. ``python`` and
``docstrings`` never read the same file.

Splits are drawn document by document, like the Pile's. Parts of one file may fall on both sides, and near
duplicates stay (licence headers, messages translated into related languages): the manifest counts both.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tttnn.corpus import cutting, mathematics
from tttnn.corpus.folder import MANIFEST, fingerprint_files
from tttnn.corpus.jsonl import CorpusError, Document, write_jsonl
from tttnn.corpus.overlap import WINDOW, seen_shares
from tttnn.files import home, sha256_file, sole_writer, write_json, writing_folder

SEED = 1216
WANTED = 2_100_000  # bytes of text a domain
LARGEST_FILE = 200_000  # bytes; larger ones are tables of data rather than text
HELD_OUT = 10  # every tenth document is for val, and another tenth for test
MATHEMATICS_DOCUMENTS = 13  # of each module
GENERATED = "tttnn.corpus.mathematics"

# Written when a package is compiled, so they differ from one platform's wheel to another's.
COMPILED = ("config", "version", "abi", "__multiarray", "build")


@dataclass(frozen=True)
class Recipe:
    """Which files of which distributions make up a domain, and how a file is cut into documents."""

    domain: str
    distributions: tuple[str, ...]
    takes: Callable[[PackagePath], bool]
    cut: Callable[[str], list[str]]


@dataclass
class Harvest:
    """What was gathered for one domain."""

    documents: list[Document] = field(default_factory=list)
    files: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # not UTF-8, or not this Python
    duplicates: int = 0
    size: int = 0  # bytes of text

    def add(self, text: str, meta: dict[str, str], seen: set[bytes]) -> None:
        """Take a document unless its text is there already."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
        if digest in seen:
            self.duplicates += 1
            return
        seen.add(digest)
        self.documents.append(Document(text, meta))
        self.size += len(text.encode())


def wheels_folder() -> Path:
    """Return the folder of the embedded corpus, building it below `home` on first use.

    The folder's name depends on the versions of the packages, the seed and the code that makes the corpus, so
    a change of any of them builds a new one.

    Raises
    ------
    CorpusError
        If a package is not installed.
    """
    folder = home() / "corpora" / f"wheels-{_recipe_digest()[:12]}"
    if not folder.exists():
        with sole_writer(folder, wait=True, beside=True):
            if not folder.exists():  # the other process may have been at it
                build_wheels(folder)
    return folder


def build_wheels(
    folder: str | Path,
    recipes: Iterable[Recipe] | None = None,
    wanted: int = WANTED,
    questions: int = MATHEMATICS_DOCUMENTS,
    seed: int = SEED,
) -> None:
    """Build the embedded corpus; the folder appears when it is complete.

    Parameters
    ----------
    folder : str or Path
        If it exists already, for example because another process was faster, it is left as it is.
    recipes : iterable of Recipe, optional
        The domains taken from packages; `RECIPES` by default.
    wanted : int
        Files are read, in a seeded order, until a domain has so many bytes of text.
    questions : int
        Documents of each module of generated mathematics.
    seed : int
        Of the choice of files, the questions and the splits.

    Raises
    ------
    CorpusError
        If a package, or one of its files, is not there.
    """
    recipes = RECIPES if recipes is None else tuple(recipes)
    seen: set[bytes] = set()
    with writing_folder(folder) as partial:
        domains, files = {}, []
        for recipe in tqdm([*recipes, None], desc="corpus wheels", unit="domain"):
            domain = recipe.domain if recipe else "mathematics"
            harvest = _gather(recipe, wanted, seed, seen) if recipe else _generate(questions, seed, seen)
            domains[domain] = _write_splits(partial, domain, harvest, seed)
            files += harvest.files
        manifest = {
            "corpus": "wheels",
            "seed": seed,
            "fingerprint": fingerprint_files(partial, partial.glob("*.jsonl")),
            "split": "documents in random order: 1/10 test, 1/10 val, the rest train; near-duplicates stay",
            "domains": domains,
            "packages": {name: _about(name) for name in sorted({file["distribution"] for file in files})},
            "files": files,
        }
        write_json(partial / MANIFEST, manifest)


def _gather(recipe: Recipe, wanted: int, seed: int, seen: set[bytes]) -> Harvest:
    harvest = Harvest()
    candidates = [
        (name, path)
        for name in recipe.distributions
        for path in _installed(name).files or ()
        if path.size and path.size <= LARGEST_FILE and recipe.takes(path)
    ]
    # By hash and not by a shuffle: a file more or less on one platform does not move the others.
    for name, path in sorted(candidates, key=lambda each: _rank(seed, *each)):
        if harvest.size >= wanted:
            break
        where = Path(path.locate())
        if not where.is_file():
            raise CorpusError(f"{name} lacks its file {path}: install it again from the lock")
        package = _about(name)
        record = {"distribution": name, "version": package["version"], "path": path.as_posix()}
        harvest.files.append(record | {"sha256": sha256_file(where)})
        try:
            texts = recipe.cut(where.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, SyntaxError):
            harvest.unreadable.append(path.as_posix())
            continue
        for part, text in enumerate(texts):
            source = f"{name}=={package['version']}:{path.as_posix()}#{part}"
            meta = {"pile_set_name": recipe.domain, "source": source, "license": package["license"]}
            harvest.add(text, meta, seen)
    return harvest


def _generate(count: int, seed: int, seen: set[bytes]) -> Harvest:
    harvest = Harvest()
    for module in mathematics.MODULES:
        for number in range(count):
            source = f"{GENERATED}:{module}#{number}"
            meta = {"pile_set_name": "mathematics", "source": source, "license": "CC0-1.0"}
            harvest.add(mathematics.document(module, seed, number), meta, seen)
    return harvest


def _write_splits(folder: Path, domain: str, harvest: Harvest, seed: int) -> dict[str, Any]:
    """Draw and write the splits of one domain; return what the manifest says about it."""
    drawn = sorted(harvest.documents, key=lambda document: _rank(seed, domain, document.meta["source"]))
    held_out = len(drawn) // HELD_OUT
    splits = {"train": drawn[2 * held_out :], "val": drawn[held_out : 2 * held_out], "test": drawn[:held_out]}
    sizes = {}
    for split, documents in splits.items():
        write_jsonl(folder / f"{domain}.{split}.jsonl", documents)
        size = sum(len(document.text.encode()) for document in documents)
        sizes[split] = {"documents": len(documents), "bytes": size}
    return {
        "bytes": harvest.size,
        "files": len(harvest.files),
        "files_unreadable": harvest.unreadable,
        "exact_duplicates_dropped": harvest.duplicates,
        "splits": sizes,
        "test_overlap": _test_overlap(splits["test"], splits["train"]),
    }


def _test_overlap(test: list[Document], train: list[Document]) -> dict[str, int | float]:
    """Say how much of the test documents can be found in the training documents of their domain."""
    shares = seen_shares((document.text for document in test), (document.text for document in train))
    train_files = {_file(document) for document in train}
    siblings = sum(_file(document) in train_files for document in test)
    return {
        "window_bytes": WINDOW,
        "mean_share_of_windows_in_train": round(float(shares.mean()), 4) if len(shares) else 0.0,
        "documents_with_over_half_in_train": int((shares > 0.5).sum()),
        "documents_with_part_of_same_file_in_train": siblings,
    }


def _file(document: Document) -> str:
    return document.meta["source"].rpartition("#")[0]


@cache
def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError as error:
        raise CorpusError(
            f"the embedded corpus reads the package {name}, which is not installed: install from the lock"
        ) from error


@cache
def _about(name: str) -> dict[str, str]:
    package = _installed(name)
    return {"version": package.version, "license": _license(package)}


def _license(package: Distribution) -> str:
    """Return the licence that a package's metadata states, shortest form first."""
    facts: Any = package.metadata  # a message, whose `get` its annotation leaves out
    stated = (facts.get("License-Expression") or facts.get("License") or "").strip()
    if stated and len(stated) <= 80 and "\n" not in stated:
        return stated
    classifiers = (each.split(" :: ") for each in facts.get_all("Classifier") or [])
    names = [parts[-1] for parts in classifiers if parts[0] == "License"]
    return ", ".join(names) or stated.split("\n")[0] or "see the package"


def _rank(*parts: object) -> bytes:
    """Return a fixed pseudo-random sort key."""
    return hashlib.sha256(":".join(map(str, parts)).encode()).digest()


def _recipe_digest() -> str:
    """Identify everything the corpus is made from: packages, seed, and this code."""
    names = sorted({name for recipe in RECIPES for name in recipe.distributions})
    packages = [f"{name}=={_installed(name).version}" for name in names]
    code = [sha256_file(module) for module in (__file__, cutting.__file__, mathematics.__file__)]
    return hashlib.sha256(json.dumps([SEED, packages, code]).encode()).hexdigest()


def _is_source(path: PackagePath) -> bool:
    return path.suffix == ".py" and not _is_test(path) and not _is_compiled(path)


def _is_test(path: PackagePath) -> bool:
    return any(part in ("tests", "test", "testing") for part in path.parts) or path.name.startswith("test_")


def _is_compiled(path: PackagePath) -> bool:
    return any(word in path.name for word in COMPILED)


def _for_docstrings(path: PackagePath) -> bool:
    return _rank("docstrings", path.as_posix())[0] % 2 == 0


def _takes_python(path: PackagePath) -> bool:
    return _is_source(path) and not _for_docstrings(path)


def _takes_docstrings(path: PackagePath) -> bool:
    return _is_source(path) and _for_docstrings(path)


def _takes_cpp(path: PackagePath) -> bool:
    return path.suffix in (".h", ".hpp", ".cc", ".cpp") and not _is_compiled(path)


def _takes_catalogues(path: PackagePath) -> bool:
    return path.suffix == ".po"


def _takes_readmes(path: PackagePath) -> bool:
    if path.name == "METADATA":
        return path.parent.name.endswith(".dist-info") and len(path.parts) == 2
    return path.suffix in (".md", ".rst") and ".dist-info" not in path.parts[0]


def _cut_readme(text: str) -> list[str]:
    is_metadata = text.startswith("Metadata-Version:")
    return cutting.cut_description(text) if is_metadata else cutting.cut_paragraphs(text)


LIBRARIES = (
    "docutils huggingface-hub networkx numpy pandas Pygments rich scikit-learn scipy Sphinx SQLAlchemy sympy tornado"
)
HEADERS = "lxml numpy pyarrow scipy"
CATALOGUES = (
    "pydata-sphinx-theme Sphinx sphinx-book-theme sphinx-togglebutton sphinxcontrib-applehelp "
    "sphinxcontrib-devhelp sphinxcontrib-htmlhelp sphinxcontrib-jsmath sphinxcontrib-qthelp "
    "sphinxcontrib-serializinghtml"
)
READMES = (
    "accessible-pygments aiohttp altair annotated-types attrs charset-normalizer cloudpickle coverage "
    "DataProperty datasets defusedxml dill executing frozenlist h11 httpcore2 httpx2 huggingface-hub idna "
    "imagesize jedi jupytext linkify-it-py lm_eval mdit-py-plugins more-itertools mpmath multiprocess "
    "narwhals nbval nest-asyncio2 numpy pandas papermill parso pathvalidate portalocker prompt_toolkit "
    "propcache psutil pure_eval pydantic pytablewriter pytest python-dateutil pytz regex rich sacrebleu "
    "scikit-learn sortedcontainers Sphinx sphinx_external_toc SQLAlchemy sqlitedict stack-data sympy "
    "tabulate threadpoolctl tokenizers tqdm traitlets transformers typepy typer urllib3 wcwidth xxhash "
    "yarl"
)

RECIPES = (
    Recipe("python", tuple(LIBRARIES.split()), _takes_python, cutting.cut_python),
    Recipe("docstrings", tuple(LIBRARIES.split()), _takes_docstrings, cutting.cut_docstrings),
    Recipe("cpp", tuple(HEADERS.split()), _takes_cpp, cutting.cut_paragraphs),
    Recipe("catalogues", tuple(CATALOGUES.split()), _takes_catalogues, cutting.cut_catalogue),
    Recipe("readmes", tuple(READMES.split()), _takes_readmes, _cut_readme),
)
