import pytest

from volley.rollout.device import choose_device
from volley.telemetry.stops import Stop


def test_a_device_of_this_machine_is_taken_as_it_is():
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_here_is_named_with_the_setting(device: str):
    with pytest.raises(Stop, match=rf"--device {device} \(devices.rollout\) cannot be used"):
        choose_device(device)
