"""The tests, an area of requirements in each module."""
