"""What rank 0 concludes from heartbeats: who died, fell silent, failed, keeps others waiting."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field

from distsent.distributed.progress import Position
from distsent.runtime.heartbeat import protocol
from distsent.runtime.heartbeat.actions import Actions, kill
from distsent.runtime.heartbeat.protocol import INTERVAL, Beat, Hello
from distsent.runtime.heartbeat.server import Server
from distsent.runtime.heartbeat.stall import Verdict, judge, verdict_bound
from distsent.runtime.heartbeat.vitals import Vitals
from distsent.runtime.run_status import WORKER_DIED, WORKER_LOST, Cause
from distsent.runtime.signals import StopSignal

ANSWERS = 3.0  # seconds for the workers to say where they are
NAMED = 8  # workers with a line each
FOLLOW = 5.0  # seconds for the last collective that all are in
QUIET = 3 * INTERVAL  # without a heartbeat, a position is out of date


@dataclass
class Peer:
    """What is known about another worker."""

    hello: Hello
    last_heard: float
    beat: Beat = field(default_factory=lambda: Beat(Position()))
    waited_for: bool = False  # elastic: silent, and nobody can end it


class ProgressClock:
    """When anything moved last, and how long recent steps took."""

    def __init__(self, now: float) -> None:
        self._moved, self._seen = now, dict[int, Position]()
        self._step, self._step_at = 0, 0.0
        self.steps: deque[float] = deque(maxlen=32)  # seconds each

    def restart(self, now: float) -> None:
        self._moved, self._step_at = now, 0.0

    def shift(self, seconds: float) -> None:
        """This process stood still."""
        self._moved += seconds
        self._step_at = 0.0

    def idle(self, now: float, positions: dict[int, Position]) -> float:
        """Seconds since a position changed."""
        if positions != self._seen:
            self._seen, self._moved = dict(positions), now
        step = max(position.step for position in positions.values())
        if step != self._step:
            if self._step_at:
                self.steps.append((now - self._step_at) / max(1, step - self._step))
            self._step, self._step_at = step, now
        return now - self._moved


@dataclass(frozen=True)
class Answer:
    """Where a worker is: its line of code, and the last collectives that it has entered."""

    place: str
    entered: list[str]


@dataclass
class Inquiry:
    """All workers are asked where they are."""

    verdict: Verdict
    idle: float
    since: float
    positions: dict[int, Position]
    answers: dict[int, Answer] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    """`elastic`: a worker that dies is not the end of the run."""

    stall_seconds: float
    elastic: bool
    stacks: str  # the folder


class MainWatch:
    """Gets all heartbeats, and acts on them."""

    def __init__(
        self,
        server: Server,
        vitals: Vitals,
        stop: StopSignal,
        limits: Limits,
        actions: Actions,
    ) -> None:
        self._server, self._vitals, self._stop = server, vitals, stop
        self._limits, self._deadline, self._actions = limits, limits.stall_seconds, actions
        self._own = vitals.hello()
        self._peers: dict[int, Peer] = {}
        self._clock = ProgressClock(time.monotonic())
        self._inquiry: Inquiry | None = None
        self._left_at: float | None = None  # when the first worker left

    # From the server's thread

    def joined(self, hello: Hello) -> None:
        self._peers[hello.rank] = Peer(hello, time.monotonic())

    def heard(self, rank: int, word: str, text: str) -> None:
        peer = self._peers.get(rank)
        if peer is None:
            return
        peer.last_heard = time.monotonic()
        if word == protocol.BEAT:
            peer.beat = Beat.from_json(text)
            self._server.send(protocol.ALIVE, ranks=[rank])
            if peer.beat.stop:
                self._stop.request(f"{peer.beat.stop} on rank {rank}")
        elif word == protocol.FAREWELL:
            del self._peers[rank]
            self._left_at = self._left_at or time.monotonic()
        elif word == protocol.FAILED:
            self._lost(peer, f"failed{self._at_step(peer)}: {text}", None)
        elif word == protocol.LOCATION and self._inquiry is not None:
            self._inquiry.answers[rank] = Answer(*json.loads(text))

    def closed(self, rank: int) -> None:
        if peer := self._peers.get(rank):
            self._lost(peer, f"died{self._at_step(peer)}", WORKER_DIED)

    def tick(self, late: float) -> None:
        now = time.monotonic()
        self._clock.shift(late)
        quiet = False
        for peer in [*self._peers.values()]:
            peer.last_heard += late
            silence = now - peer.last_heard
            quiet |= silence > QUIET
            if silence > self._deadline and not peer.waited_for:
                what = f"sent no heartbeat for {self._deadline:g} s{self._at_step(peer)}"
                self._lost(peer, what, WORKER_LOST)
        self._follow(now)
        beats = {0: self._vitals.beat()} | {rank: p.beat for rank, p in self._peers.items()}
        if any(beat.held for beat in beats.values()):
            self._clock.restart(now)  # the launcher is stopped, and output may wait for it
        positions = {rank: beat.position for rank, beat in beats.items()}
        idle = self._clock.idle(now, positions)
        if self._inquiry is not None:
            self._conclude(self._inquiry, now, positions)
        elif idle >= self._deadline and not quiet:  # a silent worker is named for its silence
            verdict = judge(positions)
            computing = {rank: beat.computing for rank, beat in beats.items()}
            limit = verdict_bound(
                verdict, positions, computing, self._deadline, [*self._clock.steps]
            )
            if idle >= limit:
                self._inquire(Inquiry(verdict, idle, now, positions))

    # Conclusions

    def _lost(self, peer: Peer, what: str, cause: Cause | None) -> None:
        line = f"rank {peer.hello.rank} on {peer.hello.host} {what}"
        if not self._limits.elastic:
            return self._actions.end(line, cause)
        self._remove(peer, line, ended=cause is not WORKER_LOST)

    def _remove(self, peer: Peer, line: str, ended: bool) -> None:
        """Elastic: go on without a worker. The launcher does when its process has `ended`."""
        if not ended and not self._kill(peer.hello):
            peer.waited_for = True
            why = "no other worker runs on its host to end it: it is waited for"
            return self._actions.log(f"{line}; {why}")
        del self._peers[peer.hello.rank]
        self._actions.log(f"{line}; the others continue without it")
        self._fail_collectives()

    def _kill(self, worker: Hello) -> bool:
        """Whether there is a worker on the same machine to end this one."""
        if worker.machine == self._own.machine:
            kill(worker)
            return True
        for rank, peer in self._peers.items():
            if peer.hello.machine == worker.machine and rank != worker.rank:
                self._server.send(protocol.KILL, worker.to_json(), ranks=[rank])
                return True
        return False

    def _fail_collectives(self) -> None:
        self._server.send(protocol.FAIL)
        self._actions.fail_collectives()

    def _follow(self, now: float) -> None:
        """Elastic: workers that left form a new world; those that wait for them must follow."""
        if self._limits.elastic and self._left_at and now - self._left_at > FOLLOW:
            self._left_at = None
            self._fail_collectives()

    def _at_step(self, peer: Peer) -> str:
        # All workers run in step, and a peer's own number may be a second old.
        return f" at step {max(peer.beat.position.step, self._vitals.position.step)}"

    def _inquire(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry
        self._server.send(protocol.STACKS)
        inquiry.answers[0] = Answer(self._actions.show_stacks(), self._vitals.entered)

    def _conclude(self, inquiry: Inquiry, now: float, positions: dict[int, Position]) -> None:
        """When all have answered, or the time is over: name those who keep the others waiting."""
        if positions != inquiry.positions:
            self._inquiry = None
            return self._actions.log("the run moves again, after a stall: see the stacks of it")
        if len(inquiry.answers) <= len(self._peers) and now - inquiry.since < ANSWERS:
            return
        entered = {rank: answer.entered for rank, answer in inquiry.answers.items()}
        inquiry.verdict = judge(inquiry.positions, entered)
        lines = [self._describe(inquiry, rank) for rank in inquiry.verdict.blamed[:NAMED]]
        if more := inquiry.verdict.blamed[NAMED:]:
            lines.append(f"and {len(more)} more: ranks {', '.join(map(str, more))}")
        if not lines:
            lines = [inquiry.verdict.why]
        lines[0] = f"no progress for {inquiry.idle:.0f} s: {lines[0]}"
        lines.append(f"all workers have written their stacks to {self._limits.stacks}")
        if not self._limits.elastic or not inquiry.verdict.blamed:
            return self._actions.end("\n".join(lines), WORKER_LOST)
        self._inquiry = None
        line = "; ".join(lines)
        for rank in inquiry.verdict.blamed:
            if rank in self._peers:
                self._remove(self._peers[rank], line, ended=False)
        if 0 in inquiry.verdict.blamed:
            self._actions.leave(line)

    def _describe(self, inquiry: Inquiry, rank: int) -> str:
        host = self._own.host if rank == 0 else self._peers[rank].hello.host
        where, answer = inquiry.positions[rank], inquiry.answers.get(rank)
        place = answer.place if answer else "no answer"
        waits = f", waits in {where.collective!r}" if where.collective else ""
        at = f"it is at step {where.step} ({where.phase}){waits}, in {place}"
        return f"rank {rank} on {host} {inquiry.verdict.why}; {at}"
