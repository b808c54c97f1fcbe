import pytest

from jaxcaffe.log import open_scalars


@pytest.fixture
def write_run(tmp_path):
    """Returns a function that writes a run and gives its folder.

    Its loss falls from `first`; each test's accuracy comes from the list, where 0 makes
    the loss of that step no number.
    """

    def write(name, first, accuracies):
        run = tmp_path / name
        run.mkdir()
        scalars = open_scalars(str(run / "scalars.jsonl"))
        for i, accuracy in enumerate(accuracies):
            loss = first / (i + 1) if accuracy else float("nan")
            scalars.write(10 * i, **{"test0/accuracy": accuracy, "test0/loss": loss})
            if accuracy:
                scalars.write(10 * i, loss=loss)
        return str(run)

    return write
