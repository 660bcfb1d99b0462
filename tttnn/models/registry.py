"""Names of language models, and the test-time-training settings published for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class TTTSettings:
    """How a model is adapted and scored unless a run says otherwise (Table 1 of the report).

    Attributes
    ----------
    learning_rate : float
        AdamW learning rate of the one step per chunk.
    eps : float
        AdamW epsilon.
    max_length : int
        Tokens per training chunk; the stride equals it, so chunks do not overlap.
    context : int
        Tokens of evaluation context.
    prefix : str
        The token before a scored text: "bos" (beginning of sequence, as lm-evaluation-harness takes it) or "eos"
        (end of sequence, as the published code does); a tokenizer that has only one of them gives that one.
    """

    learning_rate: float = 2e-5
    eps: float = 1e-8
    max_length: int = 1024
    context: int = 1024
    prefix: str = "bos"


@dataclass(frozen=True)
class ModelEntry:
    """One line of the registry.

    Attributes
    ----------
    name : str
        What :func:`tttnn.models.load_model` is called with.
    parameters : int
        Number of weights, tied ones counted once (0: not known before loading).
    saw_domains : str
        Whether pre-training text included the domains the book evaluates on.
    licence, source : str
        Terms of the weights, and where the settings come from.
    settings : TTTSettings
        Published, or for our own checkpoints chosen on validation documents.
    """

    name: str
    parameters: int
    saw_domains: str
    licence: str
    source: str
    settings: TTTSettings

    @property
    def embedded(self) -> bool:
        """Whether the weights ship inside the package."""
        return (CHECKPOINTS / self.name / "config.json").is_file()


_OURS = "trained by tttnn.pretraining; learning rate the best after 20 neighbours on validation documents (sweep.json)"
_REPORT = "settings of the report's public code (arXiv 2511.16691)"

REGISTRY = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "gpt2-xxs-general",
            1_171_296,
            "no code, mathematics, LaTeX or parliament; encyclopedia and e-mail yes",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=2e-3, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2-xs-general",
            3_451_008,
            "no code, mathematics, LaTeX or parliament; encyclopedia and e-mail yes",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=1e-3, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2-s-general",
            8_501_760,
            "no code, mathematics, LaTeX or parliament; encyclopedia and e-mail yes",
            "Apache-2.0",
            "trained by tttnn.pretraining; learning rate that of gpt2-xs-general, not yet chosen by a sweep of its own",
            TTTSettings(learning_rate=1e-3, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2-m-general",
            20_800_192,
            "no code, mathematics, LaTeX or parliament; encyclopedia and e-mail yes",
            "Apache-2.0",
            "made by `python -m tttnn pretrain gpt2-m-general`, not shipped: give its folder; learning rate that of "
            "gpt2-xs-general, not yet chosen by a sweep of its own",
            TTTSettings(learning_rate=1e-3, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2-xs-pile",
            3_451_008,
            "yes, all of them and those of wheels (train splits)",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=2e-4, max_length=512, context=512),
        ),
        ModelEntry(
            "qwen2-xs-reasoning",
            3_082_880,
            "worked solutions of school mathematics; no code, LaTeX or parliament",
            "Apache-2.0",
            _OURS,
            TTTSettings(learning_rate=1e-3, max_length=512, context=512),
        ),
        ModelEntry(
            "gpt2",
            124_439_808,
            "hardly (WebText)",
            "MIT",
            _REPORT,
            TTTSettings(learning_rate=2e-5, max_length=1024, context=1024),
        ),
        ModelEntry(
            "gpt2-large",
            774_030_080,
            "hardly (WebText)",
            "MIT",
            _REPORT,
            TTTSettings(learning_rate=2e-5, max_length=1024, context=1024),
        ),
        ModelEntry(
            "EleutherAI/gpt-neo-1.3B",
            1_315_575_808,
            "yes (the Pile)",
            "MIT",
            _REPORT,
            TTTSettings(learning_rate=5e-6, max_length=2048, context=2048),
        ),
        ModelEntry(
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
            1_777_088_000,
            "mathematics and code",
            "MIT",
            _REPORT + ", but for the context: it scored with the config's, Switches(config_context=True)",
            TTTSettings(learning_rate=5e-6, max_length=1024, context=1024, prefix="eos"),
        ),
    )
}


def find_entry(name: str) -> ModelEntry:
    """Look a model up; names outside the registry get GPT-2's published settings.

    Parameters
    ----------
    name : str
        Registry name, hub name, or folder in Hugging Face format.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    return ModelEntry(name, 0, "unknown", "see the model", "not in the registry", TTTSettings())
