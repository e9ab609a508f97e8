"""What acts on a network in every step, between the updates of its masks; as a base, nothing."""

from __future__ import annotations

from force_tf.training.timetable import Timetable


class BetweenUpdates:
    """Something that is part of the training step. It is there from `begin` to `end`, and steps are traced anew for it.

    What a training that is resumed must know is asked for when this is made, before files are read.
    """

    def begin(self, timetable: Timetable, done: int | None) -> None:
        """Called before the first step, or the first one of a training that goes on.

        Args:
            timetable: When masks move.
            done: The index of the last update before, of a training that goes on; None if there was none.

        Raises:
            ValueError: If it does not go with the times.
        """

    def move(self, index: int) -> None:
        """Called at an update of this index, before masks move."""

    def end(self) -> None:
        """Called after the last step."""
