"""The run directory, and the only code that reads or writes it.

    recipe.yaml                     the resolved recipe; its presence makes a directory a run directory
    manifest.json                   format, versions, seed, git revision, argv, start time, recipe sha256
    metrics.jsonl                   one JSON object per line, one line per (kind, step); append-only but for `rewind`
    trajectories/step-000001.jsonl  one trajectory per line, see `trajectory_row`
    checkpoints/step-000001/        written by `training.checkpoint`
    summary.json  curves.png        written at the end; profile.json with `train.profile`
    .lock                           while a process writes here, see `locked`

A process may be killed between any two instructions: whole files are replaced atomically, and the one
appended file may end in a cut line, which readers leave out and the next writer closes off or takes out. A failed
write stops the run with one line (`SodError`) that names the file.
"""

from sod.runlog.directory import STEP_NAME as STEP_NAME
from sod.runlog.directory import RunLog as RunLog
from sod.runlog.files import read_lines as read_lines
from sod.runlog.files import write_bytes_atomic as write_bytes_atomic
from sod.runlog.files import write_json_atomic as write_json_atomic
from sod.runlog.files import write_text_atomic as write_text_atomic
from sod.runlog.files import writing as writing
from sod.runlog.guard import NEUTRAL_KEYS as NEUTRAL_KEYS
from sod.runlog.guard import differences as differences
from sod.runlog.guard import guard_hash as guard_hash
from sod.runlog.guard import recipe_hash as recipe_hash
from sod.runlog.guard import refuse_other_recipe as refuse_other_recipe
from sod.runlog.lock import locked as locked
from sod.runlog.manifest import git_state as git_state
from sod.runlog.trajectories import full_row as full_row
from sod.runlog.trajectories import read_trajectory_rows as read_trajectory_rows
from sod.runlog.trajectories import trajectory_of as trajectory_of
from sod.runlog.trajectories import trajectory_row as trajectory_row
from sod.runlog.trajectories import write_evaluation as write_evaluation
