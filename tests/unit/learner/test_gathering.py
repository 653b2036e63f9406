from tests.builders import make_group
from volley.learner.gathering import Gathering
from volley.schemas.groups import Group


def teaches(group: Group) -> bool:
    return len({one.rewards for one in group.trajectories}) > 1


def gather(max_refill: int, num_idle: int, num_good: int) -> Gathering:
    """Two groups are wanted; the idle ones come first."""
    gathering = Gathering(2, max_refill, teaches)
    for rewards in [(1.0, 1.0)] * num_idle + [(1.0, 0.0)] * num_good:
        gathering.add(make_group(rewards))
    return gathering


def test_without_a_refill_groups_are_taken_as_they_come():
    gathering = gather(0, num_idle=2, num_good=0)
    assert gathering.is_full
    assert gathering.num_refill == 0


def test_every_group_that_teaches_nothing_is_made_up_for():
    assert not gather(3, num_idle=2, num_good=1).is_full
    full = gather(3, num_idle=2, num_good=2)
    assert full.is_full
    assert len(full.groups) == 4


def test_the_refill_ends_at_its_bound():
    assert not gather(1, num_idle=2, num_good=0).is_full
    full = gather(1, num_idle=3, num_good=0)
    assert full.is_full
    assert full.num_refill == 1
