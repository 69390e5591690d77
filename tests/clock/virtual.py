"""Time that moves when told."""


class VirtualTime:
    """Call it for the time; `pass_` moves it on."""

    def __init__(self, start: int = 1_000) -> None:
        self.ns = start

    def __call__(self) -> int:
        return self.ns

    def pass_(self, ns: int) -> None:
        self.ns += ns
