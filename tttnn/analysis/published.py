"""Published figures, each with its source (see ``published/README.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from tttnn.errors import TTTNNError

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "published"
SEVEN = ("wikipedia", "arxiv", "books", "enron", "dm-mathematics", "europarl", "github")  # the report's, by our names
PILE_NAMES = {"books": "books3"}  # where a domain here is named otherwise than the Pile's that it stands for
PILE_SETS = {
    "ArXiv": "arxiv",
    "BookCorpus2": "bookcorpus2",
    "Books3": "books",
    "DM Mathematics": "dm-mathematics",
    "Enron Emails": "enron",
    "EuroParl": "europarl",
    "FreeLaw": "freelaw",
    "Github": "github",
    "Gutenberg (PG-19)": "gutenberg",
    "HackerNews": "hackernews",
    "NIH ExPorter": "nih-exporter",
    "OpenSubtitles": "opensubtitles",
    "OpenWebText2": "openwebtext2",
    "PhilPapers": "philpapers",
    "Pile-CC": "pile-cc",
    "PubMed Abstracts": "pubmed-abstracts",
    "PubMed Central": "pubmed-central",
    "StackExchange": "stackexchange",
    "USPTO Backgrounds": "uspto",
    "Ubuntu IRC": "ubuntu-irc",
    "Wikipedia (en)": "wikipedia",
    "YoutubeSubtitles": "youtubesubtitles",
}  # the Pile's pile_set_name: our name of the domain


def published_runs() -> pd.DataFrame:
    """All curves that Hardt & Sun (2024) released: 4 runs, 22 tasks and ``all``, k = 0 to 50.

    Returns
    -------
    DataFrame
        Columns run (``gpt2``, ``gpt2-split``, ``gpt2-large``, ``gptneo``), task, k (neighbours), bits_per_byte,
        seconds_per_neighbour (of the k-th one, with a score of the test document), ratio (to k = 0).
    """
    import pandas as pd

    curves = pd.read_csv(FOLDER / "hardt_sun_2024.csv")
    before = curves["bits_per_byte"].where(curves["k"] == 0).groupby([curves["run"], curves["task"]])
    return curves.assign(ratio=curves["bits_per_byte"] / before.transform("first"))


def published_curves(run: str = "gpt2") -> pd.DataFrame:
    """The curves of one run, as :func:`published_runs` has them, without the column run.

    Raises
    ------
    TTTNNError
        If there is no such run.
    """
    curves = published_runs()
    if run not in set(curves["run"]):
        raise TTTNNError(f"no published run {run!r}: there are {', '.join(curves['run'].unique())}")
    return curves[curves["run"] == run].drop(columns="run").reset_index(drop=True)


def scored_documents() -> pd.Series:
    """Documents of each task in the fifth of the Pile's test split that was scored, at most: by task."""
    import pandas as pd

    return pd.read_csv(FOLDER / "pile_test_documents.csv", index_col="task")["documents"]


@cache
def tested_documents() -> Mapping[str, int]:
    """The same for our seven domains, by their names here."""
    documents = scored_documents()
    return MappingProxyType({domain: int(documents[PILE_NAMES.get(domain, domain)]) for domain in SEVEN})


def report_claims() -> pd.DataFrame:
    """The report's figures and claims, indexed by claim_id (R01, ...), in our words."""
    import pandas as pd

    return pd.read_csv(FOLDER / "report_2511_16691.csv", index_col="claim_id")
