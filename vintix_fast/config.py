"""What a run is: frozen dataclasses whose every field is an option's one declaration; see `options`.

The commands, `profile`, the study and a resumed run make them by `from_options`, Python users by hand.  Knows nothing
about how a run is carried out.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from vintix_fast.acting_config import (
    AUDITION,
    CONTEXT,
    DEFAULT_REFERENCE,
    ENGINE,
    EngineConfig,
    check_audition,
    check_simulator,
    checkpoint_option,
    init_map_option,
    token_order_option,
)
from vintix_fast.options import GIVEN, Options, option
from vintix_fast.run_config import (
    MAIN,
    MAX_ENVS,
    ROBOTS,
    RUN,
    TIME_LIMIT,
    TUNED,
    RunConfig,
    seed_option,
    simulator_option,
)
from vintix_fast.service.bundled import BUILTIN_CHECKPOINT
from vintix_fast.service.errors import UsageError
from vintix_fast.service.extras import need
from vintix_fast.world.task_config import TaskConfig
from vintix_fast.world.task_file import check_world, task_option, vary_option
from vintix_fast.world.variation import Variation

DEFAULT_WINDOW = 128
ENOUGH_STEPS = 8000
"""A loop's collection, where a robot falls at once."""
ENVS_ON_A_CPU = 64
"""The most that a run takes by itself: beyond this two cores hardly step faster."""

LEARNING = "Learning"
IMPROVERS = ("critic", "clone")


@dataclass(frozen=True)
class CollectConfig(Options):
    """A loop's collection of episodes."""

    episodes_per_loop: int = option(50, MAIN, "complete episodes collected in a loop", least=1)
    min_steps_per_loop: int | None = option(
        None, ENGINE,
        "run a loop's episodes again until they give this many steps: robots that fall learn from as many",
        least=0, shown="8000, or what its episodes hold at most if that is less",
    )  # fmt: skip
    noise: float = option(0.3, LEARNING, "largest exploration noise, in action units; 0 for none", least=0.0)
    """Largest standard deviation of the exploration ladder; an action unit is 0.25 rad."""
    noise_ladder: bool = option(
        True, LEARNING, "from none to --noise over the environments, or --noise in all", only_with={"noise": GIVEN}
    )
    random_starts: bool = option(True, LEARNING, "collect from starts moved by up to 0.1 rad and 5 degrees")


@dataclass(frozen=True)
class CriticConfig(Options):
    """How the critic is fitted."""

    updates: int = option(
        2000, LEARNING, "most critic updates in a loop",
        name="critic_updates", least=1, only_with={"improver": ("critic",)},
    )  # fmt: skip
    batch_size: int = 256
    hidden: int = 256
    lr: float = 5e-4
    gamma: float = 0.95
    n_steps: int = 5
    """Rewards before the bootstrap: a fall's news must travel back tens of steps within one loop's updates."""
    polyak: float = 0.01
    next_action_noise: float = 0.05
    reward_scale: float = 50.0
    """Rewards are a step's share of a second (dt = 0.02 s); this makes them per second."""
    reward_bonus: float = 0.5
    """Added to each scaled reward, so that staying up is worth more than falling even when walking badly."""
    steps_for_all: int = 16_000
    """To learn from fewer steps takes fewer updates: in proportion, but half of them at least."""

    def updates_for(self, steps: int) -> int:
        """How many updates to take on that many steps."""
        share = min(1.0, max(0.5, steps / self.steps_for_all))
        return max(1, round(share * self.updates))


