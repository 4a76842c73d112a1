"""What a worker does about what rank 0 says, or does not say any more."""

from __future__ import annotations

import json
import os

from distsent.errors import FAILED
from distsent.runtime.heartbeat import protocol
from distsent.runtime.heartbeat.actions import Actions, kill
from distsent.runtime.heartbeat.client import Client
from distsent.runtime.heartbeat.main_watch import Limits
from distsent.runtime.heartbeat.protocol import Hello
from distsent.runtime.heartbeat.vitals import Vitals
from distsent.runtime.run_status import WORKER_DIED, WORKER_LOST, Cause


class WorkerWatch:
    """In an elastic run, the end of rank 0 is not the end of the run."""

    def __init__(
        self, client: Client, vitals: Vitals, main: Hello, limits: Limits, actions: Actions
    ) -> None:
        self._client, self._vitals, self._main = client, vitals, main
        self._limits, self._actions = limits, actions

    def unreachable(self, why: str) -> None:
        self._actions.log(f"no heartbeats, rank 0 is unreachable ({why})")

    def told(self, word: str, text: str) -> None:
        if word == protocol.STACKS:
            place = self._actions.show_stacks()
            self._client.send(protocol.LOCATION, json.dumps([place, self._vitals.entered]))
        elif word == protocol.FAIL:
            self._actions.fail_collectives()
        elif word == protocol.KILL:
            kill(Hello.from_json(text))
        elif word == protocol.END:
            os._exit(FAILED)  # rank 0 has reported why

    def died(self) -> None:
        self._lost("died", WORKER_DIED)

    def silent(self) -> None:
        self._lost(f"sent no heartbeat for {self._limits.stall_seconds:g} s", WORKER_LOST)

    def left(self) -> None:
        if self._limits.elastic:  # rank 0 forms a new world, and this worker must follow
            self._actions.fail_collectives()

    def failed(self) -> None:
        os._exit(FAILED)  # rank 0 has reported why, and this worker would wait for it forever

    def _lost(self, what: str, cause: Cause) -> None:
        line = f"rank 0 {what} around step {self._vitals.position.step}"
        if not self._limits.elastic:
            return self._actions.end(line, cause)
        if self._main.machine == self._vitals.hello().machine:
            kill(self._main)
        self._actions.log(f"{line}; the others continue without it")
        self._actions.fail_collectives()
