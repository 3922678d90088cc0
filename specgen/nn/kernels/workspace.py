"""The workspace of attention in splits (fused.py), whose size the memory plan needs without Triton."""

from dataclasses import dataclass

# Keys of one attention program. Fixed, so that the sums of a row do not depend on the length of the cache.
# Chosen on an H100 by docs/bench/gpu.py: shorter splits fill the card at short contexts.
SPLIT = 128
# Least rows and columns of a product in Triton.
_LEAST = 16


@dataclass(frozen=True, slots=True)
class Workspace:
    """What every split of a pass sums: float32 [splits, kv_heads, rows, size], and a maximum and a total for each row.

    rows: rows of the pass times query heads per key head; both numbers are padded to powers of two.
    """

    splits: int
    kv_heads: int
    rows: int
    size: int

    @classmethod
    def of(cls, rows: int, heads: int, kv_heads: int, size: int, capacity: int, split: int = SPLIT) -> "Workspace":
        """For a pass of `rows` rows over a cache of `capacity` positions."""
        pairs = rows * (heads // kv_heads)
        return cls(-(-capacity // split), kv_heads, _power_of_two(pairs), _power_of_two(size))

    @property
    def slots(self) -> int:
        """The number of sums."""
        return self.splits * self.kv_heads * self.rows

    @property
    def nbytes(self) -> int:
        return 4 * self.slots * (self.size + 2)


def _power_of_two(number: int) -> int:
    return max(_LEAST, 1 << (number - 1).bit_length())
