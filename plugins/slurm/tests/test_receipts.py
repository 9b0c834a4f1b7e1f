"""What is known from the lines that job scripts write down."""

from __future__ import annotations

from fractal_backends_slurm.receipts import Receipts


def test_a_start_lives_on_beside_the_next_one() -> None:
    """Both write into one file: on a node that SLURM does not reach, nobody ends the first one."""
    receipts = Receipts()
    lines = [
        ["job n1", "booted n1 1000", "started a n1 10", "job n2", "booted n2 5000", "refused a 20 claimed"],
        ["started b n2 21", "ended a 25 0 0 1 -1 -1 0", "started c n1 26", "over n1"],
    ]
    for some in lines:
        receipts.take("7_0.receipt", "".join(f"{line}\n" for line in some))
    notes = receipts.notes
    assert {label: note.host for label, note in notes.items()} == {"a": "n1", "b": "n2", "c": "n1"}
    assert {label: note.started_at for label, note in notes.items()} == {"a": 1010, "b": 5021, "c": 1026}
    assert [receipts.was_started_again(notes[label], 0) for label in "abc"] == [True, False, True]
    assert notes["a"].end is not None and notes["a"].end.wall_s == 15
    assert not receipts.is_over("7", 0), "the last start goes on"
    receipts.take("7_0.receipt", "over n2\n")
    assert receipts.is_over("7", 0)


def test_two_starts_are_in_worker_init_at_the_same_time() -> None:
    """Each notes its beginning twice: before worker_init, and after it."""
    receipts = Receipts()
    lines = ["begun n1/5 10.5", "booted n1/5 1000", "begun n2/6 20.5", "booted n2/6 2000", "begun n1/5 10.5"]
    lines += ["job n1/5 60", "over n1/5"]
    receipts.take("7_0.receipt", "".join(f"{line}\n" for line in lines))
    assert (receipts.starts("7", 0), receipts.begun_at("7", 0)) == (2, 2020.5)
    assert not receipts.is_over("7", 0)
    receipts.take("7_0.receipt", "over n2/6\n")
    assert receipts.is_over("7", 0)


def test_the_last_start_says_whether_a_job_is_over() -> None:
    """Its first line may be its last one, where nothing came to units."""
    receipts = Receipts()
    told = [("over n1", True), ("job n1", False), ("over n1", True), ("job n2", False), ("over n2", True)]
    for line, is_over in told:
        receipts.take("7_0.receipt", f"{line}\n")
        assert receipts.is_over("7", 0) is is_over, line
