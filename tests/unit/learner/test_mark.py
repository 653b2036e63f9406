import pytest

from volley.learner.mark import DEATHS_OF_POISON, Mark
from volley.learner.step_log import Place

HERE = Place(7, 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training.json"


def die_training(path, *batches, place=HERE):
    """A process that dies in the last of these micro-batches; what it set aside."""
    mark = Mark(path)
    poison = mark.poison(place)
    for numbers in batches:
        if not poison & set(numbers):
            mark.name(place, numbers)
    return poison


def test_what_kills_three_times_in_a_row_is_set_aside(path):
    for _ in range(DEATHS_OF_POISON):
        assert die_training(path, {1, 2}, {3, 4}) == frozenset()
    assert Mark(path).poison(HERE) == {3, 4}


def test_deaths_elsewhere_begin_a_new_count(path):
    die_training(path, {1, 2}, {3, 4})
    die_training(path, {1, 2}, {3, 4})
    die_training(path, {1, 2})
    die_training(path, {1, 2}, {3, 4})
    assert Mark(path).poison(HERE) == frozenset()


def test_two_poisons_of_one_step_are_both_set_aside(path):
    for _ in range(DEATHS_OF_POISON):
        die_training(path, {1, 2}, {3, 4})
    for _ in range(DEATHS_OF_POISON):
        assert die_training(path, {1, 2}, {3, 4}) == {3, 4}
    assert Mark(path).poison(HERE) == {1, 2, 3, 4}


def test_a_step_that_was_concluded_leaves_no_suspicion(path):
    die_training(path, {1, 2})
    die_training(path, {1, 2})
    mark = Mark(path)
    mark.name(HERE, {1, 2})
    mark.clear()
    die_training(path, {1, 2})
    assert Mark(path).poison(HERE) == frozenset()


def test_another_step_is_not_suspected(path):
    for _ in range(DEATHS_OF_POISON):
        die_training(path, {1, 2})
    assert Mark(path).poison(Place(8, 0)) == frozenset()


def test_a_mark_that_cannot_be_read_is_none(path):
    path.write_text("{")
    assert Mark(path).poison(HERE) == frozenset()
