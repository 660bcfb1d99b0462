"""The finished model: bf16 safetensors, tokenizer, figures as JSON, and a model card made of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tttnn.files import read_json, write_json, writing, writing_folder
from tttnn.models.model_registry import best_rate
from tttnn.pretraining.data import end_of_text
from tttnn.pretraining.settings import Settings, load_settings, settings_as_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL_FIGURES, SWEEP = "training.json", "sweep.json"


def export(
    folder: Path, settings: Settings, model: PreTrainedModel, tokenizer_file: Path, figures: dict[str, Any]
) -> dict[str, Any]:
    """Write a model in Hugging Face format with its card, replacing what is in `folder`.

    Parameters
    ----------
    folder : Path
        Gets model.safetensors (bfloat16), configuration, tokenizer files, settings.json, training.json and
        README.md.
    settings : Settings
    model : PreTrainedModel
        It is left rounded to bfloat16.
    tokenizer_file : Path
        Copied as it is.
    figures : dict
        What the run did, and what was measured of the exported weights, such as "validation_bits_per_byte".

    Returns
    -------
    dict
        `figures`.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    sweep = read_json(folder / SWEEP) if (folder / SWEEP).is_file() else None  # made since the last export
    shutil.rmtree(folder, ignore_errors=True)  # a rename needs the place free; the run can export again
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    end = tokenizer.id_to_token(end_of_text(tokenizer))
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    with writing_folder(folder) as partial:
        model.config.use_cache = True
        model.to(torch.bfloat16).save_pretrained(partial)
        others = [token for token in special if token != end]
        PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer_file), additional_special_tokens=others, bos_token=end, eos_token=end
        ).save_pretrained(partial)
        shutil.copyfile(tokenizer_file, partial / "tokenizer.json")
        write_json(partial / "settings.json", settings_as_json(settings))
        write_json(partial / MODEL_FIGURES, figures)
        (partial / "README.md").write_text(render_card(settings, figures, sweep), encoding="utf-8")
        if sweep is not None:
            write_json(partial / SWEEP, sweep)
    return figures


def write_card(folder: Path, sweep: dict[str, Any] | None = None) -> None:
    """Render a model folder's README.md anew from the figures beside it.

    Parameters
    ----------
    folder : Path
        Of a model that :func:`export` wrote.
    sweep : dict, optional
        Test-time learning rates compared on validation documents, as :func:`tttnn.experiment.sweep.record` gives
        them; kept as sweep.json. Default: the sweep.json that is there, if any.

    Raises
    ------
    FileNotFoundError
        If the folder has no settings.json or training.json.
    """
    settings, figures = load_settings(folder / "settings.json"), read_json(folder / MODEL_FIGURES)
    if sweep is not None:
        write_json(folder / SWEEP, sweep)
    elif (folder / SWEEP).is_file():
        sweep = read_json(folder / SWEEP)
    with writing(folder / "README.md") as partial:
        partial.write_text(render_card(settings, figures, sweep), encoding="utf-8")


def keep_sweep(folder: Path, sweep: dict[str, Any]) -> None:
    """Write a sweep into a model's folder, from which its learning rate is read, and into the card of one of ours.

    Parameters
    ----------
    folder : Path
        Of any model; one that :func:`export` wrote has a settings.json.
    sweep : dict
        As :func:`tttnn.experiment.sweep.record` gives it.
    """
    if (folder / "settings.json").is_file():
        write_card(folder, sweep)
    else:
        write_json(folder / SWEEP, sweep)


def render_card(settings: Settings, figures: dict[str, Any], sweep: dict[str, Any] | None = None) -> str:
    """Render the model card; every number in it comes from the settings, the run's figures or the sweep."""
    return "\n\n".join([
        f"# {settings.name}",
        settings.about,
        "## Architecture\n\n" + _architecture(settings, figures),
        "## Training\n\n" + _training(settings, figures),
        "## Data\n\n" + _data(settings, figures),
        "## Validation\n\n" + _validation(settings, figures),
        "## Make it again\n\n" + _command(figures),
        *(["## Test-time learning rate\n\n" + _sweep(settings, sweep)] if sweep else []),
    ]) + "\n"  # fmt: skip


def _architecture(settings: Settings, figures: dict[str, Any]) -> str:
    rows = [
        ("parameters (tied ones once)", f"{figures['parameters']:,}"),
        ("vocabulary", f"{figures['vocabulary']:,}"),
    ]
    rows += [(key, str(value)) for key, value in settings.architecture.items()]
    return _table(("setting", "value"), rows)


