"""The conformance suite: what every backend must do, and the proof that one does it.

Run it with `fractal-backends check NAME`, or with
`pytest --pyargs fractal_backends.conformance --backend NAME`. It judges a backend through the standard
interface and by what is on disk alone.
"""
