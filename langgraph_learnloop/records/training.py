"""How adapters are trained: recipes, jobs, plans, and what comes of them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from langgraph_learnloop.records.base import Record


class Recipe(Record):
    """How a LoRA adapter is trained."""

    method: Literal["sft", "dpo", "kto"] = "sft"
    """What is learned: the right answer alone ("sft"), that it is preferred to the one that was given ("dpo"), or which
    answers are good and which are not, in no pairs ("kto"). The assistant's last tokens only, in each."""
    rank: int = Field(default=16, ge=1)
    """LoRA rank."""
    alpha: int = Field(default=32, ge=1)
    """LoRA scale numerator: the update is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the layers that get an adapter, such as "q_proj"; none named is every linear layer."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023)."""
    dora: bool = False
    """Learn the weights' magnitude apart from their direction (Liu et al. 2024)."""
    four_bit: bool = False
    """Hold the base in four bits (QLoRA, Dettmers et al. 2023); needs bitsandbytes."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate; small from-scratch models want 3e-3."""
    find_rate: bool = False
    """Try rates around `learning_rate` first and take the one at which the loss falls fastest (Smith 2017)."""
    continued_rate: float = Field(default=0.1, gt=0, le=1)
    """Share of the learning rate for a job that goes on from an adapter: what it learned is to stay."""
    beta: float = Field(default=0.1, gt=0)
    """How closely "dpo" and "kto" hold on to the model they began with."""
    ewc: float = Field(default=0.0, ge=0)
    """Weight of elastic weight consolidation: moving what replayed examples depend on costs (Kirkpatrick et al.
    2017)."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the parent on replayed examples: KL(parent || model), a token's mean."""
    packing: bool = False
    """Lay a step's examples end to end, apart in attention, instead of padding them; what is learned is the same."""
    steps: int = Field(default=200, ge=1)
    """Optimizer steps."""
    batch: int = Field(default=16, ge=1)
    """Examples a step."""
    replay: float = Field(default=2.0, ge=0)
    """Replayed examples drawn for each new one (before variations); 0 trains without replay. A cycle draws more after
    one that forgot."""
    variations: bool = True
    """Use the variations that curation made."""
    strength: float = Field(default=1.0, gt=0, le=1)
    """Share of what was learned that a fresh adapter keeps: a little below 1 holds on to more of what the model knew,
    as weights between the model's and the fine-tuned ones do (Wortsman et al. 2022, WiSE-FT)."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens after which an example is left out, and counted."""
    seed: int = 0
    """Seed of everything random in the job."""

    @model_validator(mode="after")
    def _fits_its_method(self) -> Self:
        """Refuse what a method has no use for."""
        if self.method != "sft" and (self.kl or self.packing or self.find_rate):
            raise ValueError(
                f'"kl", "packing" and "find_rate" must be left out: they are for "sft", not for {self.method!r}'
            )
        return self


class Job(Record):
    """A training job, whole: what job.json holds."""

    job_id: str
    """Content hash of base, dataset, recipe and parent: the same job is done once."""
    base_model: str
    """Name or folder of the base model."""
    parent_adapter: str | None = None
    """Adapter to go on from; None starts afresh."""
    dataset: str
    """JSON-lines file of examples."""
    recipe: Recipe
    """How to train."""
    output: str
    """Folder for the adapter; written whole or not at all."""
    engine: Literal["auto", "unsloth", "peft"] = "auto"
    """"auto" takes Unsloth where there is a GPU and it is installed, else TRL + PEFT."""
    gpu: bool = False
    """Refuse to train where there is no GPU."""
    minutes: float | None = Field(default=None, gt=0)
    """Wall time after which the job stops, with a checkpoint to go on from; None is no cap."""


class TrainingResult(Record):
    """What a finished job left behind."""

    adapter: str | None
    """Folder with adapter_model.safetensors and adapter_config.json; None where a provider keeps what was learned."""
    adapter_sha256: str | None
    """Hash of the safetensors file."""
    model: str | None = None
    """Name of the model that a provider trained; it is served in place of the base."""
    engine: str
    """Which engine trained it, and why that one."""
    examples: int
    """Examples trained on."""
    steps: int
    """Optimizer steps done."""
    loss: float | None
    """Mean training loss of the last steps."""
    validation: dict[str, float] = Field(default_factory=dict)
    """Mean loss of a token, in nats, on the dataset's validation examples: of the "new" ones and of the "old"."""
    tokens: int
    """Tokens read."""
    seconds: float
    """Wall time of training, imports left out; of the last attempt, if the job was resumed."""
    memory_mb: float | None = None
    """The most memory that the job took, in megabytes: the GPU's where there is one."""
    left_out: int = 0
    """Examples that were too long."""
    resumed_at: int | None = None
    """The step of the checkpoint that the job went on from; None when it went through in one go."""
    hashes: dict[str, str] = Field(default_factory=dict)
    """Content hashes of what the adapter was made of: base, dataset, parent."""
    recipe: Recipe | None = None
    """How it was trained."""
    libraries: dict[str, str] = Field(default_factory=dict)
    """Versions of this package and of the libraries that trained."""


class Trial(Record):
    """One recipe of a search, and how it did on examples that were kept from training."""

    recipe: Recipe
    """What was tried."""
    new: float | None = None
    """Mean loss of a token, in nats, on new examples."""
    old: float | None = None
    """The same on old ones."""
    seconds: float | None = None
    """How long it trained."""
    failed: str | None = None
    """Why it did not come to an end."""

    @property
    def score(self) -> float:
        """Return the sum of both losses, the less the better; infinite for a trial that failed."""
        known = [loss for loss in (self.new, self.old) if loss is not None]
        return sum(known) if known and not self.failed else float("inf")


class Plan(Record):
    """What a training job would learn from, do and take, before it is begun."""

    job_id: str
    """The job."""
    engine: str
    """Which engine would train, and why that one."""
    examples: dict[str, int]
    """Examples by origin."""
    categories: dict[str, int]
    """New examples (no replayed ones) by the tool they call, or "answer"."""
    left_out: int
    """Examples that are too long."""
    steps: int
    """Optimizer steps."""
    passes: float
    """How often each example is read."""
    tokens: int
    """Tokens that are read in all."""
    minutes: float | None = None
    """How long it would take here, by a few steps that were tried; None where none were."""
    memory_mb: float | None = None
    """The most memory that those steps took, in megabytes."""
    usd: float | None = None
    """What it would cost at a provider; None on one's own machine, and where the price is not known."""
    problems: tuple[str, ...] = ()
    """Why nothing good would come of it; a sentence each."""


class Progress(Record):
    """One line of progress from a long piece of work."""

    stage: str
    """What is going on, e.g. "train"."""
    done: int
    """Units done."""
    total: int
    """Units in all."""
    loss: float | None = None
    """Training loss, where there is one."""
    tokens_per_second: float | None = None
    """Tokens that training reads in a second."""
    seconds_left: float | None = None
    """How long the rest will take if it goes on like this."""
    note: str | None = None
    """A plain sentence."""
