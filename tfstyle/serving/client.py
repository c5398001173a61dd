"""A client for TensorFlow Serving's protocol, over gRPC or REST: arrays or DICOM in and out."""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from tfstyle.errors import ArgumentError, ServingError
from tfstyle.export.servable import DEFAULT_SIGNATURE
from tfstyle.export.signatures import ENCODE_NAMES, SEGMENT, STYLIZE_NAMES, WITH_CODE_NAMES
from tfstyle.images import as_batch, check_strength, is_style_code, named_styles
from tfstyle.serving.status import StatusError
from tfstyle.serving.transports import Address, Choice, connect, connect_async

if TYPE_CHECKING:
    import numpy.typing as npt

    from tfstyle.stylize import StylizedScan

# What servers say of a request that fewer images would have made small enough: gRPC of a message,
# TensorFlow Serving of a batch, the embedded server of pixels, a proxy of a body.
_TOO_LARGE = re.compile(
    r"larger than max|larger than maximum|over this server's limit of \d+ in one request"
)
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True)
class _Call:
    """A step of a plan: one call of a transport's method."""

    method: str
    arguments: tuple
    timeout: float


@dataclass(frozen=True)
class _Pause:
    """A step of a plan: wait."""

    seconds: float


# A plan yields steps, is sent their results, and returns the answer. The plans hold all that the
# two clients have in common; what differs is who waits.
_Plan = Generator["_Call | _Pause", Any, Any]


@dataclass
class _Settings:
    """What both clients are made with, checked."""

    address: Address
    choice: Choice
    timeout: float
    max_request_pixels: int
    max_batch_size: int | None
    retries: int
    backoff: float
    # False once the server has shown that its model lacks the signatures with codes.
    has_codes: bool = field(default=True)


