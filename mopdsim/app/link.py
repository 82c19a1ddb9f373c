"""A view as a compact token for a link: compressed JSON in URL-safe letters, read back with every bound checked.

Leaves out: where the token stands in the address (`mopdsim.app.state`).
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Annotated

from pydantic import Field, ValidationError

from mopdsim.app.choice import Choice
from mopdsim.base.errors import UsageError
from mopdsim.recipes.amounts import Value
from mopdsim.recipes.recipe_file import in_words

SIDE_BY_SIDE = 4
LETTERS = "ABC"
MAX_TOKEN = 32_768
MAX_TEXT = 1_000_000


class View(Value):
    """What the What-if page shows: the choice at hand and those pinned beside it, each with a letter that it keeps."""

    choice: Choice = Choice()
    pinned: Annotated[tuple[Choice, ...], Field(max_length=SIDE_BY_SIDE - 1)] = ()
    letters: Annotated[str, Field(pattern=f"^[{LETTERS}]*$", max_length=SIDE_BY_SIDE - 1)] = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The letters of those pinned; in their order where a link has none."""
        known = self.letters if len(set(self.letters)) == len(self.pinned) else LETTERS
        return tuple(known[: len(self.pinned)])

    def pin(self) -> View:
        """The same with the choice at hand pinned too, under the first free letter."""
        free = next(letter for letter in LETTERS if letter not in self.names)
        return self.model_copy(
            update={"pinned": (*self.pinned, self.choice), "letters": "".join((*self.names, free))}
        )

    def unpin(self, place: int) -> View:
        """The same without one of those pinned; the others keep their letters."""
        kept = [number for number in range(len(self.pinned)) if number != place]
        return self.model_copy(
            update={
                "pinned": tuple(self.pinned[number] for number in kept),
                "letters": "".join(self.names[number] for number in kept),
            }
        )


def to_token(view: View) -> str:
    """The view as a token. UsageError where it is too long for a link."""
    packed = zlib.compress(view.model_dump_json(exclude_defaults=True).encode(), 9)
    token = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    if len(token) > MAX_TOKEN:
        raise UsageError(
            f"the view takes {len(token)} letters: a link holds {MAX_TOKEN}; save the scenario as a file"
        )
    return token


def from_token(token: str) -> View:
    """The view of a token. UsageError, one sentence, for anything else."""
    if len(token) > MAX_TOKEN:
        raise UsageError(
            f"link: its view has {len(token)} letters, more than {MAX_TOKEN}: copy the link again"
        )
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, MAX_TEXT)
        if not unpacker.eof:
            raise ValueError("cut off, or too long")
        document = json.loads(text)
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        raise UsageError("link: its view is damaged: copy the whole link again") from None
    try:
        return View.model_validate(document)
    except ValidationError as error:
        raise UsageError(f"link: {in_words(error)}") from None
