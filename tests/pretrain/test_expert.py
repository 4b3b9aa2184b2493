"""Training an expert: what it leaves, what its files mean, and going on after a stop; in the fake simulator."""

import json
import os

import pytest
import torch
from fakes import ACTIONS, OBSERVATIONS, FakeSimulator
from histories_on_disk import Watcher
from rsl_rl.models import MLPModel
from small_experts import SMALL, Recorder, assert_same_expert, read, train
from tensordict import TensorDict

from vintix_fast.policy.expert import ExpertPolicy, load_expert
from vintix_fast.pretrain import expert as expert_module
from vintix_fast.pretrain.config import ExpertConfig
from vintix_fast.pretrain.expert import ExpertTask, entropy_weight, ppo_settings, train_expert
from vintix_fast.service.errors import InputFileError, Interrupted, UsageError, VintixFastError
from vintix_fast.world.robot import load_robot
from vintix_fast.world.task import WalkingTask


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training that nothing disturbed, and what it told; not to be written to."""
    out, watcher = tmp_path_factory.mktemp("finished") / "expert", Watcher()
    return out, train(out, progress=watcher), watcher


# -- what it leaves ----------------------------------------------------------------------------------------------------


def test_a_training_leaves_an_expert_its_state_and_its_curves(finished):
    out, evaluation, _ = finished
    assert {path.name for path in out.iterdir()} == {
        "expert.pth", "expert.json", "training.pth", "config.json", "tensorboard",
    }  # fmt: skip
    card = json.loads((out / "expert.json").read_text())
    assert card["robot"] == "go2" and card["hidden_dims"] == [8]
    assert card["iterations"] == 3 and card["env_steps"] == 3 * 4 * 4 and card["train_seconds"] > 0
    assert card["evaluation"] == evaluation.summary() and evaluation.summary()["episodes"] == 4
    assert card["options"]["seed"] == 5 and "torch" in card["versions"]


def test_tensorboard_gets_a_point_for_every_iteration(finished):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out, _, _ = finished
    events = event_accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("Loss/value")] == [0, 1, 2]
    assert {"Train/mean_reward", "Policy/mean_std", "Perf/total_fps"} <= set(events.Tags()["scalars"])


def test_no_git_folder_is_left_beside_the_curves(finished):
    """rsl_rl would store a diff of the user's own repository there."""
    out, _, _ = finished
    assert [path for path in out.rglob("*") if "git" in path.name or path.suffix == ".diff"] == []


def test_nothing_is_printed_and_every_iteration_is_told_once(tmp_path, capfd):
    watcher = Watcher()
    train(tmp_path / "expert", progress=watcher, iterations=2)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    assert watcher.iterations == [1, 2]


def test_a_seed_decides_the_expert(finished, tmp_path):
    out, evaluation, _ = finished
    again = train(tmp_path / "again")
    assert_same_expert(out, tmp_path / "again")
    assert again.episodes == evaluation.episodes
    train(tmp_path / "other", seed=6, iterations=1)
    first = read(out / "expert.pth")["0.weight"], read(tmp_path / "other/expert.pth")["0.weight"]
    assert not torch.equal(*first)


def test_the_loaded_expert_acts_like_the_actors_mean_in_the_saved_state(finished):
    out, _, _ = finished
    network, card = load_expert(out, load_robot("go2"))
    assert card["hidden_dims"] == [8]
    observation, last_action = torch.randn(4, OBSERVATIONS), torch.randn(4, ACTIONS)
    policy = ExpertPolicy(network, 4)
    policy.observe(last_action, torch.zeros(4))
    acted = policy.act(observation, torch.ones(4))

    both = TensorDict({"policy": torch.cat([observation, last_action], dim=1)}, batch_size=[4])
    settings = ppo_settings(ExpertConfig(output_dir=out, **SMALL))
    del settings["actor"]["class_name"]
    actor = MLPModel(both, settings["obs_groups"], "actor", ACTIONS, **settings["actor"])
    actor.load_state_dict(read(out / "training.pth")["actor_state_dict"])
    with torch.inference_mode():
        torch.testing.assert_close(acted, actor(both), atol=0, rtol=0)
    assert acted.abs().max() > 0


