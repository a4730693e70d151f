"""The picture: a row per stream, a legend entry per kind, a unit on the axis."""

from collections.abc import Iterator

import matplotlib
import matplotlib.pyplot as plt
import pytest

from commlens.simulator import Program, run, timeline

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def two_ranks(count: int, duration: float) -> Program:
    program = Program("two ranks")
    for rank in range(2):
        for _ in range(count):
            done = program.add("gemm", kind="compute", rank=rank, stream="main", duration=duration)
            program.add("send", kind="communication", rank=rank, stream="comm", after=done,
                        duration=duration / 2)  # fmt: skip
    return program


def test_rows_legend_and_unit() -> None:
    axes = timeline.plot(run(two_ranks(5, 1e-4)))
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["rank 0  main", "rank 0  comm", "rank 1  main", "rank 1  comm"]
    assert axes.get_xlabel() == "time [µs]"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["compute", "communication"]
    assert axes.get_xlim() == pytest.approx((0, 550))
    assert sum(text.get_text() == "gemm" for text in axes.texts) == 10
    axes.figure.canvas.draw()


def test_draws_where_told() -> None:
    _, axes = plt.subplots()
    assert timeline.plot(run(two_ranks(1, 2.0)), ax=axes) is axes
    assert axes.get_xlabel() == "time [s]"


def test_thousands_of_tasks_are_few_artists() -> None:
    axes = timeline.plot(run(two_ranks(1500, 1e-5)))
    assert len(axes.collections) == 4
    assert sum(len(c.get_paths()) for c in axes.collections) == 6000
    assert len(axes.texts) == 0
    axes.figure.canvas.draw()


def test_a_window_shows_a_part() -> None:
    axes = timeline.plot(run(two_ranks(50, 1e-3)), window=(0.010, 0.012))
    assert axes.get_xlim() == pytest.approx((10, 12))
    assert axes.get_xlabel() == "time [ms]"
    assert sum(text.get_text() == "gemm" for text in axes.texts) == 4
    assert sum(len(c.get_paths()) for c in axes.collections) < 20


def test_an_empty_program_draws() -> None:
    timeline.plot(run(Program())).figure.canvas.draw()
