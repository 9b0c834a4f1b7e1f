"""What each command answers. Each takes the controller, the caller and the words, and returns what to print."""
