"""Settings: one frozen record, read from learnloop.toml and LEARNLOOP_* variables.

Precedence: keyword arguments, then the environment, then the file, then the defaults below.
"""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from langgraph_learnloop.errors import ConfigError
from langgraph_learnloop.records import Recipe, Record, Sampling

PREFIX = "LEARNLOOP_"
FILE_ONLY = frozenset(
    {"recipe", "sampling", "prices", "exclude_nodes", "exclude_fields", "signals", "suites", "rollout_stages"}
)
"""Settings that hold more than one value; a variable of the environment does not set them."""
CapturedField = Literal["messages", "question", "answer", "reasoning", "tool_calls", "error", "metadata"]


class Price(Record):
    """What a model costs, in US dollars for a million tokens."""

    input: float = Field(ge=0)
    """Tokens that the model reads."""
    output: float = Field(ge=0)
    """Tokens that the model writes."""


class LoopConfig(Record):
    """Everything that can be set; the numbers of the guides are the defaults here."""

    agent: str = "agent"
    """Name of the watched agent."""
    folder: str | None = None
    """Where datasets, jobs and adapters are kept; None is `<store>.files` beside the store."""
    app: str | None = None
    """A LearnLoop for the command line, as "module:attribute", e.g. "my_agent:loop"."""
    queue_size: int = Field(default=10_000, ge=1)
    """Events the recorder holds in memory before it drops whole runs, and counts them."""
    redact: bool = True
    """Mask e-mail addresses, numbers of phones, cards and accounts, IP addresses and keys before anything is stored."""
    exclude_nodes: tuple[str, ...] = ()
    """Graph nodes of which no step is recorded."""
    exclude_fields: tuple[CapturedField, ...] = ()
    """Parts of runs and steps that are not recorded."""
    user_key: str | None = Field(default=None, min_length=16)
    """A secret of your own; with it, users are stored as a keyed hash (HMAC-SHA-256)."""
    sample_rate: float = Field(default=1.0, ge=0, le=1)
    """Share of the ordinary runs that is kept; runs that failed, were flagged or got feedback are always kept."""
    longest_text: int = Field(default=1_000_000, ge=1_000)
    """Bytes of a message beyond which its long texts are cut, with a mark and the hash of the whole."""
    largest_blob: int = Field(default=20_000_000, ge=0)
    """Bytes of an image, audio or file in a message beyond which only its hash is kept; 0 is no limit."""
    prices: dict[str, Price] = Field(default_factory=dict)
    """A table for each model, `[prices."name"]`, by the name that it is recorded under; see below."""
    flag_below: float = Field(default=0.0, ge=-1, le=1)
    """A mean score below this flags a run; scores go from -1 to 1."""
    signals: tuple[str, ...] = ("asked_again", "objected", "gave_up", "repeated_call", "unknown_tool", "no_answer")
    """What flags a run of which nobody said anything; your own as "module:function", and none with []. See
    [signals](signals.md)."""
    neighbours: int = Field(default=7, ge=1)
    """Corrections of other people on similar requests that a correction is compared with."""
    alike: float = Field(default=0.15, gt=0, lt=1)
    """Mean cosine at which flagged requests belong to one weakness. The default is for hashed texts, where
    `benchmarks/weaknesses.py` measures it; embeddings that
    know meanings put everything nearer together, and want more."""
    embeddings: str | None = None
    """What makes vectors of requests, as "module:attribute": LangChain embeddings, or what makes some. None hashes."""
    index: str | None = None
    """Where similar runs are looked for, as "module:attribute": an object with `near`, or what makes one; None is a
    folder beside the store. See [curation](curation.md)."""
    heldout: float = Field(default=0.25, gt=0, lt=1)
    """Share of the groups of a dataset that is kept for the gate."""
    retention_cases: int = Field(default=200, ge=1)
    """Held-out cases of each tool that the gate asks to see that nothing old was lost."""
    variations: int = Field(default=8, ge=0)
    """Variations made of each training correction."""
    least_corrections: int = Field(default=8, ge=1)
    """Corrections to train on below which a cycle trains nothing."""
    continue_adapter: bool = False
    """Train a candidate from the champion's adapter, at a tenth of the rate; else from the base, on all that was
    learned."""
    train_minutes: float | None = Field(default=None, gt=0)
    """Wall time after which a training job stops, to be gone on with by the same cycle; None is no cap."""
    train_python: str | None = None
    """Interpreter of the training process, e.g. of an environment with Unsloth; None is the agent's own."""
    sampling: Sampling = Field(default_factory=Sampling)
    """How the first release draws tokens; its candidates do the same."""
    recipe: Recipe = Field(default_factory=Recipe)
    """How adapters are trained."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Error rate of each family of gates."""
    target_gain: float = Field(default=0.05, ge=0, le=1)
    """The target must get better by at least this share."""
    retention_margin: float = Field(default=0.02, gt=0, le=1)
    """The old slice as a whole must not be worse by more than this share."""
    category_margin: float = Field(default=0.02, gt=0, le=1)
    """No single category may be worse by this share; the fewer cases each has, the wider it must be to be shown."""
    safety: float = Field(default=0.999, gt=0, lt=1)
    """Share of safety cases that must be right, at the lower end of the interval; 0.999 needs 2,995 cases at least."""
    latency_ratio: float | None = Field(default=None, gt=1)
    """How many times slower the candidate's model calls may be (median, and 95th percentile); None only informs."""
    cost_ratio: float | None = Field(default=None, gt=1)
    """How many times dearer the candidate may be; None only informs."""
    suites: tuple[str, ...] = ()
    """Files of your own cases, JSON lines, that every candidate is asked too."""
    early_stop: bool = True
    """End an examination as soon as it is clear that the candidate cannot pass."""
    eval_seconds: float = Field(default=60.0, gt=0)
    """Deadline of one case."""
    eval_threads: int = Field(default=16, ge=1)
    """Cases that are run at the same time."""
    after_gate: Literal["promote", "rollout"] = "promote"
    """What a cycle does with a release that passed: all new threads get it ("promote"), or a rollout begins. Where
    `autonomy` is "manual" it is always a rollout."""
    rollout_shadow: int = Field(default=50, ge=0)
    """Threads whose requests the candidate must have answered, unseen, before it gets any thread; 0 leaves that out."""
    rollout_metric: str = "flagged"
    """What makes a thread a bad one: a run of it was "flagged", "failed", "interrupted" or "unhappy" (somebody gave it
    a score below 0); or "module:function" that takes a run and its feedback and returns how bad it was, 0 to 1."""
    rollout_stages: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (1, 5, 25, 50, 100)
    """Shares of the new threads, in percent, that a candidate gets one after the other."""
    rollout_minutes: float = Field(default=60.0, ge=0)
    """How long a stage lasts at least."""
    rollout_threads: int = Field(default=20, ge=1)
    """Threads that the candidate must have finished in a stage."""
    rollout_margin: float = Field(default=0.05, gt=0, lt=1)
    """At the last stage the candidate's share of bad threads must be shown to be higher by less than this."""
    rollout_latency_ratio: float | None = Field(default=1.25, gt=0)
    """How many times slower the candidate's model calls may be before it is taken back; None does not look."""
    rollout_cost_ratio: float | None = Field(default=1.25, gt=0)
    """How many times dearer its threads may be before it is taken back; None does not look."""
    settle_minutes: float = Field(default=10.0, ge=0)
    """How long a thread must have been quiet before it counts as evidence: what was wrong is said a while later."""
    ack_seconds: float = Field(default=5.0, ge=0)
    """How long a promotion waits until every process that serves has followed it."""
    operator: str | None = None
    """Who is told what is decided of releases, as "module:attribute": an object with `tell`, or what makes one; see
    [serving](serving.md)."""
    mirror: str | None = None
    """Where runs and what is decided are shown too, as "module:attribute": an object with `send`, or what makes one;
    see [langfuse](langfuse.md)."""
    autonomy: Literal["manual", "guarded", "automatic"] = "guarded"
    """Who moves a rollout on: people each time ("manual"), people at the last stage ("guarded"), or nobody
    ("automatic"); it goes back by itself in each."""
    adapters_gb: float | None = Field(default=None, ge=0)
    """Gigabytes (10^9 bytes) that adapters and unfinished jobs may take; a promotion ends with `tidy`, and with None
    nothing is removed."""
    keep_warm: int = Field(default=3, ge=1)
    """Releases that a serving process holds in memory for an instant way back, the present one included."""
    threads: Literal["keep", "follow"] = "keep"
    """Whether a thread keeps the release it began with ("keep"), or follows the champion with its next turn
    ("follow")."""
    poll_seconds: float = Field(default=1.0, gt=0)
    """How often a serving process looks for a new champion in the store."""


