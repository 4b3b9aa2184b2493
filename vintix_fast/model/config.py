"""The model's hyper-parameters and each task's statistics, as read from ``config.json`` and ``metadata.json``.

Owns the names, defaults and validity rules of those two files' contents.  Knows nothing about where the files lie,
about tensors, or about robots: dimensions are whatever the file says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vintix_fast.service.errors import InputFileError, shown

OWNER_TOKEN_ORDER = "action-reward-observation"
UPSTREAM_TOKEN_ORDER = "observation-action-reward"
TOKEN_ORDERS = (OWNER_TOKEN_ORDER, UPSTREAM_TOKEN_ORDER)
NORM_CLASSES = ("LayerNorm", "RMSNorm")
MLP_CLASSES = ("GptNeoxMLP", "LLaMAMLP")
DEFAULT_GROUP = "quadruped_locomotion"
STATISTICS = ("obs_mean", "obs_std", "acs_mean", "acs_std")

LARGEST = 1e6
"""No robot's statistics, in their own units, and no trained weights come near it; damaged ones do."""

# These do not change what the model computes in eval mode, so a file may leave them out; token_order is our own key.
_OPTIONAL_KEYS = {"attn_dropout", "residual_dropout", "token_order"}
_CHOICES = {"norm_class": NORM_CLASSES, "mlp_class": MLP_CLASSES, "token_order": TOKEN_ORDERS}


@dataclass(frozen=True)
class ModelConfig:
    """Hyper-parameters of a Vintix model; the defaults are the usual 1.23 M parameter model.

    ``context_len`` is in tokens (one token a step); the two dropouts are probabilities and act in train mode only.
    ``token_order`` says in which order the three embeddings are concatenated into one token of ``hidden_dim``.

    Raises:
        InputFileError: a value has the wrong type, is out of range or contradicts another one.
    """

    action_emb_dim: int = 127
    observation_emb_dim: int = 127
    reward_emb_dim: int = 2
    hidden_dim: int = 256
    context_len: int = 2048
    transformer_depth: int = 3
    transformer_heads: int = 4
    attn_dropout: float = 0.1
    residual_dropout: float = 0.1
    normalize_qk: bool = True
    bias: bool = True
    parallel_residual: bool = False
    shared_attention_norm: bool = False
    norm_class: str = "LayerNorm"
    mlp_class: str = "GptNeoxMLP"
    intermediate_size: int = 128
    inner_ep_pos_enc: bool = False
    norm_acs: bool = False
    norm_obs: bool = True
    token_order: str = OWNER_TOKEN_ORDER

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_value(field.name, str(field.type), getattr(self, field.name))
        width = self.action_emb_dim + self.observation_emb_dim + self.reward_emb_dim
        if width != self.hidden_dim:
            raise InputFileError(
                f"hidden_dim is {self.hidden_dim}, but action_emb_dim + observation_emb_dim + reward_emb_dim is "
                f"{width}; the two must be equal"
            )
        if self.hidden_dim < self.transformer_heads:
            raise InputFileError(
                f"transformer_heads {self.transformer_heads} is more than hidden_dim {self.hidden_dim}: no head would "
                "have any width"
            )
        if self.shared_attention_norm and not self.parallel_residual:
            raise InputFileError("shared_attention_norm is true, which needs parallel_residual true, but it is false")

    @property
    def head_dim(self) -> int:
        """Width of one attention head, rounded down, as in the public code: 6 heads of 256 are 42 wide each."""
        return self.hidden_dim // self.transformer_heads

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Build from the contents of ``config.json``; keys that this class does not know are ignored.

        ``intermediate_size: null`` means four times ``hidden_dim``.  InputFileError: a key is missing or unusable.
        """
        if not isinstance(data, Mapping):
            raise InputFileError(f"expected a JSON object of hyper-parameters, got {type(data).__name__}")
        values = {field.name: data[field.name] for field in dataclasses.fields(cls) if field.name in data}
        required = {field.name for field in dataclasses.fields(cls)} - _OPTIONAL_KEYS
        missing = sorted(required - set(values))
        if missing:
            raise InputFileError(f"missing key(s): {', '.join(missing)}")
        if values["intermediate_size"] is None and isinstance(values["hidden_dim"], int):
            values["intermediate_size"] = 4 * values["hidden_dim"]
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The contents of ``config.json``, ``token_order`` included."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TaskInfo:
    """One entry of ``metadata.json``: a task's dimensions, normalisation statistics and the group it uses.

    ``obs_mean`` and ``obs_std`` have ``observation_dim`` entries, ``acs_mean`` and ``acs_std`` ``action_dim``, in the
    observation's and action's own units.  ``reward_scale`` multiplies the previous reward before it is encoded.
    ``reward_told`` is what the model was told in place of its rewards in part of its pretraining; None: it always was
    told the true ones.

    Raises:
        InputFileError: a statistic has the wrong length, is not finite or beyond `LARGEST`, or a standard deviation is
            negative.
    """

    observation_dim: int
    action_dim: int
    obs_mean: tuple[float, ...]
    obs_std: tuple[float, ...]
    acs_mean: tuple[float, ...]
    acs_std: tuple[float, ...]
    reward_scale: float = 1.0
    group_name: str = DEFAULT_GROUP
    action_type: str = "continuous"
    reward_told: float | None = None

    def __post_init__(self) -> None:
        _check_value("observation_dim", "int", self.observation_dim)
        _check_value("action_dim", "int", self.action_dim)
        for key in STATISTICS:
            length = self.observation_dim if key.startswith("obs") else self.action_dim
            object.__setattr__(self, key, _statistics(key, getattr(self, key), length))
        _check_size("reward_scale", self.reward_scale)
        if self.reward_told is not None:
            _check_size("reward_told", self.reward_told)
        if self.action_type != "continuous":
            raise InputFileError(f"action_type must be 'continuous', got {shown(self.action_type)}")
        # The name becomes part of tensor names, where a dot separates levels.
        if not isinstance(self.group_name, str) or not self.group_name or "." in self.group_name:
            raise InputFileError(f"group_name must be a non-empty name without dots, got {shown(self.group_name)}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskInfo:
        """Build from one task's entry of ``metadata.json``, whose unknown keys are ignored; or raise InputFileError."""
        if not isinstance(data, Mapping):
            raise InputFileError(f"expected a JSON object describing a task, got {type(data).__name__}")
        required = ("observation_shape", "action_dim", "reward_scale", *STATISTICS)
        missing = [key for key in required if data.get(key) is None]
        if missing:
            raise InputFileError(
                f"missing key(s): {', '.join(missing)}; the statistics are part of the model, it cannot run without"
            )
        shape = data["observation_shape"]
        proprio = shape.get("proprio") if isinstance(shape, Mapping) and len(shape) == 1 else None
        if not isinstance(proprio, (list, tuple)) or len(proprio) != 1:
            raise InputFileError(f'observation_shape must look like {{"proprio": [33]}}, got {shown(shape)}')
        return cls(
            observation_dim=proprio[0],
            group_name=data.get("group_name") or DEFAULT_GROUP,
            action_type=data.get("action_type", "continuous"),
            reward_told=data.get("reward_told"),
            **{key: data[key] for key in required[1:]},
        )

    def to_dict(self) -> dict[str, Any]:
        """This task's entry of ``metadata.json``."""
        plain = {name: getattr(self, name) for name in ("action_dim", "action_type", "reward_scale")}
        entry = {"group_name": self.group_name, "observation_shape": {"proprio": [self.observation_dim]}, **plain}
        told = {} if self.reward_told is None else {"reward_told": self.reward_told}
        return entry | {name: list(getattr(self, name)) for name in STATISTICS} | told


