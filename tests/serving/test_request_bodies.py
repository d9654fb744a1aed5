"""The form of bodies: ids stay as they are, and nothing is converted silently."""

import pytest
from pydantic import ValidationError

from patchrec_hf.serving.request_bodies import EventsBody, RecommendBody


def test_ids_stay_as_they_are():
    body = RecommendBody.model_validate({"history": [7, "7", "007", 10**30]})
    assert body.history == [7, "7", "007", 10**30]
    assert (body.k, body.exclude_seen, body.time) == (10, True, None)
    (event,) = EventsBody.model_validate({"events": [{"item_id": 7, "timestamp": 0, "event_id": "é"}]}).events
    assert (event.item_id, event.timestamp, event.event_id) == (7, 0, "é")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"history": [True]}, "an item id is a whole number or a text"),
        ({"history": [1.0]}, "an item id is a whole number or a text"),
        ({"history": "12"}, "valid list"),
        ({"history": [1], "k": "5"}, "valid integer"),
        ({"history": [1], "k": True}, "valid integer"),
        ({"history": [1], "k": 0}, "greater than or equal to 1"),
        ({"history": [1], "exclude_seen": 1}, "valid boolean"),
        ({"history": [1], "timestamps": [1.5]}, "whole number of seconds"),
        ({"history": [1], "timestamps": [-1]}, "whole number of seconds"),
        ({"history": [1], "time": 1_700_000_000_000}, "beyond the year 3000: divide it by 1000"),
        ({"histroy": [1]}, "no key 'histroy'; did you mean 'history'"),
    ],
)
def test_wrong_bodies(body, message):
    with pytest.raises(ValidationError, match=message):
        RecommendBody.model_validate(body)


@pytest.mark.parametrize("name", ["", "x" * 257, "a\nb", "a\0", "\N{REPLACEMENT CHARACTER}", 7, None])
def test_wrong_event_ids(name):
    event = {"item_id": 7, "event_id": name}
    if name is None:
        assert EventsBody.model_validate({"events": [event]}).events[0].event_id is None
    else:
        with pytest.raises(ValidationError, match="an id "):
            EventsBody.model_validate({"events": [event]})
    with pytest.raises(ValidationError, match="at least 1 item"):
        EventsBody.model_validate({"events": []})
