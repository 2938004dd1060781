"""Noise that an opponent chooses: the same edits as ever, at the places where they hurt most.

One example at a time: `options` proposes edits, the caller tries the example with each (`tried`) and makes one of them.
What is proposed depends on the example, the kind and the draw, as noise does; which is made depends on the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from stilts_ds.noise.clusters import Clusters, Edit, Noised
from stilts_ds.noise.noiser import NoisedText, Noiser, Spans

Option = tuple[str, Edit]  # the text of the example, by name, and an edit of it


@dataclass
class GreedyNoiser(Noiser):
    """Stands in for a `Noiser` while one example is attacked. Its texts get as many edits as that one would make."""

    drafts: dict[str, NoisedText] = field(default_factory=dict)
    next_place: dict[str, int] = field(default_factory=dict)
    trial: Option | None = None

    def text(self, text: str, example: str, field: str, protected: Spans = ()) -> Noised:
        self._last = (("", "", ""), Noised("", ()))  # a text that was asked for before has other edits now
        return super().text(text, example, field, protected)

    def options(self, width: int) -> list[Option]:
        """The next edits to try, at most `width`, taken from the texts in turn; [] when all have had theirs. No place
        is proposed twice."""
        proposed: list[Option] = []
        open_drafts = [name for name, draft in self.drafts.items() if len(draft.edits) < draft.wanted]
        while len(proposed) < width and open_drafts:
            for name in open_drafts[: width - len(proposed)]:
                edit = self._next_edit(name)
                if edit is None:
                    open_drafts.remove(name)
                else:
                    proposed.append((name, edit))
        return proposed

    def _next_edit(self, name: str) -> Edit | None:
        draft = self.drafts[name]
        for number in range(self.next_place.get(name, 0), len(draft.order)):
            edit = draft.edit_at(draft.order[number])
            if edit is not None:
                self.next_place[name] = number + 1  # what was proposed and not made is not proposed again
                return edit
        self.next_place[name] = len(draft.order)
        return None

    @contextmanager
    def tried(self, option: Option) -> Iterator[None]:
        """Inside, the texts also have this edit."""
        self.trial = option
        try:
            yield
        finally:
            self.trial = None

    def make(self, option: Option) -> None:
        name, edit = option
        self.drafts[name].make(edit)

    @property
    def made(self) -> int:
        """Edits so far."""
        return sum(len(draft.edits) for draft in self.drafts.values())

    def _edits(self, text: Clusters, name: str, protected: Spans, tokens: bool) -> list[Edit]:
        if name not in self.drafts:
            self.drafts[name] = self.begin(text, name, protected, tokens)
        # A trial belongs to one text; the others of the example are as they stand.
        tried = [self.trial[1]] if self.trial is not None and self.trial[0] == name else []
        return [*self.drafts[name].edits, *tried]
