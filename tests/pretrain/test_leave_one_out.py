"""One model for each robot left out."""

import shutil

import pytest
from histories_on_disk import TASKS, Watcher, config
from runs import assert_same_model

from vintix_fast.model import load_checkpoint
from vintix_fast.pretrain import pretrain as pretrain_module
from vintix_fast.pretrain.leave_one_out import leave_one_out
from vintix_fast.pretrain.pretrain import pretrain
from vintix_fast.service.errors import Interrupted, UsageError

pytestmark = pytest.mark.usefixtures("plots_are_empty")
LEFT_OUT = ["without-go1", "without-go2", "without-minicheetah"]


@pytest.fixture(scope="module")
def left_out(tmp_path_factory, data):
    """One model without each robot; not to be written to."""
    out = tmp_path_factory.mktemp("leave") / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_module, "write_losses", lambda folder, rows: None)
        cards = leave_one_out(config(out, data, steps=2))
    return out, cards


def test_every_model_lacks_one_robot(left_out, data):
    out, cards = left_out
    assert sorted(path.name for path in out.iterdir()) == sorted(cards) == LEFT_OUT
    for folder in data:
        name = f"without-{folder.name}"
        others = [other.name for other in data if other != folder]
        model = load_checkpoint(out / name / "model")
        assert list(model.tasks) == list(cards[name]["robots"]) == [TASKS[other] for other in others]
        assert model.groups == tuple(f"{other}_locomotion" for other in others)


def test_a_model_of_leave_one_out_is_that_of_pretrain_without_the_robot(left_out, tmp_path, data):
    pretrain(config(tmp_path / "run", data[1:], steps=2))
    assert_same_model(tmp_path / "run/model", left_out[0] / "without-go1/model")


def test_leave_one_out_goes_on_where_it_was_stopped(left_out, tmp_path, data):
    out = tmp_path / "models"
    with pytest.raises(Interrupted):
        leave_one_out(config(out, data, steps=2), progress=Watcher(("on_training_step", 3)))
    assert sorted(path.name for path in out.iterdir()) == LEFT_OUT[:2]
    assert (out / "without-go1/model").is_dir() and not (out / "without-go2/model").exists()
    watcher = Watcher()
    cards = leave_one_out(config(out, data, steps=2, resume=True), progress=watcher)
    assert len(watcher.rows) == 2  # one validation each of the two models that were not finished
    assert list(cards) == LEFT_OUT
    for name in LEFT_OUT:
        assert_same_model(out / name / "model", left_out[0] / name / "model")


def test_leave_one_out_leaves_finished_models_alone_unless_told(left_out, tmp_path, data):
    out = shutil.copytree(left_out[0], tmp_path / "models")
    with pytest.raises(UsageError, match="without-go1 holds a run: --resume.*--overwrite"):
        leave_one_out(config(out, data, steps=1))
    assert_same_model(out / "without-go1/model", left_out[0] / "without-go1/model")
    cards = leave_one_out(config(out, data, steps=1, overwrite=True))
    assert [card["steps"] for card in cards.values()] == [1, 1, 1]
