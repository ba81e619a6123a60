"""Tasks that go on in small pieces, and say where they stand when their worker wants it."""

from __future__ import annotations

from collections.abc import Iterator

from service.steps import Step, Task, TaskContext
from service.store.jobs import Job
from tests.service.worker.worlds import World


def in_pieces(world: World, pieces: int, each_s: float, taken: list[int]) -> Task:
    """A task of so many pieces of work, every tenth of which ends an epoch."""

    def task(_job: Job, context: TaskContext) -> Iterator[Step]:
        said = 0
        for piece in range(1, pieces + 1):
            world.clock.now += each_s
            epoch, rest = divmod(piece, 10)
            if context.wants_step(at_epoch=rest == 0):
                taken.append(piece)
                events = [("epoch", {"epoch": number + 1}) for number in range(said, epoch)]
                said = epoch
                yield Step(events=tuple(events), epoch=epoch, snapshot=lambda: lambda: b"state")

    return task


def test_a_step_is_wanted_when_so_much_time_has_passed(world: World) -> None:
    world.queue()
    taken: list[int] = []
    world.work(in_pieces(world, 40, 0.01, taken), step_s=0.095)
    assert taken == [1, 11, 21, 31]


def test_pieces_that_take_longer_are_steps_each(world: World) -> None:
    world.queue()
    taken: list[int] = []
    world.work(in_pieces(world, 5, 1.0, taken), step_s=0.05)
    assert taken == [1, 2, 3, 4, 5]


def test_every_epoch_is_a_step_where_checkpoints_are_asked_for_by_epochs(world: World) -> None:
    job_id = world.queue(checkpoint_every={"epochs": 2})
    taken: list[int] = []
    world.work(in_pieces(world, 60, 0.001, taken), step_s=3600.0)
    assert taken == [1, 10, 20, 30, 40, 50, 60]
    events = world.jobs.events(job_id).data
    assert [e.data["epoch"] for e in events if e.type == "checkpoint"] == [2, 4, 6]
