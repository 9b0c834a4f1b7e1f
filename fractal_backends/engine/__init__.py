"""What a run does, task by task, on top of any executor."""
