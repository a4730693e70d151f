"""Files from users: bounded, strict, and one line for whatever is wrong."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from commlens.hardware import InputError
from commlens.hardware.files import check, read_json, read_yaml

YAML = {
    "missing": (None, "cannot be read"),
    "bomb": ("a: &a [x, x]\nb: [*a, *a]\n", "aliases"),
    "large": ("a: " + "x" * 10_000_000, "legal: at most"),
    "duplicate": ("a: 1\na: 2\n", "twice"),
    "nested duplicate": ("a: {b: 1, b: 2}\n", "twice"),
    "list": ("[1, 2]", "not a mapping"),
    "nothing": ("", "not a mapping"),
    "tag": ("a: !!python/name:os.system x\n", "YAML"),
    "unclosed": ("a: [1, 2\n", "YAML"),
    "deep": ("[" * 5000, "YAML"),
    "tab": ("a:\n\t- 1\n", "YAML"),
    "list key": ("[1]: 2\n", "YAML"),
    "number key": ("1: 2\n", "not a mapping"),
}


@pytest.mark.parametrize("name", YAML)
def test_bad_yaml(name, tmp_path):
    text, word = YAML[name]
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert word in message
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1, "a": 2}', "[" * 100_000, "\ufeff{", '{"a": 1} x'])
def test_bad_json(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.json") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_a_folder_binary_and_impossible_names_are_refused(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "b", "a\0.yaml"):
        with pytest.raises(InputError):
            read_yaml(path)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    count: int = Field(ge=1, le=5)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    inner: Inner
    names: list[str] = []


@pytest.mark.parametrize(("data", "expected"), [
    ({"inner": {"count": 9}}, ["f: inner.count: '9'", "1 to 5"]),
    ({"inner": {"cuont": 1}}, ["f: inner.cuont", "count"]),
    ({"inner": {"count": 1}, "nmes": []}, ["f: nmes", "names"]),
    ({}, ["f: inner", "required"]),
])  # fmt: skip
def test_check_names_place_path_and_range(data, expected):
    with pytest.raises(InputError) as caught:
        check(Outer, data, "f")
    for word in expected:
        assert word in str(caught.value), str(caught.value)
