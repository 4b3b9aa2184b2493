"""JSON and TOML of any content become values that a program can take, or an error that shows what is wrong where."""

import pytest

from vintix_fast.service.errors import InputFileError
from vintix_fast.service.files import parse_json, read_json, read_toml

KEYS = {"rows": list, "best": dict | None, "loop": int}
FAULTS = {
    b'{"a": ': "not valid JSON: Expecting value",
    b"\xff\xfe\x00": "not UTF-8 text",
    b"[1]": r"must hold an object, not \[1\]",
    b"null": "must hold an object, not None",
    b"[" * 100_000: "nested more than 32 deep",
    b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}": "nested more than 32 deep",
    b'{"a": {"b": [0, NaN]}}': r"a\.b\[1\] is nan",
    b'{"a": -Infinity}': "a is -inf",
    b'{"a": 1e999}': "a is inf",
    b'{"a": 1' + b"0" * 400 + b"}": r"a is 1000+\.\.\.0+, an integer beyond 64 bits",
    b'{"a": 9223372036854775808}': "an integer beyond 64 bits",
    b'{"a": 1' + b"0" * 5000 + b"}": "4300 digits",
    b'{"a": 1, "a": 2}': "the key 'a' is there twice",
    b'{"rows": [], "best": null}': "lacks loop",
    b'{"rows": {}, "best": null, "loop": 1}': r"rows must be a list, got \{\}",
    b'{"rows": [], "best": 3, "loop": 1}': "best must be an object or null, got 3",
    b'{"rows": [], "best": null, "loop": true}': "loop must be an integer, got True",
}


@pytest.mark.parametrize(("content", "message"), FAULTS.items(), ids=FAULTS.values())
def test_what_no_program_can_take_is_named(tmp_path, content, message):
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(
        InputFileError, match=rf"^--config .*state\.json is broken \(.*{message}.*\); copy it$"
    ) as caught:
        read_json(path, "copy it", KEYS, what="--config")
    assert len(str(caught.value)) < 400 + len(str(path))


def test_what_is_sound_is_read_as_it_is(tmp_path):
    path = tmp_path / "state.json"
    path.write_bytes(b'\xef\xbb\xbf{"rows": [1.5, "x"], "best": null, "loop": -9223372036854775808}')
    assert read_json(path, "", KEYS) == {"rows": [1.5, "x"], "best": None, "loop": -(2**63)}
    assert parse_json("{}", "a line", "") == {}
    with pytest.raises(InputFileError, match="cannot read .*nowhere: No such file"):
        read_json(tmp_path / "nowhere", "")
    with pytest.raises(InputFileError, match="cannot read .*: Is a directory"):
        read_json(tmp_path, "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = ", "Invalid value"),
        (b"\xff", "not UTF-8 text"),
        (b"a = [[[nan]]]", r"a\[0\]\[0\]\[0\] is nan"),
        (b"a.b = 1" + b"0" * 400, r"a\.b is 100"),
        (b"a = " + b"[" * 5000, "nested more than 32 deep"),
    ],
)
def test_toml_is_read_under_the_same_rules(tmp_path, content, message):
    path = tmp_path / "robot.toml"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match=rf"robot\.toml is not valid TOML.*{message}.*; copy it"):
        read_toml(path, "copy it")
    path.write_bytes(b"\xef\xbb\xbfa = [1, 2.5]")
    assert read_toml(path, "") == {"a": [1, 2.5]}
