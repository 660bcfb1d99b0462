"""Where a result comes from: commit, parameters, versions, machine, data, time."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tttnn.provenance import commit, device, peak_memory, versions


@dataclass(frozen=True)
class Provenance:
    """Facts about one run, in order; shown as a two-column table. Made by :func:`provenance`."""

    facts: dict[str, str]

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.facts.items())

    def _repr_html_(self) -> str:
        rows = "\n".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in self.facts.items()
        )
        return f'<table class="dataframe tttnn-provenance"><tbody>{rows}</tbody></table>'

    def _repr_markdown_(self) -> str:
        cells = ((name, value.replace("|", r"\|")) for name, value in self.facts.items())
        rows = "\n".join(f"| {name} | {value} |" for name, value in cells)
        return f"| fact | value |\n|---|---|\n{rows}"


def provenance(parameters: Mapping[str, Any], **extra: Any) -> Provenance:
    """Collect what a reader needs to repeat or to doubt this run.

    Parameters
    ----------
    parameters
        The parameters the chapter ran with.
    **extra
        Further facts, for example ``corpus=corpus.fingerprint`` or ``index=index.fingerprint``.
    """
    facts = {
        "commit": commit(),
        "parameters": ", ".join(f"{name}={value!r}" for name, value in parameters.items()) or "none",
        "versions": ", ".join(f"{name} {value}" for name, value in versions().items()),
        "date (UTC)": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "device": device(),
        **{name.replace("_", " "): str(value) for name, value in extra.items()},
        "peak resident memory": f"{peak_memory() / 1e6:,.0f} MB",
        "wall time since the kernel started": f"{_seconds_alive():,.0f} s",
    }
    return Provenance(facts)


def _seconds_alive() -> float:
    import psutil

    return time.time() - psutil.Process().create_time()
