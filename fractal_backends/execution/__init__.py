"""Ways to execute units that backends share."""
