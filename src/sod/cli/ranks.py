"""`sod train` and `sod sft` as one of several processes: started by torchrun, or by this command as torchrun would.

`parallel.shards` above 1 makes the command start itself so many times on this machine, by torch's own launcher, and
watch over what it started: nothing of it outlives the command, and a process that is lost ends the others. On several
machines the user starts it with torchrun; then the launcher's environment says how many they are.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import typer

from sod.build.allocation import tunables_for_workers
from sod.recipe import Recipe, resolved
from sod.recipe.keys.parallel import refuse_uneven_teams
from sod.records import SodError
from sod.report.console import err, out

if TYPE_CHECKING:
    from sod.models.ranks import Ranks

NUMBER = "RANK"
STARTED = "SOD_STARTED_RANKS"
"""Set for ranks that this command has started: it says itself which one was lost."""
SAME = ("sod", "torch", "transformers")
"""Packages that all ranks must have in one version."""
MOST_ON_A_CORE = 8
PR_SET_PDEATHSIG = 1
PATIENCE = 24 * 3600  # seconds in which ranks that were asked to stop may finish their step


def is_other_rank() -> bool:
    """Whether this is one of several processes of a run, and not the one that speaks."""
    return os.environ.get(NUMBER, "0") != "0"


def keep_quiet() -> None:
    """Of several processes rank 0 speaks; the others are heard where they alone fail. Torch's C++ is silent."""
    if NUMBER in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # read as torch is imported: pages of frames, else
    if is_other_rank():
        out.quiet = err.quiet = True


def tell(error: SodError) -> None:
    """Say why the run ends: rank 0, and another rank what rank 0 does not know."""
    common = getattr(error, "on_all_ranks", False)
    if not is_other_rank():
        if not (type(error).__name__ == "LostRankError" and STARTED in os.environ):
            err.print(f"error: {error}", markup=False)
    elif not common:
        err.quiet = False
        err.print(f"error: rank {os.environ[NUMBER]}: {error}", markup=False)


def end_rank(code: int) -> None:
    """End this process here, where it is a rank: with what is to be done at its end, and its output written.

    A thread of torch's that outlives the group of ranks may want Python's lock just as Python takes itself down, which
    ends the process by SIGABRT: the rank of a finished run would count as lost.
    """
    if NUMBER not in os.environ:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def refuse_unfit_count(recipe: Recipe) -> None:
    """Raises SodError where so many processes cannot be grouped, or are far more than this machine has cores for."""
    wanted, cores = recipe.parallel.shards, len(os.sched_getaffinity(0))
    refuse_uneven_teams(recipe.parallel, wanted)
    if wanted > MOST_ON_A_CORE * cores:
        raise SodError(
            f"parallel.shards={wanted}: each is a process with a model of its own, and there are {cores} cores here; "
            f"set {cores} or fewer, or start them on several machines with torchrun"
        )


@contextmanager
def joined(recipe: Recipe, directory: Path) -> Iterator[Ranks]:
    """This process's place among the ranks of the run, which are started where the recipe asks for several.

    Where it has started them, they have run it: ends with their exit code. Raises SodError where ranks do not agree
    about the recipe, or are other than it says.
    """
    wanted = recipe.parallel.shards
    if NUMBER not in os.environ:
        refuse_unfit_count(recipe)
        if wanted > 1:
            raise typer.Exit(_run_ranks(wanted, directory))
        from sod.models.ranks import ALONE

        yield ALONE
        return
    from sod.models.parallel import break_off, join, leave, prove_cards, teamed
    from sod.runlog import guard_hash
    from sod.runlog.manifest import versions

    if STARTED in os.environ:
        _die_with_the_command()
    ranks = join()
    try:
        if wanted not in (1, ranks.count):
            raise SodError(
                f"parallel.shards={wanted}, and a launcher has started {ranks.count} processes; leave it out, or let "
                "`sod` start them"
            )
        for package, version in versions().items():
            if package in SAME:
                ranks.refuse_difference(f"{version}", f"version of {package}")
        ranks.refuse_difference(guard_hash(resolved(recipe)), "recipe")
        ranks.refuse_difference(str(recipe.parallel.sequence), "parallel.sequence")
        with ranks.in_common():
            refuse_uneven_teams(recipe.parallel, ranks.count)
        if recipe.student.device != "cpu":
            prove_cards(ranks)
        yield teamed(ranks, recipe.parallel.sequence)
    except BaseException:
        break_off()
        raise
    leave()


def _run_ranks(count: int, directory: Path) -> int:
    """Run this very command as so many ranks; its exit code. Prints which of them was lost, where one was."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # the launcher's own account of a failure: pages of it
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    os.environ[STARTED] = str(count)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(PATIENCE))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    try:
        with tunables_for_workers():
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            err.print(_lost(rank, -failure.exitcode, directory), markup=False)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _die_with_the_command() -> None:
    """Nothing of a run goes on where the command that started its ranks is killed, or told a second time to stop."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _lost(rank: int, number: int, directory: Path) -> str:
    return (
        f"error: rank {rank} was lost ({signal.Signals(number).name}), and the others were stopped; go on from the "
        f"newest checkpoint with --resume {directory}"
    )
