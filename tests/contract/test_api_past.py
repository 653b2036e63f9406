"""What a run has done, over a real socket from a real run's folder."""

import json

import pytest
import urllib3

from tests.serving import TOKEN, served, serving_learner
from tests.three_steps import run_of_three_steps
from volley.learner.metrics_file import MetricsFile, MetricsLine
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import Version


@pytest.fixture(scope="module")
def solo(tmp_path_factory):
    with run_of_three_steps(tmp_path_factory.mktemp("solo")) as learner:
        yield learner


@pytest.fixture(scope="module")
def get(solo):
    pool = urllib3.PoolManager(retries=False, timeout=30)

    def get(path):
        answer = pool.request("GET", url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        return answer.status, json.loads(answer.data)

    folder = solo.folder
    with serving_learner(served(folder.path, WeightStore(folder.weights, "r", 2))) as url:
        yield get
        pool.clear()


def test_steps_come_in_pages_oldest_first(get, solo):
    status, page = get("/v1/steps?limit=2")
    assert status == 200
    assert [(line["epoch"], line["step"]) for line in page["steps"]] == [(1, 1), (1, 2)]
    _, rest = get(f"/v1/steps?limit=2&after={page['next']}")
    assert [line["step"] for line in rest["steps"]] == [3]
    assert rest["next"] is None
    (*_, newest) = MetricsFile(solo.folder.metrics).read()
    assert rest["steps"][0]["root"] == newest.root
    assert rest["steps"][0]["metrics"] == pytest.approx(newest.metrics)


def test_evaluations_come_in_pages_too(get, solo):
    assert get("/v1/evaluations") == (200, {"evaluations": [], "next": None})
    MetricsFile(solo.folder.evaluations).append(MetricsLine(Version(1, 0), "aa", {"reward": 0.5}))
    _, page = get("/v1/evaluations?after=-1")
    assert page["evaluations"] == [
        {"epoch": 1, "step": 0, "root": "aa", "metrics": {"reward": 0.5}}
    ]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "after=-2", "after=1e3", "after=x"])
def test_a_page_that_is_not_one_is_refused_in_words(get, query):
    status, problem = get(f"/v1/steps?{query}")
    assert status == 422
    assert problem["detail"].startswith(f"query {query.partition('=')[0]}: input should be")


def test_the_groups_of_a_step_are_told_in_figures(get):
    _, page = get("/v1/groups?step=2")
    first, second = page["groups"]
    assert (page["step"], first["number"], second["number"]) == (2, 2, 3)
    assert (first["disposition"], second["disposition"]) == ("trained", "filtered")
    assert (first["rewards"], second["rewards"]) == ([1.0, 0.0], [1.0, None])
    # Rewards 1 and 0: a deviation of a half over their standard deviation.
    scaled = 0.5 / (0.5**0.5 + 1e-4)
    assert first["advantages"] == pytest.approx([scaled, -scaled])
    assert second["advantages"] == [None, None]
    assert first["num_tokens"] == [6, 2]


def test_without_a_step_the_newest_one_is_shown(get):
    assert get("/v1/groups")[1]["step"] == 3
    assert get("/v1/groups/4")[1]["step"] == 3


def test_a_group_is_shown_from_its_first_token_to_its_last(get):
    _, group = get("/v1/groups/2?step=2")
    asked, other = group["trajectories"]
    assert [(one["kind"], one["text"], one["num_tokens"]) for one in asked["segments"]] == [
        ("prompt", "g o", 2),
        ("generated", "a s k", 3),
        ("inserted", "=", 1),
        ("generated", "b <eos>", 2),
    ]
    assert asked["turns"] == 2
    assert asked["metrics"] == {"searches": 1.0}
    assert asked["versions"] == ["1.0"]
    assert list(other["rewards"].values()) == [0.0] == [other["reward"]]
    assert other["advantage"] == pytest.approx(-asked["advantage"])


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/v1/groups?step=9", "step 9 is not kept: 1 to 3 are"),
        ("/v1/groups/2?step=9", "step 9 is not kept: 1 to 3 are"),
        ("/v1/groups/2", "number 2 is not in step 3"),
    ],
)
def test_what_is_not_kept_is_a_problem_that_says_what_is(get, path, detail):
    status, problem = get(path)
    assert (status, problem["title"], problem["detail"]) == (404, "Not Found", detail)
