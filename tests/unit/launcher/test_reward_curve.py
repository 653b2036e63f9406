"""The curve of a run, from its metrics to its picture."""

import json
import struct

from volley.launcher.reward_curve import REWARD, draw_reward_curve, read_metric, smooth


def test_a_step_without_a_value_is_left_out(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    steps = [(1, 0.5), (2, None), (3, 1.0)]
    lines = [json.dumps({"epoch": 1, "step": step, "reward_mean": mean}) for step, mean in steps]
    metrics.write_text("\n".join(lines) + "\n")
    assert read_metric(metrics, REWARD) == [(1, 0.5), (3, 1.0)]
    assert read_metric(tmp_path / "none.jsonl", REWARD) == []


def test_the_smooth_line_averages_over_the_steps_around():
    assert smooth([1.0, 3.0, 5.0, 1.0], reach=1) == [2.0, 3.0, 3.0, 3.0]
    assert smooth([1.0, 3.0], reach=0) == [1.0, 3.0]


def test_the_picture_is_a_png_with_something_on_it(tmp_path):
    rewards = [(step, step / 40) for step in range(1, 41)]
    draw_reward_curve(rewards, "a run", plain := tmp_path / "plain.png", {}, {})
    levels = {"before": 0.1, "after": 0.9}
    draw_reward_curve(rewards, "a run", with_levels := tmp_path / "levels.png", levels, {})
    rates = {"search rate": [(step, 1 - step / 40) for step in range(1, 41)]}
    draw_reward_curve(rewards, "a run", with_rates := tmp_path / "rates.png", levels, rates)
    content = plain.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (1200, 675)
    assert len({content, with_levels.read_bytes(), with_rates.read_bytes()}) == 3
