"""Regions: nothing happens unless recorded; nesting, threads and the trace file's form."""

import json
import threading
import time

import pytest

from vintix_fast.service.regions import Recording, recording, region

MS = 1_000_000


def made() -> Recording:
    """One loop of 100 ms: 2 steps of 30 and 40 ms, in each a part of 10; a gate of 20 with such a part too."""
    recorded = Recording()
    t0 = time.perf_counter_ns()
    me = recorded.thread
    for name, start, end, thread in (
        ("part", 5, 15, me), ("step", 0, 30, me), ("part", 30, 40, me), ("step", 30, 70, me), ("part", 80, 90, me),
        ("gate", 80, 100, me), ("decode", 2, 28, "decoder"),
    ):  # fmt: skip
        recorded.add(name, t0 + start * MS, t0 + end * MS, thread)
    return recorded


def test_times_are_by_thread_and_path_and_know_what_lies_inside():
    times = {(t.thread == threading.current_thread().name, "/".join(t.path)): t for t in made().times()}
    assert list(times) == [
        (True, "step"), (False, "decode"), (True, "step/part"), (True, "gate"), (True, "gate/part"),
    ]  # fmt: skip
    step = times[True, "step"]
    assert step.calls == 2
    assert step.seconds == pytest.approx(0.07)
    assert step.self_seconds == pytest.approx(0.05)
    assert step.longest_seconds == pytest.approx(0.04)
    assert times[True, "step/part"].seconds == pytest.approx(0.02)
    assert times[False, "decode"].seconds == pytest.approx(0.026)


def test_totals_are_of_the_recording_thread_whatever_the_nesting():
    assert made().totals() == pytest.approx({"step": 0.05, "part": 0.03, "gate": 0.01})


def test_a_trace_holds_every_region_in_microseconds_and_names_threads():
    recorded = made()
    trace = json.loads(json.dumps(recorded.trace()))
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    regions = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert list(names.values()) == [recorded.thread, "decoder"]
    assert [(names[e["tid"]], e["name"], round(e["dur"])) for e in regions[:3]] == [
        (recorded.thread, "step", 30000), ("decoder", "decode", 26000), (recorded.thread, "part", 10000),
    ]  # fmt: skip
    starts = [e["ts"] for e in regions]
    assert min(starts) >= 0 and [round(s - starts[0]) for s in starts[:4]] == [0, 2000, 5000, 30000]


def test_only_a_recording_sees_regions_and_each_its_own():
    assert region("before") is region("again")  # one shared context, nothing made
    with recording() as outer:
        with region("a"):
            worker = threading.Thread(target=lambda: region("b").__enter__(), name="worker")
            worker.start()
            worker.join()
        with recording() as inner, region("c"):
            pass
        with pytest.raises(ZeroDivisionError), region("d"):
            1 / 0  # noqa: B018
        still_open = region("e")
        still_open.__enter__()
    with region("after"):
        pass
    assert [t.path for t in outer.times()] == [("a",), ("d",)]
    assert [t.path for t in inner.times()] == [("c",)]
    before = outer.seconds
    assert outer.seconds == before > 0


def test_a_region_is_recorded_under_its_threads_name():
    def work():
        with region("simulate"):
            pass

    with recording() as recorded:
        worker = threading.Thread(target=work, name="physics")
        worker.start()
        worker.join()
    assert [(t.thread, t.path) for t in recorded.times()] == [("physics", ("simulate",))]
    assert recorded.totals() == {}
