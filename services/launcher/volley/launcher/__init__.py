"""The `volley` command: one-box runs, status, demos."""