def _training(settings: Settings, figures: dict[str, Any]) -> str:
    start = "mean of " * (len(settings.init) > 1) + " and ".join(f"`{each}`" for each in settings.init)
    start = f"{start}, trained before; see above" if start else "random weights"
    rows = [
        ("tokens seen", f"{figures['tokens']:,} in {figures['steps']:,} steps of {settings.batch_tokens:,}"),
        ("epochs of the data", f"{figures['tokens'] / _total(figures, 'tokens'):.2f}"),
        ("tokens per parameter", f"{figures['tokens'] / figures['parameters']:.1f}"),
        ("started from", start),
        ("optimizer", f"AdamW, betas {settings.betas}, weight decay {settings.weight_decay} on matrices"),
        ("learning rate", f"{settings.learning_rate} after {settings.warmup_tokens:,} tokens of warm-up, "
                          f"cosine to {settings.final_fraction:.0%} of it"),
        ("gradient norm clipped at", str(settings.clip)),
        ("training loss", f"{figures['training_loss']:.3f} nats per token at the end (smoothed)"),
        ("time", f"{figures['hours']:.2f} hours, validation included"),
        ("device", f"{figures['device']}, {figures['threads']} CPU thread(s)"),
        ("precision", f"{figures['precision']} matrix products, float32 weights; shipped as bfloat16"),
        ("seed", str(settings.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in figures["versions"].items())),
    ]  # fmt: skip
    return _table(("what", "value"), rows)


def _data(settings: Settings, figures: dict[str, Any]) -> str:
    domains = figures["data"]["domains"]
    rows = [
        (source.domain, source.about, f"{each['documents']:,}", f"{each['bytes']:,}", f"{each['tokens']:,}",
         "; ".join(f"{name} ({count:,})" for name, count in each["licences"].items()))
        for source, each in ((source, domains[source.domain]) for source in settings.train)
    ]  # fmt: skip
    head = ("domain", "text", "documents", "bytes", "tokens", "licences as the documents state (documents)")
    return (
        f"{_table(head, rows)}\n\nOnly files of train splits were read. No training text is one of the "
        f"{figures['data']['held_out_texts_compared']:,} validation and test texts (SHA-256 of whole texts; "
        "near-duplicates are possible). The text itself is not part of this folder. "
        "The hash of every training file is in `training.json`."
    )


def _validation(settings: Settings, figures: dict[str, Any]) -> str:
    seen = {source.domain for source in settings.train}
    measured = "validation_bits_per_byte"
    columns = [figures["curve"][i][measured] for i in (0, -1)] + [figures[measured]]
    rows = []
    for each in settings.validation:
        told = (
            each.domain,
            "yes" if each.domain in seen else "no",
            f"{each.documents} of {each.tokens:,} tokens",
        )
        rows.append(told + tuple(_rounded(values, each.domain) for values in columns))
    head = ("domain", "seen in training", "documents in the run", "at step 0", "at the last step", "shipped")
    return (
        f"{_table(head, rows)}\n\nBits per byte: the sum of bits over the sum of bytes, on the first "
        "documents of a domain, each cut at so many tokens; windows of "
        f"{settings.context} tokens without overlap, float32 arithmetic, the end-of-text token before each "
        "document. *Shipped* is this folder's bfloat16 weights on the first "
        f"{settings.final_documents} documents, cut alike. The values in between are in `training.json`."
    )


def _sweep(settings: Settings, sweep: dict[str, Any]) -> str:
    ratios, ks = sweep["ratio_to_k0"], [k for k in sweep["ks"] if k]
    best = best_rate(sweep)
    rows = [
        (f"**{float(rate)}**" if float(rate) == best else f"{float(rate)}", *(_ratio(row[str(k)]) for k in ks))
        for rate, row in ratios.items()
    ]
    places = {"per-domain": sweep["per_domain"], "max-bytes": sweep["max_bytes"], "max-chunks": sweep["max_chunks"]}
    options = [f"--{name} {value}" for name, value in places.items() if value is not None]
    command = " ".join([
        "python -m tttnn sweep", f"--model {settings.name}", f"--rates {','.join(ratios)}", *options,
        f"--ks {','.join(map(str, sweep['ks']))}", "--threads 1", "--card", "--out FOLDER",
    ])  # fmt: skip
    chunks = f"; at most {sweep['max_chunks']} chunks of a neighbour" if sweep["max_chunks"] else ""
    return (
        f"Chosen on {sweep['documents']} validation documents of the corpus {sweep['corpus']}, "
        f"{sweep['per_domain']} a domain, never on test: the rate with the lowest ratio of nats after {ks[-1]} "
        f"neighbours to nats before{chunks}.\n\n{_table(('learning rate', *(f'k = {k}' for k in ks)), rows)}\n\n"
        f"```\n{command}\n```"
    )


def _ratio(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"


def _rounded(values: dict[str, float], domain: str) -> str:
    return f"{values[domain]:.4f}" if domain in values else ""


def _command(figures: dict[str, Any]) -> str:
    flags = f"--device {figures['device_type']} --threads {figures['threads']}"
    return (
        f"```\npython -m tttnn pretrain settings.json --data ROOT --out FOLDER {flags}\n```\n\n"
        "`settings.json` is the file beside this card; `ROOT` holds the files it names. The order of the "
        "data depends on the seed alone; on a CPU with one thread an interrupted run ends with the same "
        "weights, bit for bit. `tttnn.pretraining.validate` measures the table above again."
    )


def _total(figures: dict[str, Any], what: str) -> int:
    return sum(each[what] for each in figures["data"]["domains"].values())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
