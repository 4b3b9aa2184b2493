"""Checkpoints survive a round trip, and broken ones are explained instead of crashing or running code."""

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vintix_fast.model import load_checkpoint, save_checkpoint
from vintix_fast.service.errors import InputFileError, UsageError, VintixFastError

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def checkpoint(tmp_path):
    ignore = shutil.ignore_patterns("io.npz")
    return Path(shutil.copytree(GOLDEN / "vintix_tiny", tmp_path / "checkpoint", ignore=ignore))


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_state(path, change):
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def test_round_trip_keeps_every_bit_and_records_the_token_order(tmp_path):
    model = load_checkpoint(GOLDEN / "vintix_tiny_upstream", token_order="observation-action-reward")
    save_checkpoint(model, tmp_path / "deep" / "saved")
    again = load_checkpoint(tmp_path / "deep" / "saved")
    assert again.config == model.config and again.config.token_order == "observation-action-reward"
    assert again.tasks == model.tasks
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert sorted(os.listdir(tmp_path / "deep" / "saved")) == ["config.json", "metadata.json", "model.pth"]
    assert os.listdir(tmp_path / "deep") == ["saved"]


def test_saved_files_hold_what_other_readers_expect(tmp_path):
    save_checkpoint(load_checkpoint(GOLDEN / "vintix_tiny"), tmp_path / "saved")
    original = torch.load(GOLDEN / "vintix_tiny/model.pth", weights_only=True)
    saved = torch.load(tmp_path / "saved/model.pth", weights_only=True)
    assert set(saved) == set(original)
    for name in ("metadata.json", "config.json"):
        before = json.loads((GOLDEN / "vintix_tiny" / name).read_text())
        after = json.loads((tmp_path / "saved" / name).read_text())
        assert before.items() <= after.items()


def test_saving_replaces_a_checkpoint_but_no_other_directory(tmp_path, checkpoint):
    model = load_checkpoint(checkpoint)
    with torch.no_grad():
        model.encoder.prev_acs_padding.fill_(3)
    save_checkpoint(model, checkpoint)
    assert load_checkpoint(checkpoint).encoder.prev_acs_padding.eq(3).all()
    assert os.listdir(tmp_path) == ["checkpoint"]
    (checkpoint / "notes.txt").write_text("mine")
    with pytest.raises(InputFileError, match="notes.txt"):
        save_checkpoint(model, checkpoint)
    assert (checkpoint / "notes.txt").read_text() == "mine"


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, checkpoint, monkeypatch):
    model = load_checkpoint(checkpoint)
    real, calls = os.rename, []

    def fail_second(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "disk full")
        real(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(VintixFastError, match="cannot write the checkpoint .*disk full"):
        save_checkpoint(model, checkpoint)
    load_checkpoint(checkpoint)
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_loading_leaves_the_random_state_alone(checkpoint):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_checkpoint(checkpoint)
    assert torch.equal(torch.rand(3), expected)


def test_half_precision_is_widened(checkpoint):
    edit_state(checkpoint / "model.pth", lambda s: s.update({k: v.half() for k, v in s.items()}))
    model = load_checkpoint(checkpoint)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_a_missing_group_name_means_the_single_group(checkpoint):
    def rename(state):
        for name in list(state):
            if "a1_locomotion" in name:
                del state[name]
            elif "go2_locomotion" in name:
                state[name.replace("go2_locomotion", "quadruped_locomotion")] = state.pop(name)

    edit_state(checkpoint / "model.pth", rename)
    edit_json(checkpoint / "metadata.json", lambda d: d.pop("unitreea1_walking_ad"))
    edit_json(checkpoint / "metadata.json", lambda d: d["go2_walking_ad"].pop("group_name"))
    model = load_checkpoint(checkpoint)
    data = np.load(GOLDEN / "vintix_tiny/io.npz")
    inputs = [data[f"go2_walking_ad/{key}"] for key in ("observation", "prev_action", "prev_reward", "step_num")]
    assert model.groups == ("quadruped_locomotion",)
    # One task: its name may be left out.
    np.testing.assert_allclose(model.predict_actions(*inputs), data["go2_walking_ad/predicted_action"], atol=1e-5)


def test_unknown_config_keys_are_ignored(checkpoint):
    edit_json(checkpoint / "config.json", lambda d: d.update(learning_rate=1, betas=[0.9, 0.99]))
    load_checkpoint(checkpoint)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_that_would_run_code_is_not_run(checkpoint, tmp_path):
    torch.save({"x": Bomb(tmp_path / "ran")}, checkpoint / "model.pth")
    with pytest.raises(InputFileError, match="can run code"):
        load_checkpoint(checkpoint)
    assert not (tmp_path / "ran").exists()


def truncate(fraction):
    def change(directory):
        content = (directory / "model.pth").read_bytes()
        (directory / "model.pth").write_bytes(content[: int(len(content) * fraction)])

    return change


def state(change):
    return lambda directory: edit_state(directory / "model.pth", change)


def metadata(change):
    return lambda directory: edit_json(directory / "metadata.json", change)


def config(change):
    return lambda directory: edit_json(directory / "config.json", change)


def flip_a_bit(directory):
    """Of one weight's exponent: torch loads it as another number."""
    path = directory / "model.pth"
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
    names = int.from_bytes(content[part.header_offset + 26 :][:2], "little")
    extra = int.from_bytes(content[part.header_offset + 28 :][:2], "little")
    content[part.header_offset + 30 + names + extra + 3] ^= 0x40
    path.write_bytes(content)


def bomb(directory):
    """80 MB of zeros in a file of 80 KB."""
    path = directory / "model.pth"
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, bytes(80 * 2**20) if name.endswith("/data/0") else content)