def test_training_changes_the_actor(finished, tmp_path):
    out, _, _ = finished
    with pytest.raises(Interrupted):
        train(tmp_path / "short", progress=Watcher(("on_iteration", 2)))
    early = read(tmp_path / "short/training.pth")
    assert early["iterations"] == 1
    assert not torch.equal(early["actor_state_dict"]["mlp.0.weight"], read(out / "expert.pth")["0.weight"])


# -- the last action in the observation --------------------------------------------------------------------------------


def test_the_expert_sees_the_executed_action_except_at_an_episodes_start():
    network = Recorder()
    policy = ExpertPolicy(network, 3)
    observation, executed = torch.randn(3, OBSERVATIONS), torch.randn(3, ACTIONS)
    policy.act(observation, torch.tensor([0, 0, 0]))
    policy.observe(executed, torch.zeros(3))  # not what it answered: noise was added
    policy.act(observation, torch.tensor([1, 0, 7]))
    policy.reset()
    policy.act(observation, torch.tensor([5, 5, 5]))
    for seen in network.seen:
        assert seen.shape == (3, OBSERVATIONS + ACTIONS) and torch.equal(seen[:, :OBSERVATIONS], observation)
    shown = [seen[:, OBSERVATIONS:] for seen in network.seen]
    assert not shown[0].any() and not shown[2].any()
    assert torch.equal(shown[1][[0, 2]], executed[[0, 2]]) and not shown[1][1].any()


@pytest.fixture
def short_task(go2):
    """Environment 0 falls in the second step, environment 1 runs out of time in the fourth."""
    task = WalkingTask(FakeSimulator(go2, 2, fall_after=(2, 50)), go2, max_steps=4)
    return ExpertTask(task, seed=1)


def test_time_outs_are_told_apart_from_falls(short_task):
    env = short_task
    dones, time_outs = [], []
    for _ in range(4):
        _, reward, done, extras = env.step(torch.zeros(2, ACTIONS))
        assert reward.isfinite().all()
        dones.append(done.tolist())
        time_outs.append(extras["time_outs"].tolist())
    assert dones == [[0, 0], [1, 0], [0, 0], [1, 1]]
    # rsl_rl adds the value of what would have come only where time ran out.
    assert time_outs == [[0, 0], [0, 0], [0, 0], [0, 1]]


def test_the_last_action_is_forgotten_where_an_episode_ended(short_task):
    env = short_task
    assert not env.get_observations()["policy"][:, OBSERVATIONS:].any()
    for step in range(4):
        action = torch.randn(2, ACTIONS)
        observation, _, done, _ = env.step(action)
        last = observation["policy"][:, OBSERVATIONS:]
        assert last.shape == (2, ACTIONS)
        for i in range(2):
            assert torch.equal(last[i], torch.zeros(ACTIONS) if done[i] else action[i]), step
    assert torch.equal(env.get_observations()["policy"], observation["policy"])


def test_the_runner_can_spread_the_ends_of_the_first_episodes(short_task):
    env = short_task
    env.episode_length_buf = torch.tensor([0, 3])
    _, _, done, extras = env.step(torch.zeros(2, ACTIONS))
    assert done.tolist() == [0, 1] and extras["time_outs"].tolist() == [0, 1]
    assert env.episode_length_buf.tolist() == [1, 0]


# -- stopping and going on ---------------------------------------------------------------------------------------------


