"""What the tests of a run share: tasks that do as they are told, and short ways to run them."""
