"""Rows of documents with given costs, for tests of what is computed from rows."""

import pandas as pd


def rows(nats, variant="nearest", domain="d", size=100, model="m"):
    """Nats by document: (before, after)."""
    base = {"model": model, "variant": variant, "domain": domain, "bytes": size, "failure": ""}
    return pd.DataFrame([
        base | {"document": document, "k": k, "nats": float(value)}
        for document, ends in enumerate(nats) for k, value in zip((0, 2), ends, strict=True)
    ])  # fmt: skip