@dataclass(frozen=True)
class ImproveConfig(Options):
    """What the policy should have done: from histories to targets.

    ``step`` is how far targets move from the noise-free action, in action units (0.25 rad), as the root mean square
    over the action's dimensions in the step whose gradient is the median one.
    """

    improver: str = option(
        "critic", LEARNING,
        "critic: climb a critic's gradient; clone: imitate all that was executed, the control",
        words=IMPROVERS,
    )  # fmt: skip
    step: float = option(
        0.2, LEARNING, "how far the critic moves actions, in action units",
        name="improvement_step", least=0.0, only_with={"improver": ("critic",)},
    )  # fmt: skip
    """In the first loop."""
    walking_step: float = 0.25
    """The part of ``step`` that the first loop takes where the initial policy walks: only smaller faults are left."""
    critic: CriticConfig = CriticConfig()
    replay: str = option(
        "current", LEARNING, "learn from current: what the loop's own model collected; all: every collection",
        words=("current", "all"), only_with={"improver": ("critic",)},
    )  # fmt: skip
    """current may be more than one collection, after an undone loop."""
    gradient_steps: int = 2
    smoothing: float = 0.3
    """The critic's gradient is a mean over actions around, at this standard deviation, in action units: exploration's.
    At one action alone it is mostly the fit's error where the robot is about to fall."""
    smoothing_pairs: int = 2
    """How many are averaged in each of the gradient steps, each with its opposite."""
    largest_gradient: float = 2.0
    """Longer gradients count as so many times the median one."""
    step_anneal: float = 0.7
    """What ``step`` is multiplied by after a loop that is kept (without a gate, each) if the robot walks, since smaller
    faults are left.  Otherwise it is divided by it, up to the first step."""
    step_decay: float = 0.5
    """What ``step`` is multiplied by when the gate keeps less than the whole change."""


@dataclass(frozen=True)
class FinetuneConfig(Options):
    """One loop's fine-tuning.  No weight decay: it would pull the copied adapter towards 0."""

    steps: int = option(
        1000, MAIN, "most optimiser steps in a loop; it ends when held-out windows gain little more",
        name="finetune_steps_per_loop", least=1,
    )  # fmt: skip
    exactly: bool = option(
        False, LEARNING, "take all optimiser steps, with a learning rate that falls to the last",
        flag="--finetune-exactly", name="finetune_exactly", only_with={"improver": ("critic",)},
    )  # fmt: skip
    """``clone`` always does: what it imitates has no end."""
    batch_size: int = option(16, MAIN, "windows per optimiser step", least=1)
    lr: float = option(5e-4, MAIN, "peak learning rate", least=1e-12)
    window_len: int | None = option(
        None,
        LEARNING,
        "most steps in a training window",
        least=1,
        shown=f"{DEFAULT_WINDOW}, or a shorter context; all of it with --finetune-exactly",
    )
    train: str = option(
        "adapter", LEARNING, "adapter: encoders and decoder; decoder: the decoder alone", words=("adapter", "decoder")
    )
    bf16: bool | None = option(None, LEARNING, "fine-tune in bfloat16", shown="where the processor multiplies it")
    """Weights and optimiser stay in float32."""
    compile: str = option(
        "auto", LEARNING,
        "fine-tune the adapter in one graph of torch.compile: on, off, or auto, where that was measured to gain; "
        "a CPU needs a C++ compiler",
        words=("auto", "on", "off"), only_with={"train": ("adapter",), "bf16": (None, True)},
    )  # fmt: skip
    warmup_steps: int = 50
    final_lr_fraction: float = 0.1
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class GateConfig(Options):
    """The evaluation after each loop that keeps the best model and undoes a worse one."""

    on: bool = option(True, LEARNING, "evaluate every loop and go on from the best model only", name="gate")
    episodes: int | None = option(
        None, LEARNING, "episodes of that evaluation",
        name="gate_episodes", least=1, only_with={"gate": GIVEN}, shown="one in each environment",
    )  # fmt: skip
    target_return: float | None = option(
        None, LEARNING, "stop when that evaluation reaches this return",
        least=-1e6, may_change=True, shown="never", only_with={"gate": GIVEN},
    )  # fmt: skip


