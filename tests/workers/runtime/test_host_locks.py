"""Locks between real processes. Whether one waits is read from the kernel's own list, never guessed from time."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from workers.runtime.host_locks import DeviceSlot, TimingLock

REPOSITORY = Path(__file__).resolve().parents[3]
KERNEL_LOCKS = Path("/proc/locks")
LIMIT_S = 20.0

pytestmark = pytest.mark.skipif(not KERNEL_LOCKS.exists(), reason="reads /proc/locks, which only Linux has")

ACTOR = """
import sys
from pathlib import Path
from workers.runtime.host_locks import DeviceSlot, TimingLock

folder = Path(sys.argv[1])
lock = TimingLock(folder)
inside, slots = [], []
print("ready", flush=True)
for line in sys.stdin:
    command, *arguments = line.split()
    answer = "done"
    if command in ("computing", "measuring"):
        inside.append(getattr(lock, command)())
        inside[-1].__enter__()
    elif command == "leave":
        inside.pop().__exit__(None, None, None)
    elif command == "give_way":
        lock.give_way()
    elif command == "stream":  # what a judging evaluator does, for as long as the file is not there
        while not (folder / "stop").exists():
            with lock.computing():
                for _ in range(20):
                    lock.give_way()
    elif command == "slot":
        slots.append(DeviceSlot(folder, arguments[0], int(arguments[1])))
        answer = str(slots[-1].try_acquire())
    elif command == "wait_for_slot":
        slots.append(DeviceSlot(folder, arguments[0], int(arguments[1])))
        slots[-1].acquire(lambda: print("waiting", flush=True))
    print(answer, flush=True)
"""


class Actor:
    """A process that takes and leaves locks when told."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ACTOR, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            text=True,
        )

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Its next line; it has ``LIMIT_S`` to say it."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], LIMIT_S)
        assert ready, f"no answer within {LIMIT_S} s"
        return self.process.stdout.readline().strip()

    def do(self, command: str) -> str:
        self.tell(command)
        return self.answer()

    def blocks(self, command: str) -> None:
        """Tell it, and return when the kernel says that it waits for a lock."""
        self.tell(command)
        until(lambda: self.waits, f"{command} does not wait")

    @property
    def waits(self) -> bool:
        entries = (line.split() for line in KERNEL_LOCKS.read_text().splitlines())
        return any(entry[1] == "->" and str(self.process.pid) in entry for entry in entries)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def until(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.002)


@pytest.fixture
def actors(tmp_path: Path) -> Iterator[Callable[[int], list[Actor]]]:
    started: list[Actor] = []

    def start(count: int) -> list[Actor]:
        new = [Actor(tmp_path) for _ in range(count)]
        started.extend(new)
        assert [actor.answer() for actor in new] == ["ready"] * count
        return new

    yield start
    for actor in started:
        with suppress(BrokenPipeError):
            actor.close()


Start = Callable[[int], list[Actor]]


def test_readers_compute_together_and_exclude_the_writer(actors: Start) -> None:
    first, second, writer = actors(3)
    assert first.do("computing") == second.do("computing") == "done"
    writer.blocks("measuring")
    first.do("leave")
    until(lambda: writer.waits, "does not wait for the second reader")  # woken, it takes a moment to wait again
    second.do("leave")
    assert writer.answer() == "done"


@pytest.mark.parametrize("command", ["computing", "measuring"])
def test_the_writer_excludes_readers_and_other_writers(command: str, actors: Start) -> None:
    writer, other = actors(2)
    writer.do("measuring")
    other.blocks(command)
    writer.do("leave")
    assert other.answer() == "done"
    writer.blocks("measuring")
    other.do("leave")
    assert writer.answer() == "done"


def test_a_reader_that_gives_way_lets_the_waiting_writer_in_and_goes_on_after(actors: Start) -> None:
    reader, writer = actors(2)
    reader.do("computing")
    assert reader.do("give_way") == "done"  # nobody waits: nothing happens
    writer.blocks("measuring")
    reader.blocks("give_way")
    assert writer.answer() == "done"
    assert reader.waits
    writer.do("leave")
    assert reader.answer() == "done"
    writer.blocks("measuring")  # the reader is inside again
    reader.do("leave")
    assert writer.answer() == "done"


def test_a_waiting_writer_goes_before_readers_who_come_later(actors: Start) -> None:
    early, writer, late = actors(3)
    early.do("computing")
    writer.blocks("measuring")
    late.blocks("computing")
    early.do("leave")
    assert writer.answer() == "done"
    assert late.waits
    writer.do("leave")
    assert late.answer() == "done"


def test_a_stream_of_readers_does_not_starve_the_writer(actors: Start, tmp_path: Path) -> None:
    *readers, writer = actors(4)
    for reader in readers:
        reader.tell("stream")
    for _ in range(5):
        assert writer.do("measuring") == "done"
        until(lambda: all(reader.waits for reader in readers), "a reader computes while the writer measures")
        assert writer.do("leave") == "done"
    (tmp_path / "stop").touch()
    assert [reader.answer() for reader in readers] == ["done"] * 3


@pytest.mark.parametrize("held", ["computing", "measuring"])
def test_the_kernel_frees_what_a_killed_holder_held(held: str, actors: Start) -> None:
    holder, writer = actors(2)
    holder.do(held)
    writer.blocks("measuring")
    holder.kill()
    assert writer.answer() == "done"


def test_a_writer_killed_while_it_waits_reopens_the_gate(actors: Start) -> None:
    reader, writer, late = actors(3)
    reader.do("computing")
    writer.blocks("measuring")
    late.blocks("computing")
    writer.kill()
    assert late.answer() == "done"


@pytest.mark.parametrize("held", ["computing", "measuring"])
def test_an_error_inside_leaves_the_room(held: str, actors: Start, tmp_path: Path) -> None:
    (writer,) = actors(1)
    lock = TimingLock(tmp_path)

    def fail() -> None:
        with getattr(lock, held)():
            writer.blocks("measuring")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert writer.answer() == "done"


def test_a_device_has_as_many_slots_as_it_is_said_to_have(actors: Start) -> None:
    first, second, third = actors(3)
    assert first.do("slot cpu 2") == "True"
    assert second.do("slot cpu 2") == "True"
    assert third.do("slot cpu 2") == "False"
    assert third.do("slot cuda:0 1") == "True"  # another device
    assert second.do("slot cuda:0 1") == "False"
    assert second.do("slot cuda:1 1") == "True"
    first.kill()
    assert third.do("slot cpu 2") == "True"


def test_waiting_for_a_slot_is_told_and_ends_when_the_holder_dies(actors: Start) -> None:
    holder, waiting = actors(2)
    assert holder.do("slot cpu 1") == "True"
    assert waiting.do("wait_for_slot cpu 1") == "waiting"
    holder.kill()
    answers = iter(waiting.answer, "done")
    assert set(answers) <= {"waiting"}


def test_waiting_for_a_slot_may_be_given_up(actors: Start, tmp_path: Path) -> None:
    (holder,) = actors(1)
    holder.do("slot cpu 1")

    def give_up() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        DeviceSlot(tmp_path, "cpu", 1).acquire(give_up)
