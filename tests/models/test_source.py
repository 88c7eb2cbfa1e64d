"""A model directory of a stranger's: none of its code runs, nothing is believed that its files do not hold."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sod import hub
from sod.chat.render import Chat
from sod.models.load import load_model, load_tokenizer, save_model
from sod.models.smollm2 import from_hub
from sod.records import SodError


@pytest.fixture
def saved(tmp_path: Path, random_model: Callable[..., Any], chat: Chat) -> Path:
    """A model directory as a run leaves it."""
    directory = tmp_path / "model"
    save_model(random_model(seed=2), copy.deepcopy(chat.tokenizer), chat.template, chat.end_id, directory)
    return directory


def change(file: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(load: Callable[[], Any]) -> str:
    """The one line that `load` ends in."""
    with pytest.raises(SodError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("model_type", ["qwen3", "marking"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_directory_never_runs(name: str, model_type: str, saved: Path, tmp_path: Path) -> None:
    """For an architecture that transformers has, and for one that only the module has."""
    mark = tmp_path / "executed"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    (saved / "evil.py").write_text(code + "class C: pass\nclass M: pass\nclass T: pass\n")
    change(saved / "config.json", model_type=model_type)
    kinds = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
    change(saved / name, auto_map=kinds)
    said = refused(lambda: load_tokenizer(str(saved)))
    assert f"{saved}/{name}: auto_map" in said
    assert "remove auto_map" in said
    if name == "config.json":
        assert "auto_map" in refused(lambda: load_model(str(saved), "float32"))
    assert not mark.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_of_the_hub_are_code_too(key: str, saved: Path) -> None:
    change(saved / "config.json", **{key: "stranger/kernel"})
    assert "'stranger/kernel'" in refused(lambda: load_model(str(saved), "float32"))


CLAIMS = {
    "layers": {"num_hidden_layers": 10**9},
    "width": {"hidden_size": 10**9},
    "vocabulary": {"vocab_size": 10**12},
    "feed-forward": {"intermediate_size": 10**12},
    "heads": {"num_attention_heads": 10**9, "num_key_value_heads": 10**9},
}
# A failure must not take the machine down: limits of memory (bytes) and of CPU time (seconds).
CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
from sod.models.load import load_model
from sod.records import SodError
for path in sys.argv[1:]:
    try:
        load_model(path, "float32")
    except SodError as error:
        print(error)
"""


def test_a_config_that_lies_about_its_size_is_refused(saved: Path, tmp_path: Path) -> None:
    """Before a network of that size is made."""
    paths = []
    for name, values in CLAIMS.items():
        (tmp_path / name).mkdir()
        for file in saved.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        change(tmp_path / name / "config.json", **values)
        paths.append(str(tmp_path / name))
    done = subprocess.run([sys.executable, "-c", CHILD, *paths], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == paths, done.stderr[-500:]
    assert all("cannot load a model: config.json" in line for line in lines)


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000, '{"model_type": []}', '{"model_type": "none"}', "\x00"])
def test_a_config_of_another_kind_is_one_line(text: str, saved: Path) -> None:
    (saved / "config.json").write_text(text)
    assert str(saved) in refused(lambda: load_model(str(saved), "float32"))


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "{}", "[" * 100_000, '{"model": 3}', '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": 7}}'],
)
def test_a_tokenizer_of_another_kind_is_one_line(text: str, saved: Path) -> None:
    (saved / "tokenizer.json").write_text(text)
    assert str(saved) in refused(lambda: load_tokenizer(str(saved)))


@pytest.mark.parametrize(
    "header", [b"", b"{", b"[]", b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 999999]}}', b"x" * 64]
)
@pytest.mark.parametrize("claimed", [None, 2**62, 2**64 - 1])
def test_a_lying_header_of_weights_is_one_line(header: bytes, claimed: int | None, saved: Path) -> None:
    length = len(header) if claimed is None else claimed
    (saved / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header + b"\0" * 200_000)
    assert str(saved) in refused(lambda: load_model(str(saved), "float32"))


class TestWithoutAHub:
    """A path that is not there, on a machine that cannot reach the hub."""

    @pytest.fixture(autouse=True)
    def nowhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """No hub answers on this port, and nothing was fetched before."""
        monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "outputs").mkdir()

    @pytest.mark.parametrize("path", ["models/mine/x", "./x", "outputs/run", "a/b/", "../x", "~/x", "x", "a/b/c/d"])
    def test_a_path_is_no_hub_id(self, path: str) -> None:
        """More than two parts, a parent that exists, or a slash at the end."""
        for load in (lambda: load_tokenizer(path), lambda: load_model(path, "float32")):
            assert refused(load) == f"{path}: no such model directory"

    def test_what_may_be_a_hub_id_is_one_line(self) -> None:
        said = refused(lambda: load_tokenizer("owner/name"))
        assert said.startswith(
            "owner/name: no such model directory, and the hub cannot be reached (http://127.0.0.1:9: "
        )
        assert "owner/name: no such model directory" in refused(lambda: load_model("owner/name", "float32"))
        assert "SmolLM2-135M-Instruct: no such model directory, and the hub" in refused(from_hub)

    def test_nothing_is_asked_where_the_user_said_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        assert "(HF_HUB_OFFLINE is set)" in refused(lambda: load_tokenizer("owner/name"))

    def test_a_name_server_that_hangs_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The hub's answer is waited for by the clock, whatever hangs."""
        over = threading.Event()

        def hang(*_given: object, **_options: object) -> None:
            over.wait(30)
            raise OSError("the name server has given up")

        monkeypatch.setattr(hub, "SECONDS", 0.05)
        monkeypatch.setattr(hub.httpx, "head", hang)
        assert "does not answer" in refused(lambda: load_tokenizer("owner/name"))
        over.set()

    def test_a_local_directory_wins(self, saved: Path, tmp_path: Path) -> None:
        (tmp_path / "owner").mkdir()
        saved.rename(tmp_path / "owner" / "name")
        assert load_tokenizer("owner/name").eos_token == "<|im_end|>"
