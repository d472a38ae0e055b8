"""What steps take that overlap: while one runs, the engine's thread launches the next.

So it is where steps are scheduled ahead in one process.  The launch of a step with prompts is
long, piece by piece or kernel by kernel, and falls into the time of the step before, whose own
launch is short.
"""

from dataclasses import dataclass, replace

from server.load.costs import Step, StepCosts


@dataclass
class OverlappingSteps:
    """Tells the costs of steps: of one with prompts, together with the decoding step before it.

    What that step takes is known from steps that decode before others that do; the rest of the two
    is the prompts'.
    """

    costs: StepCosts
    _held: Step | None = None

    def observe(self, step: Step | None) -> None:
        """A step ended; None where it is not known when it began, as after a rest."""
        held, self._held = self._held, None
        if step is None or not step.sizes:
            self._tell(held)
        elif not any(step.prompts.values()):
            self._tell(held)
            self._held = step
        elif held is None:
            self._tell(step)
        else:
            rest = held.seconds + step.seconds - self.costs.expected(held)
            self._tell(replace(step, seconds=rest))

    def _tell(self, step: Step | None) -> None:
        if step is not None:
            self.costs.observe(step)
