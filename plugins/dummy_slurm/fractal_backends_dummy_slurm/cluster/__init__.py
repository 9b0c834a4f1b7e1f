"""A scheduler in miniature, on the standard library alone: its processes start without a site or packages."""

START = "import sys; sys.path.append(sys.argv[1]); from cluster import server; server.main(*sys.argv[2:])"
"""How the controller's process starts, with the folder above this package: without the backend's package."""
