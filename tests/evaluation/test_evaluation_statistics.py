from e0_lightning.evaluation.statistics import by_camera, by_suite, by_task, mean_of_scores
from e0_lightning.types import EpisodeResult

PROTOCOL = {"a": {"tasks": 2, "episodes": 3, "rates": {"E0, published": 0.972}}}


def results(task="a/push", successes=2, n=3, camera=(0.0, 0.0, 0.0)):
    return [EpisodeResult(task, i, i < successes, 5 + i, camera=camera) for i in range(n)]


def test_an_error_is_a_failure():
    broken = EpisodeResult("push", 1, False, 2, error="gone")
    tasks = by_task([broken, EpisodeResult("push", 2, True, 10)])
    assert tasks["push"]["rate"] == 0.5
    assert tasks["push"]["errors"] == 1
    assert tasks["push"]["mean_steps"] == 6


def test_scores_are_averaged_by_task_and_an_error_scores_0():
    evaluated = [
        EpisodeResult("push", 1, True, 5, score=1.0),
        EpisodeResult("push", 2, False, 9, score=0.5),
        EpisodeResult("push", 3, False, 2, error="gone", score=0.9),
        EpisodeResult("pull", 1, False, 9, score=0.2),
        EpisodeResult("lift", 1, True, 9),
    ]
    tasks = by_task(evaluated)
    assert tasks["push"]["score"]["mean"] == 0.5
    assert tasks["push"]["score"]["n"] == 3
    assert "score" not in tasks["lift"]
    assert mean_of_scores(tasks) == 0.35
    assert mean_of_scores(by_task(evaluated[-1:])) is None


def test_flags_are_counted_among_all_episodes_and_among_successes():
    evaluated = [
        EpisodeResult("push", 1, True, 5, flags={"left": True}),
        EpisodeResult("push", 2, True, 5, flags={"left": False}),
        EpisodeResult("push", 3, False, 9, flags={"left": False}),
        EpisodeResult("push", 4, False, 9, flags={"left": False}),
        EpisodeResult("push", 5, False, 2, error="gone"),
    ]
    left = by_task(evaluated)["push"]["flags"]["left"]
    assert (left["episodes"]["rate"], left["episodes"]["n"]) == (0.25, 4)
    assert (left["successes"]["rate"], left["successes"]["n"]) == (0.5, 2)
    assert "successes" not in by_task(evaluated[2:])["push"]["flags"]["left"]
    assert "flags" not in by_task(results())["a/push"]


def test_suites_pool_their_tasks():
    suites = by_suite(results("a/push", 3, 4) + results("a/pull", 1, 4) + results("b/push", 0, 4))
    assert (suites["a"]["rate"], suites["a"]["n"], suites["b"]["rate"]) == (0.5, 8, 0.0)
    assert by_suite(results("push")) == {}


def test_published_rates_stand_beside_the_complete_protocol_only():
    def has_published(evaluated):
        return "published" in by_suite(evaluated, PROTOCOL)["a"]

    whole = results("a/push") + results("a/pull")
    assert by_suite(whole, PROTOCOL)["a"]["published"] == {"E0, published": 0.972}
    assert not has_published(results("a/push"))
    assert not has_published(results("a/push") + results("a/pull", n=2))
    assert not has_published(whole + results("a/lift"))
    assert not has_published(whole + results("a/push", camera=(5.0, 0.0, 0.0)))
    assert by_suite(results("b/push"), PROTOCOL).keys() == {"b"}


def test_success_is_summarized_by_camera_displacement():
    evaluated = results() + results(successes=0, camera=(15.0, 0.0, 0.0))
    evaluated += results(successes=1, camera=(0.0, -5.0, 0.1))
    cameras = by_camera(evaluated)
    assert {name: summary["successes"] for name, summary in cameras.items()} == {
        "not displaced": 2,
        "azimuth +15°": 0,
        "elevation -5°, distance +10%": 1,
    }
    assert by_camera(results()) == {}


def test_many_displacements_are_grouped_by_angle():
    evaluated = [
        EpisodeResult("push", n, n < 20, 1, camera=(n / 4, 0.0, 0.0)) for n in range(40)
    ]  # 0 to 9.75 degrees
    cameras = by_camera(evaluated)
    assert {name: (each["successes"], each["n"]) for name, each in cameras.items()} == {
        "0° to 5°": (20, 20),
        "5° to 10°": (0, 20),
    }