class _Plans:
    """The calls of a client as plans; :class:`Client` and :class:`AsyncClient` run them."""

    _connect: Callable[[Address], Any]

    def __init__(
        self,
        target: str = "127.0.0.1:8500",
        model_name: str = "stylize",
        *,
        transport: str | None = None,
        timeout: float = 120.0,
        version: int | None = None,
        version_label: str | None = None,
        retries: int = 3,
        backoff: float = 0.1,
        ca_certificate: str | os.PathLike | None = None,
        client_certificate: str | os.PathLike | None = None,
        client_key: str | os.PathLike | None = None,
        headers: Mapping[str, str] | None = None,
        max_message_bytes: int = 512 * 2**20,
        max_request_pixels: int = 2**20,
        max_batch_size: int | None = None,
    ):
        if not isinstance(model_name, str) or not model_name:
            raise ArgumentError(f"model_name: must be a name, received {model_name!r}")
        for name, value in (
            ("max_message_bytes", max_message_bytes),
            ("max_request_pixels", max_request_pixels),
            ("max_batch_size", 1 if max_batch_size is None else max_batch_size),
        ):
            if value < 1:
                raise ArgumentError(f"{name}: must be at least 1, received {value!r}")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ArgumentError(
                f"retries: must be a whole number of at least 0, received {retries!r}"
            )
        if not (math.isfinite(backoff) and backoff > 0):
            raise ArgumentError(f"backoff: must be a number of seconds above 0: {backoff!r}")
        if version is not None and version_label is not None:
            raise ArgumentError("version_label: give a version or a label, not both")
        headers = dict(headers or {})
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise ArgumentError(f"headers: must map text to text, received {name!r}: {value!r}")
        address = Address.parse(
            target,
            transport,
            ca_certificate=ca_certificate,
            client_certificate=client_certificate,
            client_key=client_key,
            headers=headers,
            max_message_bytes=max_message_bytes,
        )
        self.target = address.target
        self.model_name = model_name
        self.timeout = _checked_timeout(timeout)
        self.version = version
        self.version_label = version_label
        self._settings = _Settings(
            address,
            Choice(model_name, version, version_label),
            self.timeout,
            max_request_pixels,
            max_batch_size,
            retries,
            backoff,
        )
        self._transport = self._connect(address)

    # -- plans -----------------------------------------------------------------------------

    def _call(self, method: str, *arguments: Any, timeout: float | None) -> _Plan:
        """One call, tried again while the server cannot be reached and time is left."""
        settings = self._settings
        seconds = settings.timeout if timeout is None else _checked_timeout(timeout)
        deadline = time.monotonic() + seconds
        pause = settings.backoff
        for attempt in range(settings.retries + 1):
            remaining = max(1e-3, deadline - time.monotonic())
            try:
                return (yield _Call(method, arguments, remaining))
            except StatusError as error:
                # Half to all of the pause at random, so that clients do not come back together.
                wait = random.uniform(0.5, 1.0) * pause
                late = time.monotonic() + wait >= deadline
                if error.code != "UNAVAILABLE" or attempt == settings.retries or late:
                    self._fail(error, seconds)
            yield _Pause(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    def _predict(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        signature: str,
        outputs: Sequence[str] | None,
        timeout: float | None,
    ) -> _Plan:
        arrays = {}
        for name, value in inputs.items():
            try:
                arrays[name] = np.asarray(value)
            except ValueError as error:
                raise ArgumentError(f"{name}: cannot be sent as a tensor ({error})") from None
        choice = self._settings.choice
        return (
            yield from self._call(
                "predict", choice, signature, arrays, tuple(outputs or ()), timeout=timeout
            )
        )

    def _encode_style(self, style: npt.ArrayLike, detail: str, timeout: float | None) -> _Plan:
        styles, _ = as_batch(style, "style")
        name = ENCODE_NAMES[_checked_detail(detail)]
        parts = yield from self._in_parts(
            len(styles),
            styles[0].size,
            lambda part: self._predict({"style": styles[part]}, name, None, timeout),
        )
        codes = []
        for answer in parts:
            code = answer.get("code")
            if code is None or not is_style_code(code):
                self._unexpected(answer, "a stylize", "'code' as float32 (?, 2, ?)")
            codes.append(code)
        return np.concatenate(codes)

    def _stylize(
        self,
        content: npt.ArrayLike,
        style: npt.ArrayLike | Sequence[npt.ArrayLike],
        strength: float,
        style_weights: Sequence[float] | None,
        detail: str,
        timeout: float | None,
    ) -> _Plan:
        contents, shape = as_batch(content, "content")
        check_strength(strength)
        _checked_detail(detail)
        named = named_styles(style, style_weights)
        if isinstance(style, (list, tuple)):
            code = 0.0
            for weight, one, argument in named:
                own = yield from self._code(one, argument, len(contents), detail, timeout)
                code = code + np.float32(weight) * own
            name, styles = "code", code
        else:
            name, styles = _style_or_code(style, "style", len(contents))
            count = self._step(max(contents[0].size, styles[0].size))
            if name == "style" and len(styles) == 1 and count < len(contents):
                # Several requests with one style: encode it once, where the server can.
                code = yield from self._code_or_none(styles, detail, timeout)
                if code is not None:
                    name, styles = "code", code
        names = (STYLIZE_NAMES if name == "style" else WITH_CODE_NAMES)[detail]
        extra = {"strength": np.float32(strength)} if strength < 1.0 else {}
        signature = names[1] if extra else names[0]

        def request(part: slice) -> _Plan:
            own = styles if len(styles) == 1 else styles[part]
            inputs = {"content": contents[part], name: own, **extra}
            answer = yield from self._predict(inputs, signature, None, timeout)
            return self._generated(answer, contents[part].shape)

        largest = contents[0].size
        if name == "style" and len(styles) > 1:
            largest = max(largest, styles[0].size)
        parts = yield from self._in_parts(len(contents), largest, request)
        return np.concatenate(parts).reshape(shape)

    def _segment(self, image: npt.ArrayLike, probabilities: bool, timeout: float | None) -> _Plan:
        images, shape = as_batch(image, "image")
        wanted = ("mask", "probabilities") if probabilities else ("mask",)
        parts = yield from self._in_parts(
            len(images),
            images[0].size,
            lambda part: self._predict({"image": images[part]}, SEGMENT, wanted, timeout),
        )
        for part in parts:
            mask = part.get("mask")
            if mask is None or mask.ndim != 4 or mask.shape[1:] != images.shape[1:]:
                self._unexpected(
                    part,
                    "a segment",
                    f"'mask' as int32 (?, {', '.join(map(str, images.shape[1:]))})",
                )
        masks = np.concatenate([part["mask"] for part in parts]).reshape(shape)
        if not probabilities:
            return masks
        return masks, np.concatenate([part["probabilities"] for part in parts])

    def _code(
        self, style: npt.ArrayLike, argument: str, contents: int, detail: str, timeout: float | None
    ) -> _Plan:
        name, styles = _style_or_code(style, argument, contents)
        if name == "code":
            return styles
        return (yield from self._encode_style(styles, detail, timeout))

    def _code_or_none(self, styles: np.ndarray, detail: str, timeout: float | None) -> _Plan:
        """The code of a style, None from a server whose model was exported without codes."""
        if not self._settings.has_codes:
            return None
        try:
            return (yield from self._encode_style(styles, detail, timeout))
        except ServingError as error:
            if not _lacks_signature(error):
                raise
        self._settings.has_codes = False
        return None

    def _in_parts(self, count: int, pixels: int, request: Any) -> _Plan:
        """Results for images 0 to `count` in as few requests as client and server allow."""
        results, start = [], 0
        while start < count:
            size = min(self._step(pixels), count - start)
            try:
                results.append((yield from request(slice(start, start + size))))
            except ServingError as error:
                if size == 1 or not _TOO_LARGE.search(str(error)):
                    raise
                # Remembered, so that the next call does not try it again.
                self._settings.max_request_pixels = max(1, size // 2) * pixels
                continue
            start += size
        return results

    def _step(self, pixels: int) -> int:
        """Images of this many pixels that go in one request."""
        step = max(1, self._settings.max_request_pixels // pixels)
        most = self._settings.max_batch_size
        return step if most is None else min(step, most)

    def _metadata(self, timeout: float | None) -> _Plan:
        signatures = yield from self._call("metadata", self._settings.choice, timeout=timeout)
        return {
            name: {
                side: {key: str(fact) for key, fact in tensors.items()}
                for side, tensors in definition.items()
            }
            for name, definition in signatures.items()
        }

    # -- errors ----------------------------------------------------------------------------

    def _fail(self, error: StatusError, seconds: float) -> NoReturn:
        code, details = error.code, error.details
        version = "" if self.version is None else f" version {self.version}"
        if self.version_label is not None:
            version = f" with the label '{self.version_label}'"
        sentences = {
            "UNAVAILABLE": (
                f"no server can be reached there ({details}); start one with `tfstyle serve` or "
                "check the address"
            ),
            "DEADLINE_EXCEEDED": (
                f"no answer within {seconds:g} s; raise the timeout or send fewer pixels"
            ),
            "NOT_FOUND": (
                f"the server does not have the model '{self.model_name}'{version} ({details})"
            ),
            "INVALID_ARGUMENT": f"the server refused the request: {details}",
            "FAILED_PRECONDITION": f"the server refused the request: {details}",
            "UNAUTHENTICATED": f"the server wants to know who asks ({details}); see `headers`",
            "PERMISSION_DENIED": f"the server does not allow it ({details})",
            "RESOURCE_EXHAUSTED": (
                f"too large or too many requests for the server's or the client's limits "
                f"({details}); send fewer or smaller images at a time"
            ),
            "UNIMPLEMENTED": f"the server does not offer this call ({details})",
        }
        sentence = sentences.get(code, f"the call failed, {code}: {details}")
        raise ServingError(f"{self.target}: {sentence}", code) from error

    def _generated(self, answer: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        generated = answer.get("generated")
        if generated is None or generated.shape != shape or generated.dtype != np.float32:
            self._unexpected(answer, "a stylize", f"'generated' as float32 {shape}")
        return generated

    def _unexpected(self, answer: dict[str, np.ndarray], kind: str, expected: str) -> NoReturn:
        received = ", ".join(f"'{k}' as {v.dtype} {v.shape}" for k, v in sorted(answer.items()))
        raise ServingError(
            f"{self.target}: the model '{self.model_name}' is not {kind} servable: expected "
            f"{expected}, received {received or 'nothing'}"
        )

    def _not_ready(self, timeout: float) -> NoReturn:
        raise ServingError(f"{self.target}: no server answered within {timeout:g} s", "UNAVAILABLE")


class Client(_Plans):
    """Calls models served over gRPC or REST by tfstyle or by TensorFlow Serving.

    Thread-safe. Use it as a context manager, or call :meth:`close` at the end. Nothing is sent
    before the first call.

    A call that finds no server (status UNAVAILABLE) is tried again after a growing pause, and
    nothing else is; all calls here may be repeated without harm.

    Args:
        target: ``host:port`` of the server. ``http://`` and ``https://`` before it mean REST,
            ``grpc://`` and ``grpcs://`` gRPC, the default; the forms with s use TLS.
        model_name: Model that :meth:`stylize`, :meth:`predict`, :meth:`status` and
            :meth:`metadata` ask for.
        transport: ``"grpc"`` or ``"rest"``, where the target does not say.
        timeout: Seconds that a call may take with all its attempts, unless the call says
            otherwise.
        version: Version to ask for; the latest unless given.
        version_label: Version label to ask for, such as ``"stable"``, instead of a version.
        retries: How often a call is repeated while no server can be reached.
        backoff: Seconds before the first repetition, at most; doubled for each further one.
        ca_certificate: PEM file with the certificates to trust, instead of the system's; makes
            the connection a TLS one.
        client_certificate: PEM file with the client's own certificate, for servers that want one.
        client_key: PEM file with its key.
        headers: Sent with every call, as gRPC metadata or HTTP headers, such as
            ``{"authorization": "Bearer …"}``.
        max_message_bytes: Largest gRPC message to send or accept.
        max_request_pixels: Most content pixels (images × rows × columns) that :meth:`stylize`
            sends in one request; a larger batch goes in several. The default, four 512 × 512
            slices, takes some ten seconds on one core. Where the server refuses a request as too
            large, half of its images are tried, and the limit is remembered.
        max_batch_size: Most images in one request, for servers that batch; no limit unless given.

    Raises:
        ArgumentError: An argument cannot be used.
        InputFileError: A certificate file is missing.

    Example:
        >>> with Client("127.0.0.1:8500") as client:               # doctest: +SKIP
        ...     generated = client.stylize(content, style)
        >>> with Client("https://models.example:443", headers={"authorization": token}) as client:
        ...     code = client.encode_style(style)                  # doctest: +SKIP
        ...     generated = client.stylize(content, code)
    """

    _connect = staticmethod(connect)

    def stylize(
        self,
        content: npt.ArrayLike,
        style: npt.ArrayLike | Sequence[npt.ArrayLike],
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        *,
        detail: str = "guided",
        timeout: float | None = None,
    ) -> np.ndarray:
        """Give `content` the gray-scale style of `style`.

        The same as ``StyleTransfer.stylize`` on the served model.

        Args:
            content: (H, W), (H, W, 1) or (B, H, W, 1), values in [0, 1].
            style: One image (H', W') or (H', W', 1), or a batch (1 or B, H', W', 1); a code of
                :meth:`encode_style`; or a list of images and codes, blended with `style_weights`.
            strength: In [0, 1]. 0 keeps the content's features, 1 takes the style's statistics
                in full. Values under 1 use the signatures ``…_strength``.
            style_weights: One weight for each style of a list; equal ones unless given.
            detail: ``"guided"`` or ``"plain"``; the latter uses ``stylize_plain…``.
            timeout: Seconds for each request; the client's unless given.

        Returns:
            float32 array of the content's shape, in [0, 1].

        Raises:
            ArgumentError: Shapes, values, weights or strength that cannot be used; nothing is
                sent.
            ServingError: The server cannot be reached or refused the request.
        """
        return self._run(self._stylize(content, style, strength, style_weights, detail, timeout))

    def encode_style(
        self, style: npt.ArrayLike, detail: str = "guided", *, timeout: float | None = None
    ) -> np.ndarray:
        """All that the model takes from a style image, to keep and to give to :meth:`stylize`.

        Args:
            style: (H, W), (H, W, 1) or (B, H, W, 1), values in [0, 1].
            detail: The mode in which the code will be used.
            timeout: Seconds for each request; the client's unless given.

        Returns:
            float32 array (B, 2, C + 33), B = 1 for one image; only for models with the same
            encoder and layer. See :meth:`tfstyle.StyleTransfer.encode_style`.

        Raises:
            ArgumentError: An image or mode that cannot be used; nothing is sent.
            ServingError: The server cannot be reached or refused the request.
        """
        return self._run(self._encode_style(style, detail, timeout))

    def segment(
        self, image: npt.ArrayLike, *, probabilities: bool = False, timeout: float | None = None
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The most probable class of every pixel, from a served U-Net.

        Args:
            image: (H, W), (H, W, 1) or (B, H, W, 1), values in [0, 1].
            probabilities: Return those of every class as well.
            timeout: Seconds for each request; the client's unless given.

        Returns:
            int32 array of the image's shape; with `probabilities` also float32 (B, H, W,
            classes).

        Raises:
            ArgumentError: An image that cannot be used; nothing is sent.
            ServingError: The server cannot be reached or refused the request.

        Example:
            >>> with Client("127.0.0.1:8500", "unet") as client:          # doctest: +SKIP
            ...     mask = client.segment(image)
        """
        return self._run(self._segment(image, probabilities, timeout))

    def stylize_scans(
        self,
        inputs: Sequence[str | os.PathLike],
        styles: Sequence[str | os.PathLike],
        output: str | os.PathLike,
        **options: Any,
    ) -> list[StylizedScan]:
        """Give whole scans the gray scale of other scans: DICOM, NIfTI or PNG in and out.

        Args:
            inputs: DICOM files or folders of series, NIfTI, PNG, or folders of them.
            styles: Scans with the gray scale wanted; one slice of each is used.
            output: Folder for the results; for one input that gives one file, that file's name.
            **options: Those of :func:`tfstyle.stylize.stylize_scans`: windows, series, strength,
                format and so on.

        Returns:
            One account for each scan.

        Raises:
            ArgumentError: An option that does not suit the scans.
            InputFileError: A file that cannot be read.
            OutputError: An output that exists already or cannot be written.
            ServingError: The server cannot be reached or refused a request.

        Example:
            >>> with Client("127.0.0.1:8500") as client:          # doctest: +SKIP
            ...     client.stylize_scans(["ct_series/"], ["style.dcm"], "out/", window="bone")
        """
        from tfstyle.stylize import ServedStylizer, stylize_scans

        return stylize_scans(ServedStylizer(self), inputs, styles, output, **options)

    def predict(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        signature: str = DEFAULT_SIGNATURE,
        *,
        outputs: list[str] | tuple[str, ...] | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Call any signature of the model, with no conversion of shapes or dtypes.

        Args:
            inputs: Input name to array.
            signature: Signature name.
            outputs: Names of the outputs wanted; all unless given.
            timeout: Seconds; the client's unless given.

        Returns:
            Output name to array.

        Raises:
            ArgumentError: An input is not an array, or too large for one message.
            ServingError: The server cannot be reached or refused the request.
        """
        return self._run(self._predict(inputs, signature, outputs, timeout))

    def status(self, *, timeout: float | None = None) -> dict[int, str]:
        """State of each version of the model that the server knows.

        Returns:
            Version to ``"START"``, ``"LOADING"``, ``"AVAILABLE"``, ``"UNLOADING"`` or ``"END"``.

        Raises:
            ServingError: The server cannot be reached or does not know the model.
        """
        return self._run(self._call("status", self._settings.choice, timeout=timeout))

    def metadata(self, *, timeout: float | None = None) -> dict[str, dict[str, dict[str, str]]]:
        """Signatures of the model.

        Returns:
            Signature name to ``{"inputs": {name: "float32 (?, ?, ?, 1)"}, "outputs": {…}}``.

        Raises:
            ServingError: The server cannot be reached or does not know the model.
        """
        return self._run(self._metadata(timeout))

    def wait_until_ready(self, timeout: float = 30.0) -> None:
        """Wait until a server answers at the target.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            ServingError: No server answered in that time.
        """
        if not self._transport.ready(_checked_timeout(timeout)):
            self._not_ready(timeout)

    def close(self) -> None:
        """Close the connection. Calls in progress fail."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, plan: _Plan) -> Any:
        send, value = plan.send, None
        while True:
            try:
                step = send(value)
            except StopIteration as done:
                return done.value
            send = plan.send
            try:
                if isinstance(step, _Pause):
                    time.sleep(step.seconds)
                    value = None
                else:
                    method = getattr(self._transport, step.method)
                    value = method(*step.arguments, timeout=step.timeout)
            except StatusError as error:
                send, value = plan.throw, error


class AsyncClient(_Plans):
    """:class:`Client` with coroutines: the same arguments, methods and results, to be awaited.

    gRPC runs on ``grpc.aio``, in the event loop of the first call; REST in threads.

    Example:
        >>> async with AsyncClient("127.0.0.1:8500") as client:    # doctest: +SKIP
        ...     results = await asyncio.gather(*(client.stylize(c, code) for c in contents))
    """

    _connect = staticmethod(connect_async)

    async def stylize(
        self,
        content: npt.ArrayLike,
        style: npt.ArrayLike | Sequence[npt.ArrayLike],
        strength: float = 1.0,
        style_weights: Sequence[float] | None = None,
        *,
        detail: str = "guided",
        timeout: float | None = None,
    ) -> np.ndarray:
        """See :meth:`Client.stylize`."""
        plan = self._stylize(content, style, strength, style_weights, detail, timeout)
        return await self._run(plan)

    async def encode_style(
        self, style: npt.ArrayLike, detail: str = "guided", *, timeout: float | None = None
    ) -> np.ndarray:
        """See :meth:`Client.encode_style`."""
        return await self._run(self._encode_style(style, detail, timeout))

    async def segment(
        self, image: npt.ArrayLike, *, probabilities: bool = False, timeout: float | None = None
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """See :meth:`Client.segment`."""
        return await self._run(self._segment(image, probabilities, timeout))

    async def predict(
        self,
        inputs: Mapping[str, npt.ArrayLike],
        signature: str = DEFAULT_SIGNATURE,
        *,
        outputs: list[str] | tuple[str, ...] | None = None,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """See :meth:`Client.predict`."""
        return await self._run(self._predict(inputs, signature, outputs, timeout))

    async def status(self, *, timeout: float | None = None) -> dict[int, str]:
        """See :meth:`Client.status`."""
        return await self._run(self._call("status", self._settings.choice, timeout=timeout))

    async def metadata(
        self, *, timeout: float | None = None
    ) -> dict[str, dict[str, dict[str, str]]]:
        """See :meth:`Client.metadata`."""
        return await self._run(self._metadata(timeout))

    async def wait_until_ready(self, timeout: float = 30.0) -> None:
        """See :meth:`Client.wait_until_ready`."""
        if not await self._transport.ready(_checked_timeout(timeout)):
            self._not_ready(timeout)

    async def close(self) -> None:
        """See :meth:`Client.close`."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, plan: _Plan) -> Any:
        send, value = plan.send, None
        while True:
            try:
                step = send(value)
            except StopIteration as done:
                return done.value
            send = plan.send
            try:
                if isinstance(step, _Pause):
                    await asyncio.sleep(step.seconds)
                    value = None
                else:
                    method = getattr(self._transport, step.method)
                    value = await method(*step.arguments, timeout=step.timeout)
            except StatusError as error:
                send, value = plan.throw, error


def _style_or_code(style: Any, argument: str, contents: int) -> tuple[str, np.ndarray]:
    """``"style"`` with images or ``"code"`` with codes, one or as many as contents."""
    array = style if isinstance(style, np.ndarray) else np.asarray(style)
    if array.dtype.kind in "fiu" and is_style_code(array):
        name, styles = "code", array.astype(np.float32)
        if not np.isfinite(styles).all() or (styles[:, 1] < 0).any():
            raise ArgumentError(
                f"{argument}: is no style code: it holds NaN, infinite values or a standard "
                "deviation below 0"
            )
    else:
        name, styles = "style", as_batch(array, argument)[0]
    if len(styles) not in (1, contents):
        raise ArgumentError(
            f"{argument}: batch of {len(styles)} for {contents} contents; give one style, or "
            "one for each content"
        )
    return name, styles


def _lacks_signature(error: ServingError) -> bool:
    """Whether the server says that the model has no such signature, over gRPC or REST."""
    return error.code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT") and bool(
        re.search(r"[Ss]ignature (key|name).*not found", str(error))
    )


def _checked_detail(detail: str) -> str:
    if detail not in ENCODE_NAMES:
        raise ArgumentError(f"detail: unknown value {detail!r}; use one of 'guided', 'plain'")
    return detail


def _checked_timeout(timeout: float) -> float:
    if not (math.isfinite(timeout) and timeout > 0):
        raise ArgumentError(f"timeout: must be a number of seconds above 0, received {timeout!r}")
    return float(timeout)
