"""A field is an option: its flat name, its check, what it has no effect beside, and its line in config.json."""

import json
from dataclasses import MISSING, dataclass, replace
from pathlib import Path

import pytest

from vintix_fast.config import AdaptConfig, CriticConfig, ImproveConfig
from vintix_fast.options import GIVEN, Options, entries, option
from vintix_fast.outdir import RunDirectory
from vintix_fast.run_config import RunConfig
from vintix_fast.service.errors import UsageError

BEGUN_BEFORE = Path(__file__).parent / "golden" / "begun_before"


@dataclass(frozen=True)
class Wheel(Options):
    radius: float = option(0.5, "Main", "in metres", name="wheel_radius", least=0.1, below=2.0)
    spokes: int = 8
    weight: float | None = option(None, "Main", only_with={"heavy": GIVEN})


@dataclass(frozen=True)
class Cart(RunConfig):
    command = "cart"
    gone = {"horse": "black"}

    owner: str = option(MISSING, "Main")
    output_dir: Path = option("out", "Main", may_change=True)
    wheel: Wheel = Wheel()
    heavy: bool = option(False, "Main")
    colour: str = option("red", "Main", words=("red", "green"))
    glitter: int = option(0, "Main", least=0, only_with={"colour": ("red",)})
    cover: Path | None = option(None, "Main", reads=True)
    sizes: tuple[int, ...] = option((1, 2), "Main", least=1)


def test_options_lie_flat_and_plain_fields_have_their_path():
    names = ["owner", "output_dir", "wheel_radius", "wheel.spokes", "weight", "heavy", "colour", "glitter", "cover"]
    assert list(entries(Cart)) == [*names, "sizes", "resume", "overwrite"]
    cart = Cart.from_options(owner="me", wheel_radius=1, colour="green", sizes=[3], **{"wheel.spokes": 5})
    assert cart == Cart("me", wheel=Wheel(radius=1, spokes=5), colour="green", sizes=(3,))
    assert cart.output_dir == Path("out")
    assert Cart.from_options(**cart.options()) == Cart.from_options(**cart.to_json()) == cart.with_options() == cart
    assert cart.with_options(wheel_radius=0.5).wheel == Wheel(spokes=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ower": "me"}, "ower is not known; known are owner, .*wheel.spokes"),
        ({"owner": ...}, "--owner is missing"),
        ({"wheel_radius": 0.05}, "--wheel-radius is 0.05; it must be a finite number of at least 0.1"),
        ({"wheel_radius": 2.0}, "--wheel-radius is 2.0; it must be less than 2"),
        ({"wheel_radius": "big"}, "--wheel-radius is 'big'; it must be a finite number"),
        ({"wheel_radius": None}, "--wheel-radius is None; it must be a finite number"),
        ({"heavy": "no"}, "--heavy is 'no'; it must be true or false"),
        ({"colour": "blue"}, "--colour is 'blue'; it must be one of red, green"),
        ({"cover": 3}, "--cover is 3; it must be a path"),
        ({"sizes": [2, 0]}, "--sizes is 0; it must be an integer of at least 1"),
        ({"sizes": 2}, "--sizes is 2; it must be a list"),
        ({"weight": 3.0}, "--weight 3.0 has no effect with --no-heavy; leave one of the two out"),
        ({"colour": "green", "glitter": 1}, "--glitter 1 has no effect with --colour green; leave one of the two out"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_name_value_and_remedy(options, words):
    given = {name: value for name, value in ({"owner": "me"} | options).items() if value is not ...}
    with pytest.raises(UsageError, match=words):
        Cart.from_options(**given)


def test_what_has_its_default_may_be_without_effect():
    assert Cart("me", colour="green", glitter=0).glitter == 0
    assert Wheel(weight=3.0).weight == 3.0  # whether it has an effect, the cart tells


def test_plain_fields_are_recorded_where_they_are_not_as_usual():
    usual, unusual = Cart("me"), Cart("me", wheel=Wheel(spokes=5))
    assert "wheel.spokes" not in usual.to_json() and "resume" not in usual.to_json()
    assert unusual.to_json().items() == (usual.to_json() | {"wheel.spokes": 5}).items()
    assert unusual.changed_options(usual.to_json()) == ["wheel.spokes was 8, now 5"]
    assert usual.changed_options(unusual.to_json()) == ["wheel.spokes was 5, now 8"]


def test_what_has_no_effect_and_what_is_gone_is_no_change():
    old = Cart("me").to_json()
    assert Cart("me", colour="green").changed_options(old | {"colour": "green", "glitter": 9}) == []
    assert Cart("me").changed_options(old | {"horse": "black"}) == []
    assert Cart("me").changed_options(old | {"horse": "white"}) == ["--horse was white, now gone"]


# -- adapt -------------------------------------------------------------------------------------------------------------


def test_a_discount_is_named_and_a_resumed_run_must_name_it_too():
    config = AdaptConfig("go2", "out", improve=ImproveConfig(critic=CriticConfig(gamma=0.98)))
    assert config == AdaptConfig.from_options(robot_type="go2", output_dir="out", **{"improve.critic.gamma": 0.98})
    assert config.to_json()["improve.critic.gamma"] == 0.98
    usual = AdaptConfig("go2", "out")
    assert usual.changed_options(config.to_json()) == ["improve.critic.gamma was 0.98, now 0.95"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"improver": "clone", "critic_updates": 7}, "--critic-updates 7 has no effect with --improver clone"),
        (
            {"improver": "clone", "noise": 0.1, "improvement_step": 0.4},
            "--improvement-step 0.4 has no effect with --improver clone",
        ),
        ({"gate": False, "gate_episodes": 7}, "--gate-episodes 7 has no effect with --no-gate"),
        ({"improver": "clone", "noise": 0.0, "noise_ladder": False}, "--no-noise-ladder has no effect with --noise 0"),
    ],
    ids=str,
)
def test_an_option_that_would_be_ignored_is_refused(options, words):
    with pytest.raises(UsageError, match=words):
        AdaptConfig.from_options(robot_type="go2", output_dir="out", **options)


