"""Events that a killed process lost, or has too many, are settled by the rows: each once."""

from vintix_fast.service.metrics import write_losses


def test_each_row_of_a_pretraining_has_its_events_once(tmp_path):
    rows = [{"step": step, "loss": 1.0 / step, "tokens_per_s": 5.0} for step in (10, 20, 30)]
    write_losses(tmp_path, rows[:1])
    write_losses(tmp_path, rows)

    def events():
        return {path.name.rpartition(".")[2]: path for path in (tmp_path / "tensorboard").iterdir()}

    before = events()
    assert (
        sorted(before) == ["step_000010", "step_000020", "step_000030"] == sorted(e.name[-11:] for e in before.values())
    )
    before["step_000010"].unlink()
    (tmp_path / "loss.png").unlink()
    write_losses(tmp_path, rows[:2])  # the third was saved by a process whose state was not
    after = events()
    assert sorted(after) == ["step_000010", "step_000020"] and after["step_000020"] == before["step_000020"]
    assert (tmp_path / "loss.png").is_file()


def test_before_the_first_row_nothing_is_written(tmp_path):
    write_losses(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
