"""The queue between one learner and any number of workers: tasks out, results back, over Redis.

    learner: reconcile -> issue -> [tasks] -> lease, heartbeat ... complete -> [results] -> collect
                            ^                                                            |
                            +---- reissue (lost or failed)        drop (logged on disk) <+

The learner's disk is the truth; Redis may be lost at any time. `outstanding` is the pivot: each
number that was issued and not dropped points at its one task or its one result. Whatever it does
not point at has no effect. Bodies are opaque bytes.

Keys, all beginning with `volley:{RUN}:` (the braces are a Redis Cluster hash tag); none expires
unless it says so:

    key              type     meaning                                              written by
    outstanding      hash     number -> `t:<task id>` or `r:<result id>`           both
    tasks            stream   fields n, body; consumer group `workers`, one        learner; workers
                              consumer per worker; the delivery count of a         delete theirs
                              pending entry is its progress
    results          stream   fields n, task, body                                 workers; the
                                                                                   learner deletes
    epoch            string   highest epoch that a learner has claimed             learner
    incarnation      string   random marker of the last reconcile and the run id   learner
                              of the Redis process that took it
    deliveries       hash     `duplicate` -> results that came too late or twice   workers
    workers          set      who has a report                                     workers; the
                                                                                   learner tidies
    report:<worker>  string   a worker's word about itself; expires                that worker
    dismissed:       string   there while that worker is told to leave; expires    learner
      <worker>

Held-out prompts travel in a second set of these keys, under `{RUN}:evaluation`.

The two ends are in worker_queue and learner_queue, errors in redis_client, the steps in lua/.
"""

from volley.transport.learner_queue import Delivery, HeldTask, LearnerQueue
from volley.transport.redis_client import (
    QueueError,
    QueueFenced,
    QueueForgotten,
    QueueFull,
    QueueMisconfigured,
    QueueUnavailable,
    connect,
    evaluation_stream,
)
from volley.transport.worker_queue import Lease, WorkerQueue

__all__ = [
    "Delivery",
    "HeldTask",
    "LearnerQueue",
    "Lease",
    "QueueError",
    "QueueFenced",
    "QueueForgotten",
    "QueueFull",
    "QueueMisconfigured",
    "QueueUnavailable",
    "WorkerQueue",
    "connect",
    "evaluation_stream",
]
