"""The recipe: one YAML file plus dotted overrides, checked before anything is paid for.

Names follow Hugging Face's TrainingArguments where they exist there. The command line wins over the file, the file
over a task's own defaults (`Task.training`), those over the defaults below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from stilts_ds.data_settings import DataPart as DataPart  # named here, too: scripts import it from here
from stilts_ds.data_settings import TextHubPart as TextHubPart
from stilts_ds.errors import did_you_mean
from stilts_ds.execution import ExecutePart
from stilts_ds.generation import GenerationPart
from stilts_ds.quick_look import cap_examples
from stilts_ds.retired import refuse_retired
from stilts_ds.robust import Robust
from stilts_ds.shipped import find_recipe
from stilts_ds.values import RankCount
from stilts_ds.yaml_files import Section, parse_section, read_section

# Training keys that token rows depend on.
ROW_KEYS = ("max_seq_length", "doc_stride", "window_step", "max_query_length", "pair_truncation_side")
Keep = Literal["scores", "heads", "encoders", "best"]
SWEEP: Literal["sweep"] = "sweep"  # of evaluation.retrieval_layer
TrackerName = Literal["tensorboard", "wandb", "trackio"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class ModelPart(Section):
    """The pretrained encoder or decoder."""

    name_or_path: str = Field("toy", description="hub id or folder of an encoder or decoder; `toy` is a tiny XLM-R")
    revision: str | None = Field(
        None, description="hub revision; a commit pins the weights, a branch is kept at the commit that it first had"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="hidden and attention dropout; null: the model's own")
    attn_implementation: Literal["packed", "sdpa", "eager"] = Field(
        "packed",
        description="`packed`: rows stand one after the other without padding, where the model allows it; "
        "`sdpa`, `eager`: padded rows and attention of transformers",
    )


class SamplingPart(Section):
    """How tasks are mixed in a multi-task phase, and languages in masked language modelling."""

    weights: Literal["size", "uniform"] | dict[str, float] = Field(
        "size", description="p ~ size: min(n, cap)^(1/T); `uniform`: all alike; or a fixed weight for each task"
    )
    temperature: float = Field(1.0, gt=0, description="T in p ~ min(n, cap)^(1/T)")
    cap: int | None = Field(None, ge=1, description="cap on a task's size in that formula")
    mlm_share: float | None = Field(None, gt=0, lt=1, description="share of `mlm` beside other tasks; null: by weight")
    language_exponent: float = Field(
        0.3, ge=0, le=1, description="alpha in p ~ n^alpha for a language's n rows of text (Conneau et al. 2020, 3.1)"
    )
    unit: Literal["step", "example"] = Field("step", description="draw a task for each step (as jiant does) or example")

    @model_validator(mode="after")
    def _settings_act(self) -> SamplingPart:
        if self.weights != "size" and (self.temperature != 1 or self.cap is not None):
            raise ValueError("temperature and cap change weights=size; leave them out with other weights")
        if isinstance(self.weights, dict) and not all(weight > 0 for weight in self.weights.values()):
            raise ValueError("weights must be greater than 0; take a task out of the condition instead")
        if isinstance(self.weights, dict) and self.mlm_share is not None and "mlm" in self.weights:
            raise ValueError("mlm_share already says how often mlm is drawn; leave mlm out of the weights")
        return self


class TrainingPart(Section):
    """Optimisation of one training phase (Hugging Face names)."""

    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate")
    train_batch_size: int = Field(32, ge=1, description="examples of one optimiser step over all ranks")
    per_device_train_batch_size: int = Field(32, ge=1, description="most examples in one micro-batch of a rank")
    num_train_epochs: float = Field(2.0, gt=0, le=1e6, description="passes over the items of the phase's tasks")
    max_steps: int = Field(-1, description="optimiser steps; -1 derives them from num_train_epochs")

    @field_validator("max_steps")
    @classmethod
    def _steps_or_epochs(cls, steps: int) -> int:
        if steps == 0 or steps < -1:
            raise ValueError("give the number of steps, or -1 to derive it from num_train_epochs")
        return steps

    warmup_ratio: float = Field(0.1, ge=0, le=1, description="share of steps in which the learning rate rises from 0")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's; none on biases and LayerNorm weights")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of Adam's mean of gradients")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="decay of Adam's mean of squared gradients")
    adam_epsilon: float = Field(1e-8, gt=0, description="added to the root of that mean before dividing by it")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are clipped to this norm; 0 switches it off")
    max_seq_length: int = Field(256, ge=8, description="tokens in a row, special tokens included")
    doc_stride: int = Field(128, ge=1, description="tokens shared by neighbouring question-answering windows")
    window_step: int | None = Field(
        None,
        ge=1,
        description="in place of doc_stride: context tokens from the start of a question-answering window to the start "
        "of the next, which jiant and XTREME's baseline call doc_stride; null: windows share doc_stride tokens",
    )
    max_query_length: int = Field(64, ge=1, description="question tokens kept in a window, or in a query's own row")
    pair_truncation_side: Literal["left", "right"] = Field(
        "left",
        description="side at which the longer part of a too long sentence pair loses tokens: `left` is its "
        "front, `right` its end, as in jiant. Multiple choice always loses the front",
    )
    pool_size: int = Field(4, ge=2, description="trained retrieval: consecutive examples that share their candidates")
    mlm_probability: float = Field(0.15, gt=0, lt=1, description="share of a row's tokens that is masked")
    logging_steps: int = Field(10, ge=1, description="steps between two lines in the log")
    eval_steps: int = Field(0, ge=0, description="evaluate English dev every N steps; 0: only at the end")
    eval_examples: int = Field(500, ge=1, description="dev examples of each task used for selection")
    early_stopping_patience: int = Field(30, ge=1, description="evaluations without a better one before stopping")
    save_steps: int = Field(500, ge=0, description="checkpoint every N steps; 0: none")
    save_minutes: float = Field(0.0, ge=0, description="and whenever the last one is N minutes old; 0: never")
    save_total_limit: int = Field(2, ge=1, description="checkpoints kept")
    keep_head: bool = Field(False, description="go on with the head of the phase before, where it has one of this kind")
    robust: Robust | None = Field(None, description="robust training: a `method` and its settings (docs/robustness.md)")

    @model_validator(mode="after")
    def _one_rule_for_windows(self) -> TrainingPart:
        if self.window_step is not None and "doc_stride" in self.model_fields_set:
            raise ValueError(
                "give doc_stride (tokens that two windows share) or window_step (tokens between their starts), not both"
            )
        return self

    def in_use(self) -> dict[str, Any]:
        """The settings that act, as plans keep them and the names of phases and cached rows hash them.

        Of `doc_stride` and `window_step`, the one that is not in force is left out, as are defaults of later settings:
        phases and rows keep the names that they had before there was a choice.
        """
        unused = {"window_step" if self.window_step is None else "doc_stride"}
        defaults = {"pair_truncation_side": "left", "keep_head": False, "robust": None}
        unused |= {name for name, value in defaults.items() if getattr(self, name) == value}
        return self.model_dump(exclude=unused)

    def rows_in_use(self) -> dict[str, Any]:
        """Those of `in_use` that token rows depend on."""
        return {name: value for name, value in self.in_use().items() if name in ROW_KEYS}


class EnginePart(Section):
    """DeepSpeed. What only DeepSpeed owns stands in ds_configs/zero<stage>.json."""

    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="what ZeRO shards; 1: optimiser state, 2: gradients, 3: all")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "fp32",
        description="numbers of weights and activations; `auto`: bf16 where this device multiplies it clearly "
        "faster than fp32, else fp32, chosen when a phase starts",
    )
    offload_optimizer: bool = Field(False, description="optimiser state in host memory (stages 1-3)")
    vocabulary_rows: Literal["touched", "all"] = Field(
        "touched",
        description="word-embedding rows that are trained: those in the phase's data, or all; same result, less work. "
        "Masked language modelling always trains all",
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    torch_compile: bool = Field(
        False, description="compile the encoder's layers with torch.compile (stages 0-2); pays on GPUs if anywhere"
    )
    ds_config: Path | None = Field(None, description="own DeepSpeed JSON in place of ds_configs/zero<stage>.json")
    profile: bool = Field(
        False, description="write a torch profiler trace of the third to fifth step to phases/<id>/profile.json"
    )
    max_skipped_steps: int = Field(3, ge=0, description="non-finite steps in a row that are skipped before stopping")
    collective_timeout: int = Field(
        120, ge=10, description="seconds that a training step waits for a rank before the job ends and names it"
    )


class LaunchPart(Section):
    """How `stilts run` starts ranks on this machine."""

    nproc: RankCount = Field(
        "auto", description="ranks of all worlds; `auto`: one per GPU, or one for each world without GPUs"
    )
    worlds: RankCount = Field(
        1,
        description="groups of ranks that work on phases side by side, each on one at a time; `auto`: as many as leave "
        "no rank without an example of a step",
    )
    oversubscribe: bool = Field(False, description="allow more ranks than GPUs, or than cores without GPUs")
    omp_num_threads: int | None = Field(None, ge=1, description="threads a rank; null: OMP_NUM_THREADS, cores / nproc")

    @property
    def phases_at_once(self) -> int:
        """Phases that work side by side, as far as the recipe says: `auto` divides the ranks of the machine that runs
        it."""
        return 1 if self.worlds == "auto" else self.worlds

    @property
    def world_ranks(self) -> int | Literal["auto"]:
        """Ranks of one world, as far as the recipe says."""
        if self.nproc == "auto" or self.worlds == "auto":
            return self.nproc
        return max(1, self.nproc // self.worlds)


class EvaluationPart(Section):
    """Zero-shot evaluation."""

    per_device_eval_batch_size: int = Field(32, ge=1, description="items in a batch of a rank")
    languages: dict[str, list[str]] | Literal["all", "present"] = Field(
        "all", description="`all` of a task's languages, those `present` in the data folder, or lists by task"
    )
    splits: dict[str, str] = Field(default_factory=dict, description="split to score by task; default: test")
    max_examples: int | None = Field(None, ge=1, description="use only the first N examples of a language")
    max_bitext: int | None = Field(
        None, ge=1, description="use at most N sentences of a side in retrieval, of them N/2 with a partner"
    )
    retrieval_layer: int | Literal["sweep"] = Field(
        -1,
        description="hidden_states index that is pooled; 0 is the embedding output. `sweep`: the one that mines BUCC's "
        "dev languages best before any training, for all conditions",
    )
    retrieval_pooling: Literal["mean", "first", "last"] = Field("mean", description="all tokens' mean, or one of them")
    retrieval_max_seq_length: int = Field(512, ge=8, description="tokens in a row of retrieval")
    retrieval_centering: Literal["none", "language"] = Field(
        "none",
        description="`language`: a second column of retrieval, from vectors less the mean of their side or language; "
        "the protocol's own stays as it is",
    )
    max_answer_length: int = Field(30, ge=1, description="tokens of an answer")
    null_threshold: float | None = Field(
        None, description="answer nothing where `no answer` beats the best by more than this; null: always answer"
    )
    generate: GenerationPart = GenerationPart()

    _retired = model_validator(mode="before")(refuse_retired)


class Recipe(Section):
    """A whole study."""

    name: str = Field(pattern=NAME, description="the run's folder name")
    output_dir: Path = Field(Path("runs"), description="folder of runs")
    limit: int | None = Field(
        None, ge=1, description="a quick look: at most N examples of each split train, select and are scored"
    )
    seeds: list[int] = Field([1], min_length=1, description="one full study for each; tables show the median")
    model: ModelPart = ModelPart()
    data: DataPart = DataPart()
    intermediate: dict[str, list[str]] = Field({"none": []}, description="conditions: a name and its tasks")
    targets: list[str] = Field(min_length=1, description="tasks that are scored")
    tasks_from: list[Path] = Field(
        default_factory=list,
        description="files with tasks of your own: .yaml, or a .py program (docs/own_data.md)",
    )
    benchmark: Literal["xtreme", "xtreme-r"] = Field("xtreme", description="whose languages, average and submission")
    sampling: SamplingPart = SamplingPart()
    intermediate_training: dict[str, Any] = Field(default_factory=dict, description="training.* of phase 2")
    target_training: dict[str, Any] = Field(default_factory=dict, description="training.* of phase 3")
    multitask_training: dict[str, Any] = Field(
        default_factory=dict, description="training.* of phase 2 with several tasks; wins over intermediate_training"
    )
    mlm_training: dict[str, Any] = Field(
        default_factory=dict, description="training.* of phase 2 with mlm; wins over both"
    )
    task_training: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="training.* by training task, for single-task phases; wins over all"
    )
    keep: Keep = Field(
        "encoders",
        description="models that stay once no phase needs them: all `encoders`, their `heads` alone, the `best` of "
        "each fine-tuning, or none (`scores`)",
    )
    report_to: list[TrackerName] = Field(
        ["tensorboard"], description="where curves and scores go besides the run's files; [] is nowhere"
    )
    engine: EnginePart = EnginePart()
    launch: LaunchPart = LaunchPart()
    evaluation: EvaluationPart = EvaluationPart()
    execute: ExecutePart = ExecutePart()

    _capped = model_validator(mode="before")(cap_examples)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
            raise ValueError("seeds must be different, not negative and less than 2 to the power of 32")
        return seeds

    @field_validator("targets", "intermediate", "evaluation", "data")
    @classmethod
    def _each_once(cls, value: Any) -> Any:
        """What is named twice would be scored, trained or averaged twice."""
        lists: dict[str, list[str]] = {"": value} if isinstance(value, list) else {}
        if isinstance(value, dict):
            lists = value
        if isinstance(value, EvaluationPart) and isinstance(value.languages, dict):
            lists = value.languages
        if isinstance(value, DataPart) and value.text_hub is not None:
            lists = {"text_hub": value.text_hub.languages or []}
        for key, names in lists.items():
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{key + ': ' if key else ''}{name!r} stands there twice; name each once")
        return value

    @field_validator("intermediate_training", "target_training", "multitask_training", "mlm_training")
    @classmethod
    def _training_keys(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return check_training(settings)

    @field_validator("task_training")
    @classmethod
    def _task_training_keys(cls, sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {task: check_training(settings) for task, settings in sections.items()}

    @model_validator(mode="after")
    def _settings_agree(self) -> Recipe:
        if self.engine.dtype in ("bf16", "fp16") and self.engine.zero_stage == 0:
            raise ValueError(
                f"engine.dtype={self.engine.dtype} with engine.zero_stage=0 takes a wrong first Adam step in "
                "DeepSpeed; use engine.zero_stage=1, which on one rank costs the same"
            )
        if self.engine.offload_optimizer and self.engine.zero_stage == 0:
            raise ValueError("engine.offload_optimizer needs engine.zero_stage 1, 2 or 3")
        if self.engine.torch_compile and self.engine.zero_stage == 3:
            raise ValueError("engine.torch_compile needs engine.zero_stage 0, 1 or 2: 3 gathers weights inside layers")
        return self

    @property
    def named_tasks(self) -> tuple[str, ...]:
        """Every task that the recipe names: those that are scored, then those of conditions."""
        trained = (name for names in self.intermediate.values() for name in names)
        return tuple(dict.fromkeys([*self.targets, *trained]))

    def training(
        self, kind: str, task_defaults: Mapping[str, Any], task: str, several: bool = False, mlm: bool = False
    ) -> TrainingPart:
        """The settings of one training phase: defaults < the task's literal < the phase's parts < the task's part.

        `task` is the one task that the phase trains, perhaps beside `mlm`; empty for `several`.
        """
        sections = [self.target_training]
        if kind == "intermediate":
            sections = [self.intermediate_training, self.multitask_training if several else {}]
            sections.append(self.mlm_training if mlm else {})
        merged: dict[str, Any] = dict(task_defaults)  # later sections win over earlier ones
        for section in (*sections, self.task_training.get(task.partition("~")[0], {})):
            if "doc_stride" in section:  # it takes the place of a window_step from a section that it wins over
                merged.pop("window_step", None)
            merged |= section
        if merged.get("window_step") is not None:  # the defaults may hold a doc_stride, too
            merged.pop("doc_stride", None)
        return TrainingPart(**merged)


def check_training(settings: dict[str, Any]) -> dict[str, Any]:
    """Check a partial `training` section; returns only the keys that were given, converted."""
    unknown = sorted(set(settings) - set(TrainingPart.model_fields))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}{did_you_mean(unknown[0], TrainingPart.model_fields)}")
    return TrainingPart(**settings).model_dump(include=set(settings))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name or any YAML file by path, apply `key.sub=value` overrides and check it.

    Raises UserError naming the file and key, with the nearest known names.
    """
    return read_section(Recipe, find_recipe(name_or_path), overrides)


def written_recipe(path: Path) -> Recipe:
    """The resolved recipe of a run folder. Raises UserError naming the file."""
    return read_section(Recipe, path)


def parse_recipe(values: Mapping[str, Any], where: str) -> Recipe:
    """Check nested values against the schema; `where` is named in the message."""
    return parse_section(Recipe, values, where)


def recipe_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML text; reading it back gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
