"""Errors of user input end as one line, and others as they are."""

import pytest

from patchrec_hf.commands.errors import errors_in_one_line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("`k` must be at least 1, got 0."), "ValueError: `k` must be at least 1, got 0."),
        (KeyError("There is no item 7."), "KeyError: There is no item 7."),
        (KeyError(), "KeyError: "),
        (TypeError("no number"), "TypeError: no number"),
        (FileNotFoundError("There is no file x."), "FileNotFoundError: There is no file x."),
    ],
)
def test_user_errors(error, message):
    with pytest.raises(SystemExit) as ended, errors_in_one_line():
        raise error
    assert ended.value.code == message
    assert ended.value.__suppress_context__


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), errors_in_one_line():
        _ = 1 / 0