SINCE_THEN = {"compile": "auto"}
"""Options that such a run could not name, with what they are for it."""


@pytest.mark.parametrize("name", ["defaults", "chosen"])
def test_a_run_begun_when_configurations_were_flat_is_resumed(tmp_path, name):
    begun = json.loads((BEGUN_BEFORE / f"{name}.json").read_text())
    old = begun["options"]
    given = {key: value for key, value in old.items() if key not in ("train_on", "output_dir")}
    if not old["gate"]:
        del given["gate_episodes"]  # had no effect then either
    if old["improver"] == "critic":
        given["finetune_exactly"] = True  # which all runs did
    config = AdaptConfig.from_options(**given, output_dir=tmp_path, resume=True)
    assert config.changed_options(old) == []
    written = config.to_json() | {key: old[key] for key in ("output_dir", "train_on", "gate_episodes")}
    assert written == old | SINCE_THEN | {"finetune_exactly": old["improver"] == "critic"}
    (tmp_path / "config.json").write_text(json.dumps(begun))
    directory = RunDirectory(config, ())
    directory.check()
    assert directory.config.num_envs == old["num_envs"]
    changed = replace(config, seed=6).changed_options(old | {"train_on": "all"})
    assert changed == ["--seed was 5, now 6", "--train-on was all, now gone"]


def test_a_resumed_run_takes_the_number_of_environments_that_was_found():
    old = AdaptConfig("go2", "out", num_envs=16).to_json()
    config = AdaptConfig("go2", "out")
    assert config.changed_options(old) == [] and config.settled(old).num_envs == 16
    assert AdaptConfig("go2", "out", num_envs=8).settled(old).num_envs == 8
