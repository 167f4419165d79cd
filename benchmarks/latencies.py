"""Latencies in a histogram of fixed size: quantiles without keeping every value."""

STEP_SECONDS = 5e-6
STEPS = 200_000


class Latencies:
    """Counts in steps of 5 µs up to one second; what is longer counts as one second."""

    __slots__ = ("_steps", "count", "longest")

    def __init__(self) -> None:
        self._steps = [0] * (STEPS + 1)
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency."""
        step = int(seconds / STEP_SECONDS)
        self._steps[min(step, STEPS)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float:
        """Return the latency, in seconds, that `share` (0 to 1) of all do not exceed; 0.0 without any."""
        wanted = share * self.count
        seen = 0
        for step, number in enumerate(self._steps):
            seen += number
            if number and seen >= wanted:
                return min((step + 1) * STEP_SECONDS, self.longest)
        return 0.0