def named(spec: str, what: str) -> Any:
    """Return what "module:attribute" names, modules of the present folder included; raise ConfigError if nothing."""
    module, _, attribute = spec.partition(":")
    if not module or not attribute or module.startswith("."):  # a relative name is relative to nothing here
        raise ConfigError(f'{what} must be named as "module:attribute", not {spec!r}.')
    if (here := os.getcwd()) not in sys.path:  # a command that was installed does not look there
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{what} {spec!r} cannot be loaded: {error}. Check both names, and run this where the module can be "
            "imported."
        ) from error


def made(found: Any, verb: str) -> Any:
    """Return an object that can do something, where either it was named or what makes it."""
    return found if hasattr(found, verb) and not isinstance(found, type) else found()


def named_or(spec: str | None, what: str, verb: str) -> Any:
    """Return the object that a setting names, or what the maker that it names makes; None for no setting."""
    return None if spec is None else made(named(spec, what), verb)


def load_config(path: str | Path | None = None, environ: Mapping[str, str] | None = None, **given: Any) -> LoopConfig:
    """Read the settings; raise ConfigError with a sentence when one is not usable."""
    file = Path(path) if path is not None else Path("learnloop.toml")
    values = _from_file(file, required=path is not None)
    values.update(_from_environment(os.environ if environ is None else environ))
    values.update({k: v for k, v in given.items() if v is not None})
    try:
        return LoopConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"The setting {name!r} is not usable: {first['msg']}. Mend it in {file} or in {PREFIX}{name.upper()}."
        ) from error


def _from_file(file: Path, required: bool) -> dict[str, Any]:
    if not file.exists():
        if required:
            raise ConfigError(f"The settings file {str(file)!r} does not exist: name one that does, or none.")
        return {}
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"The settings file {str(file)!r} cannot be read: {error}. It must be TOML in UTF-8."
        ) from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = LoopConfig.model_fields.keys() - FILE_ONLY
    return {name: environ[PREFIX + name.upper()] for name in known if PREFIX + name.upper() in environ}
