"""Runs that are interrupted anywhere, restarted anyhow, and end like the one that was not."""

import tempfile

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.support.restarted_runs import (
    HOOKS,
    NUM_BATCHES,
    Interruption,
    Program,
    World,
    check_against,
    damage_newest,
    make_stream,
    run_damaged,
)

WORLD: list[World] = []


def world() -> World:
    if not WORLD:
        WORLD.append(World())
    return WORLD[0]


programs = st.builds(
    Program,
    save_freq=st.sampled_from(["epoch", 1, 2, 3]),
    epochs=st.sampled_from([2, 3]),
    initial_epoch=st.sampled_from([0, 0, 1]),
    steps_per_execution=st.sampled_from([1, 1, 2, 3]),
    validates=st.booleans(),
    reads_in=st.sampled_from(["", *HOOKS]),
    reads_by=st.sampled_from(["evaluate", "predict", "next"]),
    backup_is_first=st.booleans(),
)


# Most of them early, so that a run is interrupted many times before it ends.
hooks = st.one_of(st.integers(1, 8), st.integers(1, 40))
operations = st.one_of(st.integers(0, 20), st.integers(0, 150))
goes_on = precondition(lambda machine: not machine.is_over)


class RestartedRuns(RuleBasedStateMachine):
    """Each rule is one process on the folder that those before it have left; after the end, another program begins."""

    @initialize(program=programs)
    def begin(self, program: Program) -> None:
        self.program = program
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = f"{self.temporary.name}/backup"
        self.whole = world().uninterrupted(program, self.temporary.name)
        self.consumed = 0
        self.is_over = False

    @precondition(lambda machine: machine.is_over)
    @rule(program=programs)
    def another_program_begins(self, program: Program) -> None:
        self.teardown()
        self.begin(program)

    @goes_on
    @rule(at=hooks)
    def is_killed_in_a_hook(self, at: int) -> None:
        self.run(Interruption("kill hook", at))

    @goes_on
    @rule(at=operations, kind=st.sampled_from(["kill", "power loss", "full disk"]))
    def fails_while_it_writes(self, at: int, kind: str) -> None:
        self.run(Interruption(kind, at))

    @goes_on
    @rule(at=hooks)
    def is_stopped_by_a_callback(self, at: int) -> None:
        self.run(Interruption("stop", at))

    @goes_on
    @rule(at=hooks)
    def is_sent_sigterm(self, at: int) -> None:
        outcome = self.run(Interruption("sigterm", at))
        if outcome.ended == "left":
            rows = outcome.rows + self.run(Interruption()).rows
            assert self.whole.rows[len(self.whole.rows) - len(rows) :] == rows, "trained twice, or left out"

    @goes_on
    @rule(seed=st.integers(0, 1000))
    def finds_its_newest_backup_damaged(self, seed: int) -> None:
        if damage_newest(self.folder, seed):
            event("damaged")
            check_against(self.whole, run_damaged(world(), self.program, self.folder), self.consumed)
            self.consumed, self.is_over = len(self.whole.rows), True

    @goes_on
    @rule()
    def finishes(self) -> None:
        assert self.run(Interruption()).ended == "finished"

    def run(self, interruption: Interruption):
        outcome = world().run(self.program, self.folder, interruption)
        event(f"{interruption.kind}: {outcome.ended}")
        self.consumed = check_against(self.whole, outcome, self.consumed)
        self.is_over = outcome.ended == "finished" and self.consumed == len(self.whole.rows)
        return outcome

    def teardown(self) -> None:
        if hasattr(self, "temporary"):
            self.finishes()
            self.temporary.cleanup()


@pytest.mark.fit
def test_restarted_runs_end_like_the_uninterrupted_one(request: pytest.FixtureRequest):
    is_soak = request.config.getoption("--hypothesis-profile") == "soak"
    bounded = settings(
        max_examples=settings.default.max_examples if is_soak else 3,
        stateful_step_count=settings.default.stateful_step_count if is_soak else 4,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(RestartedRuns, settings=bounded)


# Where the callbacks that run before or behind this one read the training data, and how often it saves.
@pytest.mark.fit
@pytest.mark.parametrize(
    ("reads_in", "save_freq", "backup_is_first"),
    [
        ("train_begin", "epoch", True),
        ("epoch_begin", 2, True),
        ("epoch_begin", 2, False),
        ("batch_begin", 2, True),
        ("batch_begin", 2, False),
        ("batch_end", 2, True),
        ("epoch_end", "epoch", True),
    ],
)
def test_another_callback_that_reads_the_data_moves_nothing(reads_in, save_freq, backup_is_first, tmp_path):
    program = Program(save_freq, epochs=2, reads_in=reads_in, reads_by="next", backup_is_first=backup_is_first)
    whole = world().uninterrupted(program, str(tmp_path))
    consumed = 0
    for interruption in (Interruption("kill hook", 9), Interruption("kill hook", 14), Interruption()):
        outcome = world().run(program, str(tmp_path / "backup"), interruption)
        consumed = check_against(whole, outcome, consumed)
    assert outcome.ended == "finished"
    assert consumed == len(whole.rows)


@pytest.mark.fit
@pytest.mark.parametrize(
    ("program", "interruptions"),
    [
        (Program(save_freq=1, epochs=3), [("kill hook", 6), ("stop", 7), ("sigterm", 8)]),
        (Program(save_freq=3, epochs=2, steps_per_execution=2, validates=True), [("kill hook", 12), ("kill", 3)]),
    ],
)
def test_runs_on_a_stream_end_like_the_uninterrupted_one(program, interruptions, tmp_path):
    world_of_stream = World(make_stream)
    whole = world_of_stream.uninterrupted(program, str(tmp_path))
    assert len({str(row) for row in whole.rows}) > NUM_BATCHES  # epochs differ
    consumed = 0
    for kind, at in interruptions:
        outcome = world_of_stream.run(program, str(tmp_path / "backup"), Interruption(kind, at))
        consumed = check_against(whole, outcome, consumed)
    outcome = world_of_stream.run(program, str(tmp_path / "backup"), Interruption())
    assert check_against(whole, outcome, consumed) == len(whole.rows)
    assert outcome.ended == "finished"
    assert 0 < len(outcome.rows) < len(whole.rows)
