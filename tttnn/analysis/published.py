"""Published figures, each with its source (see ``published/README.md``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tttnn.errors import TTTNNError

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "published"
SEVEN = ("wikipedia", "arxiv", "books", "enron", "dm-mathematics", "europarl", "github")  # the report's, by our names
PILE_NAMES = {"books": "books3"}  # where a domain here is named otherwise than the Pile's that it stands for
PILE_SETS = {
    "ArXiv": "arxiv", "BookCorpus2": "bookcorpus2", "Books3": "books", "DM Mathematics": "dm-mathematics",
    "Enron Emails": "enron", "EuroParl": "europarl", "FreeLaw": "freelaw", "Github": "github",
    "Gutenberg (PG-19)": "gutenberg", "HackerNews": "hackernews", "NIH ExPorter": "nih-exporter",
    "OpenSubtitles": "opensubtitles", "OpenWebText2": "openwebtext2", "PhilPapers": "philpapers",
    "Pile-CC": "pile-cc", "PubMed Abstracts": "pubmed-abstracts", "PubMed Central": "pubmed-central",
    "StackExchange": "stackexchange", "USPTO Backgrounds": "uspto", "Ubuntu IRC": "ubuntu-irc",
    "Wikipedia (en)": "wikipedia", "YoutubeSubtitles": "youtubesubtitles",
}  # the Pile's pile_set_name: our name of the domain


def published_curves(run: str = "gpt2") -> pd.DataFrame:
    """Bits per byte by task and k as released by Hardt & Sun (2024).

    Parameters
    ----------
    run : str
        ``gpt2``, ``gpt2-split``, ``gpt2-large`` or ``gptneo``.

    Returns
    -------
    DataFrame
        Columns task, k, bits_per_byte, seconds_per_neighbour, ratio (to k = 0).

    Raises
    ------
    TTTNNError
        If there is no such run.
    """
    import pandas as pd

    curves = pd.read_csv(FOLDER / "hardt_sun_2024.csv")
    if run not in set(curves["run"]):
        raise TTTNNError(f"no published run {run!r}: there are {', '.join(curves['run'].unique())}")
    curves = curves[curves["run"] == run].drop(columns="run").reset_index(drop=True)
    before = curves[curves["k"] == 0].set_index("task")["bits_per_byte"]
    return curves.assign(ratio=curves["bits_per_byte"] / curves["task"].map(before))


def report_claims() -> pd.DataFrame:
    """The report's figures and claims, indexed by claim_id (R01, ...), in our words."""
    import pandas as pd

    return pd.read_csv(FOLDER / "report_2511_16691.csv", index_col="claim_id")
