"""What W&B wrote offline, read back from its own files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


def wandb_history(directory: Path) -> dict[int, dict[str, float]]:
    """The values logged at each step of the one run whose files lie below `directory`."""
    history: dict[int, dict[str, float]] = {}
    for record in _of_the_run(directory):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            step = json.loads(items.pop("_step"))
            history[step] = {key: json.loads(value) for key, value in items.items() if not key.startswith("_")}
    return history


def wandb_run(directory: Path) -> tuple[str, str]:
    """`(project, name)` of that run."""
    runs = [record.run for record in _of_the_run(directory) if record.WhichOneof("record_type") == "run"]
    return runs[0].project, runs[0].display_name


def _of_the_run(directory: Path) -> list[Any]:
    (run,) = (directory / "wandb").glob("offline-run-*")
    (log,) = run.glob("run-*.wandb")
    return finished_records(log)


def finished_records(path: Path) -> list[Any]:
    """Every record of a finished run. W&B's service process may write the last ones after `finish`."""
    for _ in range(2400):
        records = wandb_records(path)
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} has no exit record after 120 seconds")


def wandb_records(path: Path) -> list[Any]:
    """The records of a .wandb file: LevelDB's log format, 32 KiB blocks after a 7-byte file header."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, position, body, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(raw):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        length, kind = int.from_bytes(raw[position + 4 : position + 6], "little"), raw[position + 6]
        if position + 7 + length > len(raw):  # still being written
            break
        body += raw[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or the last part
            records.append(Record.FromString(body))
            body = b""
    return records