def test_a_stopped_training_goes_on_from_the_saved_iteration(tmp_path):
    out = tmp_path / "expert"
    with pytest.raises(Interrupted, match="--resume") as stop:
        train(out, progress=Watcher(("on_iteration", 2), Interrupted("enough")), iterations=4)
    assert stop.value.exit_code == 130
    assert not (out / "expert.pth").exists() and read(out / "training.pth")["iterations"] == 1
    watcher = Watcher()
    evaluation = train(out, progress=watcher, iterations=4, resume=True)
    assert sorted(set(watcher.iterations)) == [2, 3, 4]
    assert len(evaluation.episodes) == 4 and read(out / "training.pth")["iterations"] == 4
    load_expert(out)


def test_a_training_stopped_before_its_first_saved_state_begins_anew(finished, tmp_path):
    out = tmp_path / "expert"
    with pytest.raises(Interrupted):
        train(out, progress=Watcher(("on_iteration", 1)))
    assert not (out / "training.pth").exists()
    train(out, resume=True)
    assert_same_expert(out, finished[0])


def test_only_every_save_intervals_state_is_written(tmp_path):
    out = tmp_path / "expert"
    with pytest.raises(Interrupted):
        train(out, progress=Watcher(("on_iteration", 4)), iterations=5, save_interval=2)
    assert read(out / "training.pth")["iterations"] == 2


def test_a_run_stopped_in_its_evaluation_trains_no_more(finished, tmp_path):
    out = tmp_path / "expert"
    with pytest.raises(Interrupted):
        train(out, progress=Watcher(("on_rollout_step", 2)))
    watcher = Watcher()
    train(out, progress=watcher, resume=True)
    assert watcher.iterations == [] and watcher.parts == ["evaluating"]
    assert_same_expert(out, finished[0])


def test_more_iterations_can_be_added(tmp_path):
    out = tmp_path / "expert"
    train(out)
    trained = read(out / "expert.pth")
    watcher = Watcher()
    train(out, progress=watcher, iterations=5, resume=True)
    assert sorted(set(watcher.iterations)) == [4, 5]
    assert not torch.equal(read(out / "expert.pth")["0.weight"], trained["0.weight"])
    assert json.loads((out / "expert.json").read_text())["iterations"] == 5