@dataclass(frozen=True)
class AdaptConfig(RunConfig):
    """One adaptation run; UsageError where a value is out of range, or has no effect beside the others."""

    command = "adapt"
    gone = {"train_on": "last"}
    before = {"finetune_exactly": True}

    robot_type: str = option(MISSING, MAIN, ROBOTS)
    output_dir: Path = option(MISSING, MAIN, "where data and models go", may_change=True)
    pretrained_path: Path = checkpoint_option(
        BUILTIN_CHECKPOINT,
        MAIN,
        "directory with model.pth, metadata.json, config.json; or builtin:<name>, see `models`",
    )
    reference_robot: str | None = option(
        None, MAIN,
        f"whose encoder and decoder are copied; {AUDITION}: each robot of the checkpoint is tried, the best is taken",
        shown=f"go2 for its kin; {AUDITION} for other robots",
    )  # fmt: skip
    """What the run takes stands where None was given."""
    num_improvement_loops: int = option(5, MAIN, "loops of collection and fine-tuning", least=1, may_change=True)
    num_envs: int | None = option(
        None, ENGINE,
        "environments side by side, or auto: half as many as episodes; on a CPU at most 64",
        least=1, most=MAX_ENVS, settled=True, auto=True, shown="auto",
    )  # fmt: skip
    """None: see ``envs``.  The run records the number, and a resumed one takes it."""
    collect: CollectConfig = CollectConfig()
    improve: ImproveConfig = ImproveConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    max_steps_per_episode: int = option(1000, MAIN, TIME_LIMIT, least=1)
    context_len: int = option(2048, MAIN, CONTEXT, least=1)
    seed: int = seed_option(MAIN)
    simulator: str = simulator_option(ENGINE)
    engine: EngineConfig = EngineConfig()
    init_map: str = init_map_option(
        LEARNING,
        "convert: turn the copied adapter's joints to the robot's axes; kinematic: feet move as the reference's; "
        "none: plain copy",
    )
    group: str = option(
        "own", LEARNING,
        "own: a group that changes no other robot; shared: the checkpoint's, with all robots that use it",
        words=("own", "shared"),
    )  # fmt: skip
    """The shared one is that which its task, or the reference robot's, has in the checkpoint."""
    obs_stats: Path | None = option(
        None, LEARNING, "JSON file with obs_mean and obs_std for the new group",
        reads=True, shown="the reference robot's, converted",
    )  # fmt: skip
    reinitialize: bool = option(
        False, LEARNING, "copy the reference even if the checkpoint has this robot's group",
        only_with={"group": ("own",)},
    )  # fmt: skip
    gate: GateConfig = GateConfig()
    token_order: str | None = token_order_option()
    task: TaskConfig = task_option()
    vary: Variation | None = vary_option()
    wandb: str | None = option(
        None, RUN, "log to this project of Weights & Biases too", metavar="PROJECT", recorded=False, may_change=True
    )

    def _check(self) -> None:
        super()._check()
        check_world(self)
        own = self.robot_type.lower() not in TUNED and self.group == "own"
        if self.reference_robot is None:
            object.__setattr__(self, "reference_robot", AUDITION if own else DEFAULT_REFERENCE)
        check_audition(self, "group", "init_map")
        check_simulator(self)
        if self.wandb is not None:
            need("wandb", "--wandb")
        window, context = self.finetune.window_len, self.context_len
        improver, noise = self.improve.improver, self.collect.noise
        if window is not None and window > context:
            raise UsageError(f"--window-len is {window}; the policy sees only --context-len {context} steps")
        if improver == "critic" and noise == 0.0:
            raise UsageError(
                f"--noise is {noise:g}; --improver critic learns from exploration: give more, or --improver clone"
            )

    @property
    def min_steps(self) -> int:
        """``collect.min_steps_per_loop``, or enough to learn from."""
        given, collect = self.collect.min_steps_per_loop, self.collect
        return min(ENOUGH_STEPS, collect.episodes_per_loop * self.max_steps_per_episode) if given is None else given

    @property
    def window_len(self) -> int:
        """``finetune.window_len``, or as long as is enough to learn from; where all steps are taken, the guide's."""
        enough = min(DEFAULT_WINDOW, self.context_len) if self.until_done else self.context_len
        return self.finetune.window_len or enough

    @property
    def until_done(self) -> bool:
        """Whether fine-tuning may end before its last step; a clone imitates what has no end."""
        return not self.finetune.exactly and self.improve.improver != "clone"

    @property
    def gate_episodes(self) -> int:
        """``gate.episodes``, or one in each environment: all begin with a cold context."""
        return self.gate.episodes or self.envs

    @property
    def envs(self) -> int:
        """``num_envs``, or half as many as a loop has episodes, so that the others begin with a warm context."""
        most = ENVS_ON_A_CPU if self.engine.device == "cpu" else MAX_ENVS
        return self.num_envs or min(-(-self.collect.episodes_per_loop // 2), most)


def __getattr__(name: str) -> Any:
    from vintix_fast.service.old_names import old_name

    return old_name(__name__, name)
