"""The schedulers of vLLM V1 where one engine prefills and another one decodes.

Source: vLLM 0.16 with NIXL. The engine that prefills gets each request with one output. Its token
is thrown away, and its blocks stay until the other engine has read them. The engine that decodes
takes blocks for the whole prompt, apart from what is in its own prefix cache, and sets the request
aside while keys and values are on their way. Then it computes the last token of the prompt again,
which yields the first output.

`attacc.serving.pools` plays both engines and moves what they hand on.
"""

from __future__ import annotations

from attacc.serving.engines.policy import Refusal, Remote, Request
from attacc.serving.engines.vllm_v1 import VllmV1, VllmV1Settings


class Prefill(VllmV1):
    """The engine that prefills.

    Args:
        settings: as in `VllmV1`.
        tells: as in `Policy`.
    """

    def __init__(self, settings: VllmV1Settings, *, tells: bool = False) -> None:
        super().__init__(settings, tells=tells)
        # Requests that ended, whose blocks nobody has read yet.
        self._held: dict[int, Request] = {}

    @property
    def awaits(self) -> bool:
        """Whether blocks will become free when they are read."""
        return bool(self._held)

    def release(self, index: int) -> None:
        """Free the blocks of a request that ended, which were read.

        Args:
            index: number of the request.
        """
        self._pool.release(self._held.pop(index))
        self._quiet = 0

    def _let_go(self, request: Request) -> None:
        self._held[request.index] = request


class Decode(VllmV1):
    """The engine that decodes.

    Args:
        settings: as in `VllmV1`.
        tells: as in `Policy`.

    Attributes:
        begun: requests that have got blocks, and whose keys and values nobody has sent yet.
    """

    def __init__(self, settings: VllmV1Settings, *, tells: bool = False) -> None:
        super().__init__(settings, tells=tells)
        self.begun: list[Request] = []
        self._loading = 0

    @property
    def awaits(self) -> bool:
        """Whether keys and values are on their way."""
        return self._loading > 0

    def arrive(self, request: Request) -> Refusal | None:
        """Put a request into the queue, whose prompt another engine has computed."""
        reason = super().arrive(request)
        if reason is None:
            request.remote = Remote.WANTED
            # Requests whose keys and values are on their way do not hold it up.
            self._quiet = 0
        return reason

    def loaded(self, request: Request) -> None:
        """Take in the keys and values of a prompt.

        Args:
            request: the request.
        """
        self._loading -= 1
        self._pool.register(request, request.prompt)
        request.remote, request.done = Remote.LOADED, request.prompt - 1
        self._quiet = 0

    def _load(self, request: Request) -> None:
        self.begun.append(request)
        self._loading += 1
