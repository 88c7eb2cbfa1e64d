"""One vLLM server by HTTP: its requests with their time limits, and what it must be able to do.

Everything here is called in one event loop. What fails raises `ServerFaultError`, whose fault says whether another try
may help. A redirect is not followed, and neither proxies nor `.netrc` are used.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any, final

import httpx

from sod.engines.vllm_options import DEV_MODE, WHOLE_PROMPTS
from sod.recipe.keys.engine import KEY_VARIABLE
from sod.records import Fault, FaultKind, SodError
from sod.service import KEPT_IDLE_SECONDS

VERSIONS = (0, 32), (0, 33)
"""vLLM from the first (major, minor) to before the second: its routes change with every release."""
CONNECT_SECONDS = 10.0
CONTROL_SECONDS = 60.0
"""Time limit of a request that samples nothing; pushing weights has its own."""
SAMPLE_SECONDS = 600.0
"""Time limit of a request that samples a token: the first of a server may have it compile its kernels."""
SHOWN_CHARS = 300
KEPT_ALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A machine that is gone says nothing, and so is noticed within a minute."""
TRANSIENT_CODES = frozenset({408, 409, 425, 429})  # besides every 5xx
_NO_VLLM = "it is no vLLM server; correct the url in engine.urls"
_KEY = re.compile(r"[!-~]+")
_CACHE = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@final
class ServerFaultError(Exception):
    """A request failed."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault


@final
class Server:
    """The HTTP client of the server at `url`. Up to `rows` turns are under way: who sends one holds `room`."""

    def __init__(self, url: str, rows: int) -> None:
        """Raises SodError for a key that cannot be sent."""
        self.url = url
        self.room = asyncio.Semaphore(rows)
        self._key = _key_from_environment()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),  # `_send` bounds the whole
            transport=httpx.AsyncHTTPTransport(
                verify=_trusted(url),
                trust_env=False,
                limits=httpx.Limits(
                    max_connections=rows + 8,  # besides turns: what asks for its state
                    keepalive_expiry=KEPT_IDLE_SECONDS,
                ),
                socket_options=KEPT_ALIVE,
            ),
            headers=headers,
            trust_env=False,
            follow_redirects=False,
        )

    async def get(self, path: str, seconds: float = CONTROL_SECONDS) -> httpx.Response:
        """The good answer (HTTP 200) to a GET. Raises ServerFaultError."""
        return await self._send("GET", path, None, seconds)

    async def post(
        self, path: str, content: Mapping[str, Any] | None = None, seconds: float = CONTROL_SECONDS
    ) -> httpx.Response:
        """The good answer (HTTP 200) to a POST of JSON. Raises ServerFaultError."""
        return await self._send("POST", path, {} if content is None else content, seconds)

    async def asked(self, path: str, content: Mapping[str, Any], seconds: float) -> Any:
        """The JSON of the good answer to a POST. Raises ServerFaultError."""
        response = await self.post(path, content, seconds)
        try:
            return response.json()
        except ValueError:
            raise self._failed(FaultKind.BAD_REPLY, f"{path}: no JSON: {response.text[:SHOWN_CHARS]!r}") from None

    async def healthy(self, patience: float) -> bool:
        """Whether it answers that it is well within `patience` seconds; it is asked twice a second."""
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while True:
            try:
                await self.get("/health", CONNECT_SECONDS)
                return True
            except ServerFaultError:
                if loop.time() >= until:
                    return False
                await asyncio.sleep(0.5)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _send(self, method: str, path: str, content: Any, seconds: float) -> httpx.Response:
        answered = False
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(method, f"{self.url}{path}", json=content) as response,
            ):
                answered = True  # from its header on, what breaks is the answer
                await response.aread()
        except httpx.ConnectTimeout:
            raise self._failed(FaultKind.UNREACHABLE, f"no connection within {CONNECT_SECONDS:g} s") from None
        except (TimeoutError, httpx.TimeoutException):
            raise self._failed(FaultKind.TIMEOUT, f"{path}: no complete answer within {seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            kind = FaultKind.BAD_REPLY if answered else FaultKind.UNREACHABLE
            said = f": {self._shown(str(error))}" if str(error) else ""
            raise self._failed(kind, f"{path}: {type(error).__name__}{said}") from error
        if response.status_code != httpx.codes.OK:
            code = response.status_code
            transient = code >= 500 or code in TRANSIENT_CODES
            raise self._failed(FaultKind.SERVER, f"{path}: HTTP {code}: {self._shown(response.text)}", transient)
        return response

    def _failed(self, kind: FaultKind, detail: str, retryable: bool = True) -> ServerFaultError:
        return ServerFaultError(Fault(kind, f"{self.url}: {detail}", retryable))

    def _shown(self, text: str) -> str:
        """The beginning of a text that may hold anything, in one line and without our key."""
        hidden = text.replace(self._key, "***") if self._key else text
        return " ".join(hidden.split())[:SHOWN_CHARS]


async def refuse_unable(server: Server, longest: int) -> None:
    """Raises SodError, with the option that helps, where a server cannot serve texts of up to `longest` tokens.

    Raises ServerFaultError where it may be able to, and does not answer now.
    """
    url = server.url
    try:
        refuse_other_version((await server.get("/version")).json().get("version"), url)
        models = (await server.get("/v1/models")).json()["data"]
        room = models[0]["max_model_len"]
    except ServerFaultError as error:
        raise _unable(server, error, "does not tell what it is", _NO_VLLM) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SodError(f"engine.urls: {url}: not a vLLM server ({type(error).__name__}); correct the url") from error
    if type(room) is int and room < longest:
        raise SodError(
            f"{url}: takes texts of {room:,} tokens, and they may reach {longest:,} here; start it with "
            f"--max-model-len {longest}, or lower rollout.max_response_tokens"
        )
    await _refuse_without_routes(server)
    await _refuse_parts(server)


async def _refuse_parts(server: Server) -> None:
    """Raises SodError for a server on a CPU that may compute a prompt in parts, which ends it (`vllm_options.py`)."""
    try:
        config = (await server.get("/server_info?config_format=json")).json()["vllm_config"]
        in_parts = config["scheduler_config"]["enable_chunked_prefill"]
        device = config["device_config"]["device"]
    except (ServerFaultError, ValueError, LookupError, TypeError, AttributeError):
        return  # it does not say
    if device == "cpu" and in_parts:
        raise SodError(
            f"{server.url}: computes prompts in parts, of which vLLM on a CPU dies where there is a seed; start it "
            f"with {WHOLE_PROMPTS}"
        )


def _unable(server: Server, error: ServerFaultError, what: str, fix: str) -> Exception:
    """What is to be raised where a server has refused a request; of one that may answer later, the error itself."""
    if error.fault.retryable:
        return error
    said = error.fault.detail.removeprefix(server.url)[2:]
    if " HTTP 401" in said:
        fix = f"set {KEY_VARIABLE} to the key that it was started with (--api-key)"
    return SodError(f"{server.url}: {what} ({said}); {fix}")


async def _refuse_without_routes(server: Server) -> None:
    """Raises SodError where the routes for sampling by token ids, or for new weights, are switched off."""
    try:
        await server.post("/resume")  # what pushed weights to it before us may have died in between
        await server.get("/weight_info")
    except ServerFaultError as error:
        fix = f"start it with the environment variable {DEV_MODE}=1"
        raise _unable(server, error, "takes no weights", fix) from error
    try:
        one = {"temperature": 1.0, "max_tokens": 1, "detokenize": False}
        await server.post("/inference/v1/generate", {"token_ids": [0], "sampling_params": one}, SAMPLE_SECONDS)
    except ServerFaultError as error:
        raise _unable(server, error, "does not sample by token ids", "start it with --enable-scale-out") from error


def refuse_other_version(version: object, where: str) -> None:
    """Raises SodError for a vLLM of another version than those that its routes are known of."""
    lowest, beyond = (".".join(map(str, bound)) for bound in VERSIONS)
    numbers = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if numbers is None or not VERSIONS[0] <= (int(numbers[1]), int(numbers[2])) < VERSIONS[1]:
        raise SodError(
            f"{where}: vLLM {version or 'of no known version'}, and its routes are known from {lowest} to before "
            f"{beyond}; install vllm=={lowest}.* there (`make vllm-env`)"
        )


async def prefix_remark(server: Server) -> str | None:
    """What to tell of how it caches prompts: that it does not, or in blocks so long that short prompts never are."""
    try:
        found = _CACHE.search((await server.get("/metrics")).text)
    except ServerFaultError:
        return None
    settings = dict(_LABEL.findall(found[1])) if found else {}
    if settings.get("enable_prefix_caching") == "False":
        return (
            f"{server.url}: caches no prompts, and computes the whole episode again in every turn; start it without "
            "--no-enable-prefix-caching"
        )
    size = settings.get("block_size", "")
    if size.isdecimal() and int(size) > 64:
        return (
            f"{server.url}: caches prompts in blocks of {size} tokens, and computes what is beyond the last whole one "
            "again in every turn; --block-size 32 makes them smaller"
        )
    return None


def _trusted(url: str) -> ssl.SSLContext:
    """The certificates that are trusted: without TLS none, which spares reading them."""
    if url.startswith("https://"):
        return httpx.create_ssl_context(trust_env=False)
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _key_from_environment() -> str:
    """The key, empty where there is none. Raises SodError, without the key, for what is none."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if key and not _KEY.fullmatch(key):
        raise SodError(f"{KEY_VARIABLE}: a key has printable ASCII characters alone, without spaces; set another")
    return key
