"""Request bodies: the form of what clients send, and of what they get."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, StrictBool, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

from ..data.keywords import nearest


LATEST_TIME = 32_503_680_000  # the year 3000
MAX_TEXT = 256


def _checked_item_id(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise PydanticCustomError("item_id", "an item id is a whole number or a text, as in the catalog")
    return value


def _checked_time(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PydanticCustomError("time", "a time is a whole number of seconds since 1970 UTC")
    if value > LATEST_TIME:
        raise PydanticCustomError(
            "time", "a time is in whole seconds since 1970 UTC, and this is beyond the year 3000: divide it by 1000"
        )
    return value


def checked_name(value: Any) -> str:
    """
    Checks the id of a user or an event.

    Args:
        value (`Any`):
            The id.

    Raises:
        PydanticCustomError: If it is no text, is empty or too long, or holds characters that cannot be printed.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise PydanticCustomError("name", f"an id is a text of 1 to {MAX_TEXT} characters")
    if not value.isprintable() or "\N{REPLACEMENT CHARACTER}" in value:
        raise PydanticCustomError("name", "an id holds printable characters only, in UTF-8")
    return value


ItemId = Annotated[int | str, PlainValidator(_checked_item_id, json_schema_input_type=int | str)]
Time = Annotated[int, PlainValidator(_checked_time, json_schema_input_type=int)]
Name = Annotated[str, PlainValidator(checked_name, json_schema_input_type=str)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                shown = {"name": repr(key[:MAX_TEXT]), "hint": nearest(key[:MAX_TEXT], list(cls.model_fields))}
                raise PydanticCustomError("unknown_key", "there is no key {name}; {hint}", shown)
        return values


class RecommendBody(_Body):
    """One history, or a batch of them."""

    history: list[ItemId] | None = Field(None, description="Item ids, oldest first.")
    timestamps: list[Time] | None = Field(
        None, description="When each item was chosen, in seconds since 1970 UTC. Needed only if the model reads it."
    )
    histories: list[list[ItemId]] | None = Field(None, description="A batch, in place of `history`.")
    histories_timestamps: list[list[Time]] | None = Field(None, description="The times of a batch.")
    k: StrictInt = Field(10, ge=1, description="Number of items to recommend.")
    exclude_seen: StrictBool = Field(True, description="Whether to leave out the items of the history.")
    candidates: list[ItemId] | None = Field(None, description="The items that may be recommended. All by default.")
    time: Time | None = Field(None, description="The moment of asking, for models that count by time.")


class EventBody(_Body):
    """An item that a user chose."""

    item_id: ItemId
    timestamp: Time | None = Field(None, description="When, in seconds since 1970 UTC. By default the server's time.")
    event_id: Name | None = Field(
        None, description="A name of the event. Send the same one again when an answer was lost: it is stored once."
    )


class EventsBody(_Body):
    """Events of one user, in the order in which they happened."""

    events: list[EventBody] = Field(min_length=1)


class RecommendedItem(BaseModel):
    """A recommended item."""

    item_id: StrictInt | StrictStr
    title: str
    score: float


class Recommendations(BaseModel):
    """The best items, best first."""

    recommendations: list[RecommendedItem]
    is_exact: bool = Field(description="Whether the list is proven to be the best one.")


class RecommendationBatch(BaseModel):
    """The best items for each history of a batch."""

    batch: list[Recommendations]


class SimilarItems(BaseModel):
    """The most similar items, best first; the score is a cosine."""

    similar: list[RecommendedItem]


class EventsAnswer(BaseModel):
    """The events are kept. They are not lost, even if the service is killed now."""

    num_stored: int = Field(description="Number of events that are new.")
    num_known: int = Field(description="Number of events that were stored before, by their `event_id`.")
    num_events: int = Field(description="Number of the user's stored events.")


class Health(BaseModel):
    """Whether the service can answer."""

    status: str
    num_items: int
    method: str
    waiting: int = Field(description="Number of histories that wait for the model.")


class ErrorDetail(BaseModel):
    """A fault of a request."""

    where: str
    expected: str
    got: str


class ErrorAnswer(BaseModel):
    """Why a request was not answered, and how to mend it."""

    error: str
    details: list[ErrorDetail]
