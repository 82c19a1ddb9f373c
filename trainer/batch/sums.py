"""What a loss measured, summed over positions: of all rows, of each domain's, of those that each teacher scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Named = dict[str, Tensor | float]


@dataclass(kw_only=True)
class Sums:
    """Unweighted sums by quantity (`kl_sum`, `clip_count`): of the whole, by domain, by teacher."""

    whole: Named = field(default_factory=dict)
    domains: dict[str, Named] = field(default_factory=dict)
    teachers: dict[str, Named] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Add another part's sums to these."""
        _add(self.whole, other.whole)
        for own, theirs in ((self.domains, other.domains), (self.teachers, other.teachers)):
            for name, values in theirs.items():
                _add(own.setdefault(name, {}), values)

    def floats(self) -> Sums:
        """The same as Python numbers, off the device."""
        return self._each(float)

    def detached(self) -> Sums:
        """The same without gradients."""
        return self._each(lambda value: value.detach() if isinstance(value, Tensor) else value)

    def _each(self, change: Callable[[Tensor | float], Tensor | float]) -> Sums:
        def changed(values: Named) -> Named:
            return {name: change(value) for name, value in values.items()}

        return Sums(
            whole=changed(self.whole),
            domains={name: changed(values) for name, values in self.domains.items()},
            teachers={name: changed(values) for name, values in self.teachers.items()},
        )


def means(sums: Mapping[str, Tensor | float], count: float) -> dict[str, float]:
    """Each quantity over `count` positions, under its plain name."""
    return {
        name.removesuffix("_sum").removesuffix("_count"): float(value) / count for name, value in sums.items()
    }


def _add(own: Named, values: Mapping[str, Tensor | float]) -> None:
    for name, value in values.items():
        own[name] = own[name] + value if name in own else value
