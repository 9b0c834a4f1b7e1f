"""What each command answers: it takes the controller, the caller and the words, and returns what to print."""