def test_resuming_with_another_robot_is_refused(finished, tmp_path):
    out = tmp_path / "expert"
    with pytest.raises(Interrupted):
        train(out, progress=Watcher(("on_iteration", 2)))
    with pytest.raises(UsageError, match="--robot-type was go2, now go1"):
        train(out, robot_type="go1", resume=True)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "text": lambda path: path.write_text("weights"),
    "something-else": lambda path: torch.save({"model": torch.zeros(2)}, path),
    "another-network": lambda path: torch.save(
        read(path) | {"actor_state_dict": {"mlp.0.weight": torch.zeros(1, 1)}}, path
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_broken_state_is_named(tmp_path, damage):
    out = tmp_path / "expert"
    with pytest.raises(Interrupted):
        train(out, progress=Watcher(("on_iteration", 2)))
    damage(out / "training.pth")
    with pytest.raises(InputFileError, match=r"training\.pth is broken .*--overwrite"):
        train(out, resume=True)


def test_a_training_that_diverges_says_what_to_try(monkeypatch, tmp_path):
    step = ExpertTask.step

    def broken(self, actions):
        observation, reward, done, extras = step(self, actions)
        return observation, reward * float("nan"), done, extras

    monkeypatch.setattr(expert_module.ExpertTask, "step", broken)
    with pytest.raises(VintixFastError, match="diverged.*smaller --lr"):
        train(tmp_path / "expert")


def test_an_expert_of_one_world_is_told_nothing(finished, tmp_path):
    train(tmp_path / "loaded", vary="payload_kg=5, motor.FR=0.5", iterations=1)
    for out in (finished[0], tmp_path / "loaded"):
        network, card = load_expert(out)
        assert network[0].in_features == OBSERVATIONS + ACTIONS and "told" not in card


# -- the entropy bonus -------------------------------------------------------------------------------------------------


def test_the_entropy_bonus_fades_in_the_second_half():
    config = ExpertConfig("go2", "out", iterations=200, entropy=0.02)
    assert [entropy_weight(config, i) for i in (0, 50, 100)] == pytest.approx([0.02] * 3)
    assert entropy_weight(config, 150) == pytest.approx(0.011)
    assert entropy_weight(config, 200) == pytest.approx(0.002)
    weights = [entropy_weight(config, i) for i in range(201)]
    assert weights == sorted(weights, reverse=True)


# -- bad options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iterations": 0}, "--iterations is 0"),
        ({"num_envs": 0}, "--num-envs is 0"),
        ({"num_envs": 2.0}, "--num-envs is 2.0; it must be an integer"),
        ({"steps_per_iteration": 1}, "--steps-per-iteration is 1"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"lr": 0.0}, "--lr is 0.0"),
        ({"init_noise": 0.0}, "--init-noise is 0.0"),
        ({"entropy": -0.1}, "--entropy is -0.1"),
        ({"save_interval": 0}, "--save-interval is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"device": "tpu"}, "--device is 'tpu'"),
        ({"robot_type": "go3"}, "unknown robot 'go3'"),
        ({"resume": True}, "holds no run of `expert`"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_written(monkeypatch, tmp_path, options, words):
    monkeypatch.setattr(expert_module, "Simulator", lambda *args: pytest.fail("built a scene first"))
    with pytest.raises(UsageError, match=words):
        train_expert(ExpertConfig(output_dir=tmp_path / "expert", **(SMALL | options)))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_left_as_it_is(tiny_expert):
    before = {path.name: path.read_bytes() for path in tiny_expert.iterdir()}
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UsageError, match="is not empty and holds no run of `vintix-fast expert`"):
            train(tiny_expert, **options)
    assert {path.name: path.read_bytes() for path in tiny_expert.iterdir()} == before


def test_overwriting_begins_anew_and_spares_other_files(finished, tmp_path):
    out = tmp_path / "expert"
    train(out, seed=6, iterations=1)
    (out / "notes.txt").write_text("mine")
    train(out, overwrite=True)
    assert_same_expert(out, finished[0])
    assert (out / "notes.txt").read_text() == "mine"
    assert len(list((out / "tensorboard").glob("events.*"))) == 1


# -- going on from another expert --------------------------------------------------------------------------------------


def test_an_expert_begins_with_what_another_has_learned(finished, tmp_path):
    """With a small learning rate it stays nearly that expert, whatever its robot."""
    out = tmp_path / "expert"
    train(out, robot_type="go1", init_from=finished[0], iterations=1, lr=1e-9, desired_kl=1e-6)
    before, after = read(finished[0] / "training.pth"), read(out / "training.pth")
    for part in ("actor_state_dict", "critic_state_dict"):
        for name, weight in before[part].items():
            torch.testing.assert_close(after[part][name], weight, rtol=0, atol=5e-3)
    assert after["iterations"] == 1
    assert load_expert(out)[1]["robot"] == "go1"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"hidden_dims": (9,)}, "other layers"), ({"vary": "payload_kg=0:5"}, "takes \\d+ numbers, this one \\d+")],
)
def test_an_expert_of_another_size_cannot_be_gone_on_from(finished, tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        train(tmp_path / "expert", init_from=finished[0], **options)
    assert not (tmp_path / "expert").exists()


def test_an_expert_without_its_critic_cannot_be_gone_on_from(finished, tmp_path):
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in ("expert.pth", "expert.json"):
        (copied / name).write_bytes((finished[0] / name).read_bytes())
    with pytest.raises(InputFileError, match="training.pth, which has its critic"):
        train(tmp_path / "expert", init_from=copied)
    torch.save({"actor_state_dict": {}}, copied / "training.pth")
    with pytest.raises(InputFileError, match="training.pth is broken"):
        train(tmp_path / "expert", init_from=copied)