BREAKAGES = {
    "no-metadata": (lambda d: (d / "metadata.json").unlink(), r"lacks metadata\.json"),
    "no-files": (lambda d: [p.unlink() for p in d.iterdir()], "lacks model.pth, metadata.json, config.json"),
    "half-a-model": (truncate(0.5), "model.pth .*(truncated|damaged)"),
    "most-of-a-model": (truncate(0.99), "model.pth .*(truncated|damaged)"),
    "empty-model": (truncate(0), "model.pth .*(truncated|damaged)"),
    "text-as-model": (lambda d: (d / "model.pth").write_text("hello world"), "model.pth .*damaged"),
    "broken-json": (lambda d: (d / "config.json").write_text('{"a": '), r"config.json is broken \(not valid JSON"),
    "binary-json": (
        lambda d: (d / "metadata.json").write_bytes(b"\xff\xfe\x00"),
        r"metadata.json is broken \(not UTF-8 text",
    ),
    "json-list": (
        lambda d: (d / "config.json").write_text("[]"),
        r"config.json is broken \(must hold an object, not \[\]\)",
    ),
    "no-tasks": (lambda d: (d / "metadata.json").write_text("{}"), "at least one task"),
    "missing-tensor": (state(lambda s: s.pop("transformer.ln_f.weight")), "lacks transformer.ln_f.weight"),
    "extra-tensor": (state(lambda s: s.update(foo=torch.ones(1))), "has unexpected foo"),
    "wrong-shape": (
        state(lambda s: s.update({"transformer.ln_f.weight": torch.ones(3)})),
        r"transformer.ln_f.weight is \[3\], expected \[64\]",
    ),
    "not-a-number": (state(lambda s: s["transformer.ln_f.weight"].fill_(float("nan"))), "NaN or infinity"),
    "integers": (state(lambda s: s.update({"transformer.ln_f.weight": torch.ones(64).long()})), "floating-point"),
    "whole-list": (lambda d: torch.save([torch.ones(1)], d / "model.pth"), "must hold a state dict"),
    "no-statistics": (metadata(lambda m: m["go2_walking_ad"].pop("obs_std")), "'go2_walking_ad': missing .*obs_std"),
    "short-statistics": (metadata(lambda m: m["go2_walking_ad"]["acs_mean"].pop()), "acs_mean has 11 entries"),
    "other-group": (
        metadata(lambda m: m["go2_walking_ad"].update(group_name="mine")),
        "lacks encoder.obs_encoders.mine.* and 22 more and has unexpected encoder.obs_encoders.go2_locomotion",
    ),
    "reserved-group": (metadata(lambda m: m["go2_walking_ad"].update(group_name="keys")), "'keys' is reserved"),
    "missing-key": (config(lambda c: c.pop("transformer_heads")), "config.json: missing .*transformer_heads"),
    "huge-model": (config(lambda c: c.update(intermediate_size=10**13)), "does not fit config.json"),
    "flipped-bit": (flip_a_bit, "model.pth is broken .*part .*/data/.*CRC-32"),
    "bomb": (bomb, "model.pth is broken .*would unpack to 8"),
    "views": (state(lambda s: s.update(w=torch.zeros(1).expand(10**5, 10**5))), "whose tensors would take 4"),
    "huge-weight": (
        state(lambda s: s["transformer.ln_f.weight"][0].fill_(-2e6)),
        "transformer.ln_f.weight holds 2e.06, and no robot's weights exceed 1e.06",
    ),
    "huge-statistic": (
        metadata(lambda m: m["go2_walking_ad"]["obs_std"].__setitem__(32, 1e7)),
        r"'go2_walking_ad': obs_std\[32\] must be .* no larger than 1e.06, got 10000000.0",
    ),
    "integer-beyond-floats": (
        config(lambda c: c.update(attn_dropout=10**400)),
        "attn_dropout is 1000.* beyond 64 bits",
    ),
    "sizes-beyond-integers": (config(lambda c: c.update(intermediate_size=2**62)), "config.json: its sizes are beyond"),
    "huge-depth": (
        config(lambda c: c.update(transformer_depth=10**9)),
        "transformer_depth is 1000000000, but .* has 2",
    ),
    "group-training": (metadata(lambda m: m["go2_walking_ad"].update(group_name="training")), "'training' is reserved"),
    "bad-order": (config(lambda c: c.update(token_order="reward-first")), "token_order .*reward-first"),
}


@pytest.mark.parametrize(("damage", "message"), BREAKAGES.values(), ids=BREAKAGES)
def test_broken_checkpoints_are_explained(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(InputFileError, match=message) as caught:
        load_checkpoint(checkpoint)
    assert str(checkpoint) in str(caught.value)


def test_wrong_paths_and_options_are_explained(checkpoint):
    with pytest.raises(InputFileError, match="does not exist"):
        load_checkpoint(checkpoint / "nowhere")
    with pytest.raises(InputFileError, match="is a file, not a directory"):
        load_checkpoint(checkpoint / "model.pth")
    with pytest.raises(UsageError, match="token_order must be one of"):
        load_checkpoint(checkpoint, token_order="reward-first")
