"""``model.safetensors`` in the place of ``model.pth``: read wherever a checkpoint is, with the same checks."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from commands import invoke, last_json, spoken
from runs import read_rows, run_small

from vintix_fast.model import fingerprint, load_checkpoint, save_checkpoint
from vintix_fast.service.errors import InputFileError, UsageError
from vintix_fast.sharing.convert import convert


@pytest.fixture
def converted(tiny_checkpoint, tmp_path):
    assert invoke("convert", tiny_checkpoint, "--to", "safetensors", "--output-dir", tmp_path / "st").exit_code == 0
    return tmp_path / "st"


def states_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_there_and_back_keeps_every_bit(tiny_checkpoint, converted, tmp_path):
    original = torch.load(tiny_checkpoint / "model.pth", weights_only=True)
    assert sorted(path.name for path in converted.iterdir()) == ["config.json", "metadata.json", "model.safetensors"]
    assert states_equal(original, safetensors.torch.load_file(converted / "model.safetensors"))
    convert(converted, "pth", tmp_path / "back")
    assert states_equal(original, torch.load(tmp_path / "back/model.pth", weights_only=True))
    for name in ("config.json", "metadata.json"):
        assert (tmp_path / "back" / name).read_text() == (tiny_checkpoint / name).read_text()


def test_a_run_that_begins_with_either_is_the_same(tiny_checkpoint, converted, tmp_path):
    for name, checkpoint in (("pth", tiny_checkpoint), ("st", converted)):
        run_small(tmp_path / f"run-{name}", checkpoint, num_improvement_loops=1)
    models = [load_checkpoint(tmp_path / f"run-{name}" / "models/loop_01") for name in ("pth", "st")]
    assert states_equal(*(model.state_dict() for model in models))
    assert read_rows(tmp_path / "run-pth")[-1]["loss"] == read_rows(tmp_path / "run-st")[-1]["loss"]


def test_inspect_reads_it(converted):
    facts = last_json(invoke("inspect", converted, "--json"))
    assert facts["sound"] and facts["parameters"] == sum(p.numel() for p in load_checkpoint(converted).parameters())
    refused = invoke("inspect", converted / "model.safetensors")
    assert refused.exit_code == 4 and "give the directory that it is in" in spoken(refused.stderr)


def test_half_precision_is_read_as_float32(converted):
    path = converted / "model.safetensors"
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value.bfloat16() for name, value in state.items()}, path)
    read = load_checkpoint(converted).state_dict()
    assert all(torch.equal(read[name], value.bfloat16().float()) for name, value in state.items())


def test_where_both_are_model_pth_is_read(tiny_checkpoint, converted):
    shutil.copy(tiny_checkpoint / "model.pth", converted)
    (converted / "model.safetensors").write_bytes(b"broken")
    load_checkpoint(converted)
    save_checkpoint(load_checkpoint(tiny_checkpoint), converted)  # which replaces both
    assert not (converted / "model.safetensors").exists()


def edit(change):
    def damage(directory):
        path = directory / "model.safetensors"
        state = safetensors.torch.load_file(path)
        change(state)
        safetensors.torch.save_file(state, path)

    return damage


def cut(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def grow_header(directory):
    path = directory / "model.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])


FAULTS = {
    "cut": (cut, "truncated or damaged"),
    "huge-header": (grow_header, "truncated or damaged"),
    "empty": (lambda d: (d / "model.safetensors").write_bytes(b""), "truncated or damaged"),
    "not-a-number": (edit(lambda s: s["transformer.ln_f.weight"].fill_(float("nan"))), "NaN or infinity"),
    "huge": (edit(lambda s: s["transformer.ln_f.weight"].fill_(2e6)), "no robot's weights exceed 1e.06"),
    "shape": (edit(lambda s: s.update({"transformer.ln_f.weight": torch.ones(3)})), r"is \[3\], expected \[32\]"),
    "missing": (edit(lambda s: s.pop("transformer.ln_f.weight")), "lacks transformer.ln_f.weight"),
    "integers": (edit(lambda s: s.update({"transformer.ln_f.weight": torch.ones(32).int()})), "floating-point"),
}


@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_broken_files_are_explained(converted, damage, message):
    damage(converted)
    with pytest.raises(InputFileError, match=f"model.safetensors.*{message}") as caught:
        load_checkpoint(converted)
    assert str(converted) in str(caught.value)


def test_nothing_is_written_over_or_guessed(tiny_checkpoint, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.tex").touch()
    with pytest.raises(UsageError, match="used exists and is not an empty directory"):
        convert(tiny_checkpoint, "safetensors", tmp_path / "used")
    with pytest.raises(UsageError, match="--to is 'onnx'; it must be one of safetensors, pth, minari, lerobot"):
        convert(tiny_checkpoint, "onnx", tmp_path / "new")
    with pytest.raises(InputFileError, match="takes a checkpoint's directory"):
        convert(tiny_checkpoint / "model.pth", "safetensors", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_hash_of_a_model_is_that_of_its_weights(tiny_checkpoint, converted):
    models = [load_checkpoint(path) for path in (tiny_checkpoint, converted)]
    assert fingerprint(models[0]) == fingerprint(models[1])
    next(models[1].parameters()).data[0] += 1e-6
    assert fingerprint(models[0]) != fingerprint(models[1])
    assert json.loads((converted / "config.json").read_text())["token_order"]
