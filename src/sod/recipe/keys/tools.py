"""`tools`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import ClassVar

from pydantic import ConfigDict, Field, field_validator, model_validator

from sod.recipe.keys.code import Code
from sod.recipe.keys.section import Named, Section

TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
"""What chat templates and dialects can write as a function's name."""


def refuse_key_in_url(url: str) -> None:
    """Raise ValueError, which does not show it, where a service's url has a user, a password, a query or a fragment."""
    if any(mark in url for mark in "@?#"):
        raise ValueError(
            "a service's url with a user name, password, query or fragment is refused, recipes are kept "
            "and shown; put the key into the environment variable SANDBOX_FUSION_API_KEY, leave the bare address here"
        )


class FusionSpec(Section):
    """A SandboxFusion service (`sod sandbox serve` is one); the keys are those of `sandbox.fusion.FusionOptions`."""

    url: str = Field(
        description="address of the service, e.g. http://127.0.0.1:8080; its key: variable SANDBOX_FUSION_API_KEY"
    )
    concurrency: int = Field(32, ge=1, description="requests under way at a time")
    connect_seconds: float = Field(5.0, gt=0, description="time limit for connecting (seconds)")
    grace_seconds: float = Field(
        15.0, gt=0, description="time a request may take beyond its program's limit, waiting included (seconds)"
    )
    attempts: int = Field(4, ge=1, description="tries of a request before it is a fault")
    backoff_seconds: float = Field(0.5, ge=0, description="pause after the first failure, doubled after each (seconds)")
    backoff_max_seconds: float = Field(8.0, ge=0, description="longest pause between tries (seconds)")
    breaker_failures: int = Field(20, ge=1, description="failures in a row after which no request is sent for a while")
    breaker_seconds: float = Field(10.0, ge=0, description="how long that while is (seconds)")

    @field_validator("url")
    @classmethod
    def _without_key(cls, url: str) -> str:
        refuse_key_in_url(url)
        return url


class PythonSpec(Section):
    """The Python tool and its limits per call."""

    name: str = Field("python", description="what the model calls it: code_interpreter in the data of ReTool, say")
    argument: str = Field("code", description="the name of the tool's one argument, the code")
    stateful: bool = Field(
        False, description="one interpreter per episode, which keeps its state; else every call is a program of its own"
    )
    fusion: FusionSpec | None = Field(
        None, description="a SandboxFusion service that runs the code; null: this machine does"
    )
    timeout_seconds: float = Field(5.0, gt=0, description="time limit of a call (seconds)")
    memory_mb: int = Field(512, ge=32, description="memory of a call (MiB)")
    processes: int = Field(8, ge=1, description="processes and threads of a call at most, its first one included")
    max_code_chars: int = Field(20_000, ge=1, description="longest code (characters); longer is a tool error")
    max_output_chars: int = Field(2_000, ge=16, description="characters of output that the model sees")
    workers: int = Field(2, ge=1, description="processes that run calls at a time")
    preload: list[str] = Field(
        default_factory=lambda: ["numpy", "sympy"],
        description="modules imported before any call; []: programs can import the standard library alone",
    )
    unsafe: bool = Field(False, description="accept a machine that does not permit the sandbox's isolation")
    failure_rate: float = Field(
        0.0, ge=0, lt=1, description="share of calls that get an error for no reason: a world with an unreliable tool"
    )

    @field_validator("name")
    @classmethod
    def _callable(cls, name: str) -> str:
        if not TOOL_NAME.fullmatch(name):
            raise ValueError(
                "tools.python.name: must be a letter, then at most 63 letters, digits, _ and -, as a function's name"
            )
        return name

    @field_validator("argument")
    @classmethod
    def _identifier(cls, argument: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", argument):
            raise ValueError(
                "tools.python.argument: must be a letter, then at most 63 letters, digits and _, as a parameter's name"
            )
        return argument

    @model_validator(mode="after")
    def _consistent(self) -> PythonSpec:
        if self.stateful and self.fusion is not None:
            raise ValueError("tools.python: a SandboxFusion service keeps no state; set stateful or fusion, not both")
        return self


class OwnToolSpec(Section):
    """A tool of the user's own: a Python function or class (`call`), or a server that speaks MCP (`mcp`)."""

    call: Code | None = Field(
        None, description="the function or class: module:name, or ./file.py:name from the recipe's folder"
    )
    mcp: list[str] | None = Field(
        None, description="command and arguments that start an MCP server over stdio; its tools go by its own names"
    )
    offer: list[str] | None = Field(None, description="which tools of the MCP server are shown; null: all of them")
    variables: list[str] = Field(
        default_factory=list,
        description="environment variables that the MCP server gets beside PATH, HOME and the like",
    )
    timeout_seconds: float = Field(30.0, gt=0, description="time limit of a call (seconds); longer is a tool error")
    concurrency: int = Field(16, ge=1, description="calls that run at a time")
    max_result_tokens: int = Field(1024, ge=1, description="tokens of a result that the model sees")

    def problem(self) -> str | None:
        """What is wrong with the keys together; None where nothing is."""
        if (self.call is None) == (self.mcp is None):
            return "give call (module:name or ./file.py:name) or mcp (a command and its arguments), one of them"
        if self.mcp is not None and not (self.mcp and self.mcp[0].strip()):
            return 'mcp is empty; give the command that starts the server, e.g. ["npx", "-y", "a-server"]'
        if self.call is not None and (self.offer is not None or self.variables):
            return "offer and variables are about an MCP server; leave them out beside call"
        return None


class ToolsSpec(Section):
    """The tools the model may call, by name; null leaves one out.

    `python` is ours; any other name is the user's own tool, by which the model calls it.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, OwnToolSpec | None]

    named: ClassVar[Named | None] = Named(
        "NAME", OwnToolSpec, "a tool of your own, by the name that the model calls; null: no such tool"
    )

    python: PythonSpec | None = Field(PythonSpec(), description="a tool that runs Python code; null: no such tool")

    @property
    def own(self) -> dict[str, OwnToolSpec]:
        """The user's own tools by name, in the order of the recipe; those that are null are left out."""
        return {name: spec for name, spec in self.__pydantic_extra__.items() if spec is not None}

    @model_validator(mode="after")
    def _names(self) -> ToolsSpec:
        for name in self.__pydantic_extra__:
            if not TOOL_NAME.fullmatch(name):
                raise ValueError(f"tools.{name}: a tool's name is a letter, then at most 63 letters, digits, _ and -")
        for name, spec in self.own.items():
            problem = spec.problem()
            if problem is not None:
                meant = "; did you mean tools.python?" if get_close_matches(name, ["python"]) else ""
                raise ValueError(f"tools.{name}: {problem}{meant}")
        return self