def _is_number(value: Any, most: float) -> bool:
    """Whether it is a number of at most this size, either way; NaN is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -most <= value <= most


def _check_size(key: str, value: Any) -> None:
    """Check a statistic."""
    if not _is_number(value, LARGEST):
        raise InputFileError(f"{key} must be a finite number, no larger than {LARGEST:g}, got {shown(value)}")


def _check_value(key: str, kind: str, value: Any) -> None:
    """Check one hyper-parameter by the annotation of its field."""
    if kind == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InputFileError(f"{key} must be a positive integer, got {shown(value)}")
    if kind == "float" and not (_is_number(value, 1) and 0 <= value < 1):
        raise InputFileError(f"{key} must be a probability in [0, 1), got {shown(value)}")
    if kind == "bool" and not isinstance(value, bool):
        raise InputFileError(f"{key} must be true or false, got {shown(value)}")
    if kind == "str" and value not in _CHOICES[key]:
        raise InputFileError(f"{key} must be one of {', '.join(_CHOICES[key])}; got {shown(value)}")


def _statistics(key: str, values: Any, length: int) -> tuple[float, ...]:
    if not isinstance(values, (list, tuple)):
        raise InputFileError(f"{key} must be a list of {length} numbers, got {type(values).__name__}")
    if len(values) != length:
        raise InputFileError(f"{key} has {len(values)} entries, expected {length}")
    for index, value in enumerate(values):
        _check_size(f"{key}[{index}]", value)
        if key.endswith("_std") and value < 0:
            raise InputFileError(f"{key}[{index}] is a standard deviation and cannot be negative, got {value!r}")
    return tuple(float(value) for value in values)
